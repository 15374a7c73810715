package groups

import (
	"encoding/json"
	"errors"
	"sync"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
)

const (
	// batchBytesMax bounds the operations of one entry, except that one operation
	// always fits.
	batchBytesMax = 512 << 10
	// queueBytesMax and queueOpsMax bound what waits.
	queueBytesMax = 32 << 20
	queueOpsMax   = 20_000
	// operationBytesMax bounds one operation: it is one Raft entry at most.
	operationBytesMax = 8 << 20
)

// call is an operation that waits for its outcome. done is called once, from
// the proposing goroutine or from the one that ends serving.
type call struct {
	group string
	op    json.RawMessage
	done  func(outcome, error)
}

// queue holds operations until the next entry: while one entry is on its way
// through Raft the operations of the next gather, so many requests make few
// entries.
type queue struct {
	ready chan struct{} // capacity 1: something waits

	mu      sync.Mutex // guards what follows
	waiting []*call
	bytes   int
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

// put queues a call; THROTTLED where too much waits.
func (q *queue) put(c *call) error {
	q.mu.Lock()
	full := len(q.waiting) >= queueOpsMax || q.bytes+len(c.op) > queueBytesMax
	if !full {
		q.waiting = append(q.waiting, c)
		q.bytes += len(c.op)
	}
	q.mu.Unlock()
	if full {
		e := errcode.New(errcode.Throttled, "the group coordinator has too much waiting; retry")
		e.RetryAfter = movingRetryAfter
		return e
	}
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return nil
}

// take returns the calls of the next entry.
func (q *queue) take() []*call {
	q.mu.Lock()
	defer q.mu.Unlock()
	bytes, n := 0, 0
	for n < len(q.waiting) && (n == 0 || bytes+len(q.waiting[n].op) <= batchBytesMax) {
		bytes += len(q.waiting[n].op)
		n++
	}
	batch := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	q.bytes -= bytes
	if len(q.waiting) == 0 {
		q.waiting = nil
	}
	return batch
}

// fail ends all that waits.
func (q *queue) fail(err error) {
	q.mu.Lock()
	waiting := q.waiting
	q.waiting, q.bytes = nil, 0
	q.mu.Unlock()
	for _, c := range waiting {
		c.done(outcome{}, err)
	}
}

// submit queues an operation. done gets its outcome, or why there is none. It is
// called exactly once, also where submit cannot queue.
func (c *coordinator) submit(op operation, done func(outcome, error)) {
	raw, err := json.Marshal(op)
	if err != nil {
		panic(err) // the types of this package always encode
	}
	if len(raw) > operationBytesMax {
		done(outcome{}, errcode.New(errcode.GroupStateTooLarge, "a change of group %q has %d bytes, which is too large for one entry", op.Group, len(raw)))
		return
	}
	if err := c.queue.put(&call{group: op.Group, op: raw, done: done}); err != nil {
		done(outcome{}, err)
	}
}

// propose is the proposing goroutine: one entry at a time.
func (c *coordinator) propose() {
	defer c.goroutines.Done()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.queue.ready:
		}
		for batch := c.queue.take(); len(batch) > 0; batch = c.queue.take() {
			c.proposeBatch(batch)
		}
	}
}

// rawEntry is entry with its operations encoded already.
type rawEntry struct {
	Version int               `json:"v"`
	Epoch   int32             `json:"e"`
	TimeMs  int64             `json:"t"`
	Ops     []json.RawMessage `json:"ops"`
}

// proposeBatch puts one entry through Raft and tells each call its outcome.
func (c *coordinator) proposeBatch(batch []*call) {
	outcomes, err := c.commitBatch(batch)
	groups := map[string]bool{}
	for i, b := range batch {
		if err != nil {
			b.done(outcome{}, err)
			continue
		}
		groups[b.group] = true
		b.done(outcomes[i], nil)
	}
	for name := range groups {
		c.settle(name)
	}
}

func (c *coordinator) commitBatch(batch []*call) ([]outcome, error) {
	c.mu.Lock()
	serving, epoch, leader := c.serving, c.epoch, c.leader
	c.mu.Unlock()
	if !serving {
		return nil, errNotCoordinator(leader)
	}
	e := rawEntry{Version: commandVersion, Epoch: epoch, TimeMs: c.options.Clock().UnixMilli()}
	for _, b := range batch {
		e.Ops = append(e.Ops, b.op)
	}
	data, err := json.Marshal(e)
	if err != nil {
		panic(err) // made of what was encoded before
	}
	r, err := c.throughRaft(data, c.options.ProposeTimeout)
	if err != nil {
		return nil, err
	}
	var outcomes []outcome
	if err := json.Unmarshal(r.Data, &outcomes); err != nil || len(outcomes) != len(batch) {
		return nil, errcode.New(errcode.UnknownServerError, "%d group operations came to %d outcomes (%v)", len(batch), len(outcomes), err)
	}
	return outcomes, nil
}

// throughRaft proposes an entry and gives every failure the code for clients.
func (c *coordinator) throughRaft(data []byte, timeout time.Duration) (raftnode.Result, error) {
	wait, err := c.options.Raft.Propose(c.shard, data, timeout)
	var r raftnode.Result
	if err == nil {
		r, err = wait()
	}
	switch {
	case errors.Is(err, raftnode.ErrUnknown):
		return r, errcode.New(errcode.RequestTimedOut, "the change was not applied in time, it may still be; sending it again is safe")
	case err != nil:
		return r, errMoving("the group's coordinator shard does not take changes just now (%v)", err)
	case r.Value == verdictFenced:
		c.stir()
		return r, errNotCoordinator(0)
	case r.Value != verdictApplied:
		return r, errcode.New(errcode.UnsupportedVersion, "this node cannot read what it proposed; restart it")
	}
	return r, nil
}
