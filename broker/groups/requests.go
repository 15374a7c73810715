package groups

import (
	"cmp"
	"crypto/rand"
	"slices"
	"strings"
	"time"
	"unicode"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// joinHold is how long the answer to a join may wait for the first assignment.
const joinHold = 250 * time.Millisecond

// Heartbeat takes a member's heartbeat; protocol.HeartbeatRequest says what it
// means. It does not block; done is called once, perhaps much later
// (protocol.HeartbeatRequest.WaitMs). The error is coded; ErrElsewhere means that
// this node should not answer.
func (h *Host) Heartbeat(req protocol.HeartbeatRequest, done func(*protocol.HeartbeatReply, error)) {
	c, err := h.of(req.Group)
	if err == nil {
		err = h.normalise(&req)
	}
	if err != nil {
		done(nil, err)
		return
	}
	switch req.MemberEpoch {
	case protocol.MemberEpochJoin:
		c.join(req, done)
	case protocol.MemberEpochLeave:
		c.leave(req, operation{Kind: opRemove, Group: req.Group, Member: req.MemberID, Epoch: -1}, done)
	case protocol.MemberEpochLeaveStatic:
		c.leaveForAWhile(req, done)
	default:
		c.stay(req, done)
	}
}

// normalise checks a heartbeat and completes it with defaults.
func (h *Host) normalise(req *protocol.HeartbeatRequest) error {
	if err := protocol.ValidateGroupName(req.Group); err != nil {
		return err
	}
	for what, text := range map[string]string{"member id": req.MemberID, "instance id": req.InstanceID, "client id": req.ClientID, "host": req.Host} {
		if len(text) > protocol.GroupMemberNameMax {
			return errcode.New(errcode.InvalidRequest, "the %s has %d bytes; at most %d are allowed", what, len(text), protocol.GroupMemberNameMax)
		}
		if strings.ContainsFunc(text, unicode.IsControl) { // they end on somebody's terminal
			return errcode.New(errcode.InvalidRequest, "the %s %q has a control character", what, text)
		}
	}
	if len(req.Metadata) > protocol.GroupMemberMetadataMax {
		return errcode.New(errcode.InvalidRequest, "the member metadata has %d bytes; at most %d are allowed", len(req.Metadata), protocol.GroupMemberMetadataMax)
	}
	if req.MemberEpoch < protocol.MemberEpochLeaveStatic {
		return errcode.New(errcode.InvalidRequest, "member epoch %d means nothing; use that of the last answer, 0 to join, -1 to leave", req.MemberEpoch)
	}
	if err := cmp.Or(checkTopics(req.Topics), checkNamed(req.Owned)); err != nil {
		return err
	}
	req.Topics = slices.Clone(req.Topics)
	slices.Sort(req.Topics)
	req.Topics = slices.Compact(req.Topics)
	joins := req.MemberEpoch == protocol.MemberEpochJoin
	switch {
	case joins && len(req.Topics) == 0:
		return errcode.New(errcode.InvalidRequest, "the subscription is empty; name at least one topic")
	case joins && req.MemberID == "":
		req.MemberID = rand.Text()
	case req.MemberID == "":
		return errcode.New(errcode.InvalidRequest, "the member id is missing; it is in the answer to the join")
	}
	if req.SessionTimeoutMs <= 0 {
		req.SessionTimeoutMs = h.options.SessionTimeout.Milliseconds()
	}
	req.SessionTimeoutMs = min(max(req.SessionTimeoutMs, protocol.GroupSessionTimeoutMinMs), protocol.GroupSessionTimeoutMaxMs)
	if req.RebalanceTimeoutMs <= 0 {
		req.RebalanceTimeoutMs = req.SessionTimeoutMs
	}
	req.RebalanceTimeoutMs = min(req.RebalanceTimeoutMs, protocol.GroupRebalanceTimeoutMaxMs)
	return nil
}

func checkTopics(topics []string) error {
	if len(topics) > protocol.GroupTopicsMax {
		return errcode.New(errcode.InvalidRequest, "the subscription names %d topics; at most %d are allowed", len(topics), protocol.GroupTopicsMax)
	}
	for _, name := range topics {
		if err := protocol.ValidateTopicName(name); err != nil {
			return err
		}
	}
	return nil
}

func joiningOf(req *protocol.HeartbeatRequest) *joining {
	return &joining{
		InstanceID: req.InstanceID, ClientID: req.ClientID, Host: req.Host, Topics: req.Topics,
		SessionMs: req.SessionTimeoutMs, RebalanceMs: req.RebalanceTimeoutMs, Metadata: req.Metadata,
	}
}

// join adds a member, and answers once it has an assignment or joinHold is over.
func (c *coordinator) join(req protocol.HeartbeatRequest, done func(*protocol.HeartbeatReply, error)) {
	op := operation{Kind: opJoin, Group: req.Group, Member: req.MemberID, Joining: joiningOf(&req)}
	c.submit(op, func(o outcome, err error) {
		if err == nil {
			err = o.err()
		}
		if err != nil {
			done(nil, err)
			return
		}
		c.touch(req.Group, req.MemberID)
		c.mu.Lock()
		c.mark(req.Group)
		c.mu.Unlock()
		c.hold(&req, joinHold, done)
	})
}

// leave takes a member out.
func (c *coordinator) leave(req protocol.HeartbeatRequest, op operation, done func(*protocol.HeartbeatReply, error)) {
	c.submit(op, func(o outcome, err error) {
		if err == nil {
			err = o.err()
		}
		if err != nil {
			done(nil, err)
			return
		}
		if op.Kind == opRemove {
			c.gone(req.Group, req.MemberID)
		}
		done(&protocol.HeartbeatReply{MemberID: req.MemberID, MemberEpoch: req.MemberEpoch, Assignment: []protocol.TopicPartitions{}, Coordinator: c.options.NodeID}, nil)
	})
}

// leaveForAWhile is a static member's leave: a full session from now on its
// partitions wait for it.
func (c *coordinator) leaveForAWhile(req protocol.HeartbeatRequest, done func(*protocol.HeartbeatReply, error)) {
	c.touch(req.Group, req.MemberID)
	c.leave(req, operation{Kind: opAway, Group: req.Group, Member: req.MemberID}, done)
}

// standing is what the state machine knows of a member that sends a heartbeat.
type standing struct {
	epoch   int32
	changed bool // what it says of itself is new
	gives   bool // it has given up something that it had to
}

// stay answers a member's regular heartbeat.
func (c *coordinator) stay(req protocol.HeartbeatRequest, done func(*protocol.HeartbeatReply, error)) {
	owned := partitionsOf(req.Owned)
	var now standing
	var err error
	c.machine.read(func(s *state) { now, err = s.standing(&req, owned) })
	if err != nil {
		done(nil, err)
		return
	}
	c.touch(req.Group, req.MemberID)
	after := func(o outcome, err error) {
		if err == nil {
			err = o.err()
		}
		if err != nil {
			done(nil, err)
			return
		}
		if now.changed {
			c.mu.Lock()
			c.mark(req.Group)
			c.mu.Unlock()
		}
		c.hold(&req, c.holdFor(&req), done)
	}
	if now.changed { // before the report: its answer is awaited once, by the last
		op := operation{Kind: opJoin, Group: req.Group, Member: req.MemberID, Joining: joiningOf(&req)}
		if !now.gives {
			c.submit(op, after)
			return
		}
		c.submit(op, func(outcome, error) {})
	}
	if now.gives {
		c.submit(operation{Kind: opReport, Group: req.Group, Member: req.MemberID, Epoch: req.MemberEpoch, Owned: owned}, after)
		return
	}
	c.hold(&req, c.holdFor(&req), done)
}

// standing looks a member up, or says why it is none.
func (s *state) standing(req *protocol.HeartbeatRequest, owned []Partition) (standing, error) {
	g := s.groups[req.Group]
	if g == nil {
		return standing{}, errUnknownMember(req.Group, req.MemberID)
	}
	m := g.members[req.MemberID]
	other := g.byInstance(req.InstanceID)
	switch {
	case other != nil && other != m:
		return standing{}, errcode.New(errcode.FencedInstanceID, "static member %q is %q now; another process has taken its place", req.InstanceID, other.id)
	case m == nil, m.away:
		return standing{}, errUnknownMember(req.Group, req.MemberID)
	case req.MemberEpoch > m.epoch:
		return standing{}, errcode.New(errcode.FencedMemberEpoch, "member %q is at epoch %d, the heartbeat says %d; join again", m.id, m.epoch, req.MemberEpoch)
	}
	out := standing{epoch: m.epoch}
	out.changed = len(req.Topics) > 0 && !slices.Equal(m.Topics, req.Topics)
	for p, o := range m.owned {
		_, keeps := slices.BinarySearchFunc(owned, p, comparePartitions)
		out.gives = out.gives || o.revoked != 0 && req.MemberEpoch >= o.revoked && !keeps
	}
	return out, nil
}

// partitionsOf returns the partitions of a request, sorted.
func partitionsOf(in []protocol.TopicPartitions) []Partition {
	out := []Partition{}
	for _, t := range in {
		for _, n := range t.Partitions {
			out = append(out, Partition{Topic: t.TopicID, Number: n})
		}
	}
	slices.SortFunc(out, comparePartitions)
	return out
}

// touch notes that a member is alive.
func (c *coordinator) touch(group, member string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.serving {
		return
	}
	c.machine.read(func(s *state) {
		g := s.groups[group]
		if g == nil || g.members[member] == nil {
			return
		}
		x := c.session(group, g.members[member])
		x.take(g.members[member])
		x.until = c.awake + x.timeout
	})
}

// holdFor is how long a heartbeat may be held.
func (c *coordinator) holdFor(req *protocol.HeartbeatRequest) time.Duration {
	session := time.Duration(req.SessionTimeoutMs) * time.Millisecond
	return min(time.Duration(req.WaitMs)*time.Millisecond, c.heartbeatInterval(session))
}

// heartbeatInterval is what a member with that session time-out is told.
func (c *coordinator) heartbeatInterval(session time.Duration) time.Duration {
	return min(c.options.HeartbeatInterval, session/3)
}

// hold answers a heartbeat: at once where there is news or nothing to wait for,
// else when there is news or wait is over. A member has one heartbeat held: the
// one before is answered.
func (c *coordinator) hold(req *protocol.HeartbeatRequest, wait time.Duration, done func(*protocol.HeartbeatReply, error)) {
	known := req.MemberEpoch
	if known == protocol.MemberEpochJoin {
		known = c.epochOf(req.Group, req.MemberID)
		if c.hasAny(req.Group, req.MemberID) {
			wait = 0
		}
	}
	c.mu.Lock()
	s := c.sessions[req.Group][req.MemberID]
	var before *held
	keep := wait > 0 && s != nil && c.serving && !c.released
	if s != nil {
		before = s.takeHeld()
	}
	if keep {
		// The epoch is looked at under the lock: a change that comes after finds the
		// held heartbeat.
		epoch := int32(-1)
		c.machine.read(func(st *state) { epoch = st.epochOf(req.Group, req.MemberID) })
		if keep = epoch == known; keep {
			s.held = &held{known: known, until: c.awake + wait, done: done}
		}
	}
	c.mu.Unlock()
	if before != nil {
		before.answer(c.reply(req.Group, req.MemberID))
	}
	if !keep {
		done(c.reply(req.Group, req.MemberID))
	}
}

func (c *coordinator) epochOf(group, member string) (epoch int32) {
	c.machine.read(func(s *state) { epoch = s.epochOf(group, member) })
	return epoch
}

// hasAny reports whether a member may own anything.
func (c *coordinator) hasAny(group, member string) (any bool) {
	c.machine.read(func(s *state) {
		if g := s.groups[group]; g != nil && g.members[member] != nil {
			any = len(g.members[member].may()) > 0
		}
	})
	return any
}

// epochOf returns a member's epoch, -1 where it is none.
func (s *state) epochOf(group, member string) int32 {
	if g := s.groups[group]; g != nil && g.members[member] != nil {
		return g.members[member].epoch
	}
	return -1
}

// reply is the answer to a member's heartbeat now.
func (c *coordinator) reply(group, member string) (r *protocol.HeartbeatReply, err error) {
	if !c.isServing() {
		return nil, errNotCoordinator(0)
	}
	image := c.options.Metadata.Image()
	err = errUnknownMember(group, member)
	c.machine.read(func(s *state) {
		g := s.groups[group]
		if g == nil || g.members[member] == nil {
			return
		}
		m := g.members[member]
		session := time.Duration(m.SessionMs) * time.Millisecond
		r, err = &protocol.HeartbeatReply{
			MemberID: m.id, MemberEpoch: m.epoch, GroupEpoch: g.epoch, SessionTimeoutMs: m.SessionMs,
			HeartbeatIntervalMs: c.heartbeatInterval(session).Milliseconds(),
			Assignment:          g.topicPartitions(image, m.may()), Coordinator: c.options.NodeID,
		}, nil
	})
	return r, err
}

// byName orders TopicPartitions by topic.
func byName(a, b protocol.TopicPartitions) int { return cmp.Compare(a.Topic, b.Topic) }
