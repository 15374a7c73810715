package history

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestCheckFindsExactlyWhatTheDefinitionsSay changes small histories at random
// and compares Check with the definitions of the verdicts, written down as they
// are said, in quadratic time. Which fault is reported first, or how often, is
// Check's own affair; whether one of the kind is there is not.
func TestCheckFindsExactlyWhatTheDefinitionsSay(t *testing.T) {
	seen := map[Verdict]int{}
	legal := 0
	for seed := range uint64(1000) {
		w := newWorld(seed, 0).withReaders(int(seed % 3))
		w.partitions, w.logs = 2, w.logs[:2]
		h := w.run(12+int(seed%25), true).events()
		rng := rand.New(rand.NewPCG(seed, 2))
		for range rng.IntN(4) {
			h = disturb(rng, h)
		}
		o := w.options(true)
		r := Check(h, o)
		if r.Count[Malformed] > 0 {
			continue
		}
		want := define(h, o)
		got := slices.Sorted(maps.Keys(r.Count))
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: Check says %q, the definitions %q\n%v\n%v", seed, got, want, h, r.Faults)
		}
		for _, v := range want {
			seen[v]++
		}
		if len(want) == 0 {
			legal++
		}
	}
	for _, v := range []Verdict{
		LostPrefix, LostMiddle, LostPostfix, WrongOffset, TwoValues, Duplicate, Phantom, Hole, FailedSeen, ProducerOrder, RealTime,
		Diverged, Stuck, StaleLatest, WatermarkBack, AboveCommit, Skipped,
	} {
		if seen[v] < 3 {
			t.Errorf("%q came up %d times: that proves little", v, seen[v])
		}
	}
	if legal < 50 {
		t.Errorf("%d histories were legal", legal)
	}
}

// disturb changes one thing.
func disturb(rng *rand.Rand, h []Event) []Event {
	i, j := rng.IntN(len(h)), rng.IntN(len(h))
	e := &h[i]
	switch rng.IntN(13) {
	case 0:
		return slices.Delete(h, i, i+1)
	case 1:
		return slices.Insert(h, j, *e)
	case 2:
		e.Offset += int64(rng.IntN(5) - 2)
	case 3:
		e.High += int64(rng.IntN(5) - 2)
	case 4:
		e.At += int64(rng.IntN(4*ackMax) - 2*ackMax)
	case 5:
		if e.Kind == OK {
			e.Kind, e.Partition, e.Offset = Fail, 0, 0
		}
	case 6:
		if e.Kind == Stored || e.Kind == Read {
			e.Message = h[j].Message
		}
	case 7:
		e.Sequence, h[j].Sequence = h[j].Sequence, e.Sequence
	case 8: // gone from all replicas
		if p, o := e.Partition, e.Offset; e.Kind == Stored {
			return slices.DeleteFunc(h, func(e Event) bool { return e.Kind == Stored && e.Partition == p && e.Offset == o })
		}
	case 9: // something else on all replicas
		if p, o, id := e.Partition, e.Offset, h[j].Message; e.Kind == Stored {
			for k := range h {
				if h[k].Kind == Stored && h[k].Partition == p && h[k].Offset == o {
					h[k].Message = id
				}
			}
		}
	case 10: // the log begins late
		if p, o := e.Partition, e.Offset; e.Kind == Stored {
			return slices.DeleteFunc(h, func(e Event) bool { return e.Kind == Stored && e.Partition == p && e.Offset < o })
		}
	case 12:
		if i := ackAfterHealed(h); i >= 0 {
			h[i].At += int64(rng.IntN(2 * ackMax))
		}
	case 11: // the log ends early
		if p, o := e.Partition, e.Offset; e.Kind == Stored {
			return slices.DeleteFunc(h, func(e Event) bool { return e.Kind == Stored && e.Partition == p && e.Offset > o })
		}
	}
	return h
}

// defined is a history in the shape that the definitions need.
type defined struct {
	events []Event
	log    []Event // of the first replica of each partition that has any
	max    int64
}

// define returns the verdicts that hold, sorted.
func define(h []Event, o Options) []Verdict {
	d := &defined{events: h, max: o.AckMax}
	first := map[int32]uint64{}
	for e := range d.of(Stored) {
		if r, ok := first[e.Partition]; !ok || e.Replica < r {
			first[e.Partition] = e.Replica
		}
	}
	for e := range d.of(Stored) {
		if e.Replica == first[e.Partition] {
			d.log = append(d.log, e)
		}
	}
	slices.SortStableFunc(d.log, func(a, b Event) int { return int(a.Offset - b.Offset) })
	slices.SortStableFunc(d.log, func(a, b Event) int { return int(a.Partition - b.Partition) })
	found := map[Verdict]bool{}
	d.stored(found)
	d.acked(found)
	d.order(found)
	d.replicas(found, first)
	d.waits(found)
	d.reads(found)
	d.watermarks(found)
	return slices.Sorted(maps.Keys(found))
}

func (d *defined) of(k Kind) func(func(Event) bool) {
	return func(yield func(Event) bool) {
		for _, e := range d.events {
			if e.Kind == k && !yield(e) {
				return
			}
		}
	}
}

func (d *defined) find(k Kind, message uint64) (Event, bool) {
	for e := range d.of(k) {
		if e.Message == message {
			return e, true
		}
	}
	return Event{}, false
}

func (d *defined) at(p int32, offset int64) (Event, bool) {
	for _, e := range d.log {
		if e.Partition == p && e.Offset == offset {
			return e, true
		}
	}
	return Event{}, false
}

// lost: acked, and nowhere in the log.
func (d *defined) lost(ok Event) bool {
	return !slices.ContainsFunc(d.log, func(e Event) bool { return e.Message == ok.Message })
}

// inPlace: acked, and stored there.
func (d *defined) inPlace(ok Event) bool {
	return slices.ContainsFunc(d.log, func(e Event) bool { return e.Message == ok.Message && samePlace(&e, &ok) })
}

func (d *defined) stored(found map[Verdict]bool) {
	for i, e := range d.log {
		if _, sent := d.find(Invoke, e.Message); !sent {
			found[Phantom] = true
			continue
		}
		again := slices.ContainsFunc(d.log[:i], func(o Event) bool { return o.Message == e.Message })
		found[Duplicate] = found[Duplicate] || again
		if _, failed := d.find(Fail, e.Message); failed && !again {
			found[FailedSeen] = true
		}
	}
	for i := 1; i < len(d.log); i++ {
		a, b := d.log[i-1], d.log[i]
		found[TwoValues] = found[TwoValues] || a.Partition == b.Partition && a.Offset == b.Offset
		for o := a.Offset + 1; a.Partition == b.Partition && o < b.Offset; o++ {
			named := false
			for ok := range d.of(OK) {
				named = named || ok.Partition == a.Partition && ok.Offset == o
			}
			found[Hole] = found[Hole] || !named
		}
	}
	maps.DeleteFunc(found, func(_ Verdict, is bool) bool { return !is })
}

func (d *defined) acked(found map[Verdict]bool) {
	for ok := range d.of(OK) {
		shared := false
		for other := range d.of(OK) {
			shared = shared || other.Message != ok.Message && samePlace(&other, &ok)
		}
		switch {
		case shared:
			found[TwoValues] = true
		case d.lost(ok):
			found[d.lostHow(ok)] = true
		case !d.inPlace(ok):
			found[WrongOffset] = true
		}
	}
}

func (d *defined) lostHow(ok Event) Verdict {
	below, above := false, false
	for _, e := range d.log {
		if e.Partition == ok.Partition {
			below, above = below || e.Offset <= ok.Offset, above || e.Offset >= ok.Offset
		}
	}
	switch {
	case !above:
		return LostPostfix
	case !below:
		return LostPrefix
	}
	return LostMiddle
}

func (d *defined) order(found map[Verdict]bool) {
	for i, a := range d.log {
		for j, b := range d.log {
			if i >= j || a.Partition != b.Partition {
				continue
			}
			x, sentX := d.find(Invoke, a.Message)
			y, sentY := d.find(Invoke, b.Message)
			if !sentX || !sentY {
				continue
			}
			if x.Producer == y.Producer && x.Sequence > y.Sequence {
				found[ProducerOrder] = true
			}
			if ok, acked := d.find(OK, b.Message); acked && ok.At < x.At {
				found[RealTime] = true
			}
		}
	}
}

func (d *defined) replicas(found map[Verdict]bool, first map[int32]uint64) {
	logs := map[copyID][]Event{}
	for e := range d.of(Stored) {
		id := copyID{e.Partition, e.Replica}
		logs[id] = append(logs[id], Event{Offset: e.Offset, Message: e.Message})
	}
	for id, log := range logs {
		slices.SortStableFunc(log, func(a, b Event) int { return int(a.Offset - b.Offset) })
		logs[id] = log
	}
	for id, log := range logs {
		if !slices.Equal(log, logs[copyID{id.partition, first[id.partition]}]) {
			found[Diverged] = true
		}
	}
}

func (d *defined) waits(found map[Verdict]bool) {
	healed, last := int64(-1), int64(0)
	for _, e := range d.events {
		last = max(last, e.At)
		if e.Kind == Healed {
			healed = e.At
		}
	}
	for sent := range d.of(Invoke) {
		until := last
		for _, k := range []Kind{Unknown, OK} {
			if e, ok := d.find(k, sent.Message); ok {
				until = e.At
			}
		}
		if _, failed := d.find(Fail, sent.Message); !failed && healed >= 0 && until-max(sent.At, healed) > d.max {
			found[Stuck] = true
		}
	}
}

func (d *defined) reads(found map[Verdict]bool) {
	last := map[beginning]int64{}
	for e := range d.of(Read) {
		id := beginning{e.Member, e.Epoch, e.Partition}
		if before, ok := last[id]; ok && before+1 != e.Offset {
			found[Skipped] = true
		}
		last[id] = e.Offset
		_, sent := d.find(Invoke, e.Message)
		ok, acked := d.find(OK, e.Message)
		stored, there := d.at(e.Partition, e.Offset)
		switch {
		case e.Offset >= e.High:
			found[AboveCommit] = true
		case !sent:
			found[Phantom] = true
		case !there && (!acked || !d.lost(ok)):
			found[AboveCommit] = true
		case there && stored.Message != e.Message:
			found[TwoValues] = true
		}
	}
}

func (d *defined) watermarks(found map[Verdict]bool) {
	for e := range d.of(Watermark) {
		for before := range d.of(Watermark) {
			if before.Partition == e.Partition && before.At < e.Began && before.High > e.High {
				found[WatermarkBack] = true
			}
		}
		covered := false
		for ok := range d.of(OK) {
			if ok.Partition != e.Partition {
				continue
			}
			if d.inPlace(ok) && ok.At < e.Began && e.High <= ok.Offset {
				found[StaleLatest] = true
			}
			covered = covered || d.lost(ok) && ok.Offset+1 >= e.High
		}
		if _, there := d.at(e.Partition, e.High-1); e.High > 0 && !there && !covered && !d.reaches(e) {
			found[AboveCommit] = true
		}
	}
}

// reaches: the log goes as far as the high watermark says.
func (d *defined) reaches(e Event) bool {
	return slices.ContainsFunc(d.log, func(s Event) bool { return s.Partition == e.Partition && s.Offset+1 >= e.High })
}
