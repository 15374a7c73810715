package natsapi

import (
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/broker/handler"
	"logbroker/internal/protocol"
)

// Leadership is the news that this node began or ceased to serve a partition as
// its leader.
type Leadership struct {
	Shard     uint64
	Topic     string
	Partition int32
	Epoch     int32
	Leading   bool
}

// Leadership takes the news: it subscribes to the partition's subjects, or lets
// the subscriptions end after Options.Linger, and tells the other nodes. It does
// not block and may be called before Start.
func (s *Server) Leadership(l Leadership) {
	started := s.partitions.set(l)
	s.leaders.set(l)
	if started {
		s.core.LeadershipChanged(l.Shard)
	}
}

// Coordination takes the news that this node began or ceased to lead a shard that
// has no subjects of its own, and tells the other nodes. It does not block and
// may be called before Start.
func (s *Server) Coordination(shard uint64, epoch int32, leading bool) {
	s.leaders.set(Leadership{Shard: shard, Epoch: epoch, Leading: leading})
}

// pending bounds what the client library holds for one subscription. Callbacks
// do not block, so it is a last resort: beyond it messages are dropped without
// an answer, and the connection's error handler says so.
type pending struct{ messages, bytes int }

func producePending() pending { return pending{16 << 10, 64 << 20} }
func smallPending() pending   { return pending{64 << 10, 16 << 20} }
func groupPending() pending   { return pending{64 << 10, 64 << 20} }

// ledPartitions holds the subscriptions of the partitions that this node leads,
// or led a moment ago.
//
// They are plain subscriptions, never queue groups: during a leader change a
// queue group would give half of the requests to the old leader alone. And
// they outlive the leadership: a request that meets no subscription is lost
// silently, but the old leader's refusal names the new one.
type ledPartitions struct {
	s *Server
	// mu guards what follows and the fields of each entry.
	mu      sync.Mutex
	entries map[uint64]*entry // by shard
	started bool
	stopped bool
}

// entry is one partition. subs is not empty while subscribed; linger is set
// while subscribed but not leading.
type entry struct {
	Leadership
	subs   []*nats.Subscription
	linger *time.Timer
}

func newLedPartitions(s *Server) *ledPartitions {
	return &ledPartitions{s: s, entries: make(map[uint64]*entry)}
}

// start subscribes for what was learned before there were connections.
func (p *ledPartitions) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = true
	for _, e := range p.entries {
		p.subscribe(e)
	}
}

// stop makes subscriptions stay as they are until their connections close.
func (p *ledPartitions) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	for _, e := range p.entries {
		if e.linger != nil {
			e.linger.Stop()
		}
	}
}

// set takes the news and reports whether the server was started, so that there
// is a core to be told.
func (p *ledPartitions) set(l Leadership) (started bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return p.started
	}
	e := p.entries[l.Shard]
	switch {
	case l.Leading:
		if e == nil {
			e = &entry{}
			p.entries[l.Shard] = e
		}
		e.Leadership = l
		if e.linger != nil {
			e.linger.Stop()
			e.linger = nil
		}
		p.subscribe(e)
	case e != nil:
		e.Leading = false
		if e.linger == nil {
			e.linger = time.AfterFunc(p.s.options.Linger, func() { p.expire(l.Shard, e) })
		}
	}
	return p.started
}

// expire ends the subscriptions of a partition that has not been led again here
// and may be led elsewhere; where nobody leads it looks again later.
func (p *ledPartitions) expire(shard uint64, e *entry) {
	leaderless := p.s.options.Leaderless(shard) // not under the lock
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || e.Leading || p.entries[shard] != e {
		return
	}
	if leaderless {
		e.linger.Reset(p.s.options.Linger)
		return
	}
	for _, sub := range e.subs {
		// Not Unsubscribe: it would drop what has arrived and waits for its turn.
		if err := sub.Drain(); err != nil {
			p.s.logger.Debug("unsubscribe failed", "topic", e.Topic, "partition", e.Partition, "err", err)
		}
	}
	delete(p.entries, shard)
}

// subscribe makes e's subscriptions where they are missing. p.mu is held:
// subscribing writes into a buffer and waits for nobody.
func (p *ledPartitions) subscribe(e *entry) {
	if !p.started || len(e.subs) > 0 {
		return
	}
	produce := p.s.produce[e.Shard%uint64(len(p.s.produce))]
	fetch := p.s.fetch[e.Shard%uint64(len(p.s.fetch))]
	var errs [3]error
	subs := make([]*nats.Subscription, 3)
	subs[0], errs[0] = p.s.listen(produce, protocol.ProduceSubject(e.Topic, e.Partition), producePending(), p.s.onProduce(produce, e.Topic, e.Partition))
	subs[1], errs[1] = p.s.listen(fetch, protocol.FetchSubject(e.Topic, e.Partition), smallPending(), p.s.onFetch(fetch, e.Topic, e.Partition))
	subs[2], errs[2] = p.s.listen(fetch, protocol.OffsetsSubject(e.Topic, e.Partition), smallPending(), p.s.onOffsets(fetch, e.Topic, e.Partition))
	if err := errors.Join(errs[:]...); err != nil {
		p.s.logger.Error("partition cannot be served: subscribing failed", "topic", e.Topic, "partition", e.Partition, "err", err)
	}
	for _, sub := range subs {
		if sub != nil {
			e.subs = append(e.subs, sub)
		}
	}
}

// listen makes a bounded plain subscription whose requests' reply subjects have
// been checked.
func (s *Server) listen(c *nats.Conn, subject string, limit pending, answer func(*nats.Msg)) (*nats.Subscription, error) {
	sub, err := c.Subscribe(subject, s.checked(answer))
	return s.bound(sub, limit, err)
}

// listenQueue is listen as a member of the queue group: one node answers.
func (s *Server) listenQueue(c *nats.Conn, subject string, limit pending, answer func(*nats.Msg)) error {
	sub, err := c.QueueSubscribe(subject, protocol.QueueGroup, s.checked(answer))
	if sub, err = s.bound(sub, limit, err); err == nil {
		s.shared = append(s.shared, sub)
	}
	return err
}

func (s *Server) checked(answer func(*nats.Msg)) nats.MsgHandler {
	return func(m *nats.Msg) {
		if s.mayReply(m) {
			answer(m)
		}
	}
}

func (s *Server) bound(sub *nats.Subscription, limit pending, err error) (*nats.Subscription, error) {
	if err != nil {
		return nil, err
	}
	return sub, sub.SetPendingLimits(limit.messages, limit.bytes)
}

// onConnError takes what went wrong on one of the broker's own connections
// outside of a call, above all a subscription that fell behind.
func (s *Server) onConnError(c *nats.Conn, sub *nats.Subscription, err error) {
	if s.draining.Load() {
		return
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	s.logger.Warn("connection to the embedded NATS server", "connection", c.Opts.Name, "subject", subject, "err", err)
}

// request makes the handler's form of a message to a partition.
func request(topic string, partition int32, m *nats.Msg) handler.PartitionRequest {
	return handler.PartitionRequest{Topic: topic, Partition: partition, Payload: m.Data}
}
