package partitions

import (
	"context"
	"time"

	"logbroker/internal/raftnode"
)

// raft is what a partition needs of *raftnode.Node; see there. The seam is here
// so that tests can drop, delay and reorder proposals.
type raft interface {
	Propose(shard uint64, cmd []byte, timeout time.Duration) (proposal, error)
	ReadIndex(ctx context.Context, shard uint64) error
	Transfer(shard, toReplica uint64) error
	Snapshot(ctx context.Context, shard, overhead uint64) error
	Status(shard uint64) (raftnode.ReplicaState, bool)
}

// proposal is a command on its way; exactly one of these is called, once.
type proposal interface {
	Wait() (raftnode.Result, error)
	WaitOr(giveUp <-chan struct{}, grace time.Duration) (raftnode.Result, error)
}

// nodeRaft makes a raft of a node. Only Propose needs help: its result is a
// concrete type there.
type nodeRaft struct{ *raftnode.Node }

func (n nodeRaft) Propose(shard uint64, cmd []byte, timeout time.Duration) (proposal, error) {
	p, err := n.Node.Propose(shard, cmd, timeout)
	if err != nil {
		return nil, err // not p: a nil *Proposal in the interface is not nil
	}
	return p, nil
}
