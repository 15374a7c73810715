package broker

import (
	"context"
	"errors"
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
// Replicas that were replaced once are not among them: see replacer.
type memoryShards struct {
	shards  []raftnode.Shard
	started bool                  // the durable mark
	reached func(s uint64) uint64 // an index that the log of shard s had reached for certain
	mark    func() error          // sets the mark
	start   func(s raftnode.Shard) error
	raftDir string // for errors
}

// lostLog is a replica that must not start, and why.
type lostLog struct {
	shard raftnode.Shard
	why   error
}

// run starts the shards so that no empty or shortened log ever votes, and returns
// those whose log is lost.
//
// The Raft log knows all replicas, then the mark that they are started is
// durable, then the first of them starts. So a marked replica that the Raft log
// does not know has lost its log; and where a crash came before the mark none has
// run, whatever the log knows, and the next start goes on. A replica that the
// Raft log knows may still have lost the end of its log, or all of it: the log
// must reach as far as it is recorded to have reached.
func (m *memoryShards) run(raft memoryRaft) (lost []lostLog, err error) {
	if !m.started {
		for _, s := range m.shards {
			if err := raft.BootstrapInMemory(s); err != nil {
				return nil, err
			}
		}
		if err := m.mark(); err != nil {
			return nil, err
		}
	}
	for _, s := range m.shards {
		if m.started { // else none has run: there is nothing to be lost
			why, err := checkLog(raft, s, m.reached(s.ID), m.raftDir)
			if err != nil {
				return lost, err
			}
			if why != nil {
				lost = append(lost, lostLog{s, why})
				continue
			}
		}
		if err := m.start(s); err != nil {
			return lost, err
		}
	}
	return lost, nil
}

// checkLog says why the log of a replica that may have voted is lost: it is gone,
// damaged, or ends too early, so that it has forgotten what it acknowledged. An
// error says nothing about the log: the disk could not be asked.
func checkLog(raft memoryRaft, s raftnode.Shard, reached uint64, raftDir string) (lost, err error) {
	if !raft.HasReplica(s.ID, s.Replica) {
		return fmt.Errorf("the Raft log of %s is gone from %s", shardName(s.ID), raftDir), nil
	}
	end, err := raft.LogEnd(s.ID, s.Replica)
	if err != nil {
		err = fmt.Errorf("the Raft log of %s in %s cannot be read: %w", shardName(s.ID), raftDir, err)
		if errors.Is(err, raftnode.ErrLogDamaged) {
			return err, nil
		}
		return nil, err
	}
	if end < reached {
		return fmt.Errorf("the Raft log of %s in %s ends at index %d, but on this node index %d was committed: the log was cut short or an old copy was put back",
			shardName(s.ID), raftDir, end, reached), nil
	}
	return nil, nil
}

// replacementIDs records the steps of a replacement durably; founding has it.
type replacementIDs interface {
	replacement(shard uint64) (r replacement, replaced bool)
	retire(shard, replica uint64) error
	given(shard, replica uint64) error
	replacementStarted(shard uint64) error
}

// replacer brings replicas of shards in memory back after their log was lost, under
// a new replica id: for Raft a new member that has never voted and knows nothing.
type replacer struct {
	raft memoryRaft
	ids  replacementIDs
	// ask has the rest of the cluster carry out a request. It waits until a majority
	// of the shard's replicas could.
	ask         func(ctx context.Context, r replaceRequest) (replica uint64, err error)
	start       func(s raftnode.Shard) error
	lost        func(s raftnode.Shard, why error) // is told of a loss once it is certain
	replaceable bool
	raftDir     string // for errors
}

// run starts this node's replica of s.ID, which was replaced before, or is to be
// because of why. Each step is durable before the next one, and the next start
// goes on with it.
//
// A majority must answer before the old id is retired: where the Raft directories
// of many nodes are gone at once, because a disk is not mounted, nobody is retired
// and all come back with them.
func (p *replacer) run(ctx context.Context, s raftnode.Shard, why error) error {
	for {
		if why != nil {
			if err := p.retire(ctx, s, why); err != nil {
				return err
			}
			why = nil
		}
		r, _ := p.ids.replacement(s.ID)
		s.Replica, s.Members, s.Join, s.NonVoting = r.Replica, nil, !r.Started, true
		var err error
		switch {
		case r.Replica == 0:
			var replica uint64
			if replica, err = p.ask(ctx, replaceRequest{Shard: s.ID, Retired: r.Retired}); err == nil {
				err = p.ids.given(s.ID, replica)
			}
		case !r.Started:
			if err = p.raft.BootstrapInMemory(s); err == nil {
				err = p.ids.replacementStarted(s.ID)
			}
		default:
			if why, err = checkLog(p.raft, s, r.Reached, p.raftDir); err == nil && why == nil {
				return p.start(s)
			}
		}
		if err != nil {
			return err
		}
	}
}

// retire makes sure that the replica s never starts again.
func (p *replacer) retire(ctx context.Context, s raftnode.Shard, why error) error {
	if !p.replaceable {
		return fmt.Errorf("%w; this node must not vote again, and there is no majority without it to repair it from: %s", why, wayOut)
	}
	if _, err := p.ask(ctx, replaceRequest{Shard: s.ID, Retired: s.Replica, Probe: true}); err != nil {
		return fmt.Errorf("%w; %w", why, err)
	}
	p.lost(s, why)
	return p.ids.retire(s.ID, s.Replica)
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
	out, id := map[uint64]uint64{}, b.founding.identity()
	for shard := uint64(metadata.ShardID); shard < groups.FirstShard+uint64(b.store.Image().GroupShards); shard++ {
		if s, ok := b.raft.Status(shard); ok && s.Replica == id.replica(shard) {
			out[shard] = min(s.Commit, s.Last)
		}
	}
	return out
}
