package groups

import (
	"slices"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// commit stores offsets of a member, each for itself: a member may commit what
// it owns, from the epoch on at which it was granted.
func (s *state) commit(op *operation, timeMs int64) outcome {
	g, m, no := s.memberOf(op)
	if m == nil {
		return no
	}
	if op.Epoch > m.epoch {
		return refusedEpoch(op, m)
	}
	var out outcome
	for i := range op.Offsets {
		if code := g.commitOne(m, op, &op.Offsets[i], timeMs); code != errcode.None {
			if out.Codes == nil {
				out.Codes = make([]errcode.Code, len(op.Offsets))
			}
			out.Codes[i] = code
		}
	}
	return out
}

// commitOne stores one offset. A commit that its partition has seen, or that a
// later one of the same owner has overtaken, changes nothing and is no error.
func (g *group) commitOne(m *member, op *operation, c *commit, timeMs int64) errcode.Code {
	own, ok := m.owned[c.Partition]
	old, has := g.offsets[c.Partition]
	switch {
	case !ok:
		return errcode.PartitionNotOwned
	case op.Epoch < own.granted:
		return errcode.StaleMemberEpoch
	case has && old.epoch == own.granted && op.Sequence <= old.sequence:
		return errcode.None
	case !has && len(g.offsets) >= protocol.GroupOffsetsMax:
		return errcode.GroupStateTooLarge
	}
	g.offsets[c.Partition] = offset{offset: c.Offset, metadata: c.Metadata, timeMs: timeMs, epoch: own.granted, sequence: op.Sequence}
	return errcode.None
}

// store stores offsets of a group without members, all or none.
func (s *state) store(op *operation, timeMs int64) outcome {
	g := s.groups[op.Group]
	if g != nil && len(g.members) > 0 {
		return refused(errcode.NonEmptyGroup, "group %q has %d members; stop them first, then its offsets can be moved", g.name, len(g.members))
	}
	fresh := 0
	for _, c := range op.Offsets {
		if g == nil {
			fresh++
		} else if _, has := g.offsets[c.Partition]; !has {
			fresh++
		}
	}
	if have := g.offsetCount(); have+fresh > protocol.GroupOffsetsMax {
		return refused(errcode.GroupStateTooLarge, "group %q would have offsets of %d partitions, its limit is %d", op.Group, have+fresh, protocol.GroupOffsetsMax)
	}
	g, no := s.make(op.Group, timeMs)
	if g == nil {
		return no
	}
	g.emptySinceMs = max(timeMs, 1)
	for _, c := range op.Offsets {
		g.offsets[c.Partition] = offset{offset: c.Offset, metadata: c.Metadata, timeMs: timeMs, epoch: g.epoch}
	}
	return outcome{}
}

func (g *group) offsetCount() int {
	if g == nil {
		return 0
	}
	return len(g.offsets)
}

// forget deletes offsets, unless a member subscribes to the topic. Codes has one
// code for each topic named.
func (s *state) forget(op *operation) outcome {
	g, no := s.existing(op.Group)
	if g == nil {
		return no
	}
	out := outcome{Codes: make([]errcode.Code, len(op.Forget))}
	for i, f := range op.Forget {
		if g.subscribed(f.Name) {
			out.Codes[i] = errcode.GroupSubscribedToTopic
			continue
		}
		for p := range g.offsets { // each on its own: the order does not matter
			if p.Topic == f.Topic && (len(f.Numbers) == 0 || slices.Contains(f.Numbers, p.Number)) {
				delete(g.offsets, p)
			}
		}
	}
	return out
}

// purge deletes what is left of topics that are no more, and of names that
// nobody subscribes to.
func (s *state) purge(op *operation) outcome {
	g, no := s.existing(op.Group)
	if g == nil {
		return no
	}
	for p := range g.offsets {
		if slices.Contains(op.Gone, p.Topic) {
			delete(g.offsets, p)
		}
	}
	for name, t := range g.seen {
		if slices.Contains(op.Gone, t.ID) && !g.subscribed(name) {
			delete(g.seen, name)
		}
	}
	return outcome{}
}
