package broker

import (
	"context"
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
// founders hold them, as they hold the voters of the metadata shard. Those whose
// log is lost are brought back until background ends: the node need not wait.
func (b *Broker) startGroups(background context.Context) error {
	id := b.founding.identity()
	shards := b.store.Image().GroupShards
	if id.Joined || shards == 0 {
		return nil
	}
	first := &memoryShards{
		started: id.GroupsStarted, reached: id.reached, mark: b.founding.groupsStarted, raftDir: b.dirs.raft,
		start: func(s raftnode.Shard) error { return b.raft.StartInMemory(s, b.groups.StateMachine) },
	}
	again := []lostLog{}
	for i := range shards {
		shard := raftnode.Shard{
			ID: groups.FirstShard + uint64(i), Replica: id.NodeID,
			SnapshotEntries: groupsSnapshotEntries, CompactionOverhead: groupsSnapshotEntries / 4,
		}
		if _, replaced := id.Replaced[shard.ID]; replaced {
			shard.Replica = id.replica(shard.ID)
			again = append(again, lostLog{shard: shard})
			continue
		}
		if !id.GroupsStarted {
			shard.Members = id.members()
		}
		first.shards = append(first.shards, shard)
	}
	lost, err := first.run(b.raft)
	if err != nil {
		return err
	}
	again = append(again, lost...)
	if len(again) > 0 && !id.replaceable() {
		return b.replacer(first.start, nil).run(background, again[0].shard, again[0].why) // says why not
	}
	for _, l := range again {
		b.running.Go(func() { b.restoreGroups(background, l, first.start) })
	}
	return nil
}

// restoreGroups brings this node's replica of a coordinator shard back under a new
// id, and gives it its vote. It ends with ctx.
func (b *Broker) restoreGroups(ctx context.Context, l lostLog, start func(raftnode.Shard) error) {
	b.replacing.begin(l.shard.ID)
	last := time.Now()
	say := func(reason string) {
		if time.Since(last) >= startLogPeriod {
			last = time.Now()
			b.logger.Warn("a replica of consumer groups is not back yet", "shard", shardName(l.shard.ID), "reason", reason)
		}
	}
	if err := b.replacer(start, say).run(ctx, l.shard, l.why); err != nil {
		if ctx.Err() == nil {
			b.logger.Error("this node does without its replica of consumer groups; the others go on", "shard", shardName(l.shard.ID), "err", err)
		}
		return
	}
	b.promote(ctx, l.shard.ID)
}

// handOverGroups asks living founders to coordinate in this node's place. Nobody
// waits for it: an election is the fall-back.
func (b *Broker) handOverGroups(ctx context.Context) {
	founders := b.founding.identity().Founders
	for i, shard := range b.groups.Serving() {
		for k := range founders {
			to := founders[(i+k)%len(founders)].NodeID // spread over the others
			if to == b.config.Cluster.NodeID || !b.alive(to) {
				continue
			}
			if err := b.transferTo(ctx, shard, to); err != nil {
				b.logger.Debug("coordination of groups did not move", "shard", shard, "err", err)
			}
			break
		}
	}
}
