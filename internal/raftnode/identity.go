package raftnode

import (
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// dragonboat's notes of whose directory it is: 8 bytes of a checksum, then a
// raftpb.RaftDataStatus or a UUID (dragonboat internal/fileutil: CreateFlagFile).
const (
	flagFile          = "dragonboat.ds"
	identityFile      = "NODEHOST.ID"
	flagChecksumBytes = 8
)

// prepareIdentity makes the notes in dir fit for dragonboat.
func prepareIdentity(fs *hostFS) error {
	for _, name := range []string{flagFile, identityFile} {
		if err := dropTornNote(fs, fs.PathJoin(fs.dir, name)); err != nil {
			return err
		}
	}
	return forgetHostname(fs, fs.PathJoin(fs.dir, flagFile))
}

// readNote returns a note's body; ok is false when its checksum does not match.
func readNote(fs vfs.FS, name string) (body []byte, ok bool, err error) {
	data, err := readFile(fs, name)
	if err != nil {
		return nil, false, err
	}
	if len(data) < flagChecksumBytes || !bytes.Equal(data[:flagChecksumBytes], flagChecksum(data[flagChecksumBytes:])) {
		return nil, false, nil
	}
	return data[flagChecksumBytes:], true, nil
}

// dropTornNote removes a note that a crash during the very first start has left
// half written: dragonboat does not write it atomically and would refuse the
// directory for ever. Where any replica's log exists the note is damaged, not
// torn, and stays.
func dropTornNote(fs *hostFS, name string) error {
	_, whole, err := readNote(fs, name)
	if errors.Is(err, os.ErrNotExist) || err == nil && whole {
		return nil
	}
	if err != nil {
		return fmt.Errorf("raftnode: read %s: %w", name, err)
	}
	used, err := hasReplicaLogs(fs)
	if err != nil {
		return fmt.Errorf("raftnode: list the Raft logs: %w", err)
	}
	if used {
		return fmt.Errorf("raftnode: %s is damaged: restore it, or replace this node's replicas under new ids", name)
	}
	if err := fs.Remove(name); err != nil {
		return fmt.Errorf("raftnode: remove torn %s: %w", name, err)
	}
	return nil
}

// hasReplicaLogs reports whether any deployment's log directory holds a
// replica's bootstrap record, which comes before everything else.
func hasReplicaLogs(fs *hostFS) (bool, error) {
	deployments, err := listIfExists(fs, fs.fixedDir)
	if err != nil {
		return false, err
	}
	for _, deployment := range deployments {
		records, err := listIfExists(fs, fs.PathJoin(fs.fixedDir, deployment, "tandb", "bootstrap"))
		if err != nil || len(records) > 0 {
			return len(records) > 0, err
		}
	}
	return false, nil
}

func listIfExists(fs vfs.FS, dir string) ([]string, error) {
	names, err := fs.List(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// forgetHostname takes the host name out of the flag file: dragonboat refuses a
// directory whose flag file names another host, and accepts one that names none.
// What does tell another node's directory is its incarnation (NODEHOST.ID).
func forgetHostname(fs vfs.FS, name string) error {
	body, _, err := readNote(fs, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("raftnode: read %s: %w", name, err)
	}
	var status pb.RaftDataStatus
	if err := status.Unmarshal(body); err != nil {
		return fmt.Errorf("raftnode: %s: %w", name, err)
	}
	if status.Hostname == "" {
		return nil
	}
	status.Hostname = ""
	if body, err = status.Marshal(); err != nil {
		return fmt.Errorf("raftnode: %s: %w", name, err)
	}
	if err := replaceFile(fs, name, append(flagChecksum(body), body...)); err != nil {
		return fmt.Errorf("raftnode: rewrite %s: %w", name, err)
	}
	return nil
}

func flagChecksum(body []byte) []byte {
	sum := md5.Sum(body)
	return sum[flagChecksumBytes:]
}

func readFile(fs vfs.FS, name string) (_ []byte, err error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(f)
}

// replaceFile puts data in place of name, whole or not at all.
func replaceFile(fs vfs.FS, name string, data []byte) error {
	temporary := name + ".tmp"
	f, err := fs.Create(temporary)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(temporary, name); err != nil {
		return err
	}
	dir, err := fs.OpenDir(fs.PathDir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// openError says what to do about a directory that NewNodeHost refused.
// dragonboat's sentinels for it are internal, so their texts are matched.
func openError(o Options, err error) error {
	advice := ""
	for text, what := range map[string]string{
		"NodeHostID changed":            "it belongs to another node (incarnation): check raft_dir, or give this node an empty one",
		"deployment ID changed":         "it belongs to another cluster: check raft_dir",
		"failed to lock data directory": "another process uses it: stop that process first",
		"logdb type changed":            "its log was written by another kind of log store",
		"hard setting":                  "it was written with other fixed engine settings",
	} {
		if strings.Contains(err.Error(), text) {
			advice = ": " + what
		}
	}
	return fmt.Errorf("raft directory %s%s: %w", o.Dir, advice, err)
}

// fatal tells the caller's Fatal, or the log.
func (o Options) fatal(err error) {
	if o.Fatal != nil {
		o.Fatal(err)
		return
	}
	o.Logger.Error("raft log failed: the process must end", slog.Any("err", err))
}
