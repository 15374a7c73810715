package fsm

import (
	"errors"
	"math/rand/v2"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

// gate is a file system whose syncs of some files wait, or fail.
type gate struct {
	storage.FS
	of     string        // how the names end
	closed atomic.Bool   // while it is they wait
	came   chan struct{} // one for each that waits
	open   chan error    // what each of them gets
}

func newGate(of string) *gate {
	g := &gate{of: of, came: make(chan struct{}, 100), open: make(chan error)}
	g.FS = storagetest.Wrap(storage.NewStrictMem(), func(op storagetest.Op) (int, error) {
		if op.Kind != storagetest.Sync || !strings.HasSuffix(path.Base(op.Path), g.of) || !g.closed.Load() {
			return 0, nil
		}
		g.came <- struct{}{}
		return 0, <-g.open
	})
	return g
}

func (g *gate) machine(t *testing.T) *FSM {
	t.Helper()
	f := New(Options{FS: g.FS, Dir: testDir, ShardID: 7, ReplicaID: 3})
	if _, err := f.Open(nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// soon runs do, which must not wait for the disk.
func soon(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s waits for the disk", what)
	}
}

// The disk stands still in the sync of a segment, or of the marker. The replica
// applies, rolls and trims on; the marker comes out as of the moment of StartSync.
func TestUpdateGoesOnWhileTheDiskIsAtWork(t *testing.T) {
	for _, of := range []string{".log", ".footer", markerName} {
		t.Run(of, func(t *testing.T) {
			h := generate(rand.New(rand.NewPCG(20, 1)), 120)
			g := newGate(of)
			f := g.machine(t)
			r := rand.New(rand.NewPCG(20, 2))
			if _, err := h.feed(t, f, 0, 30, r); err != nil {
				t.Fatal(err)
			}
			at := 30
			next := func(to int) {
				for at < to {
					var err error
					if at, err = h.round(t, f, at, to, r); err != nil {
						t.Error(err)
						return
					}
				}
			}
			next(60) // unsynced, with rolls
			g.closed.Store(true)
			begun := f.AppliedIndex()
			soon(t, "StartSync", func() {
				if err := f.StartSync(); err != nil {
					t.Error(err)
				}
			})
			<-g.came
			soon(t, "Update", func() { next(80) })
			soon(t, "a second StartSync", func() {
				if err := f.StartSync(); err != nil {
					t.Error(err)
				}
			})
			soon(t, "Update", func() { next(100) })
			if f.DurableIndex() >= begun {
				t.Errorf("durable up to %d, the disk has not said so", f.DurableIndex())
			}
			g.closed.Store(false)
			g.open <- nil
			if err := f.AwaitDurable(begun); err != nil {
				t.Fatal(err)
			}
			last := h.entries[79].Index
			if err := f.AwaitDurable(last); err != nil || f.DurableIndex() != last {
				t.Fatalf("durable up to %d, two syncs were begun, at %d and %d: %v", f.DurableIndex(), begun, last, err)
			}
			// What a power cut leaves now is the state of then.
			m, err := ReadMarker(g.FS, testDir)
			if err != nil || m.Applied != last || m.Log.End != h.modelAt(80).next || m.Log.LogStart != h.modelAt(80).logStart {
				t.Errorf("the marker is %+v (%v)", m, err)
			}
			h.modelAt(100).check(t, f)
		})
	}
}

// A sync that fails beside Update ends the writing: no record of a snapshot may
// follow, and nothing more is applied.
func TestASyncThatFailsBesideUpdateEndsTheWriting(t *testing.T) {
	for _, of := range []string{".log", ".footer", markerName} {
		t.Run(of, func(t *testing.T) {
			h := generate(rand.New(rand.NewPCG(21, 1)), 60)
			g := newGate(of)
			f := g.machine(t)
			r := rand.New(rand.NewPCG(21, 2))
			for at := 0; at < 50; {
				var err error
				if at, err = h.round(t, f, at, 50, r); err != nil {
					t.Fatal(err)
				}
			}
			g.closed.Store(true)
			if err := f.StartSync(); err != nil {
				t.Fatal(err)
			}
			<-g.came
			g.closed.Store(false) // the next one would succeed, and prove nothing
			g.open <- storagetest.ErrInjected
			if err := f.AwaitDurable(f.AppliedIndex()); !errors.Is(err, storagetest.ErrInjected) {
				t.Errorf("AwaitDurable: %v", err)
			}
			if _, err := h.round(t, f, 50, 60, r); !errors.Is(err, storagetest.ErrInjected) {
				t.Errorf("Update: %v", err)
			}
			for name, call := range map[string]func() error{"Sync": f.Sync, "StartSync": f.StartSync} {
				if err := call(); !errors.Is(err, storagetest.ErrInjected) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if f.DurableIndex() != 0 {
				t.Errorf("durable up to %d", f.DurableIndex())
			}
		})
	}
}
