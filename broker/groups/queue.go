package groups

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
)

const (
	// batchBytesMax bounds the operations of one entry, beside entryOpsMax, except
	// that one operation always fits.
	batchBytesMax = 512 << 10
	// queueBytesMax and queueOpsMax bound what waits.
	queueBytesMax = 32 << 20
	queueOpsMax   = 20_000
	// operationBytesMax bounds one operation: it is one Raft entry at most.
	operationBytesMax = 8 << 20
	// fullRetryAfter is what who meets a full queue is told to wait: a queue of
	// small operations is worked off in about a second.
	fullRetryAfter = 250 * time.Millisecond
	// fencedGrace is for an entry that came behind the one that ended its epoch:
	// that it was refused is told a moment later, and is better than unknown.
	fencedGrace = 20 * time.Millisecond
)

// call is an operation that waits for its outcome. done is called once: by the
// goroutine that proposes, by the one that ends serving, or by one of its own
// when the caller's context ends.
type call struct {
	group string
	kind  opKind
	op    []byte // encoded
	done  func(outcome, error)
	// stop takes back what answers the call when its ctx ends.
	stop     func() bool
	finished atomic.Bool
}

// finish answers the call, unless it has been answered.
func (c *call) finish(o outcome, err error) {
	if c.finished.CompareAndSwap(false, true) {
		c.stop()
		c.done(o, err)
	}
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
		return errFull("the group coordinator has too much waiting")
	}
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return nil
}

// take returns the calls of the next entry, without those that nobody waits for
// any more.
func (q *queue) take() []*call {
	q.mu.Lock()
	defer q.mu.Unlock()
	var batch []*call
	bytes, n := 0, 0
	for _, c := range q.waiting {
		if len(batch) > 0 && (bytes+len(c.op) > batchBytesMax || len(batch) == entryOpsMax) {
			break
		}
		n++
		q.bytes -= len(c.op)
		if !c.finished.Load() {
			batch = append(batch, c)
			bytes += len(c.op)
		}
	}
	clear(q.waiting[:n])
	q.waiting = q.waiting[n:]
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
		c.finish(outcome{}, err)
	}
}

// submit queues an operation. done gets its outcome, or why there is none. It is
// called exactly once, also where submit cannot queue.
func (c *coordinator) submit(op operation, done func(outcome, error)) {
	c.submitFor(context.Background(), op, done)
}

// submitFor is submit where done is called when ctx ends at the latest, with
// REQUEST_TIMED_OUT. What has not been proposed by then never will be.
func (c *coordinator) submitFor(ctx context.Context, op operation, done func(outcome, error)) {
	x := &call{group: op.Group, kind: op.Kind, op: encodeOperation(op), done: done}
	if len(x.op) > operationBytesMax {
		done(outcome{}, errcode.New(errcode.GroupStateTooLarge, "a change of group %q has %d bytes, which is too large for one entry", op.Group, len(x.op)))
		return
	}
	x.stop = context.AfterFunc(ctx, func() {
		if x.finished.CompareAndSwap(false, true) {
			done(outcome{}, errTimedOut())
		}
	})
	if err := c.queue.put(x); err != nil {
		x.finish(outcome{}, err)
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

// proposeBatch puts one entry through Raft and tells each call its outcome.
func (c *coordinator) proposeBatch(batch []*call) {
	outcomes, err := c.commitBatch(batch)
	moved := map[string]bool{}
	for i, x := range batch {
		if err != nil {
			x.finish(outcome{}, err)
			continue
		}
		if x.kind.moves() {
			moved[x.group] = true
		}
		x.finish(outcomes[i], nil)
	}
	for name := range moved {
		c.settle(name)
	}
}

func (c *coordinator) commitBatch(batch []*call) ([]outcome, error) {
	c.mu.Lock()
	serving, epoch, over, leader := c.serving, c.epoch, c.epochOver, c.leader
	c.mu.Unlock()
	if !serving {
		return nil, errNotCoordinator(leader)
	}
	ops := make([][]byte, len(batch))
	for i, x := range batch {
		ops[i] = x.op
	}
	data := encodeWith(entry{Epoch: epoch, TimeMs: c.options.Clock().UnixMilli()}, ops)
	r, err := c.throughRaft(data, over)
	if err != nil {
		return nil, err
	}
	outcomes, ok := decodeOutcomes(r.Data, len(batch))
	if !ok {
		return nil, errcode.New(errcode.UnknownServerError, "the outcomes of %d group operations cannot be read", len(batch))
	}
	return outcomes, nil
}

// throughRaft proposes an entry and gives every failure the code for clients.
//
// What a coordinator that was cut off had under way may be in no log that counts,
// and Raft tells that only when the time-out is over. By then it may coordinate
// again, with new operations behind that entry. So the wait ends with the entry's
// epoch, when over is closed: what is not applied by then will be refused. The end
// of the leadership does not end it: the successor may find the entry in its log
// and apply it before its epoch.
//
// Even so the outcome is unknown, not a refusal: this replica may have come to the
// later epoch by a snapshot, which may hold what the entry did.
func (c *coordinator) throughRaft(data []byte, over <-chan struct{}) (raftnode.Result, error) {
	wait, err := c.options.Raft.Propose(c.shard, data, c.options.ProposeTimeout)
	var r raftnode.Result
	if err == nil {
		r, err = wait(over, fencedGrace)
	}
	switch {
	case errors.Is(err, raftnode.ErrUnknown):
		return r, errTimedOut()
	case errcode.Of(err) == errcode.Throttled:
		return r, errFull("the group's coordinator shard has too much under way")
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

func errTimedOut() error {
	return errcode.New(errcode.RequestTimedOut, "the change was not applied in time, it may still be; sending it again is safe")
}

func errFull(what string) error {
	e := errcode.New(errcode.Throttled, "%s; retry", what)
	e.RetryAfter = fullRetryAfter
	return e
}
