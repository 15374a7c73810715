package handler

import (
	"context"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/partitions"
)

// Replica is what the handler uses of a partition replica on this node; see
// partitions.Partition.
type Replica interface {
	Append(r partitions.AppendRequest, done func(partitions.AppendResult)) error
	Read(dst []byte, offset int64, maxBytes int) (partitions.ReadResult, error)
	WaitFor(offset int64, wake func()) (cancel func())
	Earliest() int64
	HighWatermark() int64
	Latest(ctx context.Context) (int64, error)
	OffsetForTimestamp(ctx context.Context, tsMs int64) (offset, timestampMs int64, err error)
	Leader() partitions.LeaderHint
	Status() partitions.Status
	Trim(ctx context.Context, offset int64) (logStart int64, err error)
	TransferLeader(ctx context.Context, toNode uint64) error
}

// Replicas is what the handler uses of partitions.Host.
type Replicas interface {
	Get(shard uint64) (Replica, bool)
	All() []Replica
}

// HostReplicas makes Replicas of a Host.
type HostReplicas struct{ Host *partitions.Host }

// Get returns the replica of shard on this node.
func (h HostReplicas) Get(shard uint64) (Replica, bool) {
	p, ok := h.Host.Get(shard)
	if !ok {
		return nil, false // not p: a nil *Partition in the interface is not nil
	}
	return p, true
}

// All returns every replica of this node.
func (h HostReplicas) All() []Replica {
	all := h.Host.All()
	out := make([]Replica, len(all))
	for i, p := range all {
		out[i] = p
	}
	return out
}

// target is the partition a request is for. replica is nil where this node has
// none.
type target struct {
	topic         string
	topicID       uint64
	partition     int32
	shard         uint64
	maxBatchBytes int
	replicas      []metadata.Replica // on all nodes
	replica       Replica
}

// resolve finds the partition a request names. topicID must be the id the
// topic has now: a topic that was re-created under the same name is another
// topic.
func (h *Handler) resolve(topic string, topicID uint64, partition int32) (target, error) {
	t, ok := h.options.Metadata.Image().Topic(topic)
	if !ok {
		return target{}, errcode.New(errcode.UnknownTopicOrPartition,
			"topic %q does not exist; create it with `logbroker topic create`", clip(topic))
	}
	if topicID != t.ID {
		return target{}, errcode.New(errcode.UnknownTopicID,
			"topic %q has id %d, the request is for id %d; refresh the metadata", topic, t.ID, topicID)
	}
	if partition < 0 || int(partition) >= len(t.Partitions) {
		return target{}, errcode.New(errcode.UnknownTopicOrPartition,
			"topic %q has partitions 0 to %d, not %d", topic, len(t.Partitions)-1, partition)
	}
	out := target{
		topic: t.Name, topicID: t.ID, partition: partition,
		shard: t.Partitions[partition].Shard, maxBatchBytes: int(t.Config.MaxBatchBytes),
		replicas: t.Partitions[partition].Replicas,
	}
	if r, ok := h.options.Replicas.Get(out.shard); ok {
		out.replica = r
	}
	return out, nil
}

// hint returns the best knowledge of who leads t: that of the local replica or
// of the leaders table, whichever has the higher epoch. node 0 means unknown.
func (h *Handler) hint(t target) (node uint64, epoch int32) {
	if t.shard == 0 {
		return 0, 0
	}
	if t.replica != nil {
		l := t.replica.Leader()
		node, epoch = l.Node, l.Epoch
	}
	if n, e, ok := h.options.Leaders.Leader(t.shard); ok && (e > epoch || node == 0) {
		node, epoch = n, max(e, epoch)
	}
	return node, epoch
}

// notLeader is the refusal of a request that only the leader may answer. It is
// definite: nothing was done.
func (h *Handler) notLeader(t target) error {
	node, _ := h.hint(t)
	if node == 0 || node == h.options.NodeID { // none, or this one is not through yet
		e := errcode.New(errcode.LeaderNotAvailable, "%s/%d has no serving leader that node %d knows; retry",
			t.topic, t.partition, h.options.NodeID)
		e.RetryAfter = leaderlessRetryAfter
		return e
	}
	return errcode.New(errcode.NotLeaderOrFollower, "node %d does not lead %s/%d; ask node %d",
		h.options.NodeID, t.topic, t.partition, node)
}

// clip shortens a name from outside for an error message.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
