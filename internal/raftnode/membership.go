package raftnode

import (
	"context"
	"errors"
	"time"

	"github.com/lni/dragonboat/v4"
)

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
	if err := n.enter(); err != nil {
		return controlError("leader transfer", shard, err)
	}
	defer n.leave()
	if err := n.host.RequestLeaderTransfer(shard, toReplica); err != nil {
		return controlError("leader transfer", shard, err)
	}
	return nil
}

// Snapshot takes a Raft snapshot of the local replica (for an on-disk machine
// that is its Sync and a small record) and drops its log up to overhead entries
// before the snapshot's index. nil also when nothing was applied since the last
// snapshot, or when one is being taken. The log's files go in the background.
func (n *Node) Snapshot(ctx context.Context, shard uint64, overhead uint64) error {
	ctx, cancel := n.bound(ctx)
	defer cancel()
	request, err := n.request(func() (*dragonboat.RequestState, error) {
		return n.host.RequestSnapshot(shard, dragonboat.SnapshotOption{
			OverrideCompactionOverhead: true,
			CompactionOverhead:         overhead,
		}, n.timeout(ctx))
	})
	if err == nil {
		err = await(ctx, request)
	}
	if err == nil || errors.Is(err, dragonboat.ErrRejected) {
		return nil
	}
	return controlError("snapshot", shard, err)
}

// Membership reads the shard's membership, linearizably. Without a deadline in
// ctx 10 s hold.
func (n *Node) Membership(ctx context.Context, shard uint64) (Membership, error) {
	ctx, cancel := n.bound(ctx)
	defer cancel()
	if err := n.enter(); err != nil {
		return Membership{}, controlError("membership", shard, err)
	}
	defer n.leave()
	m, err := n.host.SyncGetShardMembership(ctx, shard)
	if err != nil {
		return Membership{}, controlError("membership", shard, err)
	}
	return Membership{ConfigChangeID: m.ConfigChangeID, Voters: m.Nodes, NonVoters: m.NonVotings, Removed: m.Removed}, nil
}

// AddNonVoting adds a replica that receives the log and does not vote. nil when
// it is a member already.
func (n *Node) AddNonVoting(ctx context.Context, shard, replica uint64, incarnation string) error {
	return n.change(ctx, change{
		name: "add non-voting replica", shard: shard,
		done: func(m Membership) bool {
			return m.NonVoters[replica] == incarnation || m.Voters[replica] == incarnation
		},
		request: func(id uint64, timeout time.Duration) (*dragonboat.RequestState, error) {
			return n.host.RequestAddNonVoting(shard, replica, incarnation, id, timeout)
		},
	})
}

// AddReplica adds a voting replica, or makes a voter of a non-voting one. nil
// when it is a voter already.
func (n *Node) AddReplica(ctx context.Context, shard, replica uint64, incarnation string) error {
	return n.change(ctx, change{
		name: "add replica", shard: shard,
		done: func(m Membership) bool { return m.Voters[replica] == incarnation },
		request: func(id uint64, timeout time.Duration) (*dragonboat.RequestState, error) {
			return n.host.RequestAddReplica(shard, replica, incarnation, id, timeout)
		},
	})
}

// RemoveReplica removes a replica for good: its id never comes back. nil when it
// was removed already.
func (n *Node) RemoveReplica(ctx context.Context, shard, replica uint64) error {
	return n.change(ctx, change{
		name: "remove replica", shard: shard,
		done: func(m Membership) bool { _, gone := m.Removed[replica]; return gone },
		request: func(id uint64, timeout time.Duration) (*dragonboat.RequestState, error) {
			return n.host.RequestDeleteReplica(shard, replica, id, timeout)
		},
	})
}

// change is one membership change.
type change struct {
	name    string
	shard   uint64
	done    func(Membership) bool // is the change in effect already?
	request func(configChangeID uint64, timeout time.Duration) (*dragonboat.RequestState, error)
}

// change applies c. Changes are ordered: each names the change it was decided
// upon, and loses (Rejected) against one that came between; then the membership
// is read again. After an unknown outcome the caller calls again: a change in
// effect is a success.
func (n *Node) change(ctx context.Context, c change) error {
	ctx, cancel := n.bound(ctx)
	defer cancel()
	for {
		m, err := n.Membership(ctx, c.shard)
		if err != nil {
			return err
		}
		if c.done(m) {
			return nil
		}
		request, err := n.request(func() (*dragonboat.RequestState, error) {
			return c.request(m.ConfigChangeID, n.timeout(ctx))
		})
		if err == nil {
			err = await(ctx, request)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, dragonboat.ErrRejected) || !n.changedSince(ctx, c.shard, m) {
			return controlError(c.name, c.shard, err)
		}
	}
}

// changedSince tells a change that lost a race from one that is refused for
// what it asks (a removed id, the last voter): only the first is worth a retry.
func (n *Node) changedSince(ctx context.Context, shard uint64, seen Membership) bool {
	now, err := n.Membership(ctx, shard)
	return err == nil && now.ConfigChangeID != seen.ConfigChangeID
}
