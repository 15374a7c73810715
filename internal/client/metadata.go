package client

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// Bounds of the metadata cache.
const (
	metadataAgeMax   = time.Minute
	metadataCheck    = 10 * time.Second
	refreshSpaceMin  = 20 * time.Millisecond
	refreshSpaceMax  = time.Second
	metadataAttempt  = 2 * time.Second
	unknownTopicTrys = 5
)

// topic is a cache entry. Client.mu guards its fields.
type topic struct {
	// meta is never changed once it is here; a refresh replaces it.
	meta *protocol.TopicMetadata
	// leaders by partition: meta's, and what replies told since.
	// Invariant: an epoch never falls while meta.ID stays.
	leaders []Leader
	fetched time.Time
	// used says that somebody asked since the last refresh by age.
	used atomic.Bool
}

// Leader says where requests for a partition go, as far as is known.
type Leader struct {
	TopicID uint64
	Node    uint64 // 0 unknown
	Epoch   int32  // protocol.EpochUnknown where it is
}

// refresher is the single flight of metadata requests.
type refresher struct {
	// mu guards next.
	mu sync.Mutex
	// next gathers the topics of the request that is not sent yet.
	next *flight
	kick chan struct{}
}

// flight is one metadata request that any number of callers wait for.
type flight struct {
	topics map[string]bool
	done   chan struct{} // closed when err is set
	err    error
}

func (r *refresher) init() { r.kick = make(chan struct{}, 1) }

// want adds topic to the next request and returns it.
func (r *refresher) want(topic string) *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		r.next = &flight{topics: make(map[string]bool), done: make(chan struct{})}
	}
	r.next.topics[topic] = true
	select {
	case r.kick <- struct{}{}:
	default:
	}
	return r.next
}

func (r *refresher) take() *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.next
	r.next = nil
	return f
}

// refreshLoop sends one metadata request at a time, with a growing space
// between them while they are in demand. Started by Dial, ended by Close; it
// blocks on the cluster for at most a few attempts.
func (c *Client) refreshLoop() {
	defer c.goroutines.Done()
	ticker := time.NewTicker(metadataCheck)
	defer ticker.Stop()
	var last time.Time
	space := refreshSpaceMin
	for {
		select {
		case <-c.ctx.Done():
			c.endFlight(c.refresh.take(), ErrClosed)
			return
		case <-ticker.C:
			c.wantOld()
			continue
		case <-c.refresh.kick:
		}
		if time.Since(last) > 4*space {
			space = refreshSpaceMin
		} else {
			space = min(2*space, refreshSpaceMax)
		}
		sleep(c.ctx, space-time.Since(last))
		f := c.refresh.take()
		c.endFlight(f, c.fly(f))
		last = time.Now()
	}
}

func (c *Client) endFlight(f *flight, err error) {
	if f != nil {
		f.err = err
		close(f.done)
	}
}

func (c *Client) fly(f *flight) error {
	if f == nil {
		return nil
	}
	names := make([]string, 0, len(f.topics))
	for name := range f.topics {
		names = append(names, name)
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.options.RequestTimeout)
	defer cancel()
	_, err := c.Metadata(ctx, names...)
	if err != nil {
		c.options.Logger.Debug("metadata refresh failed", "topics", names, "err", err)
	}
	return err
}

// wantOld asks for the topics that are in use and older than metadataAgeMax.
func (c *Client) wantOld() {
	c.mu.RLock()
	var old []string
	for name, t := range c.topics {
		if t.used.Load() && time.Since(t.fetched) > metadataAgeMax {
			t.used.Store(false)
			old = append(old, name)
		}
	}
	c.mu.RUnlock()
	for _, name := range old {
		c.refresh.want(name)
	}
}

// Metadata asks the cluster for its nodes and the named topics (none: all), and
// keeps the answer. It retries until ctx ends, or Options.RequestTimeout.
func (c *Client) Metadata(ctx context.Context, topics ...string) (*protocol.MetadataReply, error) {
	req := protocol.MetadataRequest{Version: protocol.ControlVersion, Topics: topics}
	var reply protocol.MetadataReply
	if err := c.Control(ctx, ControlCall{Subject: protocol.PrefixMetadata + protocol.VerbMetadata, Request: req, Reply: &reply}); err != nil {
		return nil, err
	}
	for _, conn := range c.apply(&reply, topics) {
		conn.close()
	}
	return &reply, nil
}

// apply takes a reply into the cache. A node that lags behind what was seen may
// add topics, never remove or replace them.
func (c *Client) apply(reply *protocol.MetadataReply, asked []string) (drop []*Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	lags := reply.Index < c.index
	c.index = max(c.index, reply.Index)
	if !lags {
		drop = c.setNodes(reply.ClusterName, reply.Nodes)
	}
	found := make(map[string]bool, len(reply.Topics))
	for i := range reply.Topics {
		m := &reply.Topics[i]
		found[m.Name] = true
		if old := c.topics[m.Name]; old == nil || !lags {
			c.topics[m.Name] = merge(old, m)
		}
	}
	for _, name := range asked {
		if !found[name] && !lags {
			delete(c.topics, name)
		}
	}
	return drop
}

// merge makes a cache entry of m that keeps the hints which are newer.
func merge(old *topic, m *protocol.TopicMetadata) *topic {
	t := &topic{meta: m, leaders: make([]Leader, len(m.Partitions)), fetched: time.Now()}
	for i := range t.leaders {
		t.leaders[i] = Leader{TopicID: m.ID, Epoch: protocol.EpochUnknown}
	}
	if old != nil && old.meta.ID == m.ID {
		copy(t.leaders, old.leaders)
		t.used.Store(old.used.Load())
	}
	for _, p := range m.Partitions {
		if p.Partition >= 0 && int(p.Partition) < len(t.leaders) {
			t.leaders[p.Partition].take(Leader{TopicID: m.ID, Node: p.Leader, Epoch: p.Epoch})
		}
	}
	return t
}

// take adopts h where it is news: a higher epoch, or the node of the same one.
func (l *Leader) take(h Leader) {
	if h.TopicID != l.TopicID || h.Epoch < l.Epoch {
		return
	}
	if h.Epoch > l.Epoch || h.Node != 0 {
		*l = h
	}
}

// Leader returns what is known about a partition's leader, without asking.
func (c *Client) Leader(topic string, partition int32) Leader {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t := c.topics[topic]
	if t == nil || partition < 0 || int(partition) >= len(t.leaders) {
		return Leader{Epoch: protocol.EpochUnknown}
	}
	t.used.Store(true)
	return t.leaders[partition]
}

// Learn takes a hint from a reply: the higher leader epoch wins.
func (c *Client) Learn(topic string, partition int32, hint Leader) {
	if hint.Epoch < 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.topics[topic]; t != nil && partition >= 0 && int(partition) < len(t.leaders) {
		t.leaders[partition].take(hint)
	}
}

// Stale asks for a refresh of what is known about topic, soon and without
// waiting.
func (c *Client) Stale(topic string) { c.refresh.want(topic) }

// Cached returns the metadata of a topic if it is there. What it points to is
// never changed; a refresh brings another pointer.
func (c *Client) Cached(name string) (*protocol.TopicMetadata, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t := c.topics[name]
	if t == nil {
		return nil, false
	}
	t.used.Store(true)
	return t.meta, true
}

// Topic returns the cached metadata of a topic, and asks the cluster when there
// is none. A topic that does not exist is asked for a few times, because a node
// may not have heard of it yet.
//
// Errors: INVALID_TOPIC_EXCEPTION, UNKNOWN_TOPIC_OR_PARTITION, ctx's.
func (c *Client) Topic(ctx context.Context, name string) (*protocol.TopicMetadata, error) {
	if m, ok := c.Cached(name); ok {
		return m, nil
	}
	if err := protocol.ValidateTopicName(name); err != nil {
		return nil, err
	}
	for range unknownTopicTrys {
		f := c.refresh.want(name)
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-c.ctx.Done():
			return nil, ErrClosed
		}
		if m, ok := c.Cached(name); ok {
			return m, nil
		}
		if f.err != nil {
			return nil, f.err
		}
	}
	return nil, errcode.New(errcode.UnknownTopicOrPartition, "topic %q does not exist; create it with: logbroker topic create %s", name, name)
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// retriable reports whether a request that changes nothing is worth repeating.
func retriable(err error) bool {
	for _, e := range []error{ErrTimeout, ErrDisconnected, ErrNoResponders, ErrNotSent} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errcode.Of(err).Retriable()
}
