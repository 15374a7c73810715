package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"logbroker/consumer"
	"logbroker/internal/errcode"
	"logbroker/internal/history"
)

// historyCommand makes the test binary a member of a group that writes down all
// it sees: SERVERS GROUP TOPIC PROCESS FILE. SIGTERM makes it leave in good order.
const historyCommand = "history-member"

const (
	historyCommitEvery = 100 * time.Millisecond
	historyLeaveMax    = 15 * time.Second
	// joinAttempts is how often a member tries to join its group.
	joinAttempts = 5
)

// historyMember is one member in a process of its own.
type historyMember struct {
	group    string
	recorder *history.Recorder

	mu      sync.Mutex // guards what follows; nothing is waited for under it
	leaving bool
	held    map[int32]*holding
}

// holding is what the member knows of a partition that it was told it owns.
type holding struct {
	epoch     int32 // counts the ownerships
	owned     bool
	next      int64 // the offset that is due
	before    int64 // next of the ownership before
	committed int64 // as last written down
}

func historyMemberMain(args []string) int {
	if len(args) != 5 {
		return 2
	}
	// Before its file tells that it has begun: who reads that may send signals.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	recorder, err := history.Create(args[4], args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	m := &historyMember{group: args[1], recorder: recorder, held: map[int32]*holding{}}
	recorder.Record(history.Event{Kind: history.Begin, Group: m.group, Flushed: true})
	if err := recorder.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	join := func() (*consumer.Consumer, error) {
		return consumer.New(ctx, strings.Split(args[0], ","), m.group, []string{args[2]}, consumer.FromEarliest(), consumer.WithAutoCommit(0), consumer.WithName(args[3]),
			consumer.WithOnAssigned(m.assigned), consumer.WithOnRevoked(m.revoked), consumer.WithOnLost(m.lost))
	}
	c, err := join()
	for n := 1; err != nil && n < joinAttempts && ctx.Err() == nil; n++ {
		c, err = join() // who is stopped on its way in finds its time over when it goes on
	}
	if err == nil {
		err = m.live(ctx, c)
	}
	if ctx.Err() != nil {
		err = nil // it was asked to end
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1 // without End: this must not happen
	}
	if err := recorder.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// live reads and commits until ctx ends, then leaves in good order.
func (m *historyMember) live(ctx context.Context, c *consumer.Consumer) error {
	reading, fail := context.WithCancelCause(ctx)
	var both sync.WaitGroup
	both.Go(func() { fail(m.read(reading, c)) })
	both.Go(func() { m.commitLoop(reading, c) })
	both.Wait()
	if ctx.Err() == nil {
		_ = c.Close() // the failure is what is told
		return context.Cause(reading)
	}
	m.mu.Lock()
	m.leaving = true
	m.mu.Unlock()
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), historyLeaveMax)
	defer cancel()
	if err := c.Drain(leaving); err != nil { // the coordinator may be dead just now
		fmt.Fprintln(os.Stderr, "leaving:", err)
	}
	return nil
}

func (m *historyMember) event(c *consumer.Consumer, kind history.Kind, partition int32) history.Event {
	return history.Event{Kind: kind, Group: m.group, Member: c.MemberID(), Partition: partition, Epoch: m.held[partition].epoch}
}

func (m *historyMember) assigned(_ context.Context, c *consumer.Consumer, partitions []consumer.TopicPartition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := map[int32]consumer.Position{}
	for _, p := range c.Positions() {
		at[p.Partition] = p
	}
	for _, p := range partitions {
		h := m.held[p.Partition]
		if h == nil {
			h = &holding{}
			m.held[p.Partition] = h
		}
		start := at[p.Partition]
		h.epoch, h.owned, h.before, h.next, h.committed = h.epoch+1, true, h.next, start.Offset, start.Committed
		e := m.event(c, history.Assigned, p.Partition)
		e.Offset = start.Offset
		m.recorder.Record(e)
	}
}

func (m *historyMember) revoked(_ context.Context, c *consumer.Consumer, partitions []consumer.TopicPartition) {
	m.mu.Lock()
	kind := history.Revoked
	if m.leaving {
		kind = history.Leaving
	}
	m.mu.Unlock()
	m.ends(c, kind, partitions)
}

func (m *historyMember) lost(_ context.Context, c *consumer.Consumer, partitions []consumer.TopicPartition) {
	m.ends(c, history.Lost, partitions)
}

func (m *historyMember) ends(c *consumer.Consumer, kind history.Kind, partitions []consumer.TopicPartition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range partitions {
		m.held[p.Partition].owned = false
		m.recorder.Record(m.event(c, kind, p.Partition))
	}
}

// read takes records until ctx ends or reading fails.
func (m *historyMember) read(ctx context.Context, c *consumer.Consumer) error {
	for {
		before := m.epochs()
		records, err := c.Poll(ctx, 100)
		if err != nil {
			return err
		}
		m.deliver(c, before, records)
		// Written before it can be committed: a kill -9 loses no delivery that matters.
		if err := m.recorder.Flush(); err != nil {
			return err
		}
		c.Mark(records...)
	}
}

func (m *historyMember) epochs() map[int32]int32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	epochs := map[int32]int32{}
	for p, h := range m.held {
		if h.owned {
			epochs[p] = h.epoch
		}
	}
	return epochs
}

// deliver writes down what was handed out. Where the ownership changed while the
// records were on their way, their offsets say which one they belong to.
func (m *historyMember) deliver(c *consumer.Consumer, before map[int32]int32, records []consumer.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range records {
		h := m.held[r.Partition]
		e := m.event(c, history.Delivered, r.Partition)
		e.Offset, e.Message = r.Offset, binary.BigEndian.Uint64(r.Value)
		if was := before[r.Partition]; was != 0 && was == h.epoch-1 && r.Offset != h.next && r.Offset == h.before {
			e.Epoch, h.before = was, r.Offset+1
		} else {
			h.next = r.Offset + 1
		}
		m.recorder.Record(e)
	}
}

func (m *historyMember) commitLoop(ctx context.Context, c *consumer.Consumer) {
	tick := time.NewTicker(historyCommitEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		before, began := m.epochs(), history.Now()
		err := c.Commit(ctx)
		m.committed(c, before, began)
		if code := errcode.Of(err); err != nil && ctx.Err() == nil {
			m.recorder.Record(history.Event{Kind: history.Refused, Group: m.group, Member: c.MemberID(), Note: fmt.Sprint(code)})
		}
	}
}

// committed writes down what the commit that was sent at began came to. What is
// not this ownership's any more is left out: its outcome is not known.
func (m *historyMember) committed(c *consumer.Consumer, before map[int32]int32, began int64) {
	positions := c.Positions()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range positions {
		h := m.held[p.Partition]
		if h == nil || !h.owned || before[p.Partition] != h.epoch || p.Committed <= h.committed {
			continue
		}
		h.committed = p.Committed
		e := m.event(c, history.Committed, p.Partition)
		e.Began, e.Offset = began, p.Committed
		m.recorder.Record(e)
	}
}
