package producer

import (
	"sync"
	"time"
)

// completion is a batch whose outcome is final.
type completion struct {
	q         *partition
	b         *batch
	err       error // nil: stored
	offset    int64 // of the first record, -1 when the broker has forgotten it
	duplicate bool
}

// completer runs the callbacks of all partitions on one goroutine, so that
// they come in partition order and never under a lock.
type completer struct {
	// mu guards queue and closed. The queue is bounded by the buffer: every
	// record in it still holds its recordOverhead.
	mu     sync.Mutex
	filled sync.Cond
	queue  []completion
	closed bool
	ended  chan struct{}
}

func newCompleter() *completer {
	c := &completer{ended: make(chan struct{})}
	c.filled.L = &c.mu
	return c
}

func (c *completer) push(x completion) {
	c.mu.Lock()
	c.queue = append(c.queue, x)
	c.mu.Unlock()
	c.filled.Signal()
}

// close lets the goroutine end when the queue is empty.
func (c *completer) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.filled.Signal()
}

// run is the callback goroutine. Started by New, ended by Close after all
// partitions have ended. It may block in callbacks only.
func (c *completer) run(p *Producer) {
	defer close(c.ended)
	var work []completion
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.closed {
			c.filled.Wait()
		}
		if len(c.queue) == 0 {
			c.mu.Unlock()
			return
		}
		work, c.queue = c.queue, work[:0]
		c.mu.Unlock()
		for i := range work {
			work[i].call()
			p.completed(&work[i])
		}
		clear(work)
	}
}

// call runs the callbacks of the batch's records.
func (x *completion) call() {
	for i := range x.b.records {
		r := &x.b.records[i]
		if r.done == nil {
			continue
		}
		if x.err != nil {
			r.done(Receipt{Topic: x.q.topic, Partition: x.q.index, Offset: -1}, x.err)
			continue
		}
		offset := x.offset
		if offset >= 0 {
			offset += int64(i)
		}
		r.done(Receipt{
			Topic: x.q.topic, Partition: x.q.index, Offset: offset,
			Timestamp: time.UnixMilli(r.timestampMs), Duplicate: x.duplicate,
		}, nil)
	}
}

// completed gives back what the batch held and wakes Flush.
func (p *Producer) completed(x *completion) {
	n := len(x.b.records)
	p.pools.put(x.b)
	p.budget.give(int64(n) * recordOverhead)
	x.q.completed.Add(uint64(n))
	if p.flushing.Load() > 0 {
		p.progress.broadcast()
	}
}

// broadcaster wakes all who wait.
type broadcaster struct {
	mu sync.Mutex // guards ch
	ch chan struct{}
}

func (b *broadcaster) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcaster) broadcast() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
