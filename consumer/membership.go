package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// heartbeatMin keeps a coordinator from being flooded, whatever interval it
// names.
const heartbeatMin = 10 * time.Millisecond

// join checks the topics and takes the member into the group.
func (c *Consumer) join(ctx context.Context) error {
	if err := c.findTopics(ctx); err != nil {
		return err
	}
	begun := time.Now()
	var refusal error // the coordinator's last answer: what ctx cuts short says less
	for n := 1; ; n++ {
		sent := time.Now()
		reply, err := c.heartbeat(ctx, 0)
		if err == nil {
			c.adoptReply(reply, sent)
			return nil
		}
		code := errcode.Of(err)
		if refusal == nil || code != errcode.UnknownServerError {
			refusal = err
		}
		waited := code == errcode.UnreleasedInstanceID && time.Since(begun) > c.options.unreleasedTimeout
		if !client.Retriable(err) && ctx.Err() == nil || waited {
			return fmt.Errorf("joining group %q: %w", c.group, err)
		}
		c.options.logger.Debug("joining failed, retrying", "group", c.group, "err", err)
		if !pause(ctx, c.retrySpace(n, err)) {
			return fmt.Errorf("joining group %q: %w (%w)", c.group, refusal, context.Cause(ctx))
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

// keepMembership sends heartbeats, one after the other: the coordinator holds
// the answer while it has no news, up to the heartbeat interval. When there is
// something to report the one under way is left and another sent at once.
// Started by New, ended by depart; it blocks on the coordinator, and on OnLost.
func (c *Consumer) keepMembership(ctx context.Context) {
	defer close(c.left)
	failures, idle := 0, 0 // in a row
	report := false
	for ctx.Err() == nil {
		begun := time.Now()
		hold := c.heartbeatInterval()
		if report || failures > 0 {
			hold = 0
		}
		news, err := c.beatOnce(ctx, hold)
		var wait time.Duration
		switch {
		case errors.Is(err, errReport):
			report = true
			continue
		case err != nil:
			if !c.outlive(ctx, err) {
				return
			}
			failures++
			pause(ctx, client.Backoff(failures, c.options.retrySpaceMin, c.options.retrySpaceMax))
			report = false
			continue
		case news || report || time.Since(begun) > hold/2:
			idle = 0
		default: // it does not hold answers: no news is not asked for without end
			idle++
			wait = client.Backoff(idle, heartbeatMin, max(hold, heartbeatMin))
		}
		failures = 0
		report = c.awaitReport(ctx, wait)
	}
}

// awaitReport waits for d, and reports whether there is something to report.
func (c *Consumer) awaitReport(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return false
	case <-c.beat:
		return true
	case <-ctx.Done():
		return false
	}
}

// errReport ends a heartbeat whose answer is being held: there is something to
// report.
var errReport = errors.New("there is something to report")

// beatOnce sends a heartbeat and takes its reply in. news says that it changed
// something.
func (c *Consumer) beatOnce(ctx context.Context, hold time.Duration) (news bool, err error) {
	asking, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	reporting := false
	if hold > 0 {
		watch.Go(func() {
			select {
			case <-c.beat:
				reporting = true
				cancel(errReport)
			case <-asking.Done():
			}
		})
	}
	sent := time.Now()
	reply, err := c.heartbeat(asking, hold)
	cancel(nil)
	watch.Wait()
	if err != nil {
		if reporting && !errors.Is(err, errReport) {
			signal(c.beat)
		}
		return false, err
	}
	if reporting { // the answer came first; the report is still due
		signal(c.beat)
	}
	return c.adoptReply(reply, sent), nil
}

func (c *Consumer) heartbeatInterval() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.interval
}

// outlive digests a refused or lost heartbeat, and reports whether to go on.
func (c *Consumer) outlive(ctx context.Context, err error) bool {
	log := c.options.logger
	switch code := errcode.Of(err); {
	case ctx.Err() != nil:
		return false
	case fenced(code):
		log.Warn("lost the membership, joining again", "group", c.group, "member", c.memberID, "err", err)
		c.lose(ctx, code, err.Error())
		return true
	case client.Retriable(err):
		log.Debug("no heartbeat", "group", c.group, "member", c.memberID, "err", err)
		if c.expired() {
			log.Warn("the coordinator was not heard of for the session time-out, joining again", "group", c.group, "member", c.memberID)
			c.lose(ctx, errcode.UnknownMemberID, "the coordinator was not heard of for the session time-out")
		}
		return true
	default:
		log.Error("the membership has ended", "group", c.group, "member", c.memberID, "err", err)
		c.lose(ctx, code, err.Error())
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

// heartbeat sends one heartbeat, whose answer may be held.
func (c *Consumer) heartbeat(ctx context.Context, hold time.Duration) (*protocol.HeartbeatReply, error) {
	c.mu.Lock()
	req := c.heartbeatRequest(c.epoch)
	req.Owned, req.WaitMs = c.holds(), hold.Milliseconds()
	within := c.options.attempt
	if c.session > 0 { // one lost answer must not use it up
		within = min(within, c.session/5)
	}
	c.mu.Unlock()
	var reply protocol.HeartbeatReply
	err := c.ask(ctx, client.GroupCall{Verb: protocol.VerbGroupHeartbeat, Request: req, Reply: &reply, Hold: hold, Within: within})
	if err != nil {
		return nil, err
	}
	c.coordinator.Store(reply.Coordinator)
	return &reply, nil
}

// ask makes one attempt at a request to the group's coordinator, by the shortest
// way where the last heartbeat told it. After a failure the cluster finds the way.
func (c *Consumer) ask(ctx context.Context, call client.GroupCall) error {
	call.Group, call.Node = c.group, c.coordinator.Load()
	err := c.client.GroupOnce(ctx, call)
	if err != nil {
		c.coordinator.CompareAndSwap(call.Node, 0)
	}
	return err
}

// expired reports whether the session is over as far as this member can tell:
// no heartbeat sent within the session time-out was answered. Others may own
// the partitions then. A member that has not joined is not expired.
func (c *Consumer) expired() bool {
	until := c.validUntil.Load()
	return until > 0 && int64(time.Since(c.born)) > until
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

// adoptReply takes over epoch and assignment from the reply to a heartbeat sent
// then, and starts to give up what is not assigned any more. It reports whether
// anything is new.
func (c *Consumer) adoptReply(reply *protocol.HeartbeatReply, sent time.Time) (news bool) {
	target := make(map[TopicPartition]allotment)
	for _, t := range reply.Assignment {
		for _, p := range t.Partitions {
			target[TopicPartition{t.Topic, p}] = allotment{topicID: t.TopicID, late: p >= t.PolicyBelow}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	news = c.epoch != reply.MemberEpoch || !maps.Equal(c.target, target)
	c.epoch = reply.MemberEpoch
	c.interval = max(time.Duration(reply.HeartbeatIntervalMs)*time.Millisecond, heartbeatMin)
	c.session = time.Duration(reply.SessionTimeoutMs) * time.Millisecond
	c.renew(sent)
	close(c.replied)
	c.replied = make(chan struct{})
	for p := range c.target {
		if _, stays := target[p]; !stays && c.claims[p] == nil {
			signal(c.beat) // given up without anything to do for it
		}
	}
	c.target = target
	if c.closed {
		return news // Drain gives up everything
	}
	c.startRevoke()
	signal(c.adoptable)
	return news
}

// renew notes that the session lasts for its time-out from sent on. c.mu is held.
func (c *Consumer) renew(sent time.Time) {
	if c.session <= 0 {
		return
	}
	late := c.expired()
	c.validUntil.Store(int64(sent.Add(c.session).Sub(c.born)))
	if late { // nothing was handed out meanwhile
		for _, cl := range c.owned {
			cl.feed.tell()
		}
	}
}

// sayGoodbye tells the coordinator that the member leaves, even one that has not
// joined again as far as it knows: its last join may have come through.
func (c *Consumer) sayGoodbye(ctx context.Context) error {
	if c.hasFailed() {
		return nil
	}
	req := c.heartbeatRequest(protocol.MemberEpochLeave)
	if c.options.instanceID != "" {
		req.MemberEpoch = protocol.MemberEpochLeaveStatic
	}
	err := c.client.Group(ctx, protocol.VerbGroupHeartbeat, c.group, req, nil)
	if fenced(errcode.Of(err)) {
		err = nil // it was none any more
	}
	return err
}

func (c *Consumer) hasFailed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed != nil
}

// lose gives everything up at once: this member owns nothing any more. Then it
// is one that joins. The code and why are for the next Commit.
func (c *Consumer) lose(ctx context.Context, code errcode.Code, why string) {
	c.mu.Lock()
	var claims []*claim
	for _, cl := range c.claims {
		cl.feed.halt()
		cl.end()
		claims = append(claims, cl)
	}
	c.drop(claims, code, "the membership was lost: "+why)
	clear(c.claims)
	clear(c.target)
	c.owned = nil
	c.epoch = protocol.MemberEpochJoin
	c.ownership++
	c.validUntil.Store(0)
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

// setShare divides the prefetch between the partitions. c.mu is held.
func (c *Consumer) setShare() {
	share := c.options.maxPrefetchBytes / max(len(c.claims), 1)
	c.share.Store(int64(min(share, c.options.prefetchBytes)))
}
