package producer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// Header is a record header.
type Header = recordbatch.Header

// Record is one record to send. Key, Value and Headers are copied before Send,
// SendAsync or TrySend return (nil Key and nil Value mean null).
type Record struct {
	Topic string
	// Partition, when not nil, is used as it is; nil asks the partitioner.
	Partition *int32
	Key       []byte
	Value     []byte
	Headers   []Header
	// Timestamp is stored in milliseconds. Zero means now.
	Timestamp time.Time
}

// Receipt says where a record is stored, for good, on a majority's disks.
type Receipt struct {
	Topic     string
	Partition int32
	// Offset is -1 in the one case where the broker knows that the record is
	// stored but has forgotten where (Duplicate is set then).
	Offset int64
	// Timestamp of the record as stored.
	Timestamp time.Time
	// Duplicate: an earlier attempt had stored it, this is that copy's offset.
	Duplicate bool
}

// Producer sends records to a cluster. Its methods may be called from any
// number of goroutines.
type Producer struct {
	options options
	client  *client.Client
	// conn returns the connection for requests to a node.
	conn     func(node uint64) conn
	identity protocol.ProducerIDReply
	// deliveryTimeout is the option, capped by the cluster; renewAfter is the
	// silence after which a partition takes a new epoch: half the expiry.
	deliveryTimeout time.Duration
	renewAfter      time.Duration

	budget    *budget
	pools     pools
	topics    topics
	completer *completer
	// open counts the open batches, of all partitions.
	open atomic.Int32
	// flushing counts the Flush calls under way: nothing lingers meanwhile.
	flushing atomic.Int32
	progress broadcaster

	closed atomic.Bool
	// stop ends the partitions' goroutines; ctx ends what they wait for.
	stop chan struct{}
	//nolint:containedctx // it is the producer's own life, not a caller's.
	ctx        context.Context
	cancel     context.CancelFunc
	goroutines sync.WaitGroup
	ended      chan struct{} // closed when Close is through
}

// New connects to the cluster (servers are NATS URLs; none means
// nats://127.0.0.1:4222) and takes a producer id. It retries until ctx ends
// (10 s where it has no deadline), but not for a server that cannot be reached
// at all.
func New(ctx context.Context, servers []string, opts ...Option) (*Producer, error) {
	o := defaultOptions()
	for _, opt := range opts {
		opt(&o)
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	c, err := client.Dial(ctx, servers, client.Options{Name: o.name, TLS: o.tls, Dial: o.dial, Logger: o.logger})
	if err != nil {
		return nil, err
	}
	identity, err := c.NewProducerID(ctx)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("taking a producer id: %w", err)
	}
	return start(c, o, *identity), nil
}

// conn is what a partition sends on: a *client.Conn.
type conn interface {
	Call(client.Request, client.Handler) (*client.Call, error)
}

func start(c *client.Client, o options, identity protocol.ProducerIDReply) *Producer {
	p := &Producer{
		options: o, client: c, identity: identity,
		deliveryTimeout: o.deliveryTimeout, renewAfter: 12 * time.Hour,
		budget: newBudget(o.bufferBytes), completer: newCompleter(),
		stop: make(chan struct{}), ended: make(chan struct{}),
	}
	p.conn = func(node uint64) conn { return c.Conn(node) }
	p.topics.byName = make(map[string]*topic)
	if identity.Window > 0 {
		p.options.maxInFlight = min(o.maxInFlight, identity.Window)
	}
	if identity.ExpiryMs > 0 {
		expiry := time.Duration(identity.ExpiryMs) * time.Millisecond
		p.renewAfter = expiry / 2
		p.deliveryTimeout = min(o.deliveryTimeout, expiry/10)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	go p.completer.run(p)
	return p
}

// Send sends a record and waits until it is stored, or certainly will not be,
// or the delivery time-out has passed (ErrUnknownOutcome). When ctx ends first
// the record stays on its way and may be stored. Send must not be called from a
// callback.
func (p *Producer) Send(ctx context.Context, r Record) (Receipt, error) {
	type result struct {
		receipt Receipt
		err     error
	}
	ch := make(chan result, 1)
	p.SendAsync(ctx, r, func(receipt Receipt, err error) { ch <- result{receipt, err} })
	select {
	case res := <-ch:
		return res.receipt, res.err
	case <-ctx.Done():
	}
	select {
	case res := <-ch:
		return res.receipt, res.err
	default:
		return Receipt{Topic: r.Topic, Partition: -1, Offset: -1},
			fmt.Errorf("stopped waiting for the ack; the record may be stored: %w", context.Cause(ctx))
	}
}

// SendAsync hands a record over and returns. done (may be nil) is called
// exactly once: in the order of the partition, from one goroutine for all
// callbacks, so it must not block, and must not call Send, Flush or Close. For
// a record that is not accepted (ErrClosed, ErrRecordTooLarge, an unknown
// topic, ctx ended) it is called before SendAsync returns.
//
// SendAsync waits under ctx for the metadata of a topic it meets for the first
// time, and while the buffer is full. After it has returned ctx does not matter.
func (p *Producer) SendAsync(ctx context.Context, r Record, done func(Receipt, error)) {
	now := time.Now()
	size := recordSize(&r)
	err := p.admit(size)
	if err == nil {
		err = p.budget.take(ctx, int64(size)+recordOverhead)
	}
	if err == nil {
		err = p.enqueue(ctx, &r, now, size, done)
		if err != nil {
			p.budget.give(int64(size) + recordOverhead)
		}
	}
	if err != nil && done != nil {
		done(Receipt{Topic: r.Topic, Partition: -1, Offset: -1}, err)
	}
}

// TrySend is SendAsync that never waits: where it would, it returns
// ErrBufferFull or ErrNotReady. When it returns an error, done is not called.
func (p *Producer) TrySend(r Record, done func(Receipt, error)) error {
	now := time.Now()
	size := recordSize(&r)
	if err := p.admit(size); err != nil {
		return err
	}
	t, err := p.readyOrFetch(r.Topic, now)
	if err != nil {
		return err
	}
	if err := p.budget.try(int64(size) + recordOverhead); err != nil {
		return err
	}
	err = p.place(t, &r, now, size, done)
	if err != nil {
		p.budget.give(int64(size) + recordOverhead)
	}
	if errors.Is(err, errRetired) {
		return ErrNotReady
	}
	return err
}

func (p *Producer) readyOrFetch(name string, now time.Time) (*topic, error) {
	if t := p.ready(name, now); t != nil {
		return t, nil
	}
	if err := protocol.ValidateTopicName(name); err != nil {
		return nil, err
	}
	meta, ok := p.client.Cached(name)
	if !ok {
		p.client.Stale(name)
		return nil, ErrNotReady
	}
	return p.adopt(meta, now)
}

// admit refuses what can never be sent.
func (p *Producer) admit(size int) error {
	if p.closed.Load() {
		return ErrClosed
	}
	if int64(size)+recordOverhead > p.options.bufferBytes {
		return fmt.Errorf("%w: %d bytes do not fit the producer's buffer of %d; raise WithBufferBytes", ErrRecordTooLarge, size, p.options.bufferBytes)
	}
	return nil
}

// errRetired: the topic was created anew while the record was on its way in.
var errRetired = errors.New("the topic has changed")

// enqueue finds the topic and places the record.
func (p *Producer) enqueue(ctx context.Context, r *Record, now time.Time, size int, done func(Receipt, error)) error {
	for {
		t, err := p.lookup(ctx, r.Topic, now)
		if err != nil {
			return err
		}
		err = p.place(t, r, now, size, done)
		if !errors.Is(err, errRetired) {
			return err
		}
		now = now.Add(metadataLookEvery) // look at the metadata again
	}
}

// place puts the record into its partition's batch.
func (p *Producer) place(t *topic, r *Record, now time.Time, size int, done func(Receipt, error)) error {
	q, err := p.pick(t, r)
	if err != nil {
		return err
	}
	if limit := q.recordLimit(); recordbatch.HeaderSize+size > limit {
		return fmt.Errorf("%w: %d bytes, the topic takes batches of up to %d; send smaller records or raise the topic's max_batch_bytes (%w)",
			ErrRecordTooLarge, size, limit, errcode.New(errcode.MessageTooLarge, ""))
	}
	if !q.append(r, now, size, done) {
		if p.closed.Load() {
			return ErrClosed
		}
		return errRetired
	}
	return nil
}

// Flush sends what is buffered without lingering and waits, under ctx, for the
// callbacks of every record handed over before the call. It must not be called
// from a callback. Its only error is ctx's.
func (p *Producer) Flush(ctx context.Context) error {
	p.flushing.Add(1)
	defer p.flushing.Add(-1)
	type mark struct {
		q *partition
		n uint64
	}
	var marks []mark
	for _, q := range p.all() {
		q.mu.Lock()
		n := q.accepted
		q.mu.Unlock()
		marks = append(marks, mark{q, n})
		q.poke()
	}
	for {
		progress := p.progress.wait()
		for len(marks) > 0 && marks[0].q.completed.Load() >= marks[0].n {
			marks = marks[1:]
		}
		if len(marks) == 0 {
			return nil
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return fmt.Errorf("records are still on their way: %w", context.Cause(ctx))
		}
	}
}

// Close refuses new records, flushes until ctx ends, fails what is left with
// ErrClosed (or ErrUnknownOutcome where it may be stored), and disconnects. All
// callbacks have run when it returns. Its error is Flush's. Closing twice is
// harmless.
func (p *Producer) Close(ctx context.Context) error {
	if p.closed.Swap(true) {
		<-p.ended
		return nil
	}
	defer close(p.ended)
	p.budget.close()
	err := p.Flush(ctx)
	// Whoever passed the check of closed before is let in or refused by now:
	// a retired partition takes nothing.
	for _, q := range p.all() {
		q.retire()
	}
	close(p.stop)
	p.cancel()
	p.goroutines.Wait()
	p.completer.close()
	<-p.completer.ended
	p.client.Close()
	return err
}
