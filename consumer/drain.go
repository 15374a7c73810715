package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Drain leaves the group in good order: nothing more is handed out, the
// handlers of Run finish the record they have, OnRevoked is called, what is
// marked is committed, and the partitions are free for others at once. Records
// that Poll or Records returned are to be finished and marked before: Drain
// does not wait for them. With WithAutoCommit(0) it tells of a loss as Commit
// does. Then the consumer is closed, also when ctx ended
// before all was done: that is the error then.
func (c *Consumer) Drain(ctx context.Context) error {
	claims, first := c.shut()
	if !first {
		<-c.over
		return nil
	}
	err := c.finish(ctx, claims)
	if ctx.Err() != nil { // the others shall not wait for the session to end
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		ctx = leaving
	}
	return errors.Join(err, c.depart(ctx))
}

// leaveTimeout bounds how long Close tries to tell the coordinator.
const leaveTimeout = 2 * time.Second

// Close leaves the group at once: nothing is committed, and no callback is
// called. See Drain. Calls under way end with ErrClosed. Closing twice is
// harmless.
func (c *Consumer) Close() error {
	if _, first := c.shut(); !first {
		<-c.over
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if err := c.depart(ctx); err != nil {
		c.options.logger.Info("the group does not know that this member left; its partitions move after the session time-out", "group", c.group, "err", err)
	}
	return nil
}

// shut stops handing out, and returns the partitions held. first is false when
// it was done before.
func (c *Consumer) shut() (claims []*claim, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false
	}
	c.closed = true
	for _, cl := range c.claims {
		claims = append(claims, cl)
	}
	for _, cl := range claims {
		cl.feed.halt()
	}
	c.owned = nil
	c.announce()
	close(c.draining)
	return claims, true
}

// finish waits for the handlers of Run and for what is being given up, and
// commits what is marked.
func (c *Consumer) finish(ctx context.Context, claims []*claim) error {
	ended := make(chan struct{})
	go func() { // ends when the application's handlers do
		c.runs.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		for _, cl := range claims {
			cl.end()
		}
		return fmt.Errorf("draining: handlers of Run are still at work: %w", context.Cause(ctx))
	}
	c.call(ctx, c.options.revoked, c.toRevoke(claims))
	if c.options.autoCommit > 0 { // who leaves commits to the consumer hears of a loss by OnLost
		return c.commit(ctx, nil)
	}
	return c.Commit(ctx)
}

// toRevoke marks the claims as being given up, and returns those whose owner is
// still to be told.
func (c *Consumer) toRevoke(claims []*claim) []TopicPartition {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*claim
	for _, cl := range claims {
		if cl.state != claimRevoking && c.claims[cl.TopicPartition] == cl {
			out = append(out, cl)
		}
		cl.state = claimRevoking
	}
	return names(out)
}

// depart ends everything, the heartbeats last before the one that says so.
func (c *Consumer) depart(ctx context.Context) error {
	defer close(c.over)
	c.end()
	c.revokes.Wait()
	c.goroutines.Wait()
	c.leave()
	<-c.left
	c.mu.Lock()
	claims := c.claims
	c.claims = nil
	c.mu.Unlock()
	for _, cl := range claims {
		cl.end()
		cl.feed.close()
	}
	err := c.sayGoodbye(ctx)
	c.client.Close()
	return err
}
