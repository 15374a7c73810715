package history

import (
	"cmp"
	"math"
	"slices"
)

// ownership is one stay of a partition with a member.
type ownership struct {
	member   string
	epoch    int32
	assigned int32 // its event
	next     int64 // the offset that is due
	last     int32 // the latest delivery, -1 for none
}

// proof is a time at which an ownership certainly was in force.
type proof struct {
	at    int64
	owner int32
	event int32
	why   string
}

// share is what a group did with one partition.
type share struct {
	group     string
	partition int32
	owners    []ownership // in the order of the events
	latest    int32       // the ownership that the last event was about
	proofs    []proof
	delivered []int32 // events
	committed []int32 // Committed events
	fetched   []int32 // Fetched events
	excused   bool    // a torn process may have been given more
}

type shareID struct {
	group     string
	partition int32
}

// span is a time in which a process was stopped.
type span struct{ from, to int64 }

// process is what is known of one process.
type process struct {
	stops          []span
	groups         []string // of which it is a member
	ended, flushed bool
}

// groups is what all groups did.
type groups struct {
	report    *Report
	options   *Options
	events    []Event
	shares    map[shareID]*share
	order     []*share // shares by name
	processes map[string]*process
}

// readGroups goes through the events once.
func readGroups(r *Report, events []Event, o *Options) *groups {
	g := &groups{report: r, options: o, events: events, shares: map[shareID]*share{}, processes: map[string]*process{}}
	for i := range events {
		switch e := &events[i]; e.Kind {
		case Begin, End, Stopped, Resumed, Killed:
			g.readProcess(e)
		case Assigned, Revoked, Leaving, Lost:
			g.readOwnership(int32(i))
		case Delivered:
			g.readDelivery(int32(i))
		case Committed:
			g.readCommit(int32(i))
		case Fetched:
			s := g.share(e)
			s.fetched = append(s.fetched, int32(i))
		}
	}
	torn := g.torn()
	for _, s := range g.shares {
		s.excused = torn[s.group]
		g.order = append(g.order, s)
	}
	slices.SortFunc(g.order, func(a, b *share) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.partition, b.partition))
	})
	return g
}

func (g *groups) process(name string) *process {
	p := g.processes[name]
	if p == nil {
		p = &process{}
		g.processes[name] = p
	}
	return p
}

func (g *groups) readProcess(e *Event) {
	p := g.process(e.Process)
	switch e.Kind {
	case Begin:
		p.groups, p.flushed = append(p.groups, e.Group), p.flushed || e.Flushed
	case End:
		p.ended = true
	case Stopped:
		p.stops = append(p.stops, span{e.At, math.MaxInt64})
	case Resumed:
		if n := len(p.stops); n > 0 {
			p.stops[n-1].to = e.At
		}
	}
}

// torn returns the groups whose members may have been given more than is written.
func (g *groups) torn() map[string]bool {
	torn := map[string]bool{}
	for _, p := range g.processes {
		for _, group := range p.groups {
			torn[group] = torn[group] || !p.ended && !p.flushed
		}
	}
	return torn
}

// stoppedWithin reports whether a process was stopped at any time of a span.
func (g *groups) stoppedWithin(name string, within span) bool {
	p := g.processes[name]
	return p != nil && slices.ContainsFunc(p.stops, func(s span) bool { return s.from <= within.to && s.to >= within.from })
}

// resumedBefore returns when a process was resumed last before at, 0 for never.
func (g *groups) resumedBefore(name string, at int64) (last int64) {
	if p := g.processes[name]; p != nil {
		for _, s := range p.stops {
			if s.from <= at {
				last = max(last, min(s.to, at))
			}
		}
	}
	return last
}

func (g *groups) share(e *Event) *share {
	id := shareID{e.Group, e.Partition}
	s := g.shares[id]
	if s == nil {
		s = &share{group: e.Group, partition: e.Partition, latest: -1}
		g.shares[id] = s
	}
	return s
}

// owner finds the ownership of an event, -1 for none: the epoch is unknown, or
// the history is malformed.
func (g *groups) owner(s *share, e *Event) int32 {
	if e.Epoch == 0 {
		return -1
	}
	if s.latest < 0 || s.owners[s.latest].member != e.Member || s.owners[s.latest].epoch != e.Epoch {
		s.latest = -1
		for i := len(s.owners) - 1; i >= 0; i-- {
			if s.owners[i].member == e.Member && s.owners[i].epoch == e.Epoch {
				s.latest = int32(i)
				break
			}
		}
	}
	if s.latest < 0 {
		g.report.fault(Malformed, []Event{*e}, "member %s was not told that it owns partition %d for the %d. time", e.Member, e.Partition, e.Epoch)
	}
	return s.latest
}

func (g *groups) readOwnership(i int32) {
	e := &g.events[i]
	s := g.share(e)
	if e.Kind == Assigned {
		s.latest = int32(len(s.owners))
		s.owners = append(s.owners, ownership{member: e.Member, epoch: e.Epoch, assigned: i, next: e.Offset, last: -1})
		return
	}
	at := g.owner(s, e)
	if at < 0 {
		return
	}
	own := &s.owners[at]
	if e.Kind == Revoked && !g.stoppedWithin(e.Process, span{g.events[own.assigned].At, e.At}) {
		s.proofs = append(s.proofs, proof{e.At, at, i, "was asked by its group to give it up"})
	}
}

func (g *groups) readDelivery(i int32) {
	e := &g.events[i]
	s := g.share(e)
	g.report.Delivered++
	s.delivered = append(s.delivered, i)
	at := g.owner(s, e)
	if at < 0 {
		return
	}
	own := &s.owners[at]
	if e.Offset != own.next {
		before := own.last
		if before < 0 {
			before = own.assigned
		}
		g.report.fault(Skipped, []Event{g.events[before], *e}, "group %s, partition %d: offset %d came where %d was due", s.group, s.partition, e.Offset, own.next)
	}
	own.next, own.last = e.Offset+1, i
}

func (g *groups) readCommit(i int32) {
	e := &g.events[i]
	s := g.share(e)
	g.report.Committed++
	s.committed = append(s.committed, i)
	if at := g.owner(s, e); at >= 0 {
		s.proofs = append(s.proofs, proof{e.Began, at, i, "committed"})
	}
}

func (g *groups) judge(w *writes) {
	for _, s := range g.order {
		g.judgeOwners(s)
		g.judgeOffsets(s)
		g.judgeStarts(s)
		g.judgeCoverage(s, w)
	}
	if !g.options.NoWitness {
		g.judgeDelivered(w)
	}
}

// judgeOwners looks for an ownership that was in force after a later one began.
func (g *groups) judgeOwners(s *share) {
	if g.options.HandOutMax > 0 {
		for i := range s.owners {
			if last := s.owners[i].last; last >= 0 {
				s.proofs = append(s.proofs, g.handOut(int32(i), last))
			}
		}
	}
	slices.SortStableFunc(s.proofs, func(a, b proof) int { return cmp.Compare(a.at, b.at) })
	began := g.byTime(s)
	current := -1
	for _, p := range s.proofs {
		for len(began) > 0 && g.assignedAt(s, began[0]) < p.at {
			current, began = int(began[0]), began[1:]
		}
		if current < 0 || g.assignedAt(s, int32(current)) <= g.assignedAt(s, p.owner) {
			continue
		}
		x, y := &s.owners[p.owner], &s.owners[current]
		g.report.fault(TwoOwners, []Event{g.events[x.assigned], g.events[y.assigned], g.events[p.event]},
			"group %s, partition %d: %s %s after %s owned it", s.group, s.partition, x.member, p.why, y.member)
	}
}

// handOut makes a proof of the latest delivery of an ownership: that no other
// began more than HandOutMax before it. A process that was stopped has as long
// again when it wakes up.
func (g *groups) handOut(owner, delivery int32) proof {
	e := &g.events[delivery]
	at := e.At - g.options.HandOutMax
	if g.resumedBefore(e.Process, e.At) > at {
		at = 0 // it has hardly woken up: this proves nothing
	}
	return proof{at, owner, delivery, "was given its records long"}
}

// byTime returns the ownerships in the order in which they began.
func (g *groups) byTime(s *share) []int32 {
	order := make([]int32, len(s.owners))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(g.assignedAt(s, a), g.assignedAt(s, b)) })
	return order
}

func (g *groups) assignedAt(s *share, owner int32) int64 {
	return g.events[s.owners[owner].assigned].At
}

// judgeOffsets looks for a group offset that was lower than one before.
func (g *groups) judgeOffsets(s *share) {
	answers := slices.Concat(s.committed, s.fetched)
	slices.SortStableFunc(answers, func(a, b int32) int { return cmp.Compare(g.events[a].At, g.events[b].At) })
	questions := slices.Clone(answers)
	slices.SortStableFunc(questions, func(a, b int32) int { return cmp.Compare(g.events[a].Began, g.events[b].Began) })
	highest := int32(-1)
	for _, q := range questions {
		e := &g.events[q]
		for len(answers) > 0 && g.events[answers[0]].At < e.Began {
			if highest < 0 || g.events[answers[0]].Offset > g.events[highest].Offset {
				highest = answers[0]
			}
			answers = answers[1:]
		}
		if highest >= 0 && e.Offset < g.events[highest].Offset {
			g.report.fault(OffsetWentBack, []Event{g.events[highest], *e}, "group %s, partition %d: %d after %d", s.group, s.partition, e.Offset, g.events[highest].Offset)
		}
	}
}

// judgeStarts looks for an ownership that began below what was committed.
func (g *groups) judgeStarts(s *share) {
	// known says since when a commit counts: it was sent, or seen, before.
	known := func(i int32) int64 {
		if e := &g.events[i]; e.Kind == Committed {
			return e.Began
		}
		return g.events[i].At
	}
	commits := slices.Concat(s.committed, s.fetched)
	slices.SortStableFunc(commits, func(a, b int32) int { return cmp.Compare(known(a), known(b)) })
	highest := int32(-1)
	for _, owner := range g.byTime(s) {
		e := &g.events[s.owners[owner].assigned]
		for len(commits) > 0 && known(commits[0]) < e.At {
			if highest < 0 || g.events[commits[0]].Offset > g.events[highest].Offset {
				highest = commits[0]
			}
			commits = commits[1:]
		}
		if highest >= 0 && e.Offset < g.events[highest].Offset {
			g.report.fault(Redelivered, []Event{g.events[highest], *e}, "group %s, partition %d: %s begins at %d though %d was committed", s.group, s.partition, e.Member, e.Offset, g.events[highest].Offset)
		}
	}
}
