package partitions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/stall"
)

// ackedProducer is a model of an idempotent producer: it numbers its batches,
// keeps up to window of them in flight, and after a failure resends from the
// first that is not acked, in order, until all are.
type ackedProducer struct {
	id      int64
	window  int
	offsets []int64 // of the acked batches, by sequence
}

// send sends until total batches are acked, a window per tick. at finds the
// leader, nil for none.
func (m *ackedProducer) send(total int, at func() *Partition, tick <-chan time.Time) {
	for ; len(m.offsets) < total; <-tick {
		if p := at(); p != nil {
			m.sendWindow(p, total)
		}
	}
}

// sendWindow sends a window from the first batch that is not acked, and waits
// for all answers.
func (m *ackedProducer) sendWindow(p *Partition, total int) {
	first := len(m.offsets)
	answers := make(chan AppendResult, m.window)
	sent := 0
	for s := first; s < min(first+m.window, total); s++ {
		if p.Append(numbered(m.id, 0, int32(s), 1), func(r AppendResult) { answers <- r }) != nil {
			break
		}
		sent++
	}
	failed := false
	for range sent { // in the order of the appends
		r := <-answers
		if failed = failed || r.Err != nil; !failed {
			m.offsets = append(m.offsets, r.BaseOffset)
		}
	}
}

// check compares what is stored with what was acked: every batch once, at the
// offset that was acked, in order.
func (m *ackedProducer) check(t *testing.T, stored []string) {
	t.Helper()
	if !slices.IsSorted(m.offsets) {
		t.Errorf("producer %d: acked offsets are out of order: %v", m.id, m.offsets)
	}
	copies := 0
	for _, v := range stored {
		var offset, sequence int64
		var producer int64
		if n, _ := fmt.Sscanf(v, "%d p%d e0 s%d", &offset, &producer, &sequence); n != 3 {
			t.Fatalf("stored %q", v)
		}
		if producer != m.id {
			continue
		}
		copies++
		if m.offsets[sequence] != offset && m.offsets[sequence] != -1 {
			t.Errorf("producer %d: batch %d was acked at %d and is stored at %d", m.id, sequence, m.offsets[sequence], offset)
		}
	}
	if copies != len(m.offsets) {
		t.Errorf("producer %d: %d batches acked, %d stored", m.id, len(m.offsets), copies)
	}
}

func TestThreeReplicasAckReadAndAnswerDuplicatesAcrossALeaderTransfer(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	for i := range 20 {
		if a := c.stored(numbered(1, 0, int32(i), 1)); a.BaseOffset != int64(i) {
			t.Fatalf("append %d: %+v", i, a)
		}
	}
	first, second := c.handedOver()
	if a := appended(first, numbered(1, 0, 20, 1)); a.Err == nil || !errcode.Of(a.Err).Retriable() {
		t.Fatalf("the old leader: %+v", a)
	}
	if h := first.Leader(); h.Node != second.spec.Replica || h.Serving {
		t.Fatalf("the old leader's hint: %+v", h)
	}
	for i := range 20 {
		if a := c.stored(numbered(1, 0, int32(i), 1)); !a.Duplicate || a.BaseOffset != int64(i) {
			t.Fatalf("duplicate of %d: %+v", i, a)
		}
	}
	old := numbered(1, 0, 20, 1)
	old.Epoch = 1
	if a := appended(c.leader(), old); errcode.Of(a.Err) != errcode.FencedLeaderEpoch {
		t.Fatalf("a client of the old epoch: %+v", a)
	}
	if end, err := c.leader().Latest(context.Background()); err != nil || end != 20 {
		t.Fatalf("latest: %d, %v", end, err)
	}
	c.identical()
	for _, p := range c.running() {
		if got := readAll(t, p); len(got) != 20 || got[19] != "19 p1 e0 s19" {
			t.Fatalf("replica %d reads %q", p.spec.Replica, got)
		}
	}
}

// handedOver moves the leadership to another replica and waits until it serves.
func (c *cluster) handedOver() (from, to *Partition) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	until(c.t, "the leader hands over", func() bool {
		from = c.leader()
		return from.TransferLeader(ctx, c.anotherNode(from).id) == nil
	})
	until(c.t, "the new leader serves", func() bool { to = c.serving(); return to != nil && to != from })
	return from, to
}

func TestSegmentsAreIdenticalAfterALeaderTransferStorm(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, func(o *Options) {
		o.SnapshotBytes, o.ProposeTimeout = 20_000, 300*time.Millisecond
	})
	c.leader()
	producers := []*ackedProducer{{id: 1, window: 5}, {id: 2, window: 16}}
	var over atomic.Bool
	var sending sync.WaitGroup
	for _, m := range producers {
		sending.Go(func() { // ends after the storm, when all it sent is acked
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for !over.Load() {
				m.send(len(m.offsets)+10*m.window, c.serving, tick.C)
			}
		})
	}
	storm(c, 120)
	over.Store(true)
	sending.Wait()
	acked := len(producers[0].offsets)
	for i := max(0, acked-200); i < acked; i++ { // known, or known as stored
		if a := c.stored(numbered(1, 0, int32(i), 1)); !a.Duplicate ||
			a.BaseOffset != producers[0].offsets[i] && a.BaseOffset != -1 {
			t.Fatalf("duplicate of %d: %+v, acked at %d", i, a, producers[0].offsets[i])
		}
	}
	c.identical()
	for _, p := range c.running() {
		stored := readAll(t, p)
		for _, m := range producers {
			m.check(t, stored)
		}
	}
	t.Logf("%d and %d batches acked, epoch %d", acked, len(producers[1].offsets), c.leader().Leader().Epoch)
}

// storm moves the leadership on, n times; every other time in the middle of
// everything, so that Raft drops what is under way.
func storm(c *cluster, n int) {
	c.t.Helper()
	for i := range n {
		if i%2 == 0 {
			c.handedOver()
			continue
		}
		p := c.leader()
		if err := c.nodeOf(p).raft.Transfer(shardForTest, c.anotherNode(p).id); err != nil {
			c.t.Fatal(err)
		}
		p.pause(context.Background(), 300*time.Millisecond) // it may fail
	}
}

func TestWithoutAMajorityEverythingIsAnsweredInTimeAndNothingAcked(t *testing.T) {
	t.Parallel()
	// Half of the default: a loaded test machine stretches Raft's ticks.
	c := newCluster(t, 3, func(o *Options) { o.ProposeTimeout = DefaultProposeTimeout / 2 })
	c.stored(numbered(1, 0, 0, 1))
	c.settled()
	p := c.leader()
	for _, n := range c.nodes {
		if n != c.nodeOf(p) {
			c.down(n)
		}
	}
	stalls := stall.Start(t)
	began := stalls.Mark()
	refused := false
	var got outcomes
	sent := 0
	until(t, "refused for lack of a majority", func() bool {
		err := p.Append(numbered(2, 0, int32(sent), 1), got.add)
		if err == nil {
			sent++
		}
		refused = errcode.Of(err) == errcode.NotEnoughReplicas
		return refused
	})
	for _, a := range got.wait(t, sent) {
		if c := errcode.Of(a.Err); c != errcode.RequestTimedOut && c != errcode.NotEnoughReplicas {
			t.Fatalf("without a majority: %+v", a)
		}
	}
	if d := stalls.Since(began); d > 5*time.Second {
		t.Fatalf("answers took %v", d)
	}
	if got := readAll(t, p); len(got) != 1 {
		t.Fatalf("committed data: %q", got)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := p.Latest(ctx); err == nil {
		t.Fatal("latest without a majority")
	}
}

// A proposal's time-out is of no use here: only what the replica hears when it is
// back can tell what came of the append.
func TestALeaderThatWasCutOffAnswersWhenItIsBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, func(o *Options) { o.ProposeTimeout = time.Hour })
	c.stored(numbered(1, 0, 0, 1))
	var p *Partition
	var reconnect func()
	var lost, fresh outcomes
	sent := 0
	until(t, "an append is under way on a leader that is cut off", func() bool {
		p = c.leader()
		reconnect = c.cutOff(c.nodeOf(p))
		if p.Append(numbered(1, 0, 1, 1), lost.add) == nil {
			return true
		}
		reconnect()
		return false
	})
	until(t, "another one leads", func() bool { other := c.serving(); return other != nil && other != p })
	reconnect()
	if a := lost.wait(t, 1)[0]; errcode.Of(a.Err) != errcode.RequestTimedOut {
		t.Fatalf("what was under way: %+v", a)
	}
	until(t, "it leads again and acks an append", func() bool {
		leader := c.leader()
		if leader != p {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = leader.TransferLeader(ctx, c.nodeOf(p).id) // refused while it has not caught up
			return false
		}
		if p.Append(numbered(2, 0, 0, 1), fresh.add) != nil {
			return false
		}
		sent++
		return fresh.wait(t, sent)[sent-1].Err == nil
	})
	c.stored(numbered(1, 0, 1, 1))
	c.identical()
	if got := strings.Join(readAll(t, p), ", "); got != "0 p1 e0 s0, 1 p2 e0 s0, 2 p1 e0 s1" {
		t.Errorf("stored: %s", got)
	}
}

func TestRetentionTrimsTheSameOnAllReplicas(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, func(o *Options) { o.RetentionInterval = 20 * time.Millisecond })
	for i := range 100 {
		c.stored(batchOf(1, 0, int32(i), 1, 200))
	}
	altered := c.config
	altered.RetentionBytes = 10_000
	for _, n := range c.nodes {
		n.host.Update(c.specWith(n, altered))
	}
	until(t, "trimmed", func() bool { return c.leader().Earliest() > 0 })
	c.identical()
	for _, p := range c.running() {
		if _, err := p.Read(nil, 0, 100); errcode.Of(err) != errcode.OffsetOutOfRange {
			t.Fatalf("replica %d reads below the log start: %v", p.spec.Replica, err)
		}
		if size := p.Status().SizeBytes; size < 10_000 || size > 10_000+2*segmentBytes {
			t.Fatalf("replica %d keeps %d bytes", p.spec.Replica, size)
		}
	}
}

func TestRestartOfAWholeClusterKeepsEverythingAcked(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, func(o *Options) { o.SnapshotBytes = 5000 })
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	m := &ackedProducer{id: 1, window: 8}
	for round := range 2 {
		m.send((round+1)*60, c.serving, retry.C)
		c.stop()
		for _, n := range c.nodes {
			c.restart(n)
		}
	}
	m.send(150, c.serving, retry.C)
	c.identical()
	for _, p := range c.running() {
		m.check(t, readAll(t, p))
	}
	for i := 100; i < 150; i++ {
		if a := c.stored(numbered(1, 0, int32(i), 1)); !a.Duplicate || a.BaseOffset != m.offsets[i] {
			t.Fatalf("duplicate of %d after the restart: %+v", i, a)
		}
	}
}

func TestAReplicaThatWasAwayCatchesUp(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	p := c.leader()
	away := c.anotherNode(p)
	c.down(away)
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	m := &ackedProducer{id: 1, window: 8}
	m.send(100, c.serving, retry.C)
	c.restart(away)
	c.identical()
	back, _ := away.host.Get(shardForTest)
	m.check(t, readAll(t, back))
}
