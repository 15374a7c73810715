package groups

import (
	"context"
	"time"

	"logbroker/internal/raftnode"
)

// A replica that Raft made leader may not coordinate yet; partitions/leadership.go
// says why. It opens an epoch of its own, waits until that entry is applied here
// (then all before it is, and every entry of an older epoch is refused), makes
// sure that its picture of the topics is not older than its predecessor's, and
// starts every member's session anew. Then it serves.

// Time-outs of opening an epoch.
const (
	epochTimeout   = time.Second
	barrierTimeout = 2 * time.Second
	// barrierAttempt is short: the node whose death made this one coordinator may
	// have led the metadata too, and what is asked of a dead leader is lost.
	barrierAttempt = 250 * time.Millisecond
	leadRetryAfter = 20 * time.Millisecond
)

// lead is the leadership goroutine: it opens epochs, keeps time, and has
// assignments made.
func (c *coordinator) lead() {
	defer c.goroutines.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	told := Coordination{Shard: c.shard}
	for {
		index := c.options.Metadata.Image().Index
		var changed <-chan struct{}
		if c.isServing() {
			changed = c.options.Metadata.Changed(index)
		}
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		case <-changed:
			c.topicsChanged()
		}
		next := c.step()
		told = c.tell(told)
		if next > 0 {
			timer.Reset(next)
		}
	}
}

// tell passes on what has changed since it was last told. Only lead calls it, so
// the news keep their order; whoever ends serving wakes lead.
func (c *coordinator) tell(told Coordination) Coordination {
	c.mu.Lock()
	now := Coordination{Shard: c.shard, Epoch: c.epoch, Serving: c.serving}
	c.mu.Unlock()
	if now != told {
		c.options.OnCoordination(now)
	}
	return now
}

// step does what is to be done now and returns when to be called again, 0 = when
// woken.
func (c *coordinator) step() time.Duration {
	c.mu.Lock()
	term, leading, serving, changed := c.term, c.leader == c.replica, c.serving, c.leaderChanged
	c.mu.Unlock()
	switch {
	case !leading:
		return 0
	case serving:
		c.tick()
		c.assignDirty()
		return tickInterval
	}
	epoch, ok := c.openEpoch(changed)
	if !ok || !c.catchUp() || !c.serve(term, epoch) {
		return leadRetryAfter
	}
	c.assignDirty()
	return tickInterval
}

func (c *coordinator) isServing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.serving
}

// openEpoch proposes the next epoch once, and reports whether it was applied as
// ours. It waits no longer than the leadership lasts for which it is opened, until
// changed is closed. An entry that is applied later is like an old coordinator's:
// the next round goes above it.
func (c *coordinator) openEpoch(changed <-chan struct{}) (epoch int32, ok bool) {
	current, _ := c.machine.current()
	epoch = current + 1
	wait, err := c.options.Raft.Propose(c.shard, encode(entry{Epoch: epoch, Replica: c.replica}), epochTimeout)
	if err == nil {
		var r raftnode.Result
		if r, err = wait(changed, 0); err == nil {
			return epoch, r.Value == verdictOpened
		}
	}
	c.logger.Debug("group coordinator's epoch not opened yet", "epoch", epoch, "err", err)
	return 0, false
}

// catchUp makes sure that a topic this node does not see is not one that the
// predecessor saw.
func (c *coordinator) catchUp() bool {
	ctx, cancel := context.WithTimeout(c.ctx, barrierTimeout)
	defer cancel()
	retry := time.NewTicker(leadRetryAfter)
	defer retry.Stop()
	for {
		attempt, done := context.WithTimeout(ctx, barrierAttempt)
		err := c.options.Metadata.Barrier(attempt)
		done()
		if err == nil {
			return true
		}
		c.logger.Debug("group coordinator waits for the metadata", "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-retry.C:
		}
	}
}

// serve begins to serve in epoch, unless the leadership of term or the epoch is
// gone. The machine publishes a new epoch before it calls epochOpened, which
// takes c.mu: so either the check here sees it, or epochOpened comes after.
func (c *coordinator) serve(term uint64, epoch int32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	current, replica := c.machine.current()
	if c.stopped() || c.term != term || c.leader != c.replica || current != epoch || replica != c.replica {
		return false
	}
	c.serving, c.epoch, c.lastTick = true, epoch, time.Now()
	c.forget()
	c.swept = c.awake
	groups, members := 0, 0
	c.machine.read(func(s *state) {
		groups = len(s.groups)
		for name, g := range s.groups {
			for _, m := range g.members {
				c.dirty[name] = true
				c.session(name, m)
				members++
			}
		}
	})
	c.logger.Info("this node coordinates consumer groups", "term", term, "epoch", epoch, "groups", groups, "members", members)
	return true
}

// leaderEvent takes Raft's news.
func (c *coordinator) leaderEvent(e raftnode.LeaderEvent) {
	c.mu.Lock()
	if e.Term < c.term {
		c.mu.Unlock()
		return
	}
	lost := c.serving && (e.Leader != c.replica || e.Term != c.term)
	if e.Leader != c.leader {
		c.changedAt, c.led = time.Now(), c.serving || c.led && e.Leader != c.replica
	}
	if e.Term != c.term || e.Leader != c.leader {
		close(c.leaderChanged)
		c.leaderChanged = make(chan struct{})
	}
	c.term, c.leader = e.Term, e.Leader
	c.mu.Unlock()
	if lost {
		c.deposed("leadership moved")
	}
	c.stir()
}

// epochOpened takes the machine's news, on the goroutine that applies.
func (c *coordinator) epochOpened(epoch int32, replica uint64) {
	c.mu.Lock()
	overtaken := c.serving && (epoch != c.epoch || replica != c.replica)
	c.mu.Unlock()
	if overtaken {
		c.deposed("a late epoch entry of another coordinator was applied")
		c.stir()
	}
	// Not before serving has ended: who is woken must not go on in the old epoch.
	c.mu.Lock()
	close(c.epochOver)
	c.epochOver = make(chan struct{})
	c.mu.Unlock()
}

// deposed ends serving: who waits is told, and soft state is dropped.
func (c *coordinator) deposed(why string) {
	c.mu.Lock()
	served := c.serving
	c.serving = false
	leader := c.leader
	var waiting []*held
	for _, members := range c.sessions {
		for _, s := range members {
			waiting = append(waiting, s.takeHeld())
		}
	}
	c.forget()
	c.mu.Unlock()
	if !served {
		return
	}
	c.logger.Info("this node does not coordinate consumer groups any more", "reason", why)
	if leader == c.replica {
		leader = 0
	}
	for _, h := range waiting {
		h.answer(nil, errNotCoordinator(leader))
	}
	c.queue.fail(errNotCoordinator(leader))
}
