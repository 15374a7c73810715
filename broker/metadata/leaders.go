package metadata

import (
	"context"
	"sync"

	"logbroker/internal/protocol"
)

// Leaders is who leads which partition and which coordinator shard, as the leaders themselves tell it. It is
// a hint: it may be late, and it is lost with the process. A higher epoch
// always wins, so late news do no harm.
type Leaders struct {
	// mu guards the fields below.
	mu      sync.RWMutex
	shards  map[uint64]leadership
	changed chan struct{} // closed and replaced with each change
}

// leadership is the newest that is known of a shard. node 0 means that the
// leader of that epoch is known to lead no more.
type leadership struct {
	node  uint64
	epoch int32
}

// NewLeaders returns an empty table.
func NewLeaders() *Leaders {
	return &Leaders{shards: map[uint64]leadership{}, changed: make(chan struct{})}
}

// Set takes in what a node says it leads. A full broadcast also clears what the
// node led before and does not name.
func (l *Leaders) Set(b protocol.LeadersBroadcast) {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := false
	if b.Full {
		news = l.clearUnnamed(b)
	}
	for _, s := range b.Leaders {
		news = l.learn(s.Shard, leadership{b.Node, s.Epoch}) || news
	}
	if news {
		l.wake()
	}
}

// clearUnnamed forgets the leaderships of b.Node that b does not name.
func (l *Leaders) clearUnnamed(b protocol.LeadersBroadcast) bool {
	named := make(map[uint64]bool, len(b.Leaders))
	for _, s := range b.Leaders {
		named[s.Shard] = true
	}
	news := false
	for shard, cur := range l.shards {
		if cur.node == b.Node && !named[shard] {
			l.shards[shard] = leadership{0, cur.epoch}
			news = true
		}
	}
	return news
}

func (l *Leaders) learn(shard uint64, n leadership) bool {
	cur, known := l.shards[shard]
	if known && (n.epoch < cur.epoch || n.epoch == cur.epoch && cur.node != 0) {
		return false
	}
	l.shards[shard] = n
	return true
}

// Lost says that node leads shard no more. Another node's newer leadership
// stays.
func (l *Leaders) Lost(node, shard uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cur := l.shards[shard]; cur.node == node && node != 0 {
		l.shards[shard] = leadership{0, cur.epoch}
		l.wake()
	}
}

// LostAll says that node leads nothing any more: it is down.
func (l *Leaders) LostAll(node uint64) {
	l.Set(protocol.LeadersBroadcast{Node: node, Full: true})
}

// Prune forgets partitions that the image does not have.
func (l *Leaders) Prune(m *Image) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for shard := range l.shards {
		if _, _, ok := m.PartitionByShard(shard); !ok && shard >= FirstPartitionShard {
			delete(l.shards, shard)
		}
	}
}

// wake tells the waiters. The caller holds mu.
func (l *Leaders) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Leader returns the node that leads shard and its epoch; ok is false where
// none is known.
func (l *Leaders) Leader(shard uint64) (node uint64, epoch int32, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := l.shards[shard]
	return s.node, s.epoch, s.node != 0
}

// Counts returns how many shards each node leads.
func (l *Leaders) Counts() map[uint64]int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	out := map[uint64]int{}
	for _, s := range l.shards {
		if s.node != 0 {
			out[s.node]++
		}
	}
	return out
}

// Changed returns a channel that is closed at the next change. Take it before
// looking.
func (l *Leaders) Changed() <-chan struct{} {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.changed
}

// WaitFor returns nil once cond holds, and ctx's error when ctx ends first.
// cond is called from this goroutine, without a lock.
func (l *Leaders) WaitFor(ctx context.Context, cond func() bool) error {
	for {
		changed := l.Changed()
		if cond() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
