package groups

import (
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// session is what the coordinator keeps of a member and nobody replicates. Times
// are the coordinator's awake time.
type session struct {
	timeout, rebalance time.Duration
	until              time.Duration // fenced when it has heard nothing until then
	revokeUntil        time.Duration // fenced when it has not given up by then; 0 = nothing to give up
	removing           bool          // its removal is on the way
	held               *held
}

// held is a heartbeat whose answer waits for news.
type held struct {
	known int32 // the member epoch that is no news
	until time.Duration
	done  func(*protocol.HeartbeatReply, error)
}

// answer calls done; a nil held is none.
func (h *held) answer(r *protocol.HeartbeatReply, err error) {
	if h != nil {
		h.done(r, err)
	}
}

// takeHeld returns the heartbeat that s holds, and holds it no more.
func (s *session) takeHeld() *held {
	h := s.held
	s.held = nil
	return h
}

// session returns a member's session, a full one where there is none. c.mu is
// held.
func (c *coordinator) session(group string, m *member) *session {
	members := c.sessions[group]
	if members == nil {
		members = map[string]*session{}
		c.sessions[group] = members
	}
	s := members[m.id]
	if s == nil {
		s = &session{}
		members[m.id] = s
		s.take(m)
		s.until = c.awake + s.timeout
	}
	return s
}

// take copies what m's session depends on.
func (s *session) take(m *member) {
	s.timeout, s.rebalance = time.Duration(m.SessionMs)*time.Millisecond, time.Duration(m.RebalanceMs)*time.Millisecond
}

// tick moves the awake time on and does what is due. After a pause that was too
// long it ends serving: the next epoch shows whether this node still leads, and
// gives everybody a full session.
func (c *coordinator) tick() {
	c.mu.Lock()
	now := time.Now()
	gap := now.Sub(c.lastTick)
	if gap > stallMax {
		c.mu.Unlock()
		c.logger.Warn("the process stood still; opening a new epoch", "for", gap.Round(time.Millisecond).String())
		c.deposed("the process stood still")
		c.stir()
		return
	}
	c.lastTick = now
	c.awake += gap
	sweep := c.awake-c.swept >= c.options.HousekeepingInterval
	if sweep {
		c.swept = c.awake
	}
	silent, answers := c.due()
	c.mu.Unlock()
	for _, a := range answers {
		a()
	}
	for _, s := range silent {
		c.fence(s)
	}
	if sweep {
		c.housekeep()
	}
}

// fencing names a member to be fenced and why.
type fencing struct{ group, member, why string }

// due returns the members whose time is over, and the answers that were held
// for long enough. c.mu is held.
func (c *coordinator) due() (silent []fencing, answers []func()) {
	for group, members := range c.sessions {
		for id, s := range members {
			switch {
			case s.removing:
			case s.until <= c.awake:
				s.removing = true
				silent = append(silent, fencing{group, id, "it was silent for longer than its session"})
			case s.revokeUntil != 0 && s.revokeUntil <= c.awake:
				s.removing = true
				silent = append(silent, fencing{group, id, "it did not give up partitions within its rebalance time-out"})
			}
			if s.held != nil && s.held.until <= c.awake {
				h := s.takeHeld()
				answers = append(answers, func() { h.answer(c.reply(group, id)) })
			}
		}
	}
	return silent, answers
}

// fence has a member removed.
func (c *coordinator) fence(f fencing) {
	epoch := int32(-1)
	c.machine.read(func(s *state) {
		if g := s.groups[f.group]; g != nil && g.members[f.member] != nil {
			epoch = g.members[f.member].epoch
		}
	})
	c.logger.Info("a member is removed from its group", "group", f.group, "member", f.member, "reason", f.why)
	c.submit(operation{Kind: opRemove, Group: f.group, Member: f.member, Epoch: epoch}, func(o outcome, err error) {
		if err == nil && o.Code == errcode.None {
			c.gone(f.group, f.member)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if s := c.sessions[f.group][f.member]; s != nil {
			s.removing = false // the next tick tries again
		}
	})
}

// gone drops a member's session and has the group assigned anew.
func (c *coordinator) gone(group, member string) {
	c.mu.Lock()
	var h *held
	if s := c.sessions[group][member]; s != nil {
		h = s.takeHeld()
		delete(c.sessions[group], member)
		if len(c.sessions[group]) == 0 {
			delete(c.sessions, group)
		}
	}
	c.mark(group)
	c.mu.Unlock()
	h.answer(nil, errUnknownMember(group, member))
}

// mark notes that a group's assignment may have to change. c.mu is held.
func (c *coordinator) mark(group string) {
	if c.serving {
		c.dirty[group] = true
		c.stir()
	}
}

// settle follows a change of a group: it times what members must give up, and
// answers those for whom there is news.
func (c *coordinator) settle(group string) {
	var answers []func()
	c.mu.Lock()
	c.machine.read(func(st *state) {
		g := st.groups[group]
		for id, s := range c.sessions[group] {
			var m *member
			if g != nil {
				m = g.members[id]
			}
			if m == nil {
				if h := s.takeHeld(); h != nil {
					answers = append(answers, func() { h.answer(nil, errUnknownMember(group, id)) })
				}
				delete(c.sessions[group], id)
				continue
			}
			s.timeRevocation(m, c.awake)
			if s.held != nil && m.epoch > s.held.known {
				h := s.takeHeld()
				answers = append(answers, func() { h.answer(c.reply(group, id)) })
			}
		}
	})
	c.mu.Unlock()
	for _, a := range answers {
		a()
	}
}

// timeRevocation starts or ends the time in which m must give up what it should
// not own any more.
func (s *session) timeRevocation(m *member, awake time.Duration) {
	s.take(m)
	switch revoking := len(m.revoking()) > 0; {
	case !revoking:
		s.revokeUntil = 0
	case s.revokeUntil == 0:
		s.revokeUntil = awake + s.rebalance
	}
}

// release answers all held heartbeats and holds none from now on.
func (c *coordinator) release() {
	var answers []func()
	c.mu.Lock()
	c.released = true
	for group, members := range c.sessions {
		for id, s := range members {
			if h := s.takeHeld(); h != nil {
				answers = append(answers, func() { h.answer(c.reply(group, id)) })
			}
		}
	}
	c.mu.Unlock()
	for _, a := range answers {
		a()
	}
}

func errUnknownMember(group, member string) error {
	return errcode.New(errcode.UnknownMemberID, "%q is no member of group %q: it left or was silent for longer than its session; join again", member, group)
}
