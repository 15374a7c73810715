package failures

import (
	"context"
	"strings"
	"sync"

	"logbroker/internal/history"
	"logbroker/producer"
)

// log is the history of a play.
type log struct {
	mu     sync.Mutex // guards events
	events []history.Event
}

// add notes an event that happens now.
func (l *log) add(e history.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.At = history.Now()
	l.events = append(l.events, e)
}

// sender is a producer of the public library whose every record is an event.
type sender struct {
	number uint64 // its end of the wires
	topic  string
	log    *log
	p      *producer.Producer

	// mu guards what follows.
	mu      sync.Mutex
	next    int64
	records []*record
}

// record is one record that was sent.
type record struct {
	message uint64
	name    string
	settled bool
	receipt producer.Receipt
	err     error
}

// recordBytes makes a batch hold one record: two would be over the least size of
// a batch.
const (
	recordBytes = 900
	batchBytes  = 1 << 10
)

// newSender connects a producer to a node, from which it learns of the others.
func (s *stage) newSender(ctx context.Context, number uint64, at *node, l *log) (*sender, error) {
	p, err := producer.New(ctx, []string{at.info.ClientURL}, producer.WithDialer(s.wires.dial(number)), producer.WithLogger(s.options.Logger),
		producer.WithMaxInFlight(64), producer.WithLinger(0), producer.WithBatchBytes(batchBytes), producer.WithCompression(producer.None))
	if err != nil {
		return nil, err
	}
	return &sender{number: number, topic: s.topic, log: l, p: p}, nil
}

// send hands a record of each name to the library, a batch each, and returns at
// once.
func (s *sender) send(ctx context.Context, names ...string) []*record {
	sent := make([]*record, 0, len(names))
	for _, name := range names {
		s.mu.Lock()
		s.next++
		r := &record{message: s.number<<32 | uint64(s.next), name: name}
		s.records = append(s.records, r)
		sequence := s.next
		s.mu.Unlock()
		s.log.add(history.Event{Kind: history.Invoke, Message: r.message, Producer: s.number, Sequence: sequence})
		text := r.name + " " + strings.Repeat("·", (recordBytes-len(r.name))/len("·"))
		s.p.SendAsync(ctx, producer.Record{Topic: s.topic, Value: []byte(text)}, func(receipt producer.Receipt, err error) { s.settle(r, receipt, err) })
		sent = append(sent, r)
	}
	return sent
}

// settle runs on the library's goroutine.
func (s *sender) settle(r *record, receipt producer.Receipt, err error) {
	e := history.Event{Kind: history.OK, Message: r.message, Partition: receipt.Partition, Offset: receipt.Offset}
	if err != nil {
		e = history.Event{Kind: history.Unknown, Message: r.message, Note: err.Error()}
	}
	s.log.add(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	r.settled, r.receipt, r.err = true, receipt, err
}

// tally counts the records: all that were sent, and those that were acked.
func (s *sender) tally() (sent, acked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		if r.settled && r.err == nil {
			acked++
		}
	}
	return len(s.records), acked
}

// receiptOf returns what became of a record; ok says that it was acked.
func (s *sender) receiptOf(r *record) (receipt producer.Receipt, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.receipt, r.settled && r.err == nil
}
