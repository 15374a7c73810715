package raftnode

import "context"

// Membership is a shard's membership as of a linearizable read.
type Membership struct {
	// ConfigChangeID is the index of the last applied change.
	ConfigChangeID uint64
	// Voters and NonVoters map replica id to incarnation.
	Voters, NonVoters map[uint64]string
	// Removed holds the replica ids that may never come back.
	Removed map[uint64]struct{}
}

// Transfer asks the leader of shard to hand over to replica toReplica. It
// returns when the request is queued; a LeaderEvent tells whether it happened.
// Only a node whose replica leads may ask.
func (n *Node) Transfer(shard, toReplica uint64) error {
	return n.host.RequestLeaderTransfer(shard, toReplica)
}

// Snapshot takes a Raft snapshot of the local replica and drops its log up to
// overhead entries before the snapshot's index.
func (n *Node) Snapshot(ctx context.Context, shard uint64, overhead uint64) error { panic("skeleton") }

// Membership reads the shard's membership, linearizably.
func (n *Node) Membership(ctx context.Context, shard uint64) (Membership, error) { panic("skeleton") }

// AddNonVoting adds a replica that receives the log and does not vote.
func (n *Node) AddNonVoting(ctx context.Context, shard, replica uint64, incarnation string) error {
	panic("skeleton")
}

// AddReplica adds a voting replica, or makes a voter of a non-voting one.
func (n *Node) AddReplica(ctx context.Context, shard, replica uint64, incarnation string) error {
	panic("skeleton")
}

// RemoveReplica removes a replica for good: its id never comes back.
func (n *Node) RemoveReplica(ctx context.Context, shard, replica uint64) error { panic("skeleton") }
