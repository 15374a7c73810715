package commitlog

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

// script uses every path of the log that touches the disk once: opening with
// something to clean up, appends, rolls, syncs, trims, reads, a snapshot.
// It returns the first error; marker is the last State that Sync returned.
func script(t *testing.T, fs storage.FS, s *stream, marker *State) error {
	l, err := Open(Options{FS: fs, Dir: dir, IndexIntervalBytes: 300}, *marker)
	if err != nil {
		return err
	}
	defer l.Close() // some operation before may have failed, this one may too
	half := s.at(marker.End) + 30
	for i := s.at(marker.End); i < half; i += 10 {
		if err := s.append(l, i, i+10); err != nil {
			return err
		}
	}
	l.Trim(s.entries[half-20].BaseOffset)
	st, err := l.Sync()
	if err != nil {
		return err
	}
	*marker = st
	if err := marked(l); err != nil {
		return err
	}
	if _, err := content(l, l.LogStart(), 1000); err != nil {
		return err
	}
	p := l.Pin()
	defer p.Close()
	if err := copyAll(p); err != nil {
		return err
	}
	return s.append(l, half, half+5)
}

// TestAnErrorOfAnyOperationSurfaces fails every operation once. Exempt are the
// index files, which are rebuilt whenever they cannot be read, and checkpoints,
// without which more is read.
func TestAnErrorOfAnyOperationSurfaces(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	s := newStream(t, rng, 100)
	for i := range s.configs {
		s.configs[i] = Config{SegmentBytes: 1500}
	}
	kinds := map[storagetest.Kind]bool{}
	for at := 1; ; at++ {
		mem := newMem(t)
		var marker State
		must(t, script(t, mem, s, &marker)) // leaves unsynced segments behind
		before := marker
		inj := &storagetest.Injector{At: at, Match: func(op storagetest.Op) bool {
			return op.Kind.Mutates() || !strings.HasSuffix(op.Path, "index") && !strings.HasSuffix(op.Path, checkpointSuffix)
		}}
		err := script(t, storagetest.Wrap(mem, inj.Hook), s, &marker)
		op, fired := inj.Fired()
		if !fired {
			must(t, err)
			break
		}
		kinds[op.Kind] = true
		if !errors.Is(err, storagetest.ErrInjected) {
			t.Fatalf("operation %d (%v) failed, the error was %v", at, op, err)
		}
		if op.Kind == storagetest.Sync && marker != before && strings.HasSuffix(op.Path, ".log") {
			t.Fatalf("operation %d (%v): Sync returned a State after a failed sync", at, op)
		}
		mem.reset()
		l := openMem(t, mem, marker)
		checkContent(t, s, l)
	}
	for _, k := range []storagetest.Kind{"create", "open", "remove", "rename", "mkdir", "list", "stat", "read", "write", "sync", "sync directory"} {
		if !kinds[k] {
			t.Errorf("the script never met an operation of kind %q", k)
		}
	}
}

func TestAfterAFailedWriteOrSyncNothingSucceedsAnyMore(t *testing.T) {
	for _, kind := range []storagetest.Kind{storagetest.Write, storagetest.Sync, storagetest.Create} {
		t.Run(string(kind), func(t *testing.T) {
			s := newStream(t, rand.New(rand.NewPCG(1, 1)), 60)
			inj := &storagetest.Injector{}
			fs := storagetest.Wrap(newMem(t), func(op storagetest.Op) (int, error) { return inj.Hook(op) })
			l := openMem(t, fs, State{})
			must(t, s.append(l, 0, 2))
			inj = &storagetest.Injector{At: 1, Match: func(op storagetest.Op) bool { return op.Kind == kind }}
			var err error
			for i := 2; err == nil && i < 60; i++ {
				err = s.append(l, i, i+1)
				if kind == storagetest.Sync && err == nil {
					_, err = l.Sync()
				}
			}
			if !errors.Is(err, storagetest.ErrInjected) {
				t.Fatalf("the injected error did not surface: %v", err)
			}
			end := l.End()
			if again := s.append(l, s.at(end), s.at(end)+1); !errors.Is(again, storagetest.ErrInjected) {
				t.Fatalf("a later Append returned %v", again)
			}
			if _, again := l.Sync(); !errors.Is(again, storagetest.ErrInjected) {
				t.Fatalf("a later Sync returned %v", again)
			}
			if again := marked(l); !errors.Is(again, storagetest.ErrInjected) {
				t.Fatalf("a later Checkpoint returned %v", again)
			}
			checkContent(t, s, l) // what was appended before can be read
		})
	}
}

// TestAWriteBackErrorComesOutOfTheNextSync: the kernel tells an error of
// write-back once; if the goroutine is told, the fsync after it is not.
func TestAWriteBackErrorComesOutOfTheNextSync(t *testing.T) {
	inj := &storagetest.Injector{At: 1, Match: func(op storagetest.Op) bool {
		return op.Kind == storagetest.Sync && strings.HasSuffix(op.Path, logSuffix)
	}}
	l := openMem(t, storagetest.Wrap(newMem(t), inj.Hook), State{})
	big := batch(t, 1, 1<<20, 0, 'x')
	for i := range int64(5) { // more than writeBackBytes: wakes the goroutine
		if err := l.Append([]Entry{{Batch: big, BaseOffset: i}}, Config{}); err != nil {
			break // the goroutine was quick
		}
	}
	if _, err := l.Sync(); !errors.Is(err, storagetest.ErrInjected) {
		t.Fatalf("Sync returned %v", err)
	}
	// Either the goroutine or Sync met the error; both leave it for good.
	if _, err := l.Sync(); !errors.Is(err, storagetest.ErrInjected) {
		t.Fatalf("the second Sync returned %v", err)
	}
}
