package testbed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/internal/history"
	"logbroker/internal/stall"
	"logbroker/producer"
)

const (
	// burstEvery is how often a lane sends.
	burstEvery = 20 * time.Millisecond
	// laneShift: a message's id is its lane and its number there.
	laneShift = 40
	// closeMax is how long the producers may take for their last verdicts.
	closeMax = 150 * time.Second
)

// LoadOptions say what is sent.
type LoadOptions struct {
	Topic      string
	Partitions int32
	// Producers is how many producer clients there are, each of which writes to
	// every partition.
	Producers int
	// Rate is in records a second, over all. Window is how many records each
	// producer may have without a verdict in each partition: what does not fit is
	// sent later.
	Rate, Window int
	// ValueBytes is the size of a value, at least 8.
	ValueBytes int
	// Patience is the delivery time-out of the patient producers, 0 for the
	// library's default. Every second producer is impatient.
	Patience time.Duration
	// Open: what does not fit into the window is dropped, not sent later, so that
	// Rate is offered whatever is allowed.
	Open bool
	// Plain: no producer compresses. Else every second one does, and then so few
	// bytes are left that ValueBytes says nothing.
	Plain bool
	// Read: every partition is read by a client all the while.
	Read   bool
	Stalls *stall.Meter
}

// Load sends numbered records without a pause and writes down what came of each.
type Load struct {
	options   LoadOptions
	producers []*producer.Producer
	lanes     []*lane
	readers   *readers // nil for none
	stopping  chan struct{}
	sending   sync.WaitGroup
	perBurst  atomic.Int64
	offered   atomic.Int64 // records, with those that were dropped

	mu   sync.Mutex   // guards what follows
	last []stall.Mark // by partition: its last ack
	from stall.Mark   // gaps are measured from here
	// worst is the longest time without an ack of one partition since from, less
	// what the machine stood still.
	worst   time.Duration
	worstOf int32
	fresh   []int // acks since from, by partition
}

// lane is one producer's records to one partition, in the order they were sent.
type lane struct {
	load      *Load
	id        uint64
	partition int32
	producer  *producer.Producer
	window    chan struct{}

	mu   sync.Mutex // guards sent
	sent []sending
}

// sending is a record and what came of it.
type sending struct {
	invoked, answered int64 // nanoseconds since 1970
	offset            int64
	verdict           history.Kind // 0: none yet
}

// StartLoad begins to send. Every second producer gives up soon, so that
// unknown outcomes are part of what is proven.
func StartLoad(ctx context.Context, servers []string, o LoadOptions) (*Load, error) {
	l := &Load{options: o, stopping: make(chan struct{}), last: make([]stall.Mark, o.Partitions), fresh: make([]int, o.Partitions)}
	l.SetRate(o.Rate)
	for i := range o.Producers {
		opts := []producer.Option{producer.WithMaxInFlight(16), producer.WithLinger(2 * time.Millisecond), producer.WithCompression(producer.None)}
		if o.Patience > 0 {
			opts = append(opts, producer.WithDeliveryTimeout(o.Patience))
		}
		if i%2 == 1 {
			opts = append(opts, producer.WithDeliveryTimeout(2*time.Second))
		}
		if i%2 == 1 && !o.Plain {
			opts = append(opts, producer.WithCompression(producer.Zstd))
		}
		p, err := producer.New(ctx, servers, opts...)
		if err != nil {
			return nil, errors.Join(err, l.close(time.Second))
		}
		l.producers = append(l.producers, p)
		for partition := range o.Partitions {
			l.lanes = append(l.lanes, &lane{load: l, id: uint64(len(l.lanes) + 1), partition: partition, producer: p, window: make(chan struct{}, o.Window)})
		}
	}
	if o.Read {
		r, err := startReaders(ctx, servers, o.Topic, o.Partitions)
		if err != nil {
			return nil, errors.Join(err, l.close(time.Second))
		}
		l.readers = r
	}
	for _, a := range l.lanes {
		l.sending.Go(a.send) // ends with stopping
	}
	return l, nil
}

// SetRate changes how many records a second are sent; 0 pauses.
func (l *Load) SetRate(rate int) {
	lanes := l.options.Producers * int(l.options.Partitions)
	perBurst := rate * int(burstEvery/time.Millisecond) / 1000 / lanes
	if rate > 0 {
		perBurst = max(perBurst, 1)
	}
	l.perBurst.Store(int64(perBurst))
}

// Offered counts the records that were to be sent up to now.
func (l *Load) Offered() int64 { return l.offered.Load() }

func (a *lane) send() {
	tick := time.NewTicker(burstEvery)
	defer tick.Stop()
	for {
		select {
		case <-a.load.stopping:
			return
		case <-tick.C:
		}
		n := a.load.perBurst.Load()
		a.load.offered.Add(n)
		for range n {
			if !a.room() {
				break
			}
			a.sendOne()
		}
	}
}

// room takes a place in the window: waiting for it until the load stops, or, in an
// open load, if there is one.
func (a *lane) room() bool {
	if a.load.options.Open {
		select {
		case a.window <- struct{}{}:
			return true
		default:
			return false
		}
	}
	select {
	case <-a.load.stopping:
		return false
	case a.window <- struct{}{}:
		return true
	}
}

func (a *lane) sendOne() {
	a.mu.Lock()
	number := len(a.sent)
	a.sent = append(a.sent, sending{invoked: history.Now()})
	a.mu.Unlock()
	value := appendValue(nil, a.id<<laneShift|uint64(number+1), a.load.options.ValueBytes)
	a.producer.SendAsync(context.Background(), producer.Record{Topic: a.load.options.Topic, Partition: &a.partition, Value: value},
		func(r producer.Receipt, err error) { a.hear(number, r, err) })
}

func (a *lane) hear(number int, r producer.Receipt, err error) {
	now := history.Now()
	a.mu.Lock()
	s := &a.sent[number]
	s.answered, s.offset, s.verdict = now, r.Offset, verdictOf(err)
	a.mu.Unlock()
	if err == nil {
		a.load.acked(a.partition)
	}
	<-a.window
}

// verdictOf: only what the library calls certain counts as a failure.
func verdictOf(err error) history.Kind {
	switch {
	case err == nil:
		return history.OK
	case errors.Is(err, producer.ErrDeliveryTimeout) && !errors.Is(err, producer.ErrUnknownOutcome):
		return history.Fail
	}
	return history.Unknown
}

// appendValue makes a message's value: its id, again and again, so that every
// byte of it can be checked.
func appendValue(b []byte, id uint64, size int) []byte {
	size += len(b)
	for len(b) < size {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	return b[:size]
}

// messageIn returns the message that a value holds, 0 for none.
func messageIn(value []byte) uint64 {
	if len(value) < 8 {
		return 0
	}
	id := binary.BigEndian.Uint64(value)
	if !slices.Equal(appendValue(nil, id, len(value)), value) {
		return 0
	}
	return id
}

func (l *Load) acked(partition int32) {
	now := l.options.Stalls.Mark()
	l.mu.Lock()
	defer l.mu.Unlock()
	if gap := now.Sub(l.since(partition, now)); gap > l.worst {
		l.worst, l.worstOf = gap, partition
	}
	l.last[partition] = now
	l.fresh[partition]++
}

// since needs mu.
func (l *Load) since(partition int32, now stall.Mark) stall.Mark {
	at := l.last[partition]
	if at.Before(l.from) {
		at = l.from
	}
	if at.IsZero() {
		return now
	}
	return at
}

// Mark begins a new measurement of gaps.
func (l *Load) Mark() {
	now := l.options.Stalls.Mark()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.from, l.worst = now, 0
	clear(l.fresh)
}

// Gap returns the longest time that one partition went without an ack since
// Mark, counting what goes on at present and less what the machine stood still,
// and which one it was.
func (l *Load) Gap() (worst time.Duration, partition int32) {
	now := l.options.Stalls.Mark()
	l.mu.Lock()
	defer l.mu.Unlock()
	worst, partition = l.worst, l.worstOf
	for p := range l.last {
		if gap := now.Sub(l.since(int32(p), now)); gap > worst {
			worst, partition = gap, int32(p)
		}
	}
	return worst, partition
}

// AwaitAcks waits until every partition has had n acks since Mark.
func (l *Load) AwaitAcks(ctx context.Context, n int) error {
	return await(ctx, fmt.Sprintf("every partition has %d acks", n), func() (bool, string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return slices.Min(l.fresh) >= n, fmt.Sprint("acks by partition ", l.fresh)
	})
}

// AwaitQuiet waits for the verdict on everything that was sent.
func (l *Load) AwaitQuiet(ctx context.Context) error {
	return await(ctx, "every record has its verdict", func() (bool, string) {
		for _, a := range l.lanes {
			if len(a.window) > 0 {
				return false, fmt.Sprintf("%d of lane %d have none", len(a.window), a.id)
			}
		}
		return true, ""
	})
}

// Acked counts the acks up to now.
func (l *Load) Acked() int {
	n := 0
	for _, a := range l.lanes {
		a.mu.Lock()
		for i := range a.sent {
			if a.sent[i].verdict == history.OK {
				n++
			}
		}
		a.mu.Unlock()
	}
	return n
}

// Finish stops sending and waits for the verdict on every record.
func (l *Load) Finish() error {
	close(l.stopping)
	l.sending.Wait()
	return l.close(closeMax)
}

func (l *Load) close(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var errs []error
	for _, p := range l.producers {
		errs = append(errs, p.Close(ctx))
	}
	return errors.Join(errs...)
}
