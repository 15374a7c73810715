package cluster

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/internal/stall"
	"logbroker/producer"
)

// load is a producer at full speed on one partition. Record n holds the number
// n, so that what is read shows what was lost, stored twice or moved.
type load struct {
	p    *producer.Producer
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex // guards what follows
	offsets []int64    // by record number; -1 = not acked, -2 = failed
	errs    []error
	lastAck stall.Mark
	worst   time.Duration // longest time without an ack, without what the machine stood still
	stalls  *stall.Meter
}

// full is the pace of a load that is held up by acks alone.
const full = 0

// startLoad produces until end is called, in the background: perMs records a
// millisecond, or as fast as it goes.
func startLoad(c *Cluster, topic string, partition int32, perMs, valueBytes int, opts ...producer.Option) *load {
	ctx, stop := context.WithCancel(context.Background())
	l := &load{p: c.produce(opts...), stop: stop, done: make(chan struct{}), stalls: stall.Start(c.tb)}
	l.lastAck = l.stalls.Mark()
	go func() {
		defer close(l.done)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		value := make([]byte, valueBytes)
		for n := uint64(0); ctx.Err() == nil; n++ {
			if perMs != full && n%uint64(perMs) == 0 {
				<-tick.C
			}
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
	now := l.stalls.Mark()
	if gap := now.Sub(l.lastAck); gap > l.worst {
		l.worst = gap
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
	worst := max(l.worst, l.stalls.Since(l.lastAck))
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
	c := Start(t, Options{Configure: quietLeaders})
	c.CreateTopic("moving", 1, 3, nil)
	l := startLoad(c, "moving", 0, full, 1024, producer.WithMaxInFlight(32), producer.WithBatchBytes(64<<10))
	c.WaitFor("the producer is at speed", func() bool { return l.count() > 20_000 })
	t.Logf("worst gap between acks before any transfer %v", l.gap())
	leader := c.WaitLeader("moving", 0)
	gaps := []time.Duration{}
	for range 10 {
		leader = leader%3 + 1
		n := l.count()
		l.gap()
		c.Transfer("moving", 0, leader)
		c.WaitFor("the producer goes on", func() bool { return l.count() > n+10_000 })
		gaps = append(gaps, l.gap())
	}
	l.end(t)
	if len(l.errs) > 0 {
		t.Errorf("records failed: %v", l.errs)
	}
	l.check(t, c, "moving", 0)
	slices.Sort(gaps)
	t.Logf("time without an ack around a transfer: %v", gaps)
	// The middle tells what a transfer costs, the worst what the machine did.
	if middle := gaps[len(gaps)/2]; !raceEnabled && middle > 100*time.Millisecond {
		t.Errorf("a transfer took %v from the producer, want at most 100 ms", middle)
	}
}

func TestTransfersWithManyProducersAndPartitionsLoseNothing(t *testing.T) {
	const partitions = 4
	c := Start(t, Options{Configure: quietLeaders})
	c.CreateTopic("storm", partitions, 3, nil)
	var loads []*load
	for i := range int32(partitions) {
		loads = append(loads, startLoad(c, "storm", i, 5, 100))
	}
	for range 4 {
		for i := range int32(partitions) {
			c.Transfer("storm", i, c.WaitLeader("storm", i)%3+1)
		}
	}
	worst := time.Duration(0)
	for i, l := range loads {
		worst = max(worst, l.gap())
		l.end(t)
		if len(l.errs) > 0 {
			t.Errorf("records failed: %v", l.errs)
		}
		l.check(t, c, "storm", int32(i))
	}
	t.Logf("%d transfers, longest time without an ack %v", 4*partitions, worst)
}
