package consumer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// heartbeatFallback is the interval while no coordinator has named one.
const heartbeatFallback = 3 * time.Second

// join checks the topics and takes the member into the group.
func (c *Consumer) join(ctx context.Context) error {
	if err := c.findTopics(ctx); err != nil {
		return err
	}
	begun := time.Now()
	for n := 1; ; n++ {
		reply, err := c.heartbeat(ctx)
		if err == nil {
			c.adoptReply(reply)
			return nil
		}
		waited := errcode.Of(err) == errcode.UnreleasedInstanceID && time.Since(begun) > c.options.unreleasedTimeout
		if !client.Retriable(err) && ctx.Err() == nil || waited {
			return fmt.Errorf("joining group %q: %w", c.group, err)
		}
		c.options.logger.Debug("joining failed, retrying", "group", c.group, "err", err)
		if !pause(ctx, c.retrySpace(n, err)) {
			return fmt.Errorf("joining group %q: %w (%w)", c.group, err, context.Cause(ctx))
		}
	}
}

// findTopics refuses topics that do not exist.
func (c *Consumer) findTopics(ctx context.Context) error {
	if _, err := c.client.Metadata(ctx, c.topics...); err != nil {
		return err
	}
	for _, topic := range c.topics {
		if _, err := c.client.Topic(ctx, topic); err != nil {
			return err
		}
	}
	return nil
}

func (c *Consumer) retrySpace(n int, err error) time.Duration {
	return max(client.Backoff(n, c.options.retrySpaceMin, c.options.retrySpaceMax), retryAfter(err))
}

// pause waits for d; false when ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// keepMembership sends heartbeats: every interval, and at once when there is
// something to report. Started by New, ended by depart; it blocks on the
// coordinator, and on OnLost.
func (c *Consumer) keepMembership(ctx context.Context) {
	defer close(c.left)
	interval := heartbeatFallback
	failures := 0
	for ctx.Err() == nil {
		wait := interval
		var kick <-chan struct{} = c.beat
		if failures > 0 {
			kick = nil // a coordinator in trouble is not asked more often than that
			wait = client.Backoff(failures, c.options.retrySpaceMin, c.options.retrySpaceMax)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-kick:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
		reply, err := c.heartbeat(ctx)
		if err == nil {
			failures = 0
			interval = max(time.Duration(reply.HeartbeatIntervalMs)*time.Millisecond, 10*time.Millisecond)
			c.adoptReply(reply)
			continue
		}
		failures++
		if !c.outlive(ctx, err) {
			return
		}
	}
}

// outlive digests a refused or lost heartbeat, and reports whether to go on.
func (c *Consumer) outlive(ctx context.Context, err error) bool {
	log := c.options.logger
	switch code := errcode.Of(err); {
	case ctx.Err() != nil:
		return false
	case fenced(code):
		log.Warn("lost the membership, joining again", "group", c.group, "member", c.memberID, "err", err)
		c.lose(ctx)
		return true
	case client.Retriable(err):
		log.Debug("no heartbeat", "group", c.group, "member", c.memberID, "err", err)
		return true
	default:
		log.Error("the membership has ended", "group", c.group, "member", c.memberID, "err", err)
		c.lose(ctx)
		c.mu.Lock()
		c.failed = fmt.Errorf("group %q: %w", c.group, err)
		c.announce()
		c.mu.Unlock()
		return false
	}
}

// fenced reports whether code says that the member owns nothing any more and
// may join again.
func fenced(code errcode.Code) bool {
	return code == errcode.UnknownMemberID || code == errcode.FencedMemberEpoch || code == errcode.StaleMemberEpoch
}

// heartbeat sends one heartbeat.
func (c *Consumer) heartbeat(ctx context.Context) (*protocol.HeartbeatReply, error) {
	c.mu.Lock()
	req := c.heartbeatRequest(c.epoch)
	req.Owned = c.holds()
	c.mu.Unlock()
	var reply protocol.HeartbeatReply
	if err := c.client.GroupOnce(ctx, protocol.VerbGroupHeartbeat, c.group, req, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

func (c *Consumer) heartbeatRequest(epoch int32) protocol.HeartbeatRequest {
	return protocol.HeartbeatRequest{
		Version: protocol.ControlVersion, Group: c.group, MemberID: c.memberID, InstanceID: c.options.instanceID, MemberEpoch: epoch,
		ClientID: c.options.name, Host: c.host, Topics: c.topics,
		RebalanceTimeoutMs: c.options.rebalanceTimeout.Milliseconds(), SessionTimeoutMs: c.options.sessionTimeout.Milliseconds(),
	}
}

// holds lists what is owned: what the last assignment gives, adopted already or
// not, and what is being given up. c.mu is held.
func (c *Consumer) holds() []protocol.TopicPartitions {
	all := make(map[TopicPartition]uint64, len(c.target)+len(c.claims))
	for p, a := range c.target {
		all[p] = a.topicID
	}
	for p, cl := range c.claims {
		all[p] = cl.feed.topicID
	}
	return gather(all)
}

// gather puts partitions by topic, both in order.
func gather(all map[TopicPartition]uint64) []protocol.TopicPartitions {
	names := make([]TopicPartition, 0, len(all))
	for p := range all {
		names = append(names, p)
	}
	slices.SortFunc(names, compareTopicPartitions)
	var out []protocol.TopicPartitions
	for _, p := range names {
		if n := len(out); n == 0 || out[n-1].Topic != p.Topic {
			out = append(out, protocol.TopicPartitions{Topic: p.Topic, TopicID: all[p]})
		}
		last := &out[len(out)-1]
		last.Partitions = append(last.Partitions, p.Partition)
	}
	return out
}

// adoptReply takes over epoch and assignment, and starts to give up what is not
// in it any more.
func (c *Consumer) adoptReply(reply *protocol.HeartbeatReply) {
	target := make(map[TopicPartition]allotment)
	for _, t := range reply.Assignment {
		for _, p := range t.Partitions {
			target[TopicPartition{t.Topic, p}] = allotment{topicID: t.TopicID, late: p >= t.PolicyBelow}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch = reply.MemberEpoch
	close(c.replied)
	c.replied = make(chan struct{})
	report := false // something was given up without anything to do for it
	for p := range c.target {
		if _, stays := target[p]; !stays && c.claims[p] == nil {
			report = true
		}
	}
	c.target = target
	if report {
		signal(c.beat)
	}
	if c.closed {
		return // Drain gives up everything
	}
	c.startRevoke()
	signal(c.adoptable)
}

// sayGoodbye tells the coordinator that the member leaves.
func (c *Consumer) sayGoodbye(ctx context.Context) error {
	c.mu.Lock()
	never := c.epoch == protocol.MemberEpochJoin || c.failed != nil
	c.mu.Unlock()
	if never {
		return nil
	}
	req := c.heartbeatRequest(protocol.MemberEpochLeave)
	if c.options.instanceID != "" {
		req.MemberEpoch = protocol.MemberEpochLeaveStatic
	}
	err := c.client.Group(ctx, protocol.VerbGroupHeartbeat, c.group, req, nil)
	if fenced(errcode.Of(err)) {
		return nil
	}
	return err
}

// lose gives everything up at once: this member owns nothing any more. Then it
// is one that joins.
func (c *Consumer) lose(ctx context.Context) {
	c.mu.Lock()
	var claims []*claim
	for _, cl := range c.claims {
		cl.feed.halt()
		cl.void()
		cl.end()
		claims = append(claims, cl)
	}
	clear(c.claims)
	clear(c.target)
	c.owned = nil
	c.epoch = protocol.MemberEpochJoin
	c.ownership++
	close(c.loss)
	c.loss = make(chan struct{})
	c.setShare()
	c.announce()
	c.mu.Unlock()
	for _, cl := range claims {
		cl.feed.close()
	}
	c.call(ctx, c.options.lost, names(claims))
}

// void makes every mark from now on count for nothing.
func (cl *claim) void() {
	cl.feed.mu.Lock()
	defer cl.feed.mu.Unlock()
	m := cl.feed.marks
	m.void = true
	if m.idle != nil {
		signal(m.idle)
	}
}

// setShare divides the prefetch between the partitions. c.mu is held.
func (c *Consumer) setShare() {
	share := c.options.maxPrefetchBytes / max(len(c.claims), 1)
	c.share.Store(int64(min(share, c.options.prefetchBytes)))
}
