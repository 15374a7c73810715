package consumer

import (
	"math/rand/v2"
	"testing"
)

// The account is compared with one that keeps every record.
func TestMarksCommitUpToTheFirstRecordThatIsNotFinished(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		f := newFeed(nil, defaultOptions(), "t", 0)
		start := r.Int64N(5)
		m := newMarks(f, start)
		handed, done := map[int64]bool{}, map[int64]bool{}
		next := start
		for range 200 {
			if r.IntN(2) == 0 {
				if r.IntN(10) == 0 {
					next += r.Int64N(4) // a gap
				}
				m.handOut(next)
				handed[next] = true
				next++
			} else {
				at := start + r.Int64N(next-start+2)
				m.mark(at)
				done[at] = done[at] || handed[at]
			}
			want := m.low // in a gap at the end either is right
			for o := start; o < next; o++ {
				if handed[o] && !done[o] {
					want = o
					break
				}
				if o == next-1 {
					want = next
				}
			}
			// Before the first unfinished record there may be a gap, which needs no commit.
			for o := m.low; o < want; o++ {
				if handed[o] {
					t.Fatalf("seed %d: low %d, want %d", seed, m.low, want)
				}
			}
			if m.low > want {
				t.Fatalf("seed %d: low %d is beyond the unfinished record %d", seed, m.low, want)
			}
			checkSpans(t, m)
		}
	}
}

func checkSpans(t *testing.T, m *marks) {
	t.Helper()
	last := m.low
	for _, s := range m.done {
		if s.from <= last || s.to <= s.from || s.to > m.next {
			t.Fatalf("low %d, next %d, spans %v", m.low, m.next, m.done)
		}
		last = s.to
	}
}
