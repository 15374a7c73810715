package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/internal/client"
	"logbroker/internal/protocol"
	"logbroker/internal/stall"
	"logbroker/producer"
)

// loadKeys is the number of keys a load spreads its records over.
const loadKeys = 97

// Every millisecond of loadTick a load sends loadBurst records: about 10,000 a second.
const (
	loadTick  = 5 * time.Millisecond
	loadBurst = 50
)

// place is where a record was acked; partition -1: it was not.
type place struct {
	partition int32
	offset    int64
}

// load is an idempotent producer that sends numbered records without a pause
// and writes down every ack.
type load struct {
	topic    string
	burst    int // records per loadTick
	producer *producer.Producer
	stopping chan struct{}
	sending  sync.WaitGroup

	mu       sync.Mutex
	acked    []place              // by sequence number
	count    int                  // acked records
	failures []string             // the first few
	last     map[int32]stall.Mark // partition → its last ack
	since    stall.Mark           // gaps are measured from here
	worst    time.Duration        // longest time without an ack of some partition since then
	own      time.Duration        // the same, not counting what the machine stood still
	fresh    map[int32]int        // partition → acks since then
	stalls   *stall.Meter
}

// startLoad begins to send to every partition of topic.
func startLoad(t testing.TB, servers []string, topic string) *load {
	t.Helper()
	return startLoadOf(t, servers, topic, loadBurst)
}

// startLoadOf is startLoad with burst records every loadTick.
func startLoadOf(t testing.TB, servers []string, topic string, burst int) *load {
	t.Helper()
	p, err := producer.New(t.Context(), servers, producer.WithMaxInFlight(16), producer.WithLinger(2*time.Millisecond), producer.WithBatchBytes(16<<10))
	if err != nil {
		t.Fatal(err)
	}
	l := &load{topic: topic, burst: burst, producer: p, stopping: make(chan struct{}), last: map[int32]stall.Mark{}, fresh: map[int32]int{}, stalls: stall.Start(t)}
	l.sending.Go(func() { l.send(context.Background()) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Close(ctx) // it is closed already when the test came to its end
	})
	return l
}

func (l *load) send(ctx context.Context) {
	tick := time.NewTicker(loadTick)
	defer tick.Stop()
	for {
		select {
		case <-l.stopping:
			return
		case <-tick.C:
		}
		for range l.burst {
			l.sendOne(ctx)
		}
	}
}

func (l *load) sendOne(ctx context.Context) {
	l.mu.Lock()
	number := len(l.acked)
	l.acked = append(l.acked, place{partition: -1})
	l.mu.Unlock()
	r := producer.Record{Topic: l.topic, Key: loadKey(number), Value: binary.BigEndian.AppendUint64(nil, uint64(number))}
	l.producer.SendAsync(ctx, r, func(receipt producer.Receipt, err error) { l.hear(number, receipt, err) })
}

func loadKey(number int) []byte { return []byte("key-" + strconv.Itoa(number%loadKeys)) }

func (l *load) hear(number int, receipt producer.Receipt, err error) {
	now := l.stalls.Mark()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if len(l.failures) < 5 {
			l.failures = append(l.failures, fmt.Sprintf("record %d: %v", number, err))
		}
		return
	}
	p := receipt.Partition
	l.acked[number] = place{p, receipt.Offset}
	l.count++
	from := l.last[p]
	if from.Before(l.since) {
		from = l.since
	}
	if !from.IsZero() {
		l.worst, l.own = max(l.worst, now.Elapsed(from)), max(l.own, now.Sub(from))
	}
	l.last[p] = now
	l.fresh[p]++
}

// mark begins a new measurement of gaps.
func (l *load) mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since, l.worst, l.own = l.stalls.Mark(), 0, 0
	clear(l.fresh)
}

// gap returns the longest time that one partition went without an ack since
// mark, counting what goes on at present; own does not count what the machine
// stood still.
func (l *load) gap() (worst, own time.Duration) {
	now := l.stalls.Mark()
	l.mu.Lock()
	defer l.mu.Unlock()
	worst, own = l.worst, l.own
	for _, at := range l.last {
		if at.Before(l.since) {
			at = l.since
		}
		worst, own = max(worst, now.Elapsed(at)), max(own, now.Sub(at))
	}
	return worst, own
}

// stood returns how long the machine stood still since mark.
func (l *load) stood() time.Duration {
	l.mu.Lock()
	since := l.since
	l.mu.Unlock()
	return l.stalls.Stood(since)
}

// awaitAcks waits until each of partitions has had n acks since mark.
func (l *load) awaitAcks(t testing.TB, partitions, n int, timeout time.Duration) {
	t.Helper()
	await(t, timeout, fmt.Sprintf("%d acks from each of %d partitions", n, partitions), func() (bool, string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for p := range int32(partitions) {
			if l.fresh[p] < n {
				return false, fmt.Sprintf("acks per partition %v, failures %q", l.fresh, l.failures)
			}
		}
		return true, ""
	})
}

// finish stops sending and waits for the verdict on every record; each must be
// an ack.
func (l *load) finish(t testing.TB) {
	t.Helper()
	close(l.stopping)
	l.sending.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := l.producer.Close(ctx); err != nil {
		t.Errorf("closing the producer: %v", err)
	}
	if len(l.failures) > 0 {
		t.Errorf("records failed within a delivery time-out of 2 minutes: %q", l.failures)
	}
	if l.count != len(l.acked) {
		t.Errorf("%d of %d records acked", l.count, len(l.acked))
	}
}

// verify reads all of the topic back and demands each acked record exactly
// once, at its acked offset, and each key's records in the order sent.
func (l *load) verify(t testing.TB, servers []string, partitions int) {
	t.Helper()
	seen := make([]bool, len(l.acked))
	for p := range int32(partitions) {
		last := map[string]int{}
		readAll(t, servers, l.topic, p, func(r consumer.Record) {
			number := int(binary.BigEndian.Uint64(r.Value))
			switch {
			case number >= len(seen) || string(r.Key) != string(loadKey(number)):
				t.Fatalf("%s/%d offset %d holds what was never sent: key %q value %x", l.topic, p, r.Offset, r.Key, r.Value)
			case seen[number]:
				t.Errorf("record %d is stored twice, again at %s/%d offset %d", number, l.topic, p, r.Offset)
			case l.acked[number].partition >= 0 && l.acked[number] != place{p, r.Offset}:
				t.Errorf("record %d was acked at %+v and is at %s/%d offset %d", number, l.acked[number], l.topic, p, r.Offset)
			}
			seen[number] = true
			if before, ok := last[string(r.Key)]; ok && before >= number {
				t.Errorf("%s/%d offset %d: record %d of key %q after %d", l.topic, p, r.Offset, number, r.Key, before)
			}
			last[string(r.Key)] = number
		})
	}
	lost := 0
	for number, at := range l.acked {
		if at.partition >= 0 && !seen[number] {
			if lost++; lost <= 5 {
				t.Errorf("record %d, acked at %+v, is lost", number, at)
			}
		}
	}
	if lost > 5 {
		t.Errorf("%d acked records lost in all", lost)
	}
}

// readAll reads a partition from its first offset, 0, to its high watermark of
// now, and fails the test on any gap.
func readAll(t testing.TB, servers []string, topic string, partition int32, each func(consumer.Record)) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	end := latest(t, dial(t, servers...), topic, partition)
	r, err := consumer.NewReader(ctx, servers, topic, partition, consumer.FromEarliest())
	if err != nil {
		t.Fatalf("reading %s/%d: %v", topic, partition, err)
	}
	defer r.Close()
	for next := int64(0); next < end; next++ {
		record, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("reading %s/%d at offset %d of %d: %v", topic, partition, next, end, err)
		}
		if record.Offset != next {
			t.Fatalf("%s/%d: offset %d where %d was due", topic, partition, record.Offset, next)
		}
		each(record)
	}
	return end
}

// latest returns a partition's high watermark.
func latest(t testing.TB, c *client.Client, topic string, partition int32) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reply, err := c.Offsets(ctx, topic, partition, protocol.TimestampLatest)
	if err != nil {
		t.Fatalf("latest offset of %s/%d: %v", topic, partition, err)
	}
	return reply.Offset
}
