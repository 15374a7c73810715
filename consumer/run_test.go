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

// flipping is a context that ends when it has been asked so often whether it
// has: at any point of a call.
type flipping struct {
	context.Context
	left atomic.Int32
}

func (f *flipping) Err() error {
	if f.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

func TestARunThatEndsAtAnyMomentLosesNoRecord(t *testing.T) {
	const total = 100 // more than the runs can read: none of them waits
	b := shared(t, 1, 1, total)
	c := member(t, b)
	next := int64(0)
	handle := func(_ context.Context, r Record) error {
		if r.Offset != next {
			t.Errorf("offset %d comes after %d", r.Offset, next-1)
		}
		next = r.Offset + 1
		return nil
	}
	clienttest.Await(t, "the partition", func() bool { return len(c.Positions()) == 1 })
	cl, err := c.claim(TopicPartition{"orders", 0})
	if err != nil {
		t.Fatal(err)
	}
	clienttest.Await(t, "its records", func() bool {
		cl.feed.mu.Lock()
		defer cl.feed.mu.Unlock()
		return cl.feed.fetchAt == total
	})
	for n := range int32(12) {
		ctx := &flipping{Context: context.Background()}
		ctx.left.Store(n)
		if err := c.work(ctx, cl, handle); err != nil {
			t.Fatal(err)
		}
	}
	for next < total {
		recs, err := c.Poll(within(t), 1)
		if err != nil {
			t.Fatal(err)
		}
		_ = handle(t.Context(), recs[0])
		c.Mark(recs...)
	}
	awaitCommitted(t, b, 1, total)
}

func TestRunLeavesPausedPartitionsAlone(t *testing.T) {
	p0 := TopicPartition{"orders", 0}
	b := shared(t, 1, 2, 50)
	c := member(t, b, WithOnAssigned(func(_ context.Context, c *Consumer, _ []TopicPartition) {
		if err := c.Pause(p0); err != nil {
			t.Error(err)
		}
	}))
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	var paused atomic.Int32
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(ctx, func(_ context.Context, r Record) error {
			if r.Partition == 0 {
				paused.Add(1)
			}
			return nil
		})
	}()
	clienttest.Await(t, "the other partition", func() bool { return b.Committed("g", "orders", 1) == 50 })
	if n := paused.Load(); n != 0 {
		t.Fatalf("%d records of a paused partition", n)
	}
	if err := c.Resume(p0); err != nil {
		t.Fatal(err)
	}
	awaitCommitted(t, b, 2, 50)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestRecordsOfAGroupEndWithTheErrorAndLoseNothingWhenLeft(t *testing.T) {
	b := shared(t, 1, 2, 30)
	c := member(t, b)
	s := newSeen()
	for s.distinct() < 60 {
		for r, err := range c.Records(within(t)) {
			if err != nil {
				t.Fatal(err)
			}
			s.note(r)
			if s.distinct()%7 == 0 || s.distinct() == 60 {
				break
			}
		}
	}
	if s.repeated() != 0 {
		t.Fatal(s.repeated())
	}
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	pairs := 0
	for r, err := range c.Records(ctx) {
		if pairs++; !errors.Is(err, context.Canceled) || r.Topic != "" {
			t.Fatal(r, err)
		}
	}
	if pairs != 1 {
		t.Fatalf("%d pairs after the end of ctx", pairs)
	}
}

func TestCloseLeavesAtOnceAndCommitsNothing(t *testing.T) {
	b := shared(t, 1, 1, 30)
	told := func(context.Context, *Consumer, []TopicPartition) { t.Error("Close called back") }
	c := member(t, b, WithAutoCommit(0), WithOnRevoked(told), WithOnLost(told))
	for n := 0; n < 30; {
		recs, err := c.Poll(within(t), 30)
		if err != nil {
			t.Fatal(err)
		}
		c.Mark(recs...)
		n += len(recs)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := c.Poll(context.Background(), 1)
		waiting <- err
	}()
	if err := errors.Join(c.Close(), c.Close(), c.Drain(within(t))); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if got := b.Committed("g", "orders", 0); got != -1 || len(b.Members("g")) != 0 {
		t.Fatal(got, b.Members("g"))
	}
}
