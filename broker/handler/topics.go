package handler

import (
	"context"
	"strings"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// trimToHighWatermark as an offset of a trim means: everything.
const trimToHighWatermark = -1

// callsMax bounds the calls to other nodes that one verb has in flight.
const callsMax = 16

// topicCreate creates a topic and waits until every partition has a leader
// that serves.
func (h *Handler) topicCreate(ctx context.Context, req protocol.TopicCreateRequest) (*protocol.TopicDescription, error) {
	spec := metadata.TopicSpec{Name: req.Name, Partitions: req.Partitions, Replicas: req.Replicas, Config: req.Config, RequestID: req.RequestID}
	if req.DryRun {
		t, err := h.options.Metadata.PlanTopic(ctx, spec)
		if err != nil {
			return nil, err
		}
		return describe(t, view{}), nil
	}
	t, err := h.options.Metadata.CreateTopic(ctx, spec)
	if err != nil {
		return nil, err
	}
	return h.ledTopic(ctx, t)
}

// ledTopic describes t once all its partitions are led.
func (h *Handler) ledTopic(ctx context.Context, t *metadata.Topic) (*protocol.TopicDescription, error) {
	led := func() bool {
		for i := range t.Partitions {
			if _, _, ok := h.options.Leaders.Leader(t.Partitions[i].Shard); !ok {
				return false
			}
		}
		return true
	}
	if err := h.options.Leaders.WaitFor(ctx, led); err != nil {
		return nil, errcode.New(errcode.RequestTimedOut,
			"topic %q is created, but not every partition has a leader yet; see `logbroker topic describe %s`", t.Name, t.Name)
	}
	return h.describeTopic(ctx, t), nil
}

func (h *Handler) topicList(_ context.Context, _ protocol.Empty) (*protocol.TopicListReply, error) {
	reply := &protocol.TopicListReply{Topics: []protocol.TopicSummary{}}
	for _, t := range h.options.Metadata.Image().Topics() {
		reply.Topics = append(reply.Topics, protocol.TopicSummary{Name: t.Name, Partitions: len(t.Partitions), Replicas: t.Replicas})
	}
	return reply, nil
}

func (h *Handler) topicDescribe(ctx context.Context, req protocol.TopicRequest) (*protocol.TopicDescription, error) {
	t, err := h.topic(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	return h.describeTopic(ctx, t), nil
}

// topic returns a topic by name, after a barrier where this node has not heard
// of it.
func (h *Handler) topic(ctx context.Context, name string) (*metadata.Topic, error) {
	if err := protocol.ValidateTopicName(name); err != nil {
		return nil, err
	}
	if t, ok := h.options.Metadata.Image().Topic(name); ok {
		return t, nil
	}
	if err := h.options.Metadata.Barrier(ctx); err != nil {
		return nil, err
	}
	if t, ok := h.options.Metadata.Image().Topic(name); ok {
		return t, nil
	}
	return nil, errcode.New(errcode.UnknownTopicOrPartition, "topic %q does not exist; see `logbroker topic list`", name)
}

// partitionOfTopic is topic for a request that names one partition.
func (h *Handler) partitionOfTopic(ctx context.Context, name string, partition int32) (*metadata.Topic, *metadata.Partition, error) {
	t, err := h.topic(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if partition < 0 || int(partition) >= len(t.Partitions) {
		return nil, nil, errcode.New(errcode.UnknownTopicOrPartition, "topic %q has partitions 0 to %d, not %d", name, len(t.Partitions)-1, partition)
	}
	return t, &t.Partitions[partition], nil
}

func (h *Handler) describeTopic(ctx context.Context, t *metadata.Topic) *protocol.TopicDescription {
	nodes := map[uint64]bool{}
	var ids, shards []uint64
	for i := range t.Partitions {
		shards = append(shards, t.Partitions[i].Shard)
		for _, n := range t.Partitions[i].Nodes() {
			if !nodes[n] {
				nodes[n] = true
				ids = append(ids, n)
			}
		}
	}
	return describe(t, h.gather(ctx, ids, shards))
}

func describe(t *metadata.Topic, v view) *protocol.TopicDescription {
	out := &protocol.TopicDescription{
		Name: t.Name, ID: t.ID, Replicas: t.Replicas, Config: t.Config.Map(),
		Partitions: make([]protocol.PartitionDescription, len(t.Partitions)),
	}
	for i := range t.Partitions {
		out.Partitions[i] = describePartition(&t.Partitions[i], v)
	}
	return out
}

// describePartition takes the offsets from the leader, or from the replica that
// has the most where none leads.
func describePartition(p *metadata.Partition, v view) protocol.PartitionDescription {
	out := protocol.PartitionDescription{Partition: p.ID, Replicas: p.Nodes()}
	if len(out.Replicas) > 0 {
		out.PreferredLeader = out.Replicas[0]
	}
	node, status := v.leader(p.Shard)
	if status != nil {
		out.Leader = &node
	} else if status = v.best(p.Shard); status == nil {
		return out
	}
	out.Epoch, out.LogStart, out.HighWatermark, out.SizeBytes = status.Epoch, status.LogStart, status.HighWatermark, status.SizeBytes
	return out
}

func (h *Handler) topicDelete(ctx context.Context, req protocol.TopicRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, h.options.Metadata.DeleteTopic(ctx, req.Name, req.RequestID)
}

func (h *Handler) topicAlter(ctx context.Context, req protocol.TopicAlterRequest) (*protocol.TopicDescription, error) {
	if len(req.Config) == 0 {
		return nil, errcode.New(errcode.InvalidRequest, "nothing to alter: give at least one setting; they are %s",
			strings.Join(metadata.TopicSettings(), ", "))
	}
	t, err := h.options.Metadata.AlterTopic(ctx, req.Name, req.Config, req.RequestID)
	if err != nil {
		return nil, err
	}
	return h.describeTopic(ctx, t), nil
}

func (h *Handler) topicPartitions(ctx context.Context, req protocol.TopicPartitionsRequest) (*protocol.TopicDescription, error) {
	t, err := h.options.Metadata.AddPartitions(ctx, req.Name, req.Partitions, req.RequestID)
	if err != nil {
		return nil, err
	}
	return h.ledTopic(ctx, t)
}

// topicTrim has the leaders trim. With several partitions it answers the first
// error, and what was trimmed before stays trimmed.
func (h *Handler) topicTrim(ctx context.Context, req protocol.TopicTrimRequest) (*protocol.TopicTrimReply, error) {
	t, err := h.topic(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	if req.Offset < trimToHighWatermark {
		return nil, errcode.New(errcode.InvalidRequest, "offset %d: use an offset, or -1 for the high watermark", req.Offset)
	}
	partitions := t.Partitions
	if req.Partition >= 0 {
		_, p, err := h.partitionOfTopic(ctx, req.Name, req.Partition)
		if err != nil {
			return nil, err
		}
		partitions = []metadata.Partition{*p}
	}
	reply := &protocol.TopicTrimReply{Partitions: make([]protocol.TopicTrimPartition, len(partitions))}
	errs := make([]error, len(partitions))
	inParallel(len(partitions), callsMax, func(i int) {
		p := &partitions[i]
		ask := protocol.NodeTrimRequest{Version: protocol.ControlVersion, Shard: p.Shard, Partition: p.ID, Offset: req.Offset}
		errs[i] = h.callLeader(ctx, p, protocol.VerbNodeTrim, ask, &reply.Partitions[i])
	})
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return reply, nil
}
