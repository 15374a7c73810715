package raftnode

import (
	"context"
)

// ReplicaState is what the log store last made durable for a local replica,
// and its view of the leader.
type ReplicaState struct {
	Replica uint64
	// Term, Vote and Commit are the hard state, Last the index of the last
	// entry, as last written. Commit may lag by what was not yet worth writing.
	Term, Vote, Commit, Last uint64
	// Leader is the leader's replica id in LeaderTerm, 0 = none known.
	Leader, LeaderTerm uint64
	// Role is "leader", "follower" or "unknown" (no leader known).
	Role string
}

// ReadIndex is a linearizable barrier: after it returns nil the local replica
// has applied every command that was acknowledged before the call. It costs a
// round to a majority. Without a deadline in ctx 10 s hold.
func (n *Node) ReadIndex(ctx context.Context, shard uint64) error { panic("skeleton") }

// Query passes q to the local state machine's Lookup without any barrier.
func (n *Node) Query(shard uint64, q any) (any, error) { return n.host.StaleRead(shard, q) }

// Leader returns the leader's replica id and its term as the local replica sees
// them. ok is false where no leader is known or no replica runs here.
func (n *Node) Leader(shard uint64) (replica, term uint64, ok bool) {
	replica, term, ok, err := n.host.GetLeaderID(shard)
	return replica, term, ok && err == nil
}

// Status returns the state of the local replica of shard.
func (n *Node) Status(shard uint64) (ReplicaState, bool) { panic("skeleton") }
