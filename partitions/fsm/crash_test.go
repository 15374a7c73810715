package fsm

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestCrashAtEveryOperationLosesNothingSynced lets a replica lose power at each
// operation on its disk in turn, again while it recovers, and compares what
// comes of it, once Raft has given the rest again, with a model and with a
// replica that never crashed. It applies entries before, between and after the
// operations of its syncs.
func TestCrashAtEveryOperationLosesNothingSynced(t *testing.T) {
	for seed := range uint64(3) {
		h := generate(rand.New(rand.NewPCG(seed, 1)), 80)
		reference, ops := runWithoutCrash(t, h, seed)
		for how := range cuts {
			t.Run(fmt.Sprintf("seed%d/%s", seed, how), func(t *testing.T) {
				t.Parallel()
				for at := 1; at <= ops; at++ {
					runWithCrash(t, h, crash{seed: seed, at: at, how: how}, reference)
				}
			})
		}
	}
}

// runWithoutCrash returns the segment files that all replicas must have, and
// how many operations it took.
func runWithoutCrash(t *testing.T, h history, seed uint64) (files, int) {
	t.Helper()
	d := newDisk(neverCrash)
	f, index := d.mustOpen(t)
	if index != 0 {
		t.Fatalf("a new replica opened at %d", index)
	}
	if _, err := h.feedBeside(t, f, d, 0, len(h.entries), rand.New(rand.NewPCG(seed, 2))); err != nil {
		t.Fatal(err)
	}
	if err := settle(f); err != nil {
		t.Fatal(err)
	}
	h.modelAt(len(h.entries)).check(t, f)
	segments := d.files(t).segmentFiles()
	if len(segments) < 4 {
		t.Fatalf("only %d segment files: the history does not roll", len(segments))
	}
	return segments, d.ops
}

type crash struct {
	seed uint64
	at   int
	how  cut
}

func runWithCrash(t *testing.T, h history, c crash, reference files) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("crash at operation %d", c.at)
		}
	}()
	// The same rounds as without a crash up to the operation where it happens.
	rounds := rand.New(rand.NewPCG(c.seed, 2))
	r := rand.New(rand.NewPCG(c.seed, uint64(c.at)))
	d := newDisk(c.at)
	synced, finished := 0, false
	// The first crash is at a chosen operation, the second early in what
	// follows, the third life is long enough.
	for _, next := range []int{1 + r.IntN(40), neverCrash} {
		synced, finished = h.live(t, d, synced, rounds)
		if finished {
			break
		}
		d, rounds = d.restart(t, c.how, next, r), r
	}
	if !finished {
		if _, finished = h.live(t, d, synced, r); !finished {
			t.Fatal("failed without a crash")
		}
	}
	d.files(t).segmentFiles().checkSame(t, reference)
}

// live opens a replica, checks that it is at one moment of the history not
// before the last Sync, and feeds it the rest. It returns what is synced now,
// and whether the end was reached before a crash.
func (h history) live(t *testing.T, d *disk, synced int, r *rand.Rand) (int, bool) {
	t.Helper()
	f, index, err := d.open(t, nil)
	if err != nil {
		if !d.crashed() {
			t.Fatal(err)
		}
		return synced, false
	}
	defer f.Close()
	at := h.position(index)
	if at < synced {
		t.Fatalf("opened at entry %d, which is before the sync at %d", at, synced)
	}
	h.modelAt(at).check(t, f)
	now, err := h.feedBeside(t, f, d, at, len(h.entries), r)
	synced = max(synced, now)
	if err == nil {
		err = settle(f)
	}
	if err != nil {
		if !d.crashed() {
			t.Fatal(err)
		}
		return synced, false
	}
	h.modelAt(len(h.entries)).check(t, f)
	return len(h.entries), true
}

// settle is a Sync with what the log does beside after it.
func settle(f *FSM) error {
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Checkpoint()
}
