package broker

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"logbroker/broker/handler"
	"logbroker/broker/metadata"
	"logbroker/internal/protocol"
	"logbroker/internal/raftnode"
)

// metadataSnapshotEntries is after how many commands the metadata shard takes a
// snapshot. A command is small; a snapshot of 10,000 partitions is about 2 MiB.
const metadataSnapshotEntries = 2048

// startMetadata starts the metadata replica and returns when the image is at
// least as new as this start. Until background ends a replica that was replaced
// is given its vote back.
func (b *Broker) startMetadata(ctx, background context.Context) error {
	id := b.founding.identity()
	shard := raftnode.Shard{
		ID: metadata.ShardID, Replica: id.replica(metadata.ShardID), NonVoting: id.Joined,
		SnapshotEntries: metadataSnapshotEntries, CompactionOverhead: metadataSnapshotEntries / 4,
	}
	b.store.Attach(b.raft)
	start := func(s raftnode.Shard) error { return b.raft.StartInMemory(s, b.store.StateMachine) }
	if err := b.runMetadata(ctx, id, shard, start); err != nil {
		return err
	}
	if err := b.firstBarrier(ctx, id); err != nil {
		return err
	}
	b.founding.serveImage(b.knownIncarnation, b.admit, b.renew)
	if id.Joined {
		return nil
	}
	b.running.Go(func() { b.promote(background, metadata.ShardID) })
	return b.store.Found(ctx, metadata.Founding{
		ClusterID: id.ClusterID, ClusterName: id.ClusterName, Defaults: b.topicDefaults(), GroupShards: b.config.Groups.CoordinatorShards,
	})
}

// runMetadata starts the replica that shard says, or one in its place where its
// log is lost.
func (b *Broker) runMetadata(ctx context.Context, id identity, shard raftnode.Shard, start func(raftnode.Shard) error) error {
	again := b.replacer(start, func(reason string) { b.notReady(reason) })
	if _, replaced := id.Replaced[shard.ID]; replaced {
		return again.run(ctx, shard, nil)
	}
	if id.Joined {
		shard.Join = !id.MetadataStarted
	} else if !id.MetadataStarted {
		shard.Members = id.members()
	}
	first := &memoryShards{
		shards: []raftnode.Shard{shard}, started: id.MetadataStarted, reached: id.reached, mark: b.founding.started, raftDir: b.dirs.raft, start: start,
	}
	lost, err := first.run(b.raft)
	if err != nil || len(lost) == 0 {
		return err
	}
	return again.run(ctx, shard, lost[0].why)
}

// firstBarrier returns when the image is at least as new as this start. A later
// node makes itself known to the founders meanwhile.
func (b *Broker) firstBarrier(ctx context.Context, id identity) error {
	var introducing sync.WaitGroup
	defer introducing.Wait()
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	if id.Joined {
		introducing.Go(func() { b.founding.introduce(bounded) })
	}
	return b.store.Barrier(ctx)
}

// topicDefaults is what the cluster is founded with: settings for topics whose
// creator names none.
func (b *Broker) topicDefaults() metadata.Defaults {
	d, s := b.config.TopicDefaults, b.config.Storage
	return metadata.Defaults{Partitions: d.Partitions, Replicas: d.Replicas, Config: metadata.TopicConfig{
		RetentionAge: d.RetentionAge, RetentionBytes: int64(d.RetentionBytes), MaxBatchBytes: int64(d.MaxBatchBytes),
		SegmentBytes: int64(s.SegmentBytes), SegmentAge: s.SegmentAge, Cleanup: d.Cleanup,
	}}
}

// knownIncarnation tells founding how the metadata knows a node.
func (b *Broker) knownIncarnation(nodeID uint64) (string, bool) {
	n, ok := b.store.Image().Node(nodeID)
	return n.Incarnation, ok
}

// admit adds a later node as a non-voting replica of the metadata shard. It may
// be repeated.
func (b *Broker) admit(ctx context.Context, m member) error {
	b.addresses.learn(m)
	members, err := b.raft.Membership(ctx, metadata.ShardID)
	if err != nil {
		return fmt.Errorf("the metadata shard does not answer: %w", err)
	}
	if len(replicasOf(members.NonVoters, m)) > 0 {
		return nil
	}
	if slices.ContainsFunc(everGiven(members), func(replica uint64) bool { return raftnode.NodeOf(replica) == m.NodeID }) {
		return fmt.Errorf("node id %d was used before: use a cluster.node_id that was never used", m.NodeID)
	}
	return b.raft.AddNonVoting(ctx, metadata.ShardID, m.NodeID, m.Incarnation)
}

// metadataRaft is the state of this node's metadata replica, for people.
func (b *Broker) metadataRaft() (handler.RaftState, bool) {
	s, ok := b.raft.Status(metadata.ShardID)
	if !ok {
		return handler.RaftState{}, false
	}
	return handler.RaftState{
		Shard: metadata.ShardID, Replica: s.Replica, State: "running", Role: s.Role, Term: s.Term, Leader: raftnode.NodeOf(s.Leader),
		Last: s.Last, Commit: s.Commit, Applied: b.store.Image().Index,
	}, true
}

// transfer is the balancer's order to the node that leads a shard.
func (b *Broker) transfer(ctx context.Context, shard, from, to uint64) error {
	if from != b.config.Cluster.NodeID {
		request := protocol.NodeTransferRequest{Version: protocol.ControlVersion, Shard: shard, To: to}
		return b.nats.Call(ctx, from, protocol.VerbNodeTransfer, request, &protocol.Empty{})
	}
	return b.handler.TransferLeader(ctx, shard, to)
}
