package cluster

import (
	"context"
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/producer"
)

// load is a producer at full speed on one partition. Record n holds the number
// n, so that what is read shows what was lost, stored twice or moved.
type load struct {
	p    *producer.Producer
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex // guards what follows
	offsets  []int64    // by record number; -1 = not acked
	errs     []error
	lastAck  time.Time
	worst    time.Duration // longest time without an ack
	worstAt  time.Time
	disorder int
}

// startLoad produces until end is called, in the background.
func startLoad(c *Cluster, topic string, partition int32, valueBytes int, opts ...producer.Option) *load {
	ctx, stop := context.WithCancel(context.Background())
	l := &load{p: c.produce(opts...), stop: stop, done: make(chan struct{}), lastAck: time.Now()}
	go func() {
		defer close(l.done)
		value := make([]byte, valueBytes)
		for n := uint64(0); ctx.Err() == nil; n++ {
			binary.BigEndian.PutUint64(value, n)
			l.mu.Lock()
			l.offsets = append(l.offsets, -1)
			l.mu.Unlock()
			l.p.SendAsync(context.Background(), producer.Record{Topic: topic, Partition: &partition, Value: value}, func(r producer.Receipt, err error) { l.acked(n, r, err) })
		}
	}()
	return l
}

func (l *load) acked(n uint64, r producer.Receipt, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if len(l.errs) < 10 {
			l.errs = append(l.errs, err)
		}
		l.offsets[n] = -2
		return
	}
	now := time.Now()
	if gap := now.Sub(l.lastAck); gap > l.worst {
		l.worst, l.worstAt = gap, now
	}
	l.lastAck = now
	l.offsets[n] = r.Offset
}

// count returns how many records were sent so far.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.offsets)
}

// gap returns the longest time without an ack since the last call.
func (l *load) gap() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	worst := max(l.worst, time.Since(l.lastAck))
	l.worst = 0
	return worst
}

// end stops producing and waits for the acks.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	<-l.done
	if err := l.p.Flush(within(t, waitTimeout)); err != nil {
		t.Fatal(err)
	}
}

// check reads the partition from its start and compares: every acked record at
// its acked offset, none twice, in the order they were sent.
func (l *load) check(t *testing.T, c *Cluster, topic string, partition int32) {
	t.Helper()
	r := c.read(topic, partition, consumer.FromEarliest())
	ctx := within(t, waitTimeout)
	seen := make(map[uint64]bool, len(l.offsets))
	next := uint64(0)
	for end := r.HighWatermark(); r.Position() < end; {
		records, err := r.Poll(ctx, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for i := range records {
			n := binary.BigEndian.Uint64(records[i].Value)
			switch {
			case seen[n]:
				t.Fatalf("record %d is stored twice, again at offset %d", n, records[i].Offset)
			case n < next:
				t.Fatalf("record %d at offset %d comes after record %d", n, records[i].Offset, next-1)
			case l.offsets[n] >= 0 && l.offsets[n] != records[i].Offset:
				t.Fatalf("record %d was acked at offset %d and is at %d", n, l.offsets[n], records[i].Offset)
			}
			seen[n], next = true, n+1
		}
	}
	lost := 0
	for n, offset := range l.offsets {
		if offset >= 0 && !seen[uint64(n)] {
			lost++
		}
	}
	if lost > 0 {
		t.Fatalf("%d of %d acked records are lost", lost, len(l.offsets))
	}
	t.Logf("%d records read back: 0 lost, 0 duplicated, 0 out of order", len(seen))
}

func TestLeaderTransferUnderLoadLosesNothing(t *testing.T) {
	c := Start(t, Options{})
	c.CreateTopic("moving", 1, 3, nil)
	l := startLoad(c, "moving", 0, 1024, producer.WithMaxInFlight(32), producer.WithBatchBytes(64<<10))
	c.WaitFor("the producer is at speed", func() bool { return l.count() > 20_000 })
	t.Logf("worst gap between acks before any transfer %v", l.gap())
	leader := c.WaitLeader("moving", 0)
	for range 10 {
		leader = leader%3 + 1
		began := time.Now()
		n := l.count()
		c.Transfer("moving", 0, leader)
		took := time.Since(began)
		c.WaitFor("the producer goes on", func() bool { return l.count() > n+10_000 })
		t.Logf("transfer to %d took %v, worst gap between acks %v", leader, took, l.gap())
	}
	l.end(t)
	for _, err := range l.errs {
		if l.p != nil && err != nil {
			t.Error(err)
		}
	}
	l.check(t, c, "moving", 0)
}
