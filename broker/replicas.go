package broker

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"logbroker/broker/metadata"
	"logbroker/partitions"
)

// replicaRetry is the wait before a replica that could not be started is tried again.
const replicaRetry = time.Second

// replicaHost is the part of partitions.Host that replicas drives.
type replicaHost interface {
	Prepare(spec partitions.Spec) error
	Start(spec partitions.Spec) error
	Remove(shard uint64) error
	Update(spec partitions.Spec)
	Leftovers() ([]partitions.ReplicaKey, error)
	Discard(k partitions.ReplicaKey) error
	RaftLogs() ([]partitions.ReplicaKey, error)
	DiscardRaftLog(k partitions.ReplicaKey) error
}

// replicaStore is the part of metadata.Store that replicas reads and writes.
type replicaStore interface {
	Image() *metadata.Image
	Changed(after uint64) <-chan struct{}
	MarkStarted(ctx context.Context, node uint64, replicas []metadata.ReplicaKey) error
}

// replicas keeps the replicas that run on this node equal to those the metadata
// gives to it. One goroutine, run, does all of it.
//
// A new replica is first recorded in this node's Raft log, then marked as started
// in the metadata, and started when the mark is applied here. So a replica whose
// mark stands and which the Raft log does not know has lost its log: the Host
// quarantines it. A crash in between costs nothing. A replica under a new id that
// takes the place of a quarantined one comes the same way; see replacements.
type replicas struct {
	host   replicaHost
	store  replicaStore
	nodeID uint64
	logger *slog.Logger

	// replaced is told when a replica here that took the place of another one votes.
	replaced func()

	// running maps shard to what was last started or updated.
	running map[uint64]metadata.Assignment
	// tidied is set once what was deleted while the node was down is gone.
	tidied bool
	// logsLeft is set while Raft logs of replaced replicas may be here.
	logsLeft bool
}

func newReplicas(host replicaHost, store replicaStore, nodeID uint64, logger *slog.Logger) *replicas {
	return &replicas{
		host: host, store: store, nodeID: nodeID, logger: logger,
		replaced: func() {}, running: map[uint64]metadata.Assignment{}, logsLeft: true,
	}
}

// run follows the image until ctx ends.
func (r *replicas) run(ctx context.Context) {
	for {
		image := r.store.Image()
		var again <-chan time.Time
		if !r.follow(ctx, image) {
			again = time.After(replicaRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.store.Changed(image.Index):
		case <-again:
		}
	}
}

// follow makes one pass. It returns false when something has to be tried again.
func (r *replicas) follow(ctx context.Context, image *metadata.Image) bool {
	wanted := image.ReplicasOn(r.nodeID)
	done := r.remove(wanted)
	if !r.tidied {
		r.tidied = r.tidy(image)
		done = done && r.tidied
	}
	done = r.discardLogs(wanted) && done
	unmarked := []metadata.ReplicaKey{}
	for _, a := range wanted {
		switch {
		case !a.Replica.Started:
			if err := r.host.Prepare(spec(a)); err != nil {
				r.logger.Error("cannot make a new replica; trying again", "topic", a.Topic.Name, "partition", a.Partition.ID, "err", err)
				done = false
				continue
			}
			unmarked = append(unmarked, metadata.ReplicaKey{Shard: a.Partition.Shard, Replica: a.Replica.Replica})
		case r.running[a.Partition.Shard].Replica.Replica != a.Replica.Replica:
			done = r.start(a) && done
		default:
			r.update(a)
		}
	}
	return r.mark(ctx, unmarked) && done
}

// mark proposes the marks; the image that carries them starts the replicas.
func (r *replicas) mark(ctx context.Context, keys []metadata.ReplicaKey) bool {
	if len(keys) == 0 {
		return true
	}
	if err := r.store.MarkStarted(ctx, r.nodeID, keys); err != nil && ctx.Err() == nil {
		r.logger.Warn("cannot mark new replicas as started; trying again", "replicas", len(keys), "err", err)
		return false
	}
	return true
}

// spec says what the Host needs to know of a replica. Once it is marked it must
// be known to the Raft log: see replicas.
func spec(a metadata.Assignment) partitions.Spec {
	nodes := map[uint64]uint64{}
	for _, replica := range a.Partition.Replicas {
		nodes[replica.Replica] = replica.Node
	}
	joining, _ := a.Partition.Joining()
	return partitions.Spec{
		Shard: a.Partition.Shard, Replica: a.Replica.Replica,
		Topic: a.Topic.Name, TopicID: a.Topic.ID, Partition: a.Partition.ID,
		Members: a.Partition.Members(), Nodes: nodes, Config: partitionConfig(a.Topic.Config),
		Restart: a.Replica.Started, Join: a.Replica.Joiner, Joining: joining.Replica,
	}
}

func (r *replicas) start(a metadata.Assignment) bool {
	err := r.host.Start(spec(a))
	logger := r.logger.With("topic", a.Topic.Name, "partition", a.Partition.ID, "shard", a.Partition.Shard)
	switch {
	case errors.Is(err, partitions.ErrQuarantined):
		logger.Error("replica is quarantined; its partition goes on with the others", "err", err)
	case err != nil:
		logger.Error("cannot start replica; trying again", "err", err)
		return false
	}
	if a.Replica.Joining {
		logger.Info("a replica under a new id takes the place of one that was lost; it fetches what it lacks and votes when it is complete", "replica", a.Replica.Replica)
	}
	r.running[a.Partition.Shard] = a
	return true
}

func (r *replicas) update(a metadata.Assignment) {
	before := r.running[a.Partition.Shard]
	if before.Topic == a.Topic {
		return
	}
	r.running[a.Partition.Shard] = a
	r.host.Update(spec(a))
	if before.Replica.Joining && !a.Replica.Joining {
		r.logger.Info("the replica that took the place of one that was lost is complete and votes",
			"topic", a.Topic.Name, "partition", a.Partition.ID, "shard", a.Partition.Shard, "replica", a.Replica.Replica)
		r.replaced()
	}
}

// remove stops replicas whose topic is gone and drops their files.
func (r *replicas) remove(wanted []metadata.Assignment) bool {
	keep := make(map[uint64]bool, len(wanted))
	for _, a := range wanted {
		keep[a.Partition.Shard] = true
	}
	done := true
	for shard := range r.running {
		if keep[shard] {
			continue
		}
		if err := r.host.Remove(shard); err != nil {
			r.logger.Error("cannot remove the replica of a deleted topic; trying again", "shard", shard, "err", err)
			done = false
			continue
		}
		delete(r.running, shard)
		r.tidied = false // replicas that were quarantined have directories of their own
	}
	return done
}

// discardLogs deletes the Raft logs of replicas that were replaced and have left
// their shards; their directories stay, with what was quarantined.
func (r *replicas) discardLogs(wanted []metadata.Assignment) bool {
	mine := make(map[uint64]uint64, len(wanted)) // by shard
	for _, a := range wanted {
		mine[a.Partition.Shard] = a.Replica.Replica
		if len(a.Partition.Leaving) > 0 {
			r.logsLeft = true
			return true // the image without them comes
		}
	}
	if !r.logsLeft {
		return true
	}
	known, err := r.host.RaftLogs()
	for _, k := range known {
		if id, here := mine[k.Shard]; err == nil && here && k.Replica < id {
			err = r.host.DiscardRaftLog(k)
		}
	}
	if err != nil {
		r.logger.Warn("the Raft log of a replica that was replaced was not deleted; trying again", "err", err)
	}
	r.logsLeft = err != nil
	return err == nil
}

// tidy deletes the replicas of topics that were deleted while this node was
// down. The image is at least as new as the node's start, so a shard that was
// given once and is not there belonged to such a topic. A shard that was never
// given means that the metadata is older than the files: those stay.
func (r *replicas) tidy(image *metadata.Image) bool {
	left, err := r.host.Leftovers()
	if err != nil {
		r.logger.Error("cannot look for replicas of deleted topics; trying again", "err", err)
		return false
	}
	done := true
	for _, k := range left {
		if _, _, wanted := image.PartitionByShard(k.Shard); wanted {
			continue
		}
		if k.Shard >= image.NextShard {
			r.logger.Error("files of a shard that the metadata never gave to a partition; leaving them", "shard", k.Shard, "replica", k.Replica)
			continue
		}
		if err := r.host.Discard(k); err != nil {
			r.logger.Error("cannot remove a replica of a deleted topic; trying again", "shard", k.Shard, "replica", k.Replica, "err", err)
			done = false
			continue
		}
		r.logger.Info("removed a replica of a topic that was deleted while the node was down", "shard", k.Shard, "replica", k.Replica)
	}
	return done
}

func partitionConfig(c metadata.TopicConfig) partitions.TopicConfig {
	return partitions.TopicConfig{
		SegmentBytes: c.SegmentBytes, SegmentAge: c.SegmentAge,
		RetentionBytes: c.RetentionBytes, RetentionAge: c.RetentionAge,
		MaxBatchBytes: c.MaxBatchBytes,
	}
}
