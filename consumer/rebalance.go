package consumer

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

const (
	// adoptRetry is the time between attempts to adopt a partition whose start
	// could not be found out, adoptAttempt how long one may take.
	adoptRetry   = 500 * time.Millisecond
	adoptAttempt = 5 * time.Second
	// lookupsMax is how many starts are looked up at a time.
	lookupsMax = 16
	// commitMargin is the part of the rebalance time-out that is kept for the
	// commit at its end.
	commitMargin = 5 * time.Second
	// markPatience is how long an application is waited for that has not marked
	// anything yet and need not: it may be busy with its very first records.
	markPatience = 2 * time.Second
)

// adoption is a partition on its way to become a claim.
type adoption struct {
	TopicPartition
	allotment
	committed int64
	start     int64
	fixed     bool // start is to be committed, so that it holds for others too
	failed    error
}

// adoptLoop makes claims of the partitions that the assignment gives. Started
// by New, ended by depart; it blocks on the coordinator, on partitions' leaders
// and on OnAssigned.
func (c *Consumer) adoptLoop() {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-c.adoptable:
		case <-retry.C:
		case <-c.life.Done():
			return
		}
		if !c.adopt() {
			retry.Reset(adoptRetry)
		}
	}
}

// adopt reports whether everything assigned is a claim now, or on its way out.
func (c *Consumer) adopt() bool {
	wanted, ownership := c.wanted()
	if len(wanted) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(c.life, adoptAttempt)
	defer cancel()
	if err := c.findCommitted(ctx, wanted); err != nil {
		c.options.logger.Info("committed offsets cannot be had, retrying", "group", c.group, "err", err)
		if fenced(errcode.Of(err)) {
			signal(c.beat) // the membership finds out
		}
		return false
	}
	found := c.findStarts(ctx, wanted)
	c.claimAll(found, ownership)
	return len(found) == len(wanted)
}

// wanted lists what is assigned and not claimed.
func (c *Consumer) wanted() (out []*adoption, ownership uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, 0
	}
	for p, a := range c.target {
		if c.claims[p] == nil {
			out = append(out, &adoption{TopicPartition: p, allotment: a})
		}
	}
	slices.SortFunc(out, func(a, b *adoption) int { return compareTopicPartitions(a.TopicPartition, b.TopicPartition) })
	return out, c.ownership
}

// findCommitted asks the coordinator what is committed of each.
func (c *Consumer) findCommitted(ctx context.Context, wanted []*adoption) error {
	all := make(map[TopicPartition]uint64, len(wanted))
	for _, a := range wanted {
		all[a.TopicPartition] = a.topicID
		a.committed = protocol.NoOffset
	}
	for n := 1; ; n++ {
		c.mu.Lock()
		req := protocol.FetchOffsetsRequest{
			Version: protocol.ControlVersion, Group: c.group, MemberID: c.memberID, MemberEpoch: c.epoch, Topics: gather(all),
		}
		c.mu.Unlock()
		var reply protocol.FetchOffsetsReply
		err := c.ask(ctx, client.GroupCall{Verb: protocol.VerbGroupFetchOffsets, Request: req, Reply: &reply, Within: c.options.attempt})
		if err == nil {
			committed := make(map[TopicPartition]int64, len(reply.Offsets))
			for _, o := range reply.Offsets {
				committed[TopicPartition{o.Topic, o.Partition}] = o.Offset
			}
			for _, a := range wanted {
				if at, ok := committed[a.TopicPartition]; ok {
					a.committed = at
				}
			}
			return nil
		}
		stale := errcode.Of(err) == errcode.StaleMemberEpoch // a reply came between
		if !stale && !client.Retriable(err) || !pause(ctx, c.retrySpace(n, err)) {
			return err
		}
	}
}

// findStarts finds where to begin, and returns those for which that is known.
func (c *Consumer) findStarts(ctx context.Context, wanted []*adoption) []*adoption {
	var (
		all   sync.WaitGroup
		slots = make(chan struct{}, lookupsMax)
		ok    = make([]bool, len(wanted))
	)
	for i, a := range wanted {
		if a.committed >= 0 {
			a.start, ok[i] = a.committed, true
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			ok[i] = c.findStart(ctx, a)
		})
	}
	all.Wait()
	var out []*adoption
	for i, a := range wanted {
		if ok[i] {
			out = append(out, a)
		}
	}
	return out
}

// findStart applies the start policy to a partition of which nothing is
// committed.
func (c *Consumer) findStart(ctx context.Context, a *adoption) bool {
	at := protocol.TimestampEarliest
	switch {
	case a.late || c.options.start == startEarliest:
	case c.options.start == startLatest:
		at, a.fixed = protocol.TimestampLatest, true
	default:
		a.failed = errcode.New(errcode.OffsetOutOfRange,
			"group %q has committed nothing of %s; choose FromEarliest or FromLatest, or Seek", c.group, a.TopicPartition)
		return true
	}
	reply, err := c.client.Offsets(ctx, a.Topic, a.Partition, at)
	if err != nil {
		c.client.Stale(a.Topic)
		c.options.logger.Info("the start of a partition cannot be found, retrying", "topic", a.Topic, "partition", a.Partition, "err", err)
		return false
	}
	a.start = reply.Offset
	return true
}

// claimAll makes claims of those that are still assigned, tells the
// application, and begins to hand out.
func (c *Consumer) claimAll(found []*adoption, ownership uint64) {
	if c.options.assigned != nil {
		c.telling <- struct{}{}
		defer func() { <-c.telling }()
	}
	c.mu.Lock()
	var claims []*claim
	for _, a := range found {
		target, still := c.target[a.TopicPartition]
		if c.closed || ownership != c.ownership || !still || target.topicID != a.topicID || c.claims[a.TopicPartition] != nil {
			continue
		}
		cl := c.newClaim(a)
		c.claims[a.TopicPartition] = cl
		claims = append(claims, cl)
	}
	c.setShare() // before anything is fetched
	for _, cl := range claims {
		cl.feed.begin()
	}
	c.mu.Unlock()
	if len(claims) == 0 {
		return
	}
	if f := c.options.assigned; f != nil {
		f(c.life, c, names(claims))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range claims {
		if cl.state == claimStarting && c.claims[cl.TopicPartition] == cl && !c.closed {
			cl.state = claimOwned
			c.owned = append(c.owned, cl)
		}
	}
	slices.SortFunc(c.owned, func(a, b *claim) int { return compareTopicPartitions(a.TopicPartition, b.TopicPartition) })
	c.announce()
}

func (c *Consumer) newClaim(a *adoption) *claim {
	f := newFeed(c.client, c.options, a.Topic, a.Partition)
	f.topicID, f.also = a.topicID, c.ready
	f.prefetch = func() int { return int(c.share.Load()) }
	f.position, f.fetchAt, f.highWatermark = a.start, a.start, -1
	f.failed = a.failed
	f.marks = newMarks(f, a.start)
	f.marks.dirty = a.fixed
	cl := &claim{TopicPartition: a.TopicPartition, feed: f, committed: a.committed, gone: make(chan struct{})}
	// While the session is over, nobody knows whose the records are.
	f.withheld = func() bool { return cl.isWithheld() || c.expired() }
	return cl
}

// startRevoke starts to give up the claims that are not assigned any more.
// c.mu is held.
func (c *Consumer) startRevoke() {
	var claims []*claim
	for p, cl := range c.claims {
		if a, stays := c.target[p]; stays && a.topicID == cl.feed.topicID || cl.state == claimRevoking {
			continue
		}
		cl.state = claimRevoking
		cl.feed.halt()
		claims = append(claims, cl)
	}
	if len(claims) == 0 {
		return
	}
	c.owned = slices.DeleteFunc(c.owned, func(cl *claim) bool { return cl.state == claimRevoking })
	c.announce()
	loss := c.loss
	c.revokes.Go(func() { c.revoke(claims, loss) })
}

// revoke gives claims up: what was handed out is finished and committed, then
// they are reported as given up, those that are ready first. It runs on a
// goroutine of its own, which ends within the rebalance time-out or with the
// consumer; it blocks on the application and on the coordinator.
func (c *Consumer) revoke(claims []*claim, loss <-chan struct{}) {
	limit := c.options.rebalanceTimeout
	ctx, cancel := context.WithTimeout(c.life, limit-min(limit/4, commitMargin))
	defer cancel()
	go func() { // ends with revoke
		select {
		case <-loss:
			cancel()
		case <-ctx.Done():
		}
	}()
	c.call(ctx, c.options.revoked, names(claims))
	idle := make(chan struct{}, 1)
	for _, cl := range claims {
		cl.watch(idle)
	}
	impatient := time.NewTimer(markPatience)
	defer impatient.Stop()
	waits := true
	for len(claims) > 0 && c.life.Err() == nil {
		var finished []*claim
		claims, finished = c.split(ctx, claims, waits)
		if len(finished) > 0 {
			c.release(finished)
			continue
		}
		select {
		case <-idle:
		case <-impatient.C: // an application that never marks anything is not waited for
			waits = c.marked.Load() || c.options.autoCommit > 0
		case <-c.draining: // the application has done what it will do
			cancel()
		case <-ctx.Done():
		}
	}
}

// watch makes the claim's marks tell when all is marked.
func (cl *claim) watch(idle chan struct{}) {
	cl.feed.mu.Lock()
	defer cl.feed.mu.Unlock()
	cl.feed.marks.idle = idle
}

// split tells the claims that are finished, or out of time, from the others,
// which are none unless waits is set.
func (c *Consumer) split(ctx context.Context, claims []*claim, waits bool) (rest, finished []*claim) {
	for _, cl := range claims {
		switch {
		case !waits || cl.isIdle():
			finished = append(finished, cl)
		case ctx.Err() != nil:
			c.options.logger.Warn("a partition is given up with records unfinished; they come again", "group", c.group, "topic", cl.Topic, "partition", cl.Partition)
			cl.end()
			finished = append(finished, cl)
		default:
			rest = append(rest, cl)
		}
	}
	return rest, finished
}

// isIdle reports whether every record handed out is marked.
func (cl *claim) isIdle() bool {
	cl.feed.mu.Lock()
	defer cl.feed.mu.Unlock()
	m := cl.feed.marks
	return m.low == m.next || m.void
}

// release commits and lets go of claims.
func (c *Consumer) release(claims []*claim) {
	ctx, cancel := context.WithTimeout(c.life, commitMargin)
	defer cancel()
	why := "a partition was given up before its records were finished"
	if err := c.commit(ctx, claims); err != nil {
		c.options.logger.Warn("what was marked could not be committed; it comes again", "group", c.group, "err", err)
		why = "a partition was given up and its last commit failed: " + err.Error()
	}
	c.mu.Lock()
	c.drop(claims, errcode.PartitionNotOwned, why)
	c.mu.Unlock()
	for _, cl := range claims {
		cl.end()
		cl.feed.close()
	}
	c.mu.Lock()
	for _, cl := range claims {
		if c.claims[cl.TopicPartition] == cl {
			delete(c.claims, cl.TopicPartition)
		}
	}
	c.setShare()
	c.mu.Unlock()
	signal(c.beat)
	signal(c.adoptable)
}

// describeCommit names the partition an error of a commit is about.
func describeCommit(r protocol.OffsetResult) error {
	return fmt.Errorf("%s/%d: %w", r.Topic, r.Partition, r.Error.Err())
}

// names lists the partitions of claims, in order.
func names(claims []*claim) []TopicPartition {
	out := make([]TopicPartition, 0, len(claims))
	for _, cl := range claims {
		out = append(out, cl.TopicPartition)
	}
	slices.SortFunc(out, compareTopicPartitions)
	return out
}
