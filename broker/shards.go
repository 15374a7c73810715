package broker

import (
	"context"
	"fmt"
	"time"

	"logbroker/broker/groups"
	"logbroker/broker/metadata"
	"logbroker/internal/raftnode"
)

// memoryRaft is the part of raftnode.Node that starts shards whose state machine
// lives in memory.
type memoryRaft interface {
	HasReplica(shard, replica uint64) bool
	LogEnd(shard, replica uint64) (uint64, error)
	BootstrapInMemory(s raftnode.Shard) error
}

// memoryShards are shards whose state machines live in memory, so that their
// Raft log is all this node knows of them. They are marked as started together.
type memoryShards struct {
	shards  []raftnode.Shard
	started bool                  // the durable mark
	reached func(s uint64) uint64 // an index that the log of shard s had reached for certain
	mark    func() error          // sets the mark
	start   func(s raftnode.Shard) error
	raftDir string // for errors
}

// run starts the shards so that no empty or shortened log ever votes.
//
// The Raft log knows all replicas, then the mark that they are started is
// durable, then the first of them starts. So a marked replica that the Raft log
// does not know has lost its log and is refused; and where a crash came before
// the mark none has run, whatever the log knows, and the next start goes on. A
// replica that the Raft log knows may still have lost the end of its log, or all
// of it: the log must reach as far as it is recorded to have reached.
//
// All are checked before the first one starts.
func (m *memoryShards) run(raft memoryRaft) error {
	for _, s := range m.shards {
		if !m.started {
			break // none has run: there is nothing to be lost
		}
		if err := m.check(raft, s); err != nil {
			return err
		}
	}
	if !m.started {
		for _, s := range m.shards {
			if err := raft.BootstrapInMemory(s); err != nil {
				return err
			}
		}
		if err := m.mark(); err != nil {
			return err
		}
	}
	for _, s := range m.shards {
		if err := m.start(s); err != nil {
			return err
		}
	}
	return nil
}

// check refuses the log of a replica that may have voted where the log is gone
// or ends too early: it has forgotten what it acknowledged.
func (m *memoryShards) check(raft memoryRaft, s raftnode.Shard) error {
	const wayOut = "give the node empty directories and a node_id that was never used, and join it through cluster.seeds"
	if !raft.HasReplica(s.ID, s.Replica) {
		return fmt.Errorf("the Raft log of %s is gone from %s: this node must not vote again; %s", shardName(s.ID), m.raftDir, wayOut)
	}
	end, err := raft.LogEnd(s.ID, s.Replica)
	if err != nil {
		return fmt.Errorf("the Raft log of %s in %s cannot be read: %w; where it is damaged this node must not vote again: %s", shardName(s.ID), m.raftDir, err, wayOut)
	}
	if reached := m.reached(s.ID); end < reached {
		return fmt.Errorf("the Raft log of %s in %s ends at index %d, but on this node index %d was committed: the log was cut short or an old copy was put back, "+
			"and it must not vote again; %s", shardName(s.ID), m.raftDir, end, reached, wayOut)
	}
	return nil
}

// shardName is what people call a shard that is no partition.
func shardName(shard uint64) string {
	if shard == metadata.ShardID {
		return "the metadata"
	}
	return fmt.Sprintf("consumer group shard %d", shard-groups.FirstShard)
}

// watermarkInterval is how often it is recorded how far the logs reach, at most.
const watermarkInterval = time.Second

// keepWatermark records how far the logs of the metadata and of the coordinator
// shards reach, until ctx ends, and a last time then. What is younger than the
// last record can be cut off unnoticed. Where nothing was committed nothing is
// written: an idle node's disk stays idle.
func (b *Broker) keepWatermark(ctx context.Context) {
	tick := time.NewTicker(watermarkInterval)
	defer tick.Stop()
	for ended := false; ; {
		if err := b.founding.reached(b.committed()); err != nil {
			b.logger.Error("cannot record how far the Raft logs reach", "err", err)
		}
		if ended {
			return
		}
		select {
		case <-ctx.Done():
			ended = true
		case <-tick.C:
		}
	}
}

// committed returns, by shard, how far the logs of the metadata and the
// coordinator shards on this node are committed and durable. Unlike the last
// entry the commit index never falls, and it only rises to entries that this
// node's log has made durable before.
func (b *Broker) committed() map[uint64]uint64 {
	out := map[uint64]uint64{}
	for shard := uint64(metadata.ShardID); shard < groups.FirstShard+uint64(b.store.Image().GroupShards); shard++ {
		if s, ok := b.raft.Status(shard); ok {
			out[shard] = min(s.Commit, s.Last)
		}
	}
	return out
}
