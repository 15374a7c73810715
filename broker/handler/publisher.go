package handler

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/murmur2"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

const (
	// laneWindow bounds the batches that one partition's lane has in flight.
	laneWindow = 32
	// publishAttemptTimeout bounds one attempt; the next one may find another
	// leader.
	publishAttemptTimeout = 1500 * time.Millisecond
	// Waits before another attempt double between these bounds.
	publishBackoffMin = 10 * time.Millisecond
	publishBackoffMax = 320 * time.Millisecond
	// ownIDPrefix begins the message ids that are made here. No header value
	// can begin so.
	ownIDPrefix = "\x00"
)

// publisher delivers plain messages to the leaders of their partitions, one
// lane per partition.
//
// Order. A lane sends its batches in the order in which the messages came. A
// batch of messages without an id travels alone; batches with a publisher's id
// hold one message each and travel up to laneWindow at once, but none is sent
// while an earlier one has to be tried again.
type publisher struct {
	h      *Handler
	budget budget

	// mu guards what follows and everything in lanes and deliveries that is
	// not said to be someone's own. Nothing is sent or answered under it.
	mu      sync.Mutex
	lanes   map[laneKey]*lane
	sticky  map[uint64]int32 // topic id → partition last picked for a message with neither key nor id
	idStart [9]byte          // ownIDPrefix and a random number
	idNext  uint64
	closed  bool
}

type laneKey struct {
	topicID   uint64
	partition int32
}

// lane is the way to one partition. It exists while it has something to do.
type lane struct {
	key   laneKey
	topic string
	shard uint64
	// queue holds what was not sent yet, inFlight what was sent and is not
	// settled. pumping ⇒ one goroutine is sending from queue.
	queue    []*delivery
	inFlight map[*delivery]struct{}
	pumping  bool
	// retrying counts deliveries in flight that need another attempt.
	retrying int
}

// delivery is one batch on its way. payload is its sender's own.
type delivery struct {
	lane     *lane
	id       string
	own      bool // the id was made here; several messages may share the batch
	messages []message
	size     int // upper bound of the batch's encoded size
	deadline time.Time
	payload  []byte // encoded produce request

	attempts int
	retrying bool
	settled  bool
	doubt    bool  // some attempt may have stored the batch
	last     error // why the last attempt failed
	timer    *time.Timer
}

func newPublisher(h *Handler) *publisher {
	p := &publisher{
		h: h, budget: budget{max: h.options.PublishBytesMax},
		lanes: make(map[laneKey]*lane), sticky: make(map[uint64]int32),
	}
	rand.Read(p.idStart[len(ownIDPrefix):])
	return p
}

// add takes a checked message. An error refuses it; otherwise it will be
// acknowledged.
func (p *publisher) add(m *message) error {
	if !p.budget.tryAcquire(int64(m.size)) {
		return throttled("node %d has %d bytes of plain messages in work; retry", p.h.options.NodeID, p.budget.used.Load())
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.budget.release(int64(m.size))
		return errShuttingDown()
	}
	l := p.laneOf(m)
	if d := l.open(m); d != nil {
		d.messages = append(d.messages, *m)
		d.size += m.size
	} else {
		l.queue = append(l.queue, p.deliver(l, m))
	}
	p.mu.Unlock()
	p.pump(l)
	return nil
}

// laneOf picks the message's partition. p.mu is held.
func (p *publisher) laneOf(m *message) *lane {
	n := len(m.topic.Partitions)
	switch {
	case m.record.Key != nil:
		return p.lane(m, murmur2.Partition(m.record.Key, n))
	case m.id != "":
		return p.lane(m, murmur2.Partition([]byte(m.id), n))
	}
	// Stay where a batch is open, so that batches fill; else go round, past
	// partitions that have no leader.
	last := p.sticky[m.topic.ID]
	if l, ok := p.lanes[laneKey{m.topic.ID, last}]; ok && l.open(m) != nil {
		return l
	}
	next := (last + 1) % int32(n)
	for i := range n {
		candidate := (last + 1 + int32(i)) % int32(n)
		if _, _, ok := p.h.options.Leaders.Leader(m.topic.Partitions[candidate].Shard); ok {
			next = candidate
			break
		}
	}
	p.sticky[m.topic.ID] = next
	return p.lane(m, next)
}

// lane returns the lane to a partition. p.mu is held.
func (p *publisher) lane(m *message, partition int32) *lane {
	key := laneKey{m.topic.ID, partition}
	l := p.lanes[key]
	if l == nil {
		l = &lane{
			key: key, topic: m.topic.Name, shard: m.topic.Partitions[partition].Shard,
			inFlight: make(map[*delivery]struct{}),
		}
		p.lanes[key] = l
	}
	return l
}

// open returns the delivery that m may join, nil where there is none. p.mu is held.
func (l *lane) open(m *message) *delivery {
	if m.id != "" || len(l.queue) == 0 {
		return nil
	}
	d := l.queue[len(l.queue)-1]
	if !d.own || d.size+m.size > min(publishBatchBytesMax, int(m.topic.Config.MaxBatchBytes)) {
		return nil
	}
	return d
}

// deliver makes a delivery of m alone. p.mu is held.
func (p *publisher) deliver(l *lane, m *message) *delivery {
	d := &delivery{
		lane: l, id: m.id, messages: []message{*m}, size: recordbatch.HeaderSize + m.size,
		deadline: m.start.Add(p.h.options.PublishTimeout),
	}
	if d.id == "" {
		d.own = true
		d.id = string(binary.BigEndian.AppendUint64(p.idStart[:], p.idNext))
		p.idNext++
	}
	return d
}

// pump sends what l may send now.
func (p *publisher) pump(l *lane) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.pumping {
		return // whoever pumps looks again before it ends
	}
	l.pumping = true
	for d := l.next(); d != nil; d = l.next() {
		p.mu.Unlock()
		if err := d.encode(); err != nil {
			p.end(d, nil, err)
		} else {
			p.attempt(d)
		}
		p.mu.Lock()
	}
	l.pumping = false
	if len(l.queue)+len(l.inFlight) == 0 && p.lanes[l.key] == l {
		delete(p.lanes, l.key)
	}
}

// next takes the next delivery out of the queue if it may be sent. The caller
// holds publisher.mu.
func (l *lane) next() *delivery {
	if len(l.queue) == 0 || l.retrying > 0 || len(l.inFlight) >= laneWindow {
		return nil
	}
	d := l.queue[0]
	for other := range l.inFlight {
		if d.own || other.own {
			return nil
		}
	}
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.inFlight[d] = struct{}{}
	return d
}

// encode writes the produce request; the epoch is filled in at each attempt.
func (d *delivery) encode() error {
	var b recordbatch.Builder
	for i := range d.messages {
		r := &d.messages[i].record
		b.Append(r.TimestampMs, r.Key, r.Value, r.Headers)
	}
	head := protocol.ProduceRequest{TopicID: d.lane.key.topicID, Epoch: protocol.EpochUnknown, MsgID: d.id}
	buf := make([]byte, 0, protocol.ProduceRequestHeaderSize+len(d.id)+b.Size())
	var err error
	d.payload, err = b.Build(head.AppendHeader(buf), recordbatch.None)
	return err
}

// attempt is one try to deliver d. It answers for d when its time is over.
func (p *publisher) attempt(d *delivery) {
	p.mu.Lock()
	left := d.deadline.Sub(p.h.options.Clock())
	if d.settled || left <= 0 || p.closed {
		p.mu.Unlock()
		p.end(d, nil, p.failure(d))
		return
	}
	d.attempts++
	head := protocol.ProduceRequest{TopicID: d.lane.key.topicID, Epoch: protocol.EpochUnknown, MsgID: d.id}
	if _, epoch, ok := p.h.options.Leaders.Leader(d.lane.shard); ok {
		head.Epoch = epoch
	}
	head.AppendHeader(d.payload[:0])
	p.mu.Unlock()

	a := &attempt{d: d, epoch: head.Epoch}
	p.h.options.Producer.SendProduce(d.lane.topic, d.lane.key.partition, d.payload, min(left, publishAttemptTimeout),
		func(reply []byte, err error) bool { return p.onReply(a, reply, err) })
}

// attempt is one try to deliver d.
type attempt struct {
	d     *delivery
	epoch int32 // leader epoch that the request names
	// failed is set by the first reply that asks for another attempt;
	// publisher.mu guards it.
	failed bool
}

// leavesDoubt reports whether the batch may be stored though the attempt brought
// r, a retriable refusal. answered says that a broker gave it: around a leader
// change another one may have got the request as well.
func (a *attempt) leavesDoubt(r *protocol.ProduceReply, answered bool) bool {
	switch {
	case !answered:
		return r.Code == errcode.RequestTimedOut
	case aboutItself(r.Code):
		return a.epoch < 0 || r.Epoch != a.epoch
	}
	switch r.Code {
	case errcode.CorruptMessage, errcode.UnknownTopicOrPartition, errcode.UnknownTopicID:
		return false
	}
	return true
}

// onReply takes one of the replies to an attempt. There may be several: the
// old leader refuses while the new one stores. The first success counts.
func (p *publisher) onReply(a *attempt, reply []byte, err error) (more bool) {
	d := a.d
	var r protocol.ProduceReply
	if err == nil {
		r, err = protocol.DecodeProduceReply(reply)
	} else {
		r.Code = errcode.Of(err)
	}
	if err == nil && r.Code == errcode.None {
		p.end(d, &r, nil)
		return false
	}
	more = err == nil // after an error of SendProduce nothing comes any more
	if err == nil {
		err = &errcode.Error{Code: r.Code, Message: r.Message, RetryAfter: time.Duration(r.RetryAfterMs) * time.Millisecond}
	}
	if !r.Code.Retriable() {
		p.mu.Lock()
		d.last = err
		p.mu.Unlock()
		p.end(d, nil, p.failure(d)) // an earlier attempt may have stored it
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.settled {
		return false
	}
	if more && r.Code == errcode.NotLeaderOrFollower && r.Epoch < a.epoch {
		return true // a deposed leader; the newer one was asked as well
	}
	d.doubt = d.doubt || a.leavesDoubt(&r, more)
	d.last = err
	if !a.failed {
		a.failed = true
		p.retry(d)
	}
	return more
}

// retry arranges the next attempt, or the end where no time is left. p.mu is held.
func (p *publisher) retry(d *delivery) {
	if !d.retrying {
		d.retrying = true
		d.lane.retrying++
	}
	delay := max(min(publishBackoffMin<<min(d.attempts-1, 10), publishBackoffMax), errcode.From(d.last).RetryAfter)
	delay = max(min(delay, d.deadline.Sub(p.h.options.Clock())), 0)
	d.timer = time.AfterFunc(delay, func() { p.attempt(d) })
}

// failure says why d is given up. p.mu need not be held: d is its caller's.
func (p *publisher) failure(d *delivery) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case d.doubt:
		return errcode.New(errcode.RequestTimedOut, "%s/%d: the outcome is unknown; publish again with the same %s",
			d.lane.topic, d.lane.key.partition, HeaderMsgID)
	case p.closed:
		return errShuttingDown()
	case d.last != nil:
		return d.last
	}
	return errcode.New(errcode.LeaderNotAvailable, "%s/%d took nothing within %s; retry",
		d.lane.topic, d.lane.key.partition, p.h.options.PublishTimeout)
}

// end settles d, once, and answers its messages: with r where it was stored,
// else with err.
func (p *publisher) end(d *delivery, r *protocol.ProduceReply, err error) {
	p.mu.Lock()
	if d.settled {
		p.mu.Unlock()
		return
	}
	d.settled = true
	if d.timer != nil {
		d.timer.Stop()
	}
	if d.retrying {
		d.lane.retrying--
	}
	delete(d.lane.inFlight, d)
	p.mu.Unlock()
	for i, m := range d.messages {
		p.budget.release(int64(m.size))
		if err != nil {
			p.h.acknowledge(m, refusal(err))
		} else {
			offset := r.BaseOffset + int64(i)
			p.h.acknowledge(m, &protocol.PubAck{
				Stream: d.lane.topic, Sequence: uint64(offset) + 1,
				Partition: d.lane.key.partition, Offset: offset, Duplicate: r.Duplicate && !d.own,
			})
		}
		p.h.gate.exit()
	}
	p.pump(d.lane)
}

// close gives up what is not settled.
func (p *publisher) close() {
	p.mu.Lock()
	p.closed = true
	var rest []*delivery
	for _, l := range p.lanes {
		for d := range l.inFlight {
			rest = append(rest, d)
		}
		rest = append(rest, l.queue...)
		l.queue = nil
	}
	p.mu.Unlock()
	for _, d := range rest {
		p.end(d, nil, p.failure(d))
	}
}
