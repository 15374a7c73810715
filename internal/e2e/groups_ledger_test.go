package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// delivery is a record that a member of a group was given.
type delivery struct {
	member    string
	partition int32
	offset    int64
	at        time.Time
}

// ledger writes down what all members of a group were given.
type ledger struct {
	mu  sync.Mutex
	all []delivery // guarded by mu; each member's in its order
}

func (l *ledger) add(member string, partition int32, offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, delivery{member, partition, offset, time.Now()})
}

// snapshot returns what there is so far.
func (l *ledger) snapshot() []delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// holders returns which partitions each member was the last to be given records
// of, counting from since.
func (l *ledger) holders(since time.Time) map[string][]int32 {
	last := map[int32]string{}
	for _, d := range l.snapshot() {
		if d.at.After(since) {
			last[d.partition] = d.member
		}
	}
	held := map[string][]int32{}
	for p, member := range last {
		held[member] = append(held[member], p)
	}
	for _, partitions := range held {
		slices.Sort(partitions)
	}
	return held
}

// awaitShares waits until all partitions flow, each member having as many of
// them as shares says, and returns who has what.
func (l *ledger) awaitShares(t testing.TB, timeout time.Duration, shares map[string]int) map[string][]int32 {
	t.Helper()
	var held map[string][]int32
	since := time.Now()
	await(t, timeout, fmt.Sprintf("shares %v", shares), func() (bool, string) {
		held = l.holders(since)
		if len(held) != len(shares) {
			return false, fmt.Sprint(held)
		}
		for member, n := range shares {
			if len(held[member]) != n {
				return false, fmt.Sprint(held)
			}
		}
		return true, ""
	})
	return held
}

// awaitMoved waits until somebody else was given records of all of partitions,
// which from had, and returns how long after began the last of them moved.
func (l *ledger) awaitMoved(t testing.TB, timeout time.Duration, from string, partitions []int32, began time.Time) time.Duration {
	t.Helper()
	var last time.Duration
	await(t, timeout, fmt.Sprintf("%v of %s have moved", partitions, from), func() (bool, string) {
		moved := map[int32]time.Duration{}
		for _, d := range l.snapshot() {
			if _, known := moved[d.partition]; !known && d.at.After(began) && d.member != from {
				moved[d.partition] = d.at.Sub(began)
			}
		}
		last = 0
		for _, p := range partitions {
			took, ok := moved[p]
			if !ok {
				return false, fmt.Sprintf("moved %v", moved)
			}
			last = max(last, took)
		}
		return true, ""
	})
	return last
}

// gaps returns the longest time between from and now that a member was given
// nothing at all, and nothing of one of its partitions.
func (l *ledger) gaps(member string, partitions []int32, from time.Time) (any, one time.Duration) {
	now, lastOf, last := time.Now(), map[int32]time.Time{}, from
	for _, p := range partitions {
		lastOf[p] = from
	}
	for _, d := range l.snapshot() {
		if before, mine := lastOf[d.partition]; mine && d.member == member && d.at.After(from) {
			any, one = max(any, d.at.Sub(last)), max(one, d.at.Sub(before))
			last, lastOf[d.partition] = d.at, d.at
		}
	}
	any = max(any, now.Sub(last))
	for _, at := range lastOf {
		one = max(one, now.Sub(at))
	}
	return any, one
}

// ownership is an unbroken run of a partition's records at one member.
type ownership struct {
	member     string
	first, end int64 // end is the offset after the last
	began      time.Time
	last       time.Time
}

// outputLag is how much later than another's a process' output may be read.
const outputLag = 500 * time.Millisecond

// ownerships returns those of each partition, by their beginning. A record out
// of order begins another one, and so does one that comes a while after somebody
// else had the partition. Two that began at about the same time are taken in the
// order of their offsets: which of two outputs was read first says nothing.
func (l *ledger) ownerships() map[int32][]ownership {
	type key struct {
		member    string
		partition int32
	}
	runs, open, latest := map[int32][]*ownership{}, map[key]*ownership{}, map[int32]string{}
	for _, d := range l.snapshot() {
		k := key{d.member, d.partition}
		again := latest[d.partition] != d.member
		latest[d.partition] = d.member
		if run := open[k]; run != nil && run.end == d.offset && (!again || d.at.Sub(run.last) <= outputLag) {
			run.end, run.last = run.end+1, d.at
			continue
		}
		open[k] = &ownership{d.member, d.offset, d.offset + 1, d.at, d.at}
		runs[d.partition] = append(runs[d.partition], open[k])
	}
	out := map[int32][]ownership{}
	for p, list := range runs {
		for _, run := range list {
			out[p] = append(out[p], *run)
		}
		slices.SortFunc(out[p], func(a, b ownership) int { return cmp.Compare(a.began.UnixNano(), b.began.UnixNano()) })
		for i := 1; i < len(out[p]); i++ {
			if a, b := out[p][i-1], out[p][i]; b.end <= a.first && b.began.Sub(a.began) <= outputLag {
				out[p][i-1], out[p][i] = b, a
			}
		}
	}
	return out
}

// verify demands of every partition that its records came in order within each
// ownership and that every one came: an ownership begins where the one before
// ended or, after killed's, at what was committed then.
func (l *ledger) verify(t testing.TB, ends map[int32]int64, killed string, committed map[int32]int64) (repeated int64) {
	t.Helper()
	all := l.ownerships()
	for p, end := range ends {
		runs := all[p]
		if len(runs) == 0 {
			t.Errorf("nothing of partition %d came, it has %d records", p, end)
			continue
		}
		if runs[0].first != 0 || runs[len(runs)-1].end != end {
			t.Errorf("partition %d: the first record that came is %d and the last %d, want 0 and %d", p, runs[0].first, runs[len(runs)-1].end-1, end-1)
		}
		for i, run := range runs[1:] {
			before := runs[i]
			due := before.end
			if before.member == killed {
				due = committed[p]
			}
			if run.member == before.member || run.first != due || run.first > before.end {
				t.Errorf("partition %d: %s had offsets %d to %d, then %s went on at %d, want %d", p, before.member, before.first, before.end-1, run.member, run.first, due)
			}
			repeated += before.end - run.first
		}
	}
	return repeated
}

// lines calls each with every whole line that is written to it, without its end.
type lines struct {
	each func(line string)
	rest []byte
}

func (w *lines) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte{'\n'})
		if !ok {
			w.rest = slices.Clone(w.rest)
			return len(p), nil
		}
		w.each(string(line))
		w.rest = rest
	}
}
