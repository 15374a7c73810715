package raftnode

import (
	"errors"
	"fmt"

	"github.com/lni/dragonboat/v4/raftio"
)

// AppliedFloor returns the applied index that the on-disk state machine of a
// replica must have reached before the replica may be started: that of the last
// snapshot it took of itself, or of a peer's that it has taken over, up to which the
// Raft log may be gone. dragonboat ends the process where the machine's Open returns
// less. 0 = no such snapshot.
// Only for a replica that HasReplica knows.
func (n *Node) AppliedFloor(shard, replica uint64) (uint64, error) {
	if err := n.enter(); err != nil {
		return 0, err
	}
	defer n.leave()
	snapshot, err := n.store.GetSnapshot(shard, replica)
	if err != nil {
		return 0, fmt.Errorf("raftnode: read the snapshot record of shard %d replica %d: %w", shard, replica, err)
	}
	if snapshot.Dummy || snapshot.Index == 0 {
		return snapshot.OnDiskIndex, nil
	}
	emptied, err := n.store.emptied(shard, replica, snapshot.Index)
	if err != nil {
		return 0, fmt.Errorf("raftnode: the snapshot of shard %d replica %d: %w", shard, replica, err)
	}
	if !emptied {
		return 0, nil // it holds the data and is applied at the start
	}
	return snapshot.OnDiskIndex, nil
}

// LogEnd returns the index of the last entry of a replica that is not running:
// of its Raft log, or of its newest snapshot where the log does not reach above
// that. An entry is durable in the log before the state machine gets it, so a
// machine that is ahead of LogEnd has lost the end of its log, or all of it.
// Only for a replica that HasReplica knows. ErrLogDamaged as for CheckLog.
func (n *Node) LogEnd(shard, replica uint64) (uint64, error) {
	if err := n.enter(); err != nil {
		return 0, err
	}
	defer n.leave()
	snapshot, err := n.store.GetSnapshot(shard, replica)
	if err != nil {
		return 0, fmt.Errorf("raftnode: read the snapshot record of shard %d replica %d: %w", shard, replica, err)
	}
	state, err := n.store.ILogDB.ReadRaftState(shard, replica, snapshot.Index)
	if err != nil && !errors.Is(err, raftio.ErrNoSavedLog) {
		return 0, fmt.Errorf("raftnode: read the log of shard %d replica %d: %w", shard, replica, err)
	}
	if state.EntryCount == 0 {
		return snapshot.Index, nil
	}
	return state.FirstIndex + state.EntryCount - 1, nil
}
