package broker

import (
	"logbroker/internal/raftnode"
	"logbroker/partitions"
)

// Replica returns this node's replica of a partition, for whoever watches a node
// from within its process.
func (b *Broker) Replica(topic string, partition int32) (*partitions.Partition, bool) {
	host := b.hostUp.Load()
	if host == nil {
		return nil, false
	}
	for _, p := range host.All() {
		if s := p.Spec(); s.Topic == topic && s.Partition == partition {
			return p, true
		}
	}
	return nil, false
}

// RaftTail returns the end of the Raft log of this node's replica of a shard; see
// raftnode.Node.Tail.
func (b *Broker) RaftTail(shard uint64, count int) ([]raftnode.LogEntry, error) {
	return b.raft.Tail(shard, count)
}

// LeadsMetadata reports whether this node leads the metadata, as far as it knows.
// The node must have started.
func (b *Broker) LeadsMetadata() bool { return b.store.IsLeader() }
