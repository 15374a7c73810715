package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Handler handles one record. ctx ends when the partition was lost, when the
// time to finish it is over, or with Run's own.
type Handler func(ctx context.Context, r Record) error

// Run calls handle for every record, until ctx ends, Drain or Close is called,
// or handle fails. Each partition has a goroutine of its own, so the records of
// a partition come one after the other, in order, and a slow one holds up
// nothing but its own partition. A record is marked when its handler has
// returned nil; the handlers under way are waited for. Poll gets nothing from
// partitions that Run reads. handle must not call Drain or Close.
//
// It returns nil when ctx or the consumer ended, otherwise the first error of a
// handler or of reading (see Poll). The record whose handler failed is not
// marked: it comes again when the partition is taken over.
func (c *Consumer) Run(ctx context.Context, handle Handler) error {
	if !c.enterRun() {
		return ErrClosed
	}
	defer c.runs.Done()
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	working := make(map[*claim]bool)
	for run.Err() == nil {
		owned, changed, err := c.watchOwned()
		if err != nil {
			cancel(err)
			break
		}
		now := make(map[*claim]bool, len(owned))
		for _, cl := range owned {
			now[cl] = true
			if working[cl] {
				continue
			}
			workers.Go(func() {
				if err := c.work(run, cl, handle); err != nil {
					cancel(err)
				}
			})
		}
		working = now
		select {
		case <-changed:
		case <-run.Done():
		}
	}
	workers.Wait()
	if err := context.Cause(run); ctx.Err() == nil && !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

func (c *Consumer) enterRun() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.runs.Add(1)
	return true
}

// watchOwned returns the partitions to read, and what is closed when they
// change.
func (c *Consumer) watchOwned() ([]*claim, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, ErrClosed
	}
	return append([]*claim(nil), c.owned...), c.changed, c.failed
}

// work handles the records of one partition until it is given up, lost or ctx
// ends, none of which is an error.
func (c *Consumer) work(ctx context.Context, cl *claim, handle Handler) error {
	handling, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the worker
		select {
		case <-cl.gone:
			cancel()
		case <-handling.Done():
		}
	}()
	for {
		rec, err := cl.next(ctx)
		switch {
		case err == nil: // also when ctx has just ended: the record is handed out
		case errors.Is(err, ErrClosed) || ctx.Err() != nil:
			return nil
		case cl.feed.topicGone():
			<-cl.feed.stop // the coordinator finds out too
			return nil
		default:
			return err
		}
		if err := handle(handling, rec); err != nil {
			if handling.Err() != nil {
				return nil
			}
			return fmt.Errorf("handling %s at offset %d: %w", cl.TopicPartition, rec.Offset, err)
		}
		c.Mark(rec)
	}
}

// next waits for the partition's next record.
func (cl *claim) next(ctx context.Context) (Record, error) {
	return cl.feed.takeOne(ctx)
}
