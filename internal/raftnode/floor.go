package raftnode

import "fmt"

// AppliedFloor returns the applied index that the on-disk state machine of a
// replica must have reached before the replica may be started: that of the last
// snapshot it took of itself, up to which the Raft log may be gone. dragonboat
// ends the process where the machine's Open returns less. 0 = no such snapshot.
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
	if !snapshot.Dummy {
		return 0, nil // from a peer: it holds the data and is applied at the start
	}
	return snapshot.OnDiskIndex, nil
}
