package history

import (
	"cmp"
	"slices"
)

// coverage is what a group was given of a partition, from the log's start to the
// first offset that nobody was given.
//
//	since[i] = the earliest time at which everybody together had been given start to start+i
type coverage struct {
	start int64
	since []int64
}

// end is the first offset that nobody was given.
func (c *coverage) end() int64 { return c.start + int64(len(c.since)) }

// cover needs s.delivered sorted by offset and time.
func (g *groups) cover(s *share, start int64) coverage {
	c := coverage{start: start}
	latest := int64(0)
	for _, i := range s.delivered {
		e := &g.events[i]
		if e.Offset > c.end() {
			break
		}
		if e.Offset == c.end() { // the first delivery of this offset
			latest = max(latest, e.At)
			c.since = append(c.since, latest)
		}
	}
	return c
}

// judgeCoverage looks for a group offset that passed what nobody had been given.
func (g *groups) judgeCoverage(s *share, w *writes) {
	slices.SortStableFunc(s.delivered, func(a, b int32) int {
		x, y := &g.events[a], &g.events[b]
		return cmp.Or(cmp.Compare(x.Offset, y.Offset), cmp.Compare(x.At, y.At))
	})
	start := int64(0)
	if log := w.logs[s.partition]; len(log) > 0 {
		start = log[0].offset
	}
	c := g.cover(s, start)
	furthest := c.end()
	for _, i := range slices.Concat(s.committed, s.fetched) {
		e := &g.events[i]
		switch {
		case e.Offset <= start:
		case e.Offset > c.end() && s.excused:
			furthest = max(furthest, e.Offset)
		case e.Offset > c.end():
			g.report.fault(Gap, []Event{*e}, "group %s, partition %d: %d is committed, and nobody was given %d", s.group, s.partition, e.Offset, c.end())
		case c.since[e.Offset-1-start] > e.At && !s.excused:
			g.report.fault(Gap, []Event{*e}, "group %s, partition %d: %d was committed before all below it had been given to anybody", s.group, s.partition, e.Offset)
		}
	}
	g.report.Excused += int(furthest - c.end())
}

// judgeDelivered compares deliveries with the log, in both directions.
func (g *groups) judgeDelivered(w *writes) {
	for _, s := range g.order {
		for _, i := range s.delivered {
			e := &g.events[i]
			at := w.storedAt(e.Partition, e.Offset)
			switch {
			case at < 0:
				g.report.fault(Phantom, []Event{*e}, "partition %d, offset %d was delivered and is not in the log", e.Partition, e.Offset)
			case g.events[at].Message != e.Message:
				g.report.fault(TwoValues, []Event{*e, g.events[at]}, "partition %d, offset %d was delivered with another message than is stored", e.Partition, e.Offset)
			}
		}
	}
	for _, group := range g.options.Drained {
		for _, partition := range sortedKeys(w.logs) {
			g.judgeDrained(w, group, partition)
		}
	}
}

// judgeDrained demands that the group was given all of the partition.
func (g *groups) judgeDrained(w *writes, group string, partition int32) {
	s := g.shares[shareID{group, partition}]
	if s == nil {
		s = &share{group: group, partition: partition}
	}
	given := s.delivered // by offset
	for _, stored := range w.logs[partition] {
		for len(given) > 0 && g.events[given[0]].Offset < stored.offset {
			given = given[1:]
		}
		switch {
		case len(given) > 0 && g.events[given[0]].Offset == stored.offset:
		case s.excused:
			g.report.Excused++
		default:
			g.report.fault(Undelivered, []Event{g.events[stored.event]}, "group %s, partition %d: nobody was given offset %d", group, partition, stored.offset)
		}
	}
}
