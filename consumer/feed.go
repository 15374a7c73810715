package consumer

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// feed is what one partition brings: batches fetched ahead by a goroutine of
// its own (fetch.go), and the records of the one that is being handed out. It
// follows the partition's leader. A Reader is one feed with a client of its
// own; a Consumer has one for each partition it owns, all with one client.
type feed struct {
	options   options
	client    *client.Client
	topic     string
	topicID   uint64
	partition int32
	subject   string
	// prefetch returns how many bytes may be fetched ahead, just now.
	prefetch func() int
	// withheld, when not nil, reports whether nothing is to be handed out just
	// now. Who changes that calls tell.
	withheld func() bool
	// also, when not nil, gets a token whenever news does.
	also chan struct{}

	// reading holds a token while somebody takes records; it guards current.
	reading chan struct{}
	current cursor

	// mu guards what follows, and the marks. It is never held while anything is
	// sent, decompressed or waited for.
	mu sync.Mutex
	// queue holds checked batches, in offset order, not decoded yet.
	queue  []recordbatch.Pieces
	queued int // bytes in queue
	// position is the offset of the next record to hand out; fetchAt that of
	// the next batch to fetch. Invariant: position ≤ fetchAt while the feed
	// has not failed.
	position, fetchAt int64
	highWatermark     int64
	// generation counts seeks: what was fetched before is not of this one.
	generation uint64
	failed     error // why nothing more is fetched, until a seek
	closed     bool  // nothing more is handed out
	// marks says what became of the records handed out; nil for a Reader.
	marks *marks

	news chan struct{} // to the taker: queue, failed or closed has changed
	work chan struct{} // to the fetcher: there is room, or a seek
	stop chan struct{} // closed with closed
	done chan struct{} // the fetcher has ended
	// cancel ends what the fetcher asks of the metadata.
	cancel context.CancelFunc
}

// cursor is the batch being handed out.
type cursor struct {
	it         *recordbatch.Iterator
	generation uint64
	marks      *marks
}

// newFeed makes a feed that does not fetch yet. Its fields that other
// goroutines see later may be set until begin.
func newFeed(c *client.Client, o options, topic string, partition int32) *feed {
	return &feed{
		options: o, client: c, topic: topic, partition: partition,
		subject:  protocol.FetchSubject(topic, partition),
		prefetch: func() int { return o.prefetchBytes },
		reading:  make(chan struct{}, 1), news: make(chan struct{}, 1), work: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
}

// begin starts the fetching goroutine; close ends it.
func (r *feed) begin() {
	life, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go r.run(life)
}

// halt makes the feed hand out nothing more and forget what it holds. It does
// not wait, and reports whether it was the first.
func (r *feed) halt() bool {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.queue, r.queued = nil, 0
	r.mu.Unlock()
	if first {
		close(r.stop)
		r.cancel()
	}
	return first
}

// close halts the feed and waits for its goroutine.
func (r *feed) close() {
	r.halt()
	<-r.done
}

// seekTo moves the position to offset, and clears the error that ended reading,
// if any. What is marked from now on counts in m.
func (r *feed) seekTo(offset int64, m *marks) {
	r.mu.Lock()
	if r.marks != nil {
		if r.closed { // its account is being settled
			r.mu.Unlock()
			return
		}
		r.marks.void = true
	}
	r.generation++
	r.queue, r.queued = nil, 0
	r.position, r.fetchAt = offset, offset
	r.failed = nil
	r.marks = m
	r.mu.Unlock()
	signal(r.work)
	r.tell()
}

// tell wakes whoever takes records.
func (r *feed) tell() {
	signal(r.news)
	if r.also != nil {
		signal(r.also)
	}
}

// take appends 1 to max records to out, waiting under ctx for the first. With an
// error there are none.
func (r *feed) take(ctx context.Context, out []Record, max int) ([]Record, error) {
	select {
	case r.reading <- struct{}{}:
	case <-ctx.Done():
		return out, context.Cause(ctx)
	case <-r.stop:
		return out, ErrClosed
	}
	defer func() { <-r.reading }()
	for {
		if err := ctx.Err(); err != nil {
			return out, context.Cause(ctx)
		}
		taken, err := r.takeReady(out, max)
		if len(taken) > len(out) || err != nil {
			return taken, err
		}
		select {
		case <-r.news:
		case <-ctx.Done():
		case <-r.stop:
			return out, ErrClosed
		}
	}
}

// takeOne waits for the next record.
func (r *feed) takeOne(ctx context.Context) (Record, error) {
	var one [1]Record
	out, err := r.take(ctx, one[:0], 1)
	if err != nil {
		return Record{}, err
	}
	return out[0], nil
}

// tryTake is takeReady for one of several takers: nothing is ready while
// another one takes.
func (r *feed) tryTake(out []Record, max int) ([]Record, error) {
	select {
	case r.reading <- struct{}{}:
	default:
		return out, nil
	}
	defer func() { <-r.reading }()
	return r.takeReady(out, max)
}

// takeReady appends up to max records that can be had without waiting to out. Its
// error comes alone; where there are records it stays for the next call.
func (r *feed) takeReady(out []Record, max int) ([]Record, error) {
	begin := len(out)
	for len(out)-begin < max {
		if r.withheld != nil && r.withheld() {
			break
		}
		ready, err := r.advance()
		if !ready {
			if len(out) > begin {
				err = nil
			}
			return out, err
		}
		out = r.takeCurrent(out, max-(len(out)-begin))
	}
	return out, nil
}

// growMax is how many records memory is taken for before they are decoded: what a
// header promises is not proven yet.
const growMax = 4096

// takeCurrent appends up to max records of the current batch to out, and lets go
// of the batch behind its last one.
func (r *feed) takeCurrent(out []Record, max int) []Record {
	it, from, begin := r.current.it, r.at(), len(out)
	out = slices.Grow(out, min(max, it.Left(), growMax))
	for len(out)-begin < max {
		if !it.Next() {
			r.current.it = nil
			break
		}
		if rec := it.Record(); rec.Offset >= from {
			out = append(out, r.record(rec))
		}
	}
	if !r.handOut(out[begin:]) { // a seek or the end came between
		clear(out[begin:])
		out, r.current.it = out[:begin], nil
	}
	if err := it.Err(); err != nil {
		r.failDecoding(fmt.Errorf("%s/%d after offset %d: %w", r.topic, r.partition, r.at()-1, err))
	}
	return out
}

// at is the position.
func (r *feed) at() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.position
}

// handOut moves the position behind records, all of the current batch, unless a
// seek has made that void, the partition is lost or the feed is closed. From then
// on they are handed out.
func (r *feed) handOut(records []Record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.current.generation != r.generation || r.marks != nil && r.marks.void {
		return false
	}
	for i := range records {
		r.position = records[i].Offset + 1
		if r.marks != nil {
			r.marks.handOut(records[i].Offset)
		}
	}
	return true
}

// advance makes sure there is a current batch, and reports whether there is.
// Its error says that there will not be one.
func (r *feed) advance() (bool, error) {
	b, ok, err := r.nextBatch()
	if !ok || b.Size() == 0 {
		return ok, err
	}
	// A new iterator for each batch: the records handed out alias its memory.
	it, err := b.Iterate(recordbatch.IterateOptions{})
	if err != nil {
		err = fmt.Errorf("%s/%d, batch at offset %d: %w", r.topic, r.partition, b.Header().BaseOffset(), err)
		r.failDecoding(err)
		return false, err
	}
	r.current.it = it
	return true, nil
}

// nextBatch takes a batch off the queue; b is empty with ok when the current one
// is not used up.
func (r *feed) nextBatch() (b recordbatch.Pieces, ok bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return b, false, ErrClosed
	}
	if r.current.it != nil && r.current.generation == r.generation {
		return b, true, nil
	}
	r.current = cursor{generation: r.generation, marks: r.marks}
	if len(r.queue) == 0 {
		return b, false, r.failed
	}
	b = r.queue[0]
	r.queue[0] = recordbatch.Pieces{}
	r.queue = r.queue[1:]
	r.queued -= b.Size()
	if r.queued <= r.prefetch()/2 {
		signal(r.work)
	}
	return b, true, nil
}

func (r *feed) record(rec recordbatch.Record) Record {
	return Record{
		Topic: r.topic, Partition: r.partition, Offset: rec.Offset, Timestamp: time.UnixMilli(rec.TimestampMs),
		Key: rec.Key, Value: rec.Value, Headers: rec.Headers, marks: r.current.marks,
	}
}

// fail ends fetching with err, unless a seek came between. What is queued is
// still handed out: it lies before the failure.
func (r *feed) fail(generation uint64, err error) {
	r.mu.Lock()
	if generation == r.generation && r.failed == nil {
		r.failed = err
	}
	r.mu.Unlock()
	r.tell()
}

// failDecoding ends reading at a batch that cannot be decoded: what is queued
// lies behind it and must not be handed out.
func (r *feed) failDecoding(err error) {
	r.mu.Lock()
	if r.current.generation == r.generation {
		r.failed = err
		r.queue, r.queued = nil, 0
	}
	r.mu.Unlock()
}

// topicGone reports whether fetching ended because the topic is no more.
func (r *feed) topicGone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errcode.Of(r.failed) == errcode.UnknownTopicID
}

// signal leaves a token that wakes the other side, now or later.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
