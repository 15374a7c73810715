package consumer

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"logbroker/internal/client/clienttest"
)

func TestASlowPartitionHoldsUpNoOther(t *testing.T) {
	b := shared(t, 1, 4, 50)
	c := member(t, b)
	block := make(chan struct{})
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(ctx, func(_ context.Context, r Record) error {
			if r.Partition == 2 {
				<-block
			}
			return nil
		})
	}()
	for _, p := range []int32{0, 1, 3} {
		clienttest.Await(t, "the others", func() bool { return b.Committed("g", "orders", p) == 50 })
	}
	if got := b.Committed("g", "orders", 2); got > 0 {
		t.Fatal(got)
	}
	close(block)
	awaitCommitted(t, b, 4, 50)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestRunEndsWithTheErrorOfAHandlerAndDoesNotMarkItsRecord(t *testing.T) {
	b := shared(t, 1, 2, 50)
	c := member(t, b)
	bad := errors.New("bad")
	err := c.Run(within(t), func(_ context.Context, r Record) error {
		if r.Partition == 1 && r.Offset == 10 {
			return bad
		}
		return nil
	})
	if !errors.Is(err, bad) {
		t.Fatal(err)
	}
	if err := c.Drain(within(t)); err != nil {
		t.Fatal(err)
	}
	if got := b.Committed("g", "orders", 1); got != 10 {
		t.Fatal(got)
	}
	if err := c.Run(within(t), nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestDrainWaitsForHandlersAndCommitsTheirRecords(t *testing.T) {
	b := shared(t, 1, 2, 50)
	var revoked atomic.Int32
	c := member(t, b, WithAutoCommit(0), WithOnRevoked(func(_ context.Context, _ *Consumer, p []TopicPartition) { revoked.Add(int32(len(p))) }))
	at, goOn := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(context.Background(), func(_ context.Context, r Record) error {
			if r.Partition == 1 && r.Offset == 30 {
				close(at)
				<-goOn
			}
			return nil
		})
	}()
	<-at
	drained := make(chan error, 1)
	go func() { drained <- c.Drain(within(t)) }()
	<-c.draining
	close(goOn)
	if err := errors.Join(<-drained, <-ended); err != nil {
		t.Fatal(err)
	}
	if got := b.Committed("g", "orders", 1); got != 31 {
		t.Fatal(got)
	}
	if revoked.Load() != 2 || len(b.Members("g")) != 0 {
		t.Fatal(revoked.Load(), b.Members("g"))
	}
}

func TestDrainEndsWithItsContext(t *testing.T) {
	b := shared(t, 1, 1, 50)
	c := member(t, b)
	ctx, cancel := context.WithCancel(within(t))
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(context.Background(), func(ctx context.Context, _ Record) error {
			cancel()
			<-ctx.Done() // the time to finish is over
			return ctx.Err()
		})
	}()
	<-ctx.Done()
	if err := c.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestAHandlerIsToldThatItsPartitionIsLost(t *testing.T) {
	b := shared(t, 1, 1, 50)
	c := member(t, b)
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	var first atomic.Bool
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(ctx, func(ctx context.Context, r Record) error {
			if r.Offset == 5 && first.CompareAndSwap(false, true) {
				b.EndSession("g", c.MemberID())
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
	}()
	awaitCommitted(t, b, 1, 50)
	cancel()
	if err := <-ended; err != nil || !first.Load() {
		t.Fatal(err)
	}
}
