package raftnode

import (
	"sync"

	"github.com/lni/dragonboat/v4/raftio"
)

// LeaderEvent is a change of one local replica's view: in Term, Leader (a
// replica id; 0 = none known) leads Shard. Replica is the local replica.
type LeaderEvent struct {
	Shard, Replica, Term, Leader uint64
}

// leaderQueue stands between dragonboat's event goroutine, which must not
// block, and the OnLeader callback, which may. It is bounded by coalescing: at
// most one event per shard waits, the latest.
type leaderQueue struct {
	deliver func(LeaderEvent)
	wake    chan struct{} // capacity 1: something is pending, or closed
	done    chan struct{} // closed when the goroutine has ended

	// mu guards the fields below.
	mu      sync.Mutex
	order   []uint64               // shards with a pending event, oldest first
	pending map[uint64]LeaderEvent // len(pending) == len(order)
	closed  bool
}

// newLeaderQueue starts the goroutine that calls deliver. close stops it.
func newLeaderQueue(deliver func(LeaderEvent)) *leaderQueue {
	q := &leaderQueue{
		deliver: deliver,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		pending: make(map[uint64]LeaderEvent),
	}
	go q.run()
	return q
}

// LeaderUpdated implements raftio.IRaftEventListener. It never blocks.
func (q *leaderQueue) LeaderUpdated(info raftio.LeaderInfo) {
	q.put(LeaderEvent{Shard: info.ShardID, Replica: info.ReplicaID, Term: info.Term, Leader: info.LeaderID})
}

func (q *leaderQueue) put(e LeaderEvent) {
	q.mu.Lock()
	if _, waiting := q.pending[e.Shard]; !waiting {
		q.order = append(q.order, e.Shard)
	}
	q.pending[e.Shard] = e
	q.mu.Unlock()
	q.signal()
}

func (q *leaderQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next takes the oldest pending event.
func (q *leaderQueue) next() (e LeaderEvent, ok, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.order) == 0 {
		return LeaderEvent{}, false, q.closed
	}
	shard := q.order[0]
	q.order = q.order[1:]
	e = q.pending[shard]
	delete(q.pending, shard)
	return e, true, false
}

// run is the one goroutine that calls deliver; it blocks on deliver and on wake.
func (q *leaderQueue) run() {
	defer close(q.done)
	for range q.wake {
		for {
			e, ok, closed := q.next()
			if closed {
				return
			}
			if !ok {
				break
			}
			if q.deliver != nil {
				q.deliver(e)
			}
		}
	}
}

// close drops what is pending and waits for a running delivery to return.
func (q *leaderQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
	<-q.done
}
