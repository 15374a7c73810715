package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"

	"logbroker/internal/storage/storagetest"
)

// logForCheck makes a log of replica 1 of shard 1: a file with an index and one
// without, as a killed process leaves it. It returns the replica's directory.
func logForCheck(t *testing.T) (fs vfs.FS, dir string) {
	t.Helper()
	fs = vfs.NewMem()
	s, _ := openStore(t, fs, "/raft")
	entries := func(from, n uint64) []pb.Entry {
		out := entriesFrom(from, from+n-1, 3)
		for i := range out {
			out[i].Cmd = bytes.Repeat([]byte{byte(i)}, 3000)
		}
		return out
	}
	if err := s.SaveBootstrapInfo(1, 1, pb.NewBootstrapInfo(false, pb.RegularStateMachine, map[uint64]string{1: "a"})); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(5) {
		save(t, s, update(3, 1, i*10, entries(i*10+1, 10)...))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = openStore(t, fs, "/raft")
	if _, err := s.ReadRaftState(1, 1, 0); err != nil {
		t.Fatal(err)
	}
	for i := uint64(5); i < 10; i++ {
		save(t, s, update(4, 2, i*10, entries(i*10+1, 10)...))
	}
	killed := vfs.NewMem()
	if _, err := vfs.Clone(fs, killed, "/raft", "/raft"); err != nil { // before Close writes an index
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return killed, s.directory(1, 1)
}

// everything is what every file below dir holds.
func everything(t *testing.T, fs vfs.FS, dir string) string {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	out := ""
	for _, name := range names {
		data, err := readFile(fs, fs.PathJoin(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprintf("%s %x\n", name, data)
	}
	return out
}

func TestDamageOfARaftLogIsFoundBeforeTanSeesIt(t *testing.T) {
	t.Parallel()
	const closed, open = "000002.log", "000003.log"
	flip := func(at int) func([]byte) []byte {
		return func(data []byte) []byte { data[at] ^= 0x10; return data }
	}
	cut := func(n int) func([]byte) []byte { return func(data []byte) []byte { return data[:n] } }
	zero := func(at int) func([]byte) []byte {
		return func(data []byte) []byte { clear(data[at : at+4096]); return data }
	}
	garbage := func(data []byte) []byte { return append(data, bytes.Repeat([]byte("garbage!"), 100)...) }
	for _, c := range []struct {
		name, file string
		how        func([]byte) []byte // nil removes the file
		last       uint64              // where it is no damage: how far the log reaches then
	}{
		{"a flipped bit at the head of a closed file", closed, flip(100), 0},
		{"a flipped bit in the middle of a closed file", closed, flip(70_000), 0},
		{"a closed file that is cut", closed, cut(70_000), 0},
		{"a closed file that is cut to nothing", closed, cut(0), 0},
		{"zeros in a closed file", closed, zero(40_000), 0},
		{"garbage behind a closed file", closed, garbage, 0},
		{"a closed file that is gone", closed, nil, 0},
		{"a flipped bit at the head of the open file", open, flip(100), 0},
		{"zeros in the open file", open, zero(40_000), 0},
		{"an open file that is cut", open, cut(70_000), 70},
		{"an open file that is cut to nothing", open, cut(0), 50},
		{"a flipped bit in an index", "000002.index", flip(9), 0},
		{"an index that is cut", "000002.index", cut(30), 0},
		{"an index that is cut to nothing", "000002.index", cut(0), 0},
		{"an index that is gone", "000002.index", nil, 0},
		{"a flipped bit in CURRENT", "CURRENT", flip(9), 0},
		{"CURRENT cut to nothing", "CURRENT", cut(0), 0},
		{"CURRENT is gone", "CURRENT", nil, 0},
		{"a flipped bit in the manifest", "MANIFEST", flip(9), 0},
		{"a manifest that is cut", "MANIFEST", cut(20), 0},
		{"a manifest that is cut to nothing", "MANIFEST", cut(0), 0},
		{"a manifest that is gone", "MANIFEST", nil, 0},
		{"garbage behind the manifest, which tan skips", "MANIFEST", garbage, 100},
		{"a flipped bit in the bootstrap record", "../bootstrap/BOOTSTRAP-1-1", flip(9), 0},
		{"a bootstrap record cut to nothing", "../bootstrap/BOOTSTRAP-1-1", cut(0), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs, dir := logForCheck(t)
			files := hostFSOf(t, fs)
			path := files.at(files.PathJoin(dir, c.file))
			if c.file == "MANIFEST" {
				path = manifest(t, fs, files.at(dir))
			}
			if c.how == nil {
				if err := fs.Remove(path); err != nil {
					t.Fatal(err)
				}
			} else {
				storagetest.Rewrite(t, fs, path, c.how)
			}
			before := everything(t, fs, files.at(dir))
			s, _ := openStore(t, fs, "/raft")
			defer s.Close()
			tail, err := s.read(1, 1)
			if c.last > 0 {
				if want := (LogTail{Last: c.last, Term: 4, Vote: 2}); c.last > 50 && tail != want || tail.Last != c.last || err != nil {
					t.Fatalf("read %+v, %v", tail, err)
				}
				return
			}
			d := new(LogDamagedError)
			if !errors.Is(err, ErrLogDamaged) || !errors.As(err, &d) || d.Shard != 1 || d.Replica != 1 {
				t.Fatalf("read %+v, %v", tail, err)
			}
			t.Log(err)
			if _, err := s.ReadRaftState(1, 1, 0); !errors.Is(err, ErrLogDamaged) {
				t.Errorf("ReadRaftState: %v", err)
			}
			if _, err := s.GetSnapshot(1, 1); !errors.Is(err, ErrLogDamaged) {
				t.Errorf("GetSnapshot: %v", err)
			}
			if after := everything(t, fs, files.at(dir)); after != before {
				t.Error("a damaged log was changed")
			}
			if err := s.RemoveNodeData(1, 1); err != nil || s.has(1, 1) {
				t.Errorf("RemoveNodeData: %v", err)
			}
			if names, err := fs.List(files.at(dir)); err == nil {
				t.Errorf("a removed log left %v", names)
			}
		})
	}
}

func hostFSOf(t *testing.T, fs vfs.FS) *hostFS {
	t.Helper()
	files, err := newHostFS(Options{Dir: "/raft", FS: fs}.withDefaults(), newSyncStats())
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// manifest returns the manifest that CURRENT names.
func manifest(t *testing.T, fs vfs.FS, dir string) string {
	t.Helper()
	current, err := readFile(fs, fs.PathJoin(dir, "CURRENT"))
	if err != nil {
		t.Fatal(err)
	}
	return fs.PathJoin(dir, strings.TrimSpace(string(current[bytes.Index(current, []byte("MANIFEST")):])))
}

// A log below a snapshot may be damaged where it was compacted away: tan does not
// read it again.
func TestWhatWasCompactedAwayIsNotRead(t *testing.T) {
	t.Parallel()
	fs, dir := logForCheck(t)
	s, _ := openStore(t, fs, "/raft")
	if _, err := s.ReadRaftState(1, 1, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveEntriesTo(1, 1, 30); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := hostFSOf(t, fs).at(fs.PathJoin(dir, "000002.log"))
	storagetest.Rewrite(t, fs, path, func(data []byte) []byte { data[100] ^= 1; return data })
	s, _ = openStore(t, fs, "/raft")
	defer s.Close()
	if tail, err := s.read(1, 1); err != nil || tail.Last != 100 {
		t.Fatalf("read %+v, %v", tail, err)
	}
	entries, _, err := s.IterateEntries(nil, 0, 1, 1, 31, 101, 0)
	if err != nil || len(entries) != 70 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
}

// A replica that the disk cannot be asked about is not damaged.
func TestADiskThatCannotBeAskedIsNoDamage(t *testing.T) {
	t.Parallel()
	fs, dir := logForCheck(t)
	s, _ := openStore(t, brokenFS{fs}, "/raft")
	defer s.Close()
	if _, err := s.read(1, 1); err == nil || errors.Is(err, ErrLogDamaged) || !errors.Is(err, errBroken) {
		t.Fatalf("%s: %v", dir, err)
	}
}

var errBroken = errors.New("too many open files")

// brokenFS opens no log files.
type brokenFS struct{ vfs.FS }

func (f brokenFS) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	if strings.HasSuffix(name, ".log") {
		return nil, errBroken
	}
	return f.FS.Open(name, o...)
}
