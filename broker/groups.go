package broker

import (
	"fmt"

	"logbroker/broker/groups"
	"logbroker/internal/raftnode"
)

// groupsSnapshotEntries is after how many entries a coordinator shard takes a
// snapshot. An entry of busy groups holds hundreds of commits, up to 512 KiB; a
// snapshot of 100,000 committed offsets is about 10 MiB.
const groupsSnapshotEntries = 1024

func (b *Broker) newGroups() *groups.Host {
	g := b.config.Groups
	return groups.NewHost(groups.Options{
		NodeID: b.config.Cluster.NodeID, Raft: groups.NodeRaft{Node: b.raft}, Metadata: b.store,
		SessionTimeout: g.SessionTimeout, HeartbeatInterval: g.HeartbeatInterval, OffsetRetention: g.OffsetRetention,
		Logger: b.logger, Metrics: b.metrics,
	})
}

// startGroups starts this node's replicas of the coordinator shards. The
// founders hold them, as they hold the voters of the metadata shard; the replica
// id is the node id.
//
// The order is as for partitions: the Raft log knows all replicas, then the mark
// that they are started, then they start. So a marked replica that the Raft log
// does not know has lost its log and must never vote again, and one whose first
// start a crash prevented has not.
func (b *Broker) startGroups() error {
	id, shards := b.founding.identity(), b.store.Image().GroupShards
	if id.Joined || shards == 0 {
		return nil
	}
	members := map[uint64]string{}
	for _, m := range id.Founders {
		members[m.NodeID] = m.Incarnation
	}
	for i := range shards {
		shard := raftnode.Shard{ID: groups.FirstShard + uint64(i), Replica: id.NodeID, Members: members}
		if id.GroupsStarted && !b.raft.HasReplica(shard.ID, shard.Replica) {
			return fmt.Errorf("the Raft log of consumer group shard %d is gone from %s: this node must not vote again; "+
				"give it empty directories and a node_id that was never used, and join it through cluster.seeds", shard.ID, b.dirs.raft)
		}
		if err := b.raft.BootstrapInMemory(shard); err != nil {
			return err
		}
	}
	if !id.GroupsStarted {
		if err := b.founding.groupsStarted(); err != nil {
			return err
		}
	}
	for i := range shards {
		err := b.raft.StartInMemory(raftnode.Shard{
			ID: groups.FirstShard + uint64(i), Replica: id.NodeID,
			SnapshotEntries: groupsSnapshotEntries, CompactionOverhead: groupsSnapshotEntries / 4,
		}, b.groups.StateMachine)
		if err != nil {
			return err
		}
	}
	return nil
}

// handOverGroups asks living founders to coordinate in this node's place. Nobody
// waits for it: an election is the fall-back.
func (b *Broker) handOverGroups() {
	founders := b.founding.identity().Founders
	for i, shard := range b.groups.Serving() {
		for k := range founders {
			to := founders[(i+k)%len(founders)].NodeID // spread over the others
			if to == b.config.Cluster.NodeID || !b.alive(to) {
				continue
			}
			if err := b.raft.Transfer(shard, to); err != nil {
				b.logger.Debug("coordination of groups did not move", "shard", shard, "err", err)
			}
			break
		}
	}
}
