package history

import (
	"slices"
	"testing"
)

func TestLegalHistoriesHaveNoFault(t *testing.T) {
	for seed := range uint64(100) {
		drained := seed%2 == 0
		w := newWorld(seed, int(seed%3)).withReaders(int(seed%4)).run(600, drained)
		if r := Check(w.events(), w.options(drained)); !r.OK() {
			t.Fatalf("seed %d: %s", seed, r.Faults[0])
		}
	}
}

// TestTornFilesProveNothing cuts the files of killed members anywhere: what is
// missing might have been delivered.
func TestTornFilesProveNothing(t *testing.T) {
	excused := 0
	for seed := range uint64(100) {
		w := newWorld(seed, 2).run(600, true)
		for _, killed := range w.files["nemesis"] {
			file := w.files[killed.Process]
			if killed.Kind != Killed {
				continue
			}
			file[0].Flushed = false
			w.files[killed.Process] = file[:1+w.rng.IntN(len(file))]
		}
		r := Check(w.events(), w.options(true))
		excused += r.Excused
		if !r.OK() {
			t.Fatalf("seed %d: %s", seed, r.Faults[0])
		}
	}
	if excused == 0 {
		t.Error("nothing was ever missing: the test tests nothing")
	}
}

func TestMissingOutcomesAreUnknown(t *testing.T) {
	for seed := range uint64(100) {
		w := newWorld(seed, 0).run(600, false)
		all := slices.DeleteFunc(w.events(), func(e Event) bool { return e.Kind == OK && w.rng.IntN(3) == 0 || e.Kind == Fail })
		if r := Check(all, Options{}); !r.OK() || r.Unknown == 0 {
			t.Fatalf("seed %d: %d unknown, %v", seed, r.Unknown, r.Faults)
		}
	}
}
