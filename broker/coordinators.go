package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"logbroker/broker/groups"
	"logbroker/broker/handler"
	"logbroker/broker/placement"
	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
	"logbroker/partitions"
)

const (
	// coordinatorMoveMax bounds the hand-over of one coordinator shard, and
	// coordinatorMoveCheck is how often is looked whether it has happened.
	coordinatorMoveMax   = 3 * time.Second
	coordinatorMoveCheck = 10 * time.Millisecond
)

// coordinators are the coordinator shards of consumer groups as Raft groups:
// where they are, how this node's replicas stand, and who leads.
type coordinators struct{ b *Broker }

// Nodes returns the founders' ids, sorted: they hold the replicas.
func (c coordinators) Nodes() []uint64 {
	out := []uint64{}
	for _, m := range c.b.founding.identity().Founders {
		out = append(out, m.NodeID)
	}
	slices.Sort(out)
	return out
}

// Status returns the state of this node's replica, for people and for the choice
// of the next leader.
func (c coordinators) Status(shard uint64) (handler.RaftState, bool) {
	s, ok := c.b.raft.Status(shard)
	if !ok {
		return handler.RaftState{}, false
	}
	return handler.RaftState{
		Shard: shard, Replica: s.Replica, State: partitions.StateRunning, Role: s.Role, Term: s.Term, Leader: raftnode.NodeOf(s.Leader),
		Last: s.Last, Commit: s.Commit, Applied: s.Applied, Serving: slices.Contains(c.b.groups.Serving(), shard),
	}, true
}

// Transfer hands a shard that this node leads to another node, and returns when
// it has moved. The shard takes no changes meanwhile, and members try again. No
// entry is lost: Raft waits until the other node has them all.
func (c coordinators) Transfer(ctx context.Context, shard, to uint64) error {
	ctx, cancel := context.WithTimeout(ctx, coordinatorMoveMax)
	defer cancel()
	if s, _ := c.b.raft.Status(shard); raftnode.NodeOf(s.Leader) != c.b.config.Cluster.NodeID {
		return errcode.New(errcode.NotLeaderOrFollower, "this node does not lead %s; ask the one that does", shardName(shard))
	}
	replica, err := c.b.voterOn(ctx, shard, to)
	if err != nil {
		return errcode.New(errcode.LeaderNotAvailable, "node %d cannot take over now: %v; try again in a moment", to, err)
	}
	if err := c.b.raft.Transfer(shard, replica); err != nil {
		return err
	}
	tick := time.NewTicker(coordinatorMoveCheck)
	defer tick.Stop()
	for {
		if leader, _, ok := c.b.raft.Leader(shard); ok && raftnode.NodeOf(leader) != c.b.config.Cluster.NodeID {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errcode.New(errcode.RequestTimedOut, "%s did not change its leader in time; see whether node %d is up to date", shardName(shard), to)
		}
	}
}

// preferred lists the coordinator shards for the balancer: shard i is best led
// by founder i mod n.
func (c coordinators) preferred() []placement.Partition {
	nodes := c.Nodes()
	out := make([]placement.Partition, c.b.store.Image().GroupShards)
	for i := range out {
		first := i % len(nodes)
		out[i] = placement.Partition{Shard: groups.FirstShard + uint64(i), Replicas: slices.Concat(nodes[first:], nodes[:first])}
	}
	return out
}

// onCoordination takes the news that this node began or ceased to coordinate a
// shard.
func (b *Broker) onCoordination(g groups.Coordination) {
	b.nats.Coordination(g.Shard, g.Epoch, g.Serving)
	b.balancer.Nudge()
}

const (
	// quorumGrace is how long after its start a node may not have heard of the
	// others yet.
	quorumGrace = 3 * time.Second
	// quorumCheck is how long an answer of quorumWatch holds: it is asked with
	// every group request.
	quorumCheck = 100 * time.Millisecond
)

// quorumWatch knows whether a majority of some nodes is gone.
type quorumWatch struct {
	nodes func() []uint64
	alive func(node uint64) bool
	since time.Time // of the start

	mu      sync.Mutex // guards what follows
	checked time.Time
	answer  bool
}

func (q *quorumWatch) lost() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if now.Sub(q.checked) < quorumCheck {
		return q.answer
	}
	alive, all := 0, q.nodes()
	for _, node := range all {
		if q.alive(node) {
			alive++
		}
	}
	q.checked, q.answer = now, 2*alive <= len(all) && now.Sub(q.since) > quorumGrace
	return q.answer
}
