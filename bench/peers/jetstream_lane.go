package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	// batchBacklog records waiting make a lane open a fast batch; below it they
	// are published one by one, each with an ack of its own.
	batchBacklog = 16
	// batchIdle without a record ends a fast batch, so that its last records get
	// their ack.
	batchIdle = 2 * time.Millisecond
	// batchAckTimeout ends a fast batch that the server does not answer.
	batchAckTimeout = 10 * time.Second
)

var (
	errNoAck     = errors.New("no ack before the connection was closed: the record may be stored")
	errNotInSync = errors.New("the server ended the batch: the record may be stored")
)

// laneRecord is a record on its way to a lane's goroutine.
type laneRecord struct {
	value []byte
	done  func(error)
}

// lane is what one producer sends to one stream. Without a queue (path async)
// Send publishes by itself; with one a goroutine does, and makes fast batches
// while there is a backlog.
type lane struct {
	js      jetstream.JetStream
	subject string
	flow    jetstreamext.FastPublishFlowControl
	slots   chan struct{}   // one per single publish without an ack
	queue   chan laneRecord // nil for path async
	ended   chan struct{}   // closed when run has returned

	outstanding atomic.Int64 // records without a final word

	// mu guards singles: handlers and the sending goroutine use it.
	mu      sync.Mutex
	singles map[*nats.Msg]func(error) // by the message as it was published

	// Of run's goroutine alone.
	batch     jetstreamext.FastPublisher // nil: none is open
	unacked   []func(error)              // records of the batch, oldest first
	firstLeft uint64                     // the sequence in the batch of unacked[0]
}

func newLane(conn *nats.Conn, subject string, recordSize int) (*lane, error) {
	window := asyncWindow(recordSize)
	l := &lane{
		subject: subject, slots: make(chan struct{}, window), singles: make(map[*nats.Msg]func(error), window),
		ended: make(chan struct{}),
		flow: jetstreamext.FastPublishFlowControl{
			Flow: uint16(fastFlow(recordSize)), MaxOutstandingAcks: fastOutstanding, AckTimeout: batchAckTimeout,
		},
	}
	var err error
	l.js, err = jetStreamOf(conn, l, window)
	return l, err
}

// send takes one record; it blocks while the window is full.
func (l *lane) send(ctx context.Context, value []byte, done func(error)) {
	if l.queue == nil {
		l.single(ctx, value, done)
		return
	}
	select {
	case l.queue <- laneRecord{value, done}:
	case <-ctx.Done():
		l.finish(done, ctx.Err())
	}
}

// finish gives a record its final word.
func (l *lane) finish(done func(error), err error) {
	done(err)
	l.outstanding.Add(-1)
}

// single publishes one record with an ack of its own.
func (l *lane) single(ctx context.Context, value []byte, done func(error)) {
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		l.finish(done, ctx.Err())
		return
	}
	m := &nats.Msg{Subject: l.subject, Data: value}
	l.mu.Lock()
	l.singles[m] = done
	l.mu.Unlock()
	if _, err := l.js.PublishMsgAsync(m); err != nil {
		l.acked(m, err)
	}
}

// acked ends a single publish; a second call for the same one does nothing.
func (l *lane) acked(m *nats.Msg, err error) {
	l.mu.Lock()
	done, waiting := l.singles[m]
	delete(l.singles, m)
	l.mu.Unlock()
	if waiting {
		<-l.slots
		l.finish(done, err)
	}
}

// close ends the goroutine after what was queued.
func (l *lane) close() {
	if l.queue != nil {
		close(l.queue)
		<-l.ended
	}
}

// abandon gives single publishes that will never be acked their final word. The
// connection is closed.
func (l *lane) abandon() {
	l.mu.Lock()
	left := make([]*nats.Msg, 0, len(l.singles))
	for m := range l.singles {
		left = append(left, m)
	}
	l.mu.Unlock()
	for _, m := range left {
		l.acked(m, errNoAck)
	}
}

// run is the goroutine of a lane with a queue. It blocks on the queue, on the
// window and on acks of a batch.
func (l *lane) run() {
	defer close(l.ended)
	defer l.endBatch()
	idle := time.NewTimer(batchIdle)
	defer idle.Stop()
	for {
		r, ok := l.take(idle)
		switch {
		case !ok:
			return
		case r.done == nil:
			l.endBatch()
		case l.batch == nil && len(l.queue) < batchBacklog:
			l.single(context.Background(), r.value, r.done)
		default:
			l.add(r)
		}
	}
}

// take returns the next record; one without done says that none came for
// batchIdle while a batch is open.
func (l *lane) take(idle *time.Timer) (laneRecord, bool) {
	if l.batch == nil {
		r, ok := <-l.queue
		return r, ok
	}
	select {
	case r, ok := <-l.queue:
		return r, ok
	default:
	}
	idle.Reset(batchIdle)
	select {
	case r, ok := <-l.queue:
		return r, ok
	case <-idle.C:
		return laneRecord{}, true
	}
}

// add sends a record in the open batch, or in a new one.
func (l *lane) add(r laneRecord) {
	if l.batch == nil {
		batch, err := jetstreamext.NewFastPublisher(l.js, l.flow)
		if err != nil {
			l.finish(r.done, err)
			return
		}
		l.batch, l.firstLeft = batch, 1
	}
	l.unacked = append(l.unacked, r.done)
	ack, err := l.batch.Add(l.subject, r.value)
	if err != nil {
		l.batch = nil
		l.finishBatch(err)
		return
	}
	l.finishUpTo(ack.AckSequence)
	if l.batch.IsClosed() { // the server ended it
		l.batch = nil
		l.finishBatch(errNotInSync)
	}
}

// finishUpTo ends the records of the batch up to the acked sequence.
func (l *lane) finishUpTo(sequence uint64) {
	if sequence < l.firstLeft {
		return
	}
	n := min(int(sequence-l.firstLeft)+1, len(l.unacked))
	for _, done := range l.unacked[:n] {
		l.finish(done, nil)
	}
	l.unacked = append(l.unacked[:0], l.unacked[n:]...)
	l.firstLeft += uint64(n)
}

// endBatch closes the batch and waits for the ack of all of it.
func (l *lane) endBatch() {
	if l.batch == nil {
		return
	}
	batch := l.batch
	l.batch = nil
	ctx, cancel := context.WithTimeout(context.Background(), batchAckTimeout)
	defer cancel()
	_, err := batch.Close(ctx)
	l.finishBatch(err)
}

// finishBatch gives every record of the batch that ended its final word.
func (l *lane) finishBatch(err error) {
	for _, done := range l.unacked {
		l.finish(done, err)
	}
	l.unacked = l.unacked[:0]
}
