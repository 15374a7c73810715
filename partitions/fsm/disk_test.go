package fsm

import (
	"bytes"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/lni/vfs"

	"logbroker/internal/storage"
)

// disk is a file system that loses power at a chosen operation and then shows
// what a real one might have kept.
type disk struct {
	mem *vfs.MemFS
	fs  storage.FS
	// mu guards the rest: the commit log writes back in the background.
	mu sync.Mutex
	// ops counts what changes the disk; from crashAt on everything fails.
	ops, crashAt int
	// beside runs once, before one of the next operations.
	beside   func()
	besideIn int

	// running is held while beside runs.
	running sync.Mutex
}

const neverCrash = 1 << 30

func newDisk(crashAt int) *disk {
	d := &disk{mem: storage.NewStrictMem(), crashAt: crashAt}
	d.fs = vfs.Wrap(d.mem, d)
	return d
}

// MaybeError implements vfs.Injector.
func (d *disk) MaybeError(op vfs.Op) error {
	if op != vfs.OpRead {
		d.runBeside()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if op != vfs.OpRead {
		d.ops++
	}
	if d.ops >= d.crashAt {
		return vfs.ErrInjected
	}
	return nil
}

// arm has do run before the n-th operation from now on, by whoever does that;
// disarm returns when it does not run and will not.
func (d *disk) arm(n int, do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.beside, d.besideIn = do, n
}

func (d *disk) disarm() {
	d.arm(0, nil)
	d.running.Lock()
	defer d.running.Unlock()
}

func (d *disk) runBeside() {
	d.mu.Lock()
	d.besideIn--
	do := d.beside
	if do == nil || d.besideIn > 0 {
		d.mu.Unlock()
		return
	}
	d.beside = nil
	d.running.Lock()
	defer d.running.Unlock()
	d.mu.Unlock()
	do()
}

func (d *disk) crashed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops >= d.crashAt
}

// files is the content of a file system by path; a directory ends in "/".
type files map[string][]byte

func (d *disk) files(t *testing.T) files {
	t.Helper()
	out := files{}
	out.walk(t, d.mem, "/")
	return out
}

func (out files) walk(t *testing.T, fs storage.FS, dir string) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		p := path.Join(dir, name)
		info, err := fs.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			out[p+"/"] = nil
			out.walk(t, fs, p)
			continue
		}
		if out[p], err = storage.ReadFile(fs, p); err != nil {
			t.Fatal(err)
		}
	}
}

// disk returns a file system that holds the files, all of it durable, and
// crashes at the given operation.
func (in files) disk(t *testing.T, crashAt int) *disk {
	t.Helper()
	d := newDisk(crashAt)
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for p, b := range in {
		dir, isDir := strings.CutSuffix(p, "/")
		if !isDir {
			dir = path.Dir(p)
		}
		mkdir(t, d.mem, dir)
		if !isDir {
			f, err := d.mem.Create(p)
			check(err)
			_, err = f.Write(b)
			check(err)
			check(f.Sync())
			check(f.Close())
			check(storage.SyncDir(d.mem, dir))
		}
	}
	return d
}

// mkdir makes dir and its parents durable.
func mkdir(t *testing.T, fs storage.FS, dir string) {
	t.Helper()
	if dir == "/" {
		return
	}
	mkdir(t, fs, path.Dir(dir))
	if err := storage.MkdirAll(fs, dir); err != nil {
		t.Fatal(err)
	}
}

// How a power cut treats what was not synced.
type cut int

const (
	cutForgets cut = iota // all of it is gone
	cutKeeps              // all of it is there: the process died, not the machine
	cutTears              // each file for itself: gone, there, or there in part
	cuts
)

func (c cut) String() string { return [...]string{"forgets", "keeps", "tears"}[c] }

// restart returns the disk as it is found after the power cut. The state
// machine that used d may still be open: d fails all it does.
func (d *disk) restart(t *testing.T, how cut, crashAt int, r *rand.Rand) *disk {
	t.Helper()
	d.mu.Lock()
	d.crashAt = 0 // no more changes
	d.mu.Unlock()
	written := d.files(t)
	if how == cutKeeps {
		return written.disk(t, crashAt)
	}
	d.mem.ResetToSyncedState()
	kept := d.files(t)
	if how == cutTears {
		kept.tear(written, r)
	}
	return kept.disk(t, crashAt)
}

// tear makes of the durable files one of the states that the disk may have
// reached: names and bytes go to it in no order, and a write may be cut short.
func (durable files) tear(written files, r *rand.Rand) {
	for p, b := range durable {
		if _, there := written[p]; !there && !strings.HasSuffix(p, "/") && r.IntN(2) == 0 {
			delete(durable, p)
		} else if w := written[p]; there && path.Base(p) == markerName && len(w) == len(b) {
			durable[p] = torn(b, w, r)
		} else if there && len(w) >= len(b) && string(w[:len(b)]) == string(b) {
			durable[p] = w[:len(b)+r.IntN(len(w)-len(b)+1)]
		} else if there && r.IntN(2) == 0 {
			durable[p] = w // replaced by a rename: whole or not at all
		}
	}
	for p, w := range written {
		if _, there := durable[p]; there || strings.HasSuffix(p, "/") || r.IntN(2) == 0 {
			continue
		}
		if _, dir := durable[path.Dir(p)+"/"]; !dir {
			continue
		}
		durable[p] = w[:r.IntN(len(w)+1)]
		if path.Base(p) == markerName {
			durable[p] = w // its bytes were synced before it got the name
		}
	}
}

// torn is what a write in place may have left when the power goes: some blocks of
// the new bytes, one of them in part, in no order.
func torn(old, written []byte, r *rand.Rand) []byte {
	const block = 512
	out, cut := bytes.Clone(old), r.IntN(len(old))
	for at := 0; at < len(out); at += block {
		if r.IntN(2) == 0 {
			copy(out[at:], written[at:min(at+block, len(out))])
		}
	}
	return append(append([]byte{}, out[:cut]...), [][]byte{old, written}[r.IntN(2)][cut:]...)
}

// open opens a state machine on d in the directory of the tests.
func (d *disk) open(t *testing.T, o Observer) (*FSM, uint64, error) {
	t.Helper()
	f := New(Options{FS: d.fs, Dir: testDir, ShardID: 7, ReplicaID: 3, CheckpointBytes: 2000, Observer: o, Fetcher: &fetcher{fs: d.fs}})
	t.Cleanup(func() { _ = f.Close() }) // on a crashed disk it cannot but fail
	index, err := f.Open(nil)
	return f, index, err
}

const testDir = "/partition"

func (d *disk) mustOpen(t *testing.T) (*FSM, uint64) {
	t.Helper()
	f, index, err := d.open(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f, index
}
