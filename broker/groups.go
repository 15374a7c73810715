package broker

import (
	"time"

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
		Clock: b.nats.Now, ClockTrusted: b.nats.ClockTrusted, Logger: b.logger, Metrics: b.metrics,
		OnCoordination: b.onCoordination, QuorumLost: (&quorumWatch{nodes: coordinators{b}.Nodes, alive: b.alive, since: time.Now()}).lost,
	})
}

// startGroups starts this node's replicas of the coordinator shards. The
// founders hold them, as they hold the voters of the metadata shard; the replica
// id is the node id.
func (b *Broker) startGroups() error {
	id := b.founding.identity()
	if id.Joined {
		return nil
	}
	start := &memoryShards{
		started: id.GroupsStarted, reached: id.reached, mark: b.founding.groupsStarted, raftDir: b.dirs.raft,
		start: func(s raftnode.Shard) error { return b.raft.StartInMemory(s, b.groups.StateMachine) },
	}
	for i := range b.store.Image().GroupShards {
		shard := raftnode.Shard{
			ID: groups.FirstShard + uint64(i), Replica: id.NodeID,
			SnapshotEntries: groupsSnapshotEntries, CompactionOverhead: groupsSnapshotEntries / 4,
		}
		if !id.GroupsStarted {
			shard.Members = id.members()
		}
		start.shards = append(start.shards, shard)
	}
	if len(start.shards) == 0 {
		return nil
	}
	return start.run(b.raft)
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
