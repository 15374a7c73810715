package consumer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// ErrClosed says that the reader is closed.
var ErrClosed = errors.New("the reader is closed")

// Header is a record header.
type Header = recordbatch.Header

// Record is one record as read. Key (nil: null), Value (nil: null) and Headers
// are the caller's to keep, not to change; keeping one keeps the memory of its
// whole batch.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Timestamp time.Time
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Reader reads one partition in offset order, following its leader. Its methods
// may be called from any number of goroutines; records are handed out once.
type Reader struct {
	options   options
	client    *client.Client
	topic     string
	topicID   uint64
	partition int32
	subject   string

	// reading holds a token while somebody takes records; it guards current.
	reading chan struct{}
	current cursor

	// mu guards what follows. It is never held while anything is sent,
	// decompressed or waited for.
	mu sync.Mutex
	// queue holds checked batches, in offset order, not decoded yet.
	queue  []recordbatch.Batch
	queued int // bytes in queue
	// position is the offset of the next record to hand out; fetchAt that of
	// the next batch to fetch. Invariant: position ≤ fetchAt while the reader
	// has not failed.
	position, fetchAt int64
	highWatermark     int64
	// generation counts SeekTo: what was fetched before is not of this one.
	generation uint64
	failed     error // why nothing more is fetched, until SeekTo
	closed     bool

	news chan struct{} // to the taker: queue, failed or closed has changed
	work chan struct{} // to the fetcher: there is room, or a seek
	stop chan struct{}
	done chan struct{} // the fetcher has ended
	// cancel ends what the fetcher asks of the metadata.
	cancel context.CancelFunc
}

// cursor is the batch being handed out.
type cursor struct {
	it         *recordbatch.Iterator
	generation uint64
}

// NewReader connects (servers are NATS URLs; none means
// nats://127.0.0.1:4222), finds the position to start at, and begins to fetch.
// It retries until ctx ends, but not for a server that cannot be reached at all
// or a topic or partition that does not exist.
func NewReader(ctx context.Context, servers []string, topic string, partition int32, opts ...Option) (*Reader, error) {
	o := defaultOptions()
	for _, opt := range opts {
		opt(&o)
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	c, err := client.Dial(ctx, servers, client.Options{Name: o.name, TLS: o.tls, Logger: o.logger})
	if err != nil {
		return nil, err
	}
	r := &Reader{
		options: o, client: c, topic: topic, partition: partition,
		subject: protocol.FetchSubject(topic, partition),
		reading: make(chan struct{}, 1), news: make(chan struct{}, 1), work: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	if err := r.start(ctx); err != nil {
		c.Close()
		return nil, err
	}
	life, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go r.run(life)
	return r, nil
}

// start finds out the topic's id, the high watermark and the first position.
func (r *Reader) start(ctx context.Context) error {
	latest, err := r.client.Offsets(ctx, r.topic, r.partition, protocol.TimestampLatest)
	if err != nil {
		return err
	}
	r.topicID, r.highWatermark = latest.TopicID, latest.Offset
	at := r.options.startOffset
	switch r.options.start {
	case startLatest:
		at = latest.Offset
	case startEarliest:
		earliest, err := r.client.Offsets(ctx, r.topic, r.partition, protocol.TimestampEarliest)
		if err != nil {
			return err
		}
		at = earliest.Offset
	case startTime:
		found, err := r.client.Offsets(ctx, r.topic, r.partition, r.options.startTime.UnixMilli())
		if err != nil {
			return err
		}
		if at = found.Offset; at < 0 {
			at = latest.Offset
		}
	}
	r.position, r.fetchAt = at, at
	return nil
}

// Next returns the next record, waiting for it under ctx. An error of ctx loses
// nothing: the record is returned by the next call.
//
// Errors: ctx's; ErrClosed; OFFSET_OUT_OF_RANGE (see WithRange),
// UNKNOWN_TOPIC_ID (the topic was deleted), CORRUPT_MESSAGE and other refusals
// that a retry does not mend. These stay until SeekTo.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	var out Record
	err := r.take(ctx, func(rec Record) bool {
		out = rec
		return false
	})
	return out, err
}

// Poll returns 1 to max records, waiting under ctx for the first. Errors: as
// Next, and then there are no records.
func (r *Reader) Poll(ctx context.Context, max int) ([]Record, error) {
	if max < 1 {
		return nil, fmt.Errorf("consumer: Poll(%d): ask for at least one record", max)
	}
	var out []Record
	err := r.take(ctx, func(rec Record) bool {
		out = append(out, rec)
		return len(out) < max
	})
	return out, err
}

// Records iterates over Next until ctx ends or reading fails: the last pair
// then holds the error. Stopping early loses nothing.
func (r *Reader) Records(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for {
			rec, err := r.Next(ctx)
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

// Position is the offset of the next record to be returned.
func (r *Reader) Position() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.position
}

// HighWatermark is the partition's high watermark as last heard: the offset
// after the last committed record. At first it is that of NewReader.
func (r *Reader) HighWatermark() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.highWatermark
}

// SeekTo moves the position to offset, and clears the error that ended
// reading, if any. Whether offset exists shows at the next record.
func (r *Reader) SeekTo(offset int64) {
	r.mu.Lock()
	r.generation++
	r.queue, r.queued = nil, 0
	r.position, r.fetchAt = offset, offset
	r.failed = nil
	r.mu.Unlock()
	signal(r.work)
	signal(r.news)
}

// Close stops fetching and disconnects. Calls under way end with ErrClosed.
// Closing twice is harmless.
func (r *Reader) Close() error {
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	if again {
		<-r.done
		return nil
	}
	close(r.stop)
	r.cancel()
	<-r.done
	r.client.Close()
	return nil
}

// take hands records to f until it says enough or none is ready. It waits for
// the first under ctx.
func (r *Reader) take(ctx context.Context, f func(Record) bool) error {
	select {
	case r.reading <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.stop:
		return ErrClosed
	}
	defer func() { <-r.reading }()
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		ok, err := r.takeReady(f)
		if ok || err != nil {
			return err
		}
		select {
		case <-r.news:
		case <-ctx.Done():
		case <-r.stop:
			return ErrClosed
		}
	}
}

// takeReady hands out what can be had without waiting, and reports whether that
// was anything.
func (r *Reader) takeReady(f func(Record) bool) (some bool, err error) {
	for {
		ready, err := r.advance()
		if !ready {
			if some {
				return true, nil // the error, if any, stays for the next call
			}
			return false, err
		}
		for r.current.it.Next() {
			rec := r.current.it.Record()
			if rec.Offset < r.Position() {
				continue
			}
			if !r.moveTo(rec.Offset + 1) {
				break // a seek came between
			}
			some = true
			if !f(r.record(rec)) {
				return true, nil
			}
		}
		if err := r.current.it.Err(); err != nil {
			r.failDecoding(fmt.Errorf("%s/%d after offset %d: %w", r.topic, r.partition, r.Position()-1, err))
		}
		r.current.it = nil
	}
}

// moveTo sets the position unless a seek has made the current batch void.
func (r *Reader) moveTo(offset int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current.generation != r.generation {
		return false
	}
	r.position = offset
	return true
}

// advance makes sure there is a current batch, and reports whether there is.
// Its error says that there will not be one.
func (r *Reader) advance() (bool, error) {
	b, ok, err := r.nextBatch()
	if !ok || b == nil {
		return ok, err
	}
	// A new iterator for each batch: the records handed out alias its memory.
	it, err := b.Iterate(recordbatch.IterateOptions{})
	if err != nil {
		err = fmt.Errorf("%s/%d, batch at offset %d: %w", r.topic, r.partition, b.BaseOffset(), err)
		r.failDecoding(err)
		return false, err
	}
	r.current.it = it
	return true, nil
}

// nextBatch takes a batch off the queue; b is nil with ok when the current one
// is not used up.
func (r *Reader) nextBatch() (b recordbatch.Batch, ok bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, false, ErrClosed
	}
	if r.current.it != nil && r.current.generation == r.generation {
		return nil, true, nil
	}
	r.current = cursor{generation: r.generation}
	if len(r.queue) == 0 {
		return nil, false, r.failed
	}
	b = r.queue[0]
	r.queue[0] = nil
	r.queue = r.queue[1:]
	r.queued -= len(b)
	if r.queued <= r.options.prefetchBytes/2 {
		signal(r.work)
	}
	return b, true, nil
}

func (r *Reader) record(rec recordbatch.Record) Record {
	return Record{
		Topic: r.topic, Partition: r.partition, Offset: rec.Offset, Timestamp: time.UnixMilli(rec.TimestampMs),
		Key: rec.Key, Value: rec.Value, Headers: rec.Headers,
	}
}

// fail ends fetching with err, unless a seek came between. What is queued is
// still handed out: it lies before the failure.
func (r *Reader) fail(generation uint64, err error) {
	r.mu.Lock()
	if generation == r.generation && r.failed == nil {
		r.failed = err
	}
	r.mu.Unlock()
	signal(r.news)
}

// failDecoding ends reading at a batch that cannot be decoded: what is queued
// lies behind it and must not be handed out.
func (r *Reader) failDecoding(err error) {
	r.mu.Lock()
	if r.current.generation == r.generation {
		r.failed = err
		r.queue, r.queued = nil, 0
	}
	r.mu.Unlock()
}

// signal leaves a token that wakes the other side, now or later.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
