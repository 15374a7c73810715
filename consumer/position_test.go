package consumer

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"logbroker/internal/client/clienttest"
	"logbroker/internal/errcode"
	"logbroker/internal/recordbatch"
)

func TestStartPoliciesOfAGroup(t *testing.T) {
	t.Parallel()
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		b := shared(t, 1, 1, 20)
		c := member(t, b, func(o *options) { o.start = startDefault })
		if _, err := c.Poll(within(t), 1); errcode.Of(err) != errcode.OffsetOutOfRange || !strings.Contains(err.Error(), "FromEarliest") {
			t.Fatal(err)
		}
		if err := c.Seek(TopicPartition{"orders", 0}, 7); err != nil {
			t.Fatal(err)
		}
		if recs, err := c.Poll(within(t), 1); err != nil || recs[0].Offset != 7 {
			t.Fatal(recs, err)
		}
	})
	t.Run("committed", func(t *testing.T) {
		t.Parallel()
		b := shared(t, 1, 1, 20)
		b.Commit("g", "orders", 0, 12)
		c := member(t, b, FromLatest())
		if recs, err := c.Poll(within(t), 1); err != nil || recs[0].Offset != 12 {
			t.Fatal(recs, err)
		}
	})
	t.Run("latest is kept for the next owner, and new partitions start at their start", func(t *testing.T) {
		t.Parallel()
		b := shared(t, 1, 1, 20)
		c := member(t, b, FromLatest())
		clienttest.Await(t, "the commit of the start", func() bool { return b.Committed("g", "orders", 0) == 20 })
		b.AddPartitions("orders", 2)
		addTo(b, 1, 0, 10)
		if recs, err := c.Poll(within(t), 1); err != nil || recs[0].Partition != 1 || recs[0].Offset != 0 {
			t.Fatal(recs, err)
		}
	})
}

func TestPauseResumeAndSeek(t *testing.T) {
	b := shared(t, 1, 2, 50)
	p0, p1 := TopicPartition{"orders", 0}, TopicPartition{"orders", 1}
	c := member(t, b, WithAutoCommit(0), WithOnAssigned(func(_ context.Context, c *Consumer, p []TopicPartition) {
		if !slices.Equal(p, []TopicPartition{p0, p1}) {
			t.Error(p)
		}
		if err := errors.Join(c.Seek(p1, 45), c.Pause(p0)); err != nil {
			t.Error(err)
		}
	}))
	recs, err := c.Poll(within(t), 100)
	if err != nil || len(recs) != 5 || recs[0].Offset != 45 {
		t.Fatal(recs, err)
	}
	c.Mark(recs...)
	if err := c.Seek(p1, 48); err != nil {
		t.Fatal(err)
	}
	c.Mark(recs...) // from before the seek
	if recs, err = c.Poll(within(t), 100); err != nil || len(recs) != 2 {
		t.Fatal(recs, err)
	}
	if err := c.Commit(within(t)); err != nil || b.Committed("g", "orders", 1) != -1 {
		t.Fatal(err, b.Committed("g", "orders", 1))
	}
	if err := c.Resume(p0); err != nil {
		t.Fatal(err)
	}
	if recs, err = c.Poll(within(t), 1); err != nil || recs[0].Partition != 0 || recs[0].Offset != 0 {
		t.Fatal(recs, err)
	}
	if err := c.Pause(p0, TopicPartition{"orders", 2}); errcode.Of(err) != errcode.PartitionNotOwned {
		t.Fatal(err)
	}
	if got := c.Positions(); len(got) != 2 || !got[0].Paused || got[0].Offset != 1 || got[1].Offset != 50 {
		t.Fatalf("%+v", got)
	}
}

func TestCancelledPollsLoseNothing(t *testing.T) {
	b := shared(t, 1, 3, 200)
	c := member(t, b)
	s := newSeen()
	for s.distinct() < 600 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(300))*time.Microsecond)
		recs, err := c.Poll(ctx, 3)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		for _, r := range recs {
			s.note(r)
		}
	}
	if s.repeated() != 0 {
		t.Fatal(s.repeated())
	}
}

func TestPrefetchIsBoundedOverAllPartitions(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 8)
	big := strings.Repeat("x", 20<<10)
	for p := range int32(8) {
		for range 40 {
			b.Append("orders", p, recordbatch.None, big)
		}
	}
	const limit = 512 << 10
	c := member(t, b, WithMaxPrefetchBytes(limit))
	queued := func() (n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, cl := range c.claims {
			cl.feed.mu.Lock()
			n += cl.feed.queued
			cl.feed.mu.Unlock()
		}
		return n
	}
	clienttest.Await(t, "the prefetch", func() bool { return queued() > limit/2 })
	if err := c.Pause(TopicPartition{"orders", 3}); err != nil {
		t.Fatal(err)
	}
	paused, err := c.claim(TopicPartition{"orders", 3})
	if err != nil {
		t.Fatal(err)
	}
	for range 7 * 40 {
		if n := queued(); n > limit {
			t.Fatalf("%d bytes are queued", n)
		}
		paused.feed.mu.Lock()
		if n := paused.feed.queued; n > limit/8 {
			t.Fatalf("a paused partition keeps %d bytes, its share is %d", n, limit/8)
		}
		paused.feed.mu.Unlock()
		if recs, err := c.Poll(within(t), 1); err != nil || recs[0].Partition == 3 {
			t.Fatal(recs, err)
		}
	}
}

func TestPartitionsHaveTheirTurns(t *testing.T) {
	b := shared(t, 1, 4, 100)
	c := member(t, b)
	clienttest.Await(t, "all partitions", func() bool { return len(c.Positions()) == 4 })
	clienttest.Await(t, "the prefetch", func() bool {
		for _, p := range c.Positions() {
			if p.HighWatermark != 100 {
				return false
			}
		}
		return true
	})
	got := map[int32]int{}
	for range 20 {
		recs, err := c.Poll(within(t), 5)
		if err != nil {
			t.Fatal(err)
		}
		got[recs[0].Partition] += len(recs)
	}
	for p := range int32(4) {
		if got[p] != 25 {
			t.Fatalf("of partition %d came %d records: %v", p, got[p], got)
		}
	}
}
