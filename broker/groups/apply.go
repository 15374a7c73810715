package groups

import (
	"slices"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// groupsMax bounds the groups of one coordinator shard.
const groupsMax = 10_000

// execute carries out one operation and returns what it came to. A refusal has
// changed nothing.
func (s *state) execute(op *operation, timeMs int64) outcome {
	switch op.Kind {
	case opJoin:
		return s.join(op)
	case opReport:
		return s.report(op)
	case opAway:
		return s.away(op)
	case opRemove:
		return s.remove(op, timeMs)
	case opTarget:
		return s.target(op)
	case opCommit:
		return s.commit(op, timeMs)
	case opStore:
		return s.store(op, timeMs)
	case opForget:
		return s.forget(op)
	case opPurge:
		return s.purge(op)
	case opDelete, opExpired:
		return s.drop(op)
	}
	return refused(errcode.UnsupportedVersion, "this node does not know the group operation %d; upgrade all nodes first", op.Kind)
}

// existing returns a group, or the refusal where there is none.
func (s *state) existing(name string) (*group, outcome) {
	if g := s.groups[name]; g != nil {
		return g, outcome{}
	}
	return nil, refused(errcode.GroupIDNotFound, "there is no consumer group %q; see `logbroker group list`", name)
}

// memberOf returns a member, or the refusal where it is none.
func (s *state) memberOf(op *operation) (*group, *member, outcome) {
	if g := s.groups[op.Group]; g != nil {
		if m := g.members[op.Member]; m != nil {
			return g, m, outcome{}
		}
	}
	return nil, nil, refused(errcode.UnknownMemberID, "%q is no member of group %q: it left or was silent for longer than its session; join again", op.Member, op.Group)
}

// make returns the group, a new one where there is none; only a change that
// will succeed may call it.
func (s *state) make(name string, timeMs int64) (*group, outcome) {
	if g := s.groups[name]; g != nil {
		return g, outcome{}
	}
	if len(s.groups) >= groupsMax {
		return nil, refused(errcode.GroupStateTooLarge, "the coordinator of group %q has %d groups, which is its limit; delete groups that are not used", name, groupsMax)
	}
	g := newGroup(name)
	g.emptySinceMs = timeMs
	s.groups[name] = g
	return g, outcome{}
}

// join adds a member, or takes what a member says of itself anew. A member that
// joins again keeps what it owns, granted anew: a copy of its first join may come
// late. A static member takes the place of the one that went away.
func (s *state) join(op *operation) outcome {
	g, j := s.groups[op.Group], op.Joining
	if g == nil {
		var no outcome
		if g, no = s.make(op.Group, 1); no.Code != errcode.None {
			return no
		}
	}
	if m := g.members[op.Member]; m != nil {
		return g.rejoin(m, *j)
	}
	old := g.byInstance(j.InstanceID)
	if old != nil && !old.away {
		return refused(errcode.UnreleasedInstanceID, "static member %q is alive as %q; wait until it leaves or its session ends, or use another instance id", j.InstanceID, old.id)
	}
	if old == nil && len(g.members) >= protocol.GroupMembersMax {
		return refused(errcode.GroupMaxSizeReached, "group %q has %d members, which is its limit", g.name, len(g.members))
	}
	g.epoch++
	g.revision++
	g.emptySinceMs = 0
	m := &member{joining: *j, id: op.Member, epoch: g.epoch, owned: map[Partition]ownership{}}
	g.members[m.id] = m
	if old != nil {
		g.takeOver(m, old)
	}
	return outcome{}
}

// rejoin takes what a member says of itself anew.
func (g *group) rejoin(m *member, j joining) outcome {
	if other := g.byInstance(j.InstanceID); other != nil && other != m {
		return refused(errcode.FencedInstanceID, "static member %q is %q now", j.InstanceID, other.id)
	}
	if !slices.Equal(m.Topics, j.Topics) {
		g.revision++
	}
	m.joining, m.away = j, false
	g.grantAnew(m)
	return outcome{}
}

// grantAnew makes void what m has sent as an owner. It lost everything before it
// joined again, and begins at what is committed: a commit from before that came
// only now would be above, and its next one would take the offset back.
func (g *group) grantAnew(m *member) {
	if len(m.owned) == 0 {
		return
	}
	g.epoch++
	m.epoch = g.epoch
	for p, o := range m.owned { // each on its own: the order does not matter
		o.granted = g.epoch
		m.owned[p] = o
	}
}

// takeOver gives m what old had, which has given up all of it by leaving.
func (g *group) takeOver(m, old *member) {
	delete(g.members, old.id)
	m.target, m.assignment = old.target, old.assignment
	for p := range old.owned {
		delete(g.owners, p)
	}
	for _, p := range m.target {
		if _, had := old.owned[p]; had {
			g.owners[p] = m.id
			m.owned[p] = ownership{granted: g.epoch}
		}
	}
	g.reconcile()
}

// report takes what a member still owns. Only what it was told to give up with
// an epoch that it knows counts as given up: an older report may have been sent
// before it got the partition.
func (s *state) report(op *operation) outcome {
	g, m, no := s.memberOf(op)
	if m == nil {
		return no
	}
	if op.Epoch > m.epoch {
		return refusedEpoch(op, m)
	}
	owned := make(map[Partition]bool, len(op.Owned))
	for _, p := range op.Owned {
		owned[p] = true
	}
	for _, p := range m.revoking() {
		if !owned[p] && op.Epoch >= m.owned[p].revoked {
			g.release(m, p)
		}
	}
	g.reconcile()
	return outcome{}
}

func refusedEpoch(op *operation, m *member) outcome {
	return refused(errcode.FencedMemberEpoch, "member %q of group %q is at epoch %d, the request says %d; join again", op.Member, op.Group, m.epoch, op.Epoch)
}

// away notes that a static member left and will be back. It has given up all it
// owned, but nobody else gets it meanwhile.
func (s *state) away(op *operation) outcome {
	g, m, no := s.memberOf(op)
	if m == nil {
		return no
	}
	if m.InstanceID == "" {
		return refused(errcode.InvalidRequest, "member %q has no instance id and cannot leave for a while; leave with epoch %d", m.id, protocol.MemberEpochLeave)
	}
	m.away = true
	for _, p := range m.revoking() {
		g.release(m, p)
	}
	g.reconcile()
	return outcome{}
}

// remove takes a member out; what it owned is free at once.
func (s *state) remove(op *operation, timeMs int64) outcome {
	g, m, no := s.memberOf(op)
	if m == nil {
		return no
	}
	if op.Epoch >= 0 && op.Epoch != m.epoch {
		return refusedEpoch(op, m)
	}
	for p := range m.owned {
		delete(g.owners, p)
	}
	delete(g.members, m.id)
	g.epoch++
	g.revision++
	if len(g.members) == 0 {
		g.emptySinceMs = max(timeMs, 1)
	}
	g.reconcile() // what it owned may be waited for
	return outcome{}
}

// target takes the coordinator's new assignment, unless the membership it was
// made for is not the present one.
func (s *state) target(op *operation) outcome {
	g, no := s.existing(op.Group)
	if g == nil {
		return no
	}
	if op.Revision != g.revision {
		return refused(errcode.RebalanceInProgress, "the membership changed meanwhile")
	}
	for _, m := range g.members {
		m.target, m.assignment = nil, nil
	}
	for _, to := range op.Targets {
		if m := g.members[to.Member]; m != nil {
			m.target, m.assignment = to.Partitions, to.Assignment
		}
	}
	g.see(op.Topics)
	g.reconcile()
	return outcome{}
}

// see notes the topics that are subscribed to for the first time as they are
// now. Topics that do not exist are noted too, for as long as someone waits for
// them: all of theirs comes later.
func (g *group) see(topics []topicCount) {
	exists := make(map[string]topicCount, len(topics))
	for _, t := range topics {
		exists[t.Name] = t
	}
	for name, t := range g.seen {
		if t.ID == 0 && !g.subscribed(name) {
			delete(g.seen, name)
		}
	}
	for _, m := range g.members {
		for _, name := range m.Topics {
			if _, known := g.seen[name]; !known {
				t := exists[name]
				g.seen[name] = seenTopic{ID: t.ID, Partitions: t.Partitions}
			}
		}
	}
}

// drop deletes a group without members. Where the coordinator found it expired,
// the mark must be the one it saw.
func (s *state) drop(op *operation) outcome {
	g, no := s.existing(op.Group)
	switch {
	case g == nil:
		return no
	case len(g.members) > 0:
		return refused(errcode.NonEmptyGroup, "group %q has %d members; stop them first", g.name, len(g.members))
	case op.Kind == opExpired && op.SinceMs != g.emptySinceMs:
		return refused(errcode.RebalanceInProgress, "group %q was used meanwhile", g.name)
	}
	delete(s.groups, g.name)
	return outcome{}
}
