package producer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// metadataLookEvery is how often a send compares its topic with the metadata cache.
const metadataLookEvery = 100 * time.Millisecond

// topic is a topic as the producer last saw it. It is replaced as a whole when
// partitions were added, or when it was created anew (another id).
type topic struct {
	meta   *protocol.TopicMetadata
	parts  []*partition
	sticky *sticky
	ratio  *ratio
	// lookedAt is when meta was last compared with the cache, Unix ms.
	lookedAt atomic.Int64
}

// stickyBytes is how much, uncompressed, a partition gets before the next one's
// turn, or WithBatchBytes where that is less. Were it a batch, however small, a producer that does not fill batches
// would send one of a single record to every partition that is idle; staying makes
// the next batch wait for the ack of the one before, and so gather records.
const stickyBytes = 64 << 10

// sticky is the partition that keyless records go to. It moves on with closed
// batches, as soon as one partition has got its share.
// Source of the idea: KIP-794, strictly uniform sticky partitioner.
type sticky struct {
	share int64 // of a partition, in bytes
	now   atomic.Int32
	count atomic.Int32 // partitions
	got   atomic.Int64 // bytes that the partition now has got
}

// closed takes in that a batch of size bytes of partition index was closed.
func (s *sticky) closed(index int32, size int) {
	if s.now.Load() == index && s.got.Add(int64(size)) >= s.share {
		s.leave(index)
	}
}

// leave moves on if index is the sticky partition.
func (s *sticky) leave(index int32) {
	n := s.count.Load()
	if n > 1 && s.now.CompareAndSwap(index, (index+1+rand.Int32N(n-1))%n) {
		s.got.Store(0)
	}
}

// topics holds the topics that were written to.
type topics struct {
	// mu guards what follows. It is held for map accesses, and for writing while the
	// partitions of a topic are made.
	mu     sync.RWMutex
	byName map[string]*topic
	// old are retired partitions that may still hold records.
	old []*partition
}

// ready returns the topic if it is known and was compared with the metadata of
// late.
func (p *Producer) ready(name string, now time.Time) *topic {
	p.topics.mu.RLock()
	t := p.topics.byName[name]
	p.topics.mu.RUnlock()
	if t == nil {
		return nil
	}
	if at := t.lookedAt.Load(); now.UnixMilli()-at < metadataLookEvery.Milliseconds() {
		return t
	}
	meta, ok := p.client.Cached(name)
	if !ok || meta.ID != t.meta.ID || len(meta.Partitions) != len(t.meta.Partitions) {
		return nil
	}
	for _, q := range t.parts {
		q.bytesMax.Store(meta.MaxBatchBytes)
	}
	t.lookedAt.Store(now.UnixMilli())
	return t
}

// lookup is ready that waits for metadata until ctx ends.
func (p *Producer) lookup(ctx context.Context, name string, now time.Time) (*topic, error) {
	if t := p.ready(name, now); t != nil {
		return t, nil
	}
	meta, err := p.client.Topic(ctx, name)
	if err != nil {
		return nil, err
	}
	return p.adopt(meta, now)
}

// adopt makes the topic of meta, with the partitions it had already.
func (p *Producer) adopt(meta *protocol.TopicMetadata, now time.Time) (*topic, error) {
	if len(meta.Partitions) == 0 {
		return nil, errcode.New(errcode.LeaderNotAvailable, "topic %q has no partitions yet; try again", meta.Name)
	}
	p.topics.mu.Lock()
	defer p.topics.mu.Unlock()
	if p.closed.Load() { // Close retires what all() returns, so nothing may come later
		return nil, ErrClosed
	}
	t := &topic{meta: meta, sticky: &sticky{share: int64(min(p.options.batchBytes, stickyBytes))}, ratio: new(ratio)}
	old := p.topics.byName[meta.Name]
	if old != nil && old.meta.ID == meta.ID {
		t.parts, t.sticky, t.ratio = append(t.parts, old.parts...), old.sticky, old.ratio
	} else {
		t.sticky.now.Store(rand.Int32N(int32(len(meta.Partitions))))
		if old != nil {
			p.topics.retire(old.parts)
		}
	}
	for i := len(t.parts); i < len(meta.Partitions); i++ {
		t.parts = append(t.parts, newPartition(p, t, int32(i)))
	}
	t.sticky.count.Store(int32(len(t.parts)))
	t.lookedAt.Store(now.UnixMilli())
	p.topics.byName[meta.Name] = t
	return t, nil
}

// retire lets partitions of a topic that is gone finish. mu is held.
func (ts *topics) retire(parts []*partition) {
	busy := append([]*partition(nil), parts...)
	for _, q := range ts.old {
		if !q.idle() {
			busy = append(busy, q)
		}
	}
	ts.old = busy
	for _, q := range parts {
		q.retire()
	}
}

// all returns every partition that may hold records.
func (p *Producer) all() []*partition {
	p.topics.mu.RLock()
	defer p.topics.mu.RUnlock()
	out := append([]*partition(nil), p.topics.old...)
	for _, t := range p.topics.byName {
		out = append(out, t.parts...)
	}
	return out
}

// pick chooses the partition of r.
func (p *Producer) pick(t *topic, r *Record) (*partition, error) {
	var i int32
	if r.Partition != nil {
		i = *r.Partition
	} else if i = p.options.partitioner(r.Topic, r.Key, len(t.parts)); i == Sticky {
		i = t.sticky.now.Load()
	}
	if i < 0 || int(i) >= len(t.parts) {
		return nil, fmt.Errorf("%w: topic %q has partitions 0 to %d, not %d", ErrNoSuchPartition, r.Topic, len(t.parts)-1, i)
	}
	return t.parts[i], nil
}

// route returns where requests for q go. A topic of the same name but another
// id is not q's: then nothing is known.
func (q *partition) route() client.Leader {
	l := q.p.client.Leader(q.topic, q.index)
	if l.TopicID != q.topicID {
		return client.Leader{TopicID: q.topicID, Epoch: protocol.EpochUnknown}
	}
	return l
}

// gone reports whether the metadata says that q's topic does not exist any more.
func (q *partition) gone() bool {
	meta, ok := q.p.client.Cached(q.topic)
	return !ok || meta.ID != q.topicID
}
