package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"logbroker/config"
	"logbroker/internal/raftnode"
	"logbroker/internal/storage"
)

// Under replaces what a node stands on, for tests and demonstrations that hold a
// cluster at one moment. The zero value is the machine's own.
type Under struct {
	// FS holds the data and the Raft directory. It belongs to this node alone, so
	// nothing is locked there and its free space is not looked at. nil: the file
	// system of the operating system.
	FS storage.FS
	// Raft carries Raft's messages; the founding goes over the Raft port all the
	// same. nil: TCP.
	Raft raftnode.TransportFactory
	// Route is the host:port that the other nodes are told in place of the route
	// port's. "": that itself.
	Route string
	// NoDeduplication breaks promise 3 (a retry is stored once), so that a check
	// can be shown to notice.
	NoDeduplication bool
	// SnapshotBytes is how many bytes a replica applies between two snapshots. 0: what
	// is best for a real disk.
	SnapshotBytes int64
}

// directories are the node's two directories, locked.
type directories struct {
	fs         storage.FS
	data, raft string
	locks      []*storage.DirLock
}

// onDisk returns the directories whose free space counts: none where they are
// not the operating system's.
func (d *directories) onDisk() []string {
	if d.fs != storage.OS() {
		return nil
	}
	return []string{d.data, d.raft}
}

func openDirectories(c config.Config, fs storage.FS) (directories, error) {
	d := directories{fs: fs, data: c.Storage.DataDir, raft: c.Storage.RaftDir}
	if d.raft == "" {
		d.raft = filepath.Join(d.data, "raft")
	}
	for _, dir := range []*string{&d.data, &d.raft} {
		absolute, err := filepath.Abs(*dir)
		if err != nil {
			return d, errors.Join(fmt.Errorf("directory %s: %w", *dir, err), d.close())
		}
		*dir = absolute
		if err := makeDirectory(fs, absolute); err != nil {
			return d, errors.Join(fmt.Errorf("cannot make directory %s: %w", absolute, err), d.close())
		}
		if fs != storage.OS() {
			continue
		}
		lock, err := storage.LockDir(absolute)
		if err != nil {
			return d, errors.Join(err, d.close())
		}
		d.locks = append(d.locks, lock)
	}
	return d, nil
}

// makeDirectory makes dir and what it lacks above, and the names durable: else a
// power cut could take the whole directory, and with it what was acked. A parent
// that may not be read is not this node's to make durable.
func makeDirectory(fs storage.FS, dir string) error {
	parent := fs.PathDir(dir)
	if _, err := fs.Stat(parent); storage.NotExist(err) && parent != dir {
		if err := makeDirectory(fs, parent); err != nil {
			return err
		}
	}
	err := storage.MkdirAll(fs, dir)
	if errors.Is(err, os.ErrPermission) {
		_, err = fs.Stat(dir)
	}
	return err
}

func (d *directories) close() error {
	var errs []error
	for _, lock := range d.locks {
		errs = append(errs, lock.Close())
	}
	d.locks = nil
	return errors.Join(errs...)
}
