package producer

import (
	"sync"
	"sync/atomic"
	"time"

	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// partition gathers the records of one partition and sends them.
type partition struct {
	p       *Producer
	topic   string
	topicID uint64
	index   int32
	subject string
	sticky  *sticky
	ratio   *ratio // of the topic's batches
	// bytesMax is the topic's max_batch_bytes.
	bytesMax atomic.Int64
	wake     chan struct{} // holds at most one token
	// completed counts the records whose callbacks have run.
	completed atomic.Uint64

	// mu guards the fields down to started. It is held for an append or for
	// moving slices, never while anything is sent or called.
	mu       sync.Mutex
	open     *batch   // being filled
	queue    []*batch // closed, without number, oldest first
	events   []event
	accepted uint64 // records appended
	retired  bool   // takes no more records
	started  bool   // the goroutine runs, or has run

	// What follows belongs to the partition's goroutine (sender.go).
	w         window
	conn      conn // of the attempts under way
	taken     []event
	failures  int       // rounds since the last success
	notBefore time.Time // nothing is sent before
	judged    bool      // the settled round has been judged, notBefore is its backoff
	used      time.Time // when the producer state was last known to be fresh
	lastErr   error
}

// event is the end of an attempt, on its way to the partition's goroutine.
type event struct {
	uid, serial uint64
	outcome     outcome
	// moved: the reply named a newer leader epoch than the request.
	moved bool
}

func newPartition(p *Producer, t *topic, index int32) *partition {
	meta := t.meta
	q := &partition{
		p: p, topic: meta.Name, topicID: meta.ID, index: index, sticky: t.sticky, ratio: t.ratio,
		subject: protocol.ProduceSubject(meta.Name, index),
		wake:    make(chan struct{}, 1),
	}
	q.bytesMax.Store(meta.MaxBatchBytes)
	q.w = window{id: p.identity.ProducerID, epoch: p.identity.Epoch, limit: p.options.maxInFlight}
	return q
}

func (q *partition) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// recordLimit is the largest batch the topic takes. No batch is larger even
// before it is compressed, so none needs to be split when it turns out not to
// shrink.
func (q *partition) recordLimit() int {
	if n := q.bytesMax.Load(); n > 0 {
		return int(min(n, 1<<30))
	}
	return 1 << 20
}

// append adds a record whose encoded size is at most size. It returns false
// when the partition takes no more records.
func (q *partition) append(r *Record, now time.Time, size int, done func(Receipt, error)) bool {
	timestamp := now
	if !r.Timestamp.IsZero() {
		timestamp = r.Timestamp
	}
	q.mu.Lock()
	if q.retired {
		q.mu.Unlock()
		return false
	}
	wake := false
	if q.open != nil && q.open.builder.Size()+size > min(q.open.limit, q.recordLimit()) {
		q.closeBatch()
		wake = true
	}
	if q.open == nil {
		q.openBatch(now)
		wake = true
	}
	q.open.append(r, timestamp.UnixMilli(), int64(size), done)
	q.accepted++
	if q.open.builder.Size() >= q.open.limit {
		q.closeBatch()
		wake = true
	}
	start := !q.started
	q.started = true
	q.mu.Unlock()
	if start {
		q.p.goroutines.Add(1)
		go q.run()
	}
	if wake {
		q.poke()
	}
	return true
}

// openBatch begins a batch. mu is held.
func (q *partition) openBatch(now time.Time) {
	q.open = q.p.pools.get(now)
	q.open.limit = q.batchLimit()
	q.p.open.Add(1)
}

// closeBatch moves the open batch to the queue. mu is held.
func (q *partition) closeBatch() {
	q.p.open.Add(-1)
	q.queue = append(q.queue, q.open)
	q.sticky.closed(q.index, q.open.builder.Size())
	q.open = nil
}

// next takes the batch to be numbered next, if one is due. idle says that
// nothing is in flight.
func (q *partition) next(now time.Time, idle bool) *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		if q.open == nil || now.Before(q.dueAt(idle)) {
			return nil
		}
		q.closeBatch()
	}
	b := q.queue[0]
	n := copy(q.queue, q.queue[1:])
	q.queue[n] = nil
	q.queue = q.queue[:n]
	return b
}

// dueAt returns when the open batch is to be sent though it is not full. mu is
// held, and there is an open batch.
func (q *partition) dueAt(idle bool) time.Time {
	linger := q.p.options.linger
	switch {
	case q.p.flushing.Load() > 0 || q.retired:
		linger = 0
	case linger < 0 && idle:
		linger = 0
	case linger < 0:
		linger = DefaultLingerMax
	}
	return q.open.created.Add(linger)
}

// requeue puts batches back in front; they are certainly not stored.
func (q *partition) requeue(bs []*batch) {
	if len(bs) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(bs, q.queue...)
}

// post hands an event to the goroutine. It runs on a connection's goroutine.
func (q *partition) post(e event) {
	q.mu.Lock()
	q.events = append(q.events, e)
	q.mu.Unlock()
	q.poke()
}

func (q *partition) takeEvents() []event {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken, q.events = q.events, q.taken[:0]
	return q.taken
}

// retire makes the partition refuse records; what it holds is still sent. The
// goroutine ends when all is resolved.
func (q *partition) retire() {
	q.mu.Lock()
	q.retired = true
	q.mu.Unlock()
	q.poke()
}

// idle reports whether every record handed over has had its callback.
func (q *partition) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.completed.Load() == q.accepted
}

// takeAll retires the partition and takes everything without a number.
func (q *partition) takeAll() []*batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.retired = true
	if q.open != nil {
		q.closeBatch()
	}
	bs := q.queue
	q.queue = nil
	return bs
}

// recordSize bounds the encoded size of r.
func recordSize(r *Record) int { return recordbatch.RecordSize(r.Key, r.Value, r.Headers) }
