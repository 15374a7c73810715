package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"logbroker/broker/handler"
	"logbroker/broker/metadata"
	"logbroker/internal/protocol"
	"logbroker/internal/raftnode"
)

// metadataSnapshotEntries is after how many commands the metadata shard takes a
// snapshot. A command is small; a snapshot of 10,000 partitions is about 2 MiB.
const metadataSnapshotEntries = 2048

// startMetadata starts the metadata replica and returns when the image is at
// least as new as this start.
func (b *Broker) startMetadata(ctx context.Context) error {
	id := b.founding.identity()
	if id.MetadataStarted && !b.raft.HasReplica(metadata.ShardID, id.NodeID) {
		return errors.New("the Raft log of the metadata is gone from " + b.dirs.raft + ": this node must not vote again; " +
			"give it empty directories and a node_id that was never used, and join it through cluster.seeds")
	}
	if err := b.checkMetadataLog(id); err != nil {
		return err
	}
	shard := raftnode.Shard{
		ID: metadata.ShardID, Replica: id.NodeID, NonVoting: id.Joined,
		SnapshotEntries: metadataSnapshotEntries, CompactionOverhead: metadataSnapshotEntries / 4,
	}
	if !id.MetadataStarted {
		if id.Joined {
			shard.Join = true
		} else {
			shard.Members = map[uint64]string{}
			for _, m := range id.Founders {
				shard.Members[m.NodeID] = m.Incarnation
			}
		}
		// After the replica is known to the Raft log, and before that log is first
		// written: from here on a replica that is not known has lost its log.
		if err := b.raft.BootstrapInMemory(shard); err != nil {
			return err
		}
		if err := b.founding.started(); err != nil {
			return err
		}
	}
	b.store.Attach(b.raft)
	if err := b.raft.StartInMemory(shard, b.store.StateMachine); err != nil {
		return err
	}
	if err := b.firstBarrier(ctx, id); err != nil {
		return err
	}
	b.founding.serveImage(b.knownIncarnation, b.admit)
	if id.Joined {
		return nil
	}
	return b.store.Found(ctx, metadata.Founding{
		ClusterID: id.ClusterID, ClusterName: id.ClusterName, Defaults: b.topicDefaults(), GroupShards: b.config.Groups.CoordinatorShards,
	})
}

// checkMetadataLog refuses a metadata log that ends before what this node had
// applied: a log that was cut short must not vote, for it has forgotten what it
// acknowledged.
func (b *Broker) checkMetadataLog(id identity) error {
	if !id.MetadataStarted {
		return nil
	}
	end, err := b.raft.LogEnd(metadata.ShardID, id.NodeID)
	if err != nil {
		return err
	}
	if end < id.MetadataApplied {
		return fmt.Errorf("the Raft log of the metadata in %s ends at index %d, but this node had applied index %d: the log was cut short or an old copy was put back, "+
			"and it must not vote again; give the node empty directories and a node_id that was never used, and join it through cluster.seeds",
			b.dirs.raft, end, id.MetadataApplied)
	}
	return nil
}

// watermarkInterval is how often the applied metadata index is recorded, at most.
const watermarkInterval = time.Second

// keepWatermark records how far the metadata is applied, until ctx ends. What is
// younger than the last record can be cut off unnoticed.
func (b *Broker) keepWatermark(ctx context.Context) {
	for {
		index := b.store.Image().Index
		if err := b.founding.applied(index); err != nil {
			b.logger.Error("cannot record how far the metadata log reaches", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(watermarkInterval):
		}
		select {
		case <-ctx.Done():
			return
		case <-b.store.Changed(index):
		}
	}
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
	if incarnation, ok := members.NonVoters[m.NodeID]; ok && incarnation == m.Incarnation {
		return nil
	}
	_, votes := members.Voters[m.NodeID]
	_, follows := members.NonVoters[m.NodeID]
	_, gone := members.Removed[m.NodeID]
	if votes || follows || gone {
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
		Shard: metadata.ShardID, Replica: s.Replica, State: "running", Role: s.Role, Term: s.Term, Leader: s.Leader,
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
