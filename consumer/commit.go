package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// autoCommitMin is the least time that an automatic commit may take.
const autoCommitMin = 5 * time.Second

// Commit commits what is marked, of all partitions, and returns when that is
// replicated. With nothing new to commit it returns at once. nil means that
// everything marked since the last Commit is committed, as far as no record
// before it is unmarked.
//
// Errors: ctx's, wrapped with the last thing heard, and then the outcome is
// open and Commit may be called again; per partition OFFSET_OUT_OF_RANGE,
// UNKNOWN_TOPIC_ID and others, joined, with the rest committed; ErrClosed.
//
// When marks were dropped because the partitions were lost, exactly one Commit
// says so, the one under way or else the next, and commits the rest all the
// same: with UNKNOWN_MEMBER_ID, FENCED_MEMBER_EPOCH or the like where this
// consumer was silent for too long (see WithOnLost), also for marks made after
// that; with PARTITION_NOT_OWNED where a partition was given up before its
// records were finished (see WithRebalanceTimeout) or with its last commit
// failed. Of several losses since the last Commit it tells the latest.
func (c *Consumer) Commit(ctx context.Context) error { return c.withLoss(c.commit(ctx, nil)) }

// autoCommitLoop commits what is marked, again and again. Started by New, ended
// by depart; it blocks on the coordinator.
func (c *Consumer) autoCommitLoop() {
	for pause(c.life, c.options.autoCommit) {
		ctx, cancel := context.WithTimeout(c.life, max(c.options.autoCommit, autoCommitMin))
		err := c.commit(ctx, nil)
		cancel()
		if err != nil && c.life.Err() == nil {
			c.options.logger.Warn("commit failed, it is tried again", "group", c.group, "err", err)
		}
	}
}

// progress is what a commit takes from one claim.
type progress struct {
	claim *claim
	marks *marks
	at    int64
}

// commit commits what is marked of the claims, nil: of all. It repeats until it
// is done, refused, or ctx ends. Only one is under way at a time, so that a
// later sequence never carries less.
func (c *Consumer) commit(ctx context.Context, claims []*claim) error {
	select {
	case c.committing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("committing to group %q: %w", c.group, context.Cause(ctx))
	}
	defer func() { <-c.committing }()
	for n := 1; ; n++ {
		// Anew for each attempt: what was marked meanwhile goes along.
		a := c.commitRequest(claims)
		if len(a.taken) == 0 {
			return nil
		}
		var reply protocol.CommitReply
		err := c.ask(ctx, client.GroupCall{Verb: protocol.VerbGroupCommit, Request: a.request, Reply: &reply, Within: c.options.attempt})
		if err == nil {
			return c.committedAll(a.taken, &reply)
		}
		err = fmt.Errorf("committing to group %q: %w", c.group, err)
		switch code := errcode.Of(err); {
		case code == errcode.StaleMemberEpoch:
			// The epoch rose with a heartbeat whose reply is on its way, or this
			// member was fenced: the next reply tells.
			signal(c.beat)
			select {
			case <-a.replied:
			case <-ctx.Done():
			}
		case fenced(code):
			signal(c.beat)
			return c.fence(a.ownership, err)
		case !client.Retriable(err):
			return err
		}
		if !pause(ctx, c.retrySpace(n, err)) {
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
	}
}

// commitAttempt is one request to commit.
type commitAttempt struct {
	request   protocol.CommitRequest
	taken     []progress
	ownership uint64
	replied   <-chan struct{} // closed with the next reply to a heartbeat
}

// commitRequest gathers what is marked and not committed.
func (c *Consumer) commitRequest(only []*claim) commitAttempt {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sequence++
	a := commitAttempt{ownership: c.ownership, replied: c.replied, request: protocol.CommitRequest{
		Version: protocol.ControlVersion, Group: c.group, MemberID: c.memberID, MemberEpoch: c.epoch, Sequence: c.sequence,
	}}
	if only == nil {
		for _, cl := range c.claims {
			only = append(only, cl)
		}
	}
	for _, cl := range only {
		if len(a.taken) == protocol.GroupCommitOffsetsMax {
			break
		}
		if at, m, dirty := cl.progress(); dirty && c.claims[cl.TopicPartition] == cl {
			a.taken = append(a.taken, progress{cl, m, at})
			a.request.Offsets = append(a.request.Offsets, protocol.CommittedOffset{Topic: cl.Topic, TopicID: cl.feed.topicID, Partition: cl.Partition, Offset: at})
		}
	}
	return a
}

func (cl *claim) progress() (at int64, m *marks, dirty bool) {
	cl.feed.mu.Lock()
	defer cl.feed.mu.Unlock()
	m = cl.feed.marks
	return m.low, m, m.dirty && !m.void
}

// committedAll notes what was committed and returns what was refused.
func (c *Consumer) committedAll(taken []progress, reply *protocol.CommitReply) error {
	if len(reply.Results) != len(taken) {
		return errcode.New(errcode.UnknownServerError, "the reply to a commit of %d offsets has %d", len(taken), len(reply.Results))
	}
	var errs []error
	for i, r := range reply.Results {
		if r.Error != nil {
			errs = append(errs, describeCommit(r))
			continue
		}
		t := taken[i]
		t.claim.feed.mu.Lock()
		t.claim.committed = t.at
		if t.claim.feed.marks == t.marks && t.marks.low == t.at {
			t.marks.dirty = false
		}
		t.claim.feed.mu.Unlock()
	}
	return errors.Join(errs...)
}
