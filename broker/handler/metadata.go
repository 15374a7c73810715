package handler

import (
	"context"

	"logbroker/broker/metadata"
	"logbroker/internal/protocol"
)

// metadata tells a client where the topics are. It comes from this node's image
// and from what the leaders told; both are hints.
func (h *Handler) metadata(ctx context.Context, req protocol.MetadataRequest) (*protocol.MetadataReply, error) {
	image := h.options.Metadata.Image()
	if !image.Founded() || missesOne(image, req.Topics) {
		// A topic created a moment ago may not have reached this node.
		if err := h.options.Metadata.Barrier(ctx); err != nil {
			return nil, err
		}
		image = h.options.Metadata.Image()
	}
	reply := &protocol.MetadataReply{
		ClusterID: image.ClusterID, ClusterName: image.ClusterName, Index: image.Index,
		Nodes: []protocol.NodeMetadata{}, Topics: []protocol.TopicMetadata{},
	}
	for _, n := range image.Nodes() {
		reply.Nodes = append(reply.Nodes, protocol.NodeMetadata{ID: n.ID, ClientURLs: n.ClientURLs, HTTP: n.HTTPAddr, Raft: n.RaftAddr, Rack: n.Rack})
	}
	if len(req.Topics) == 0 {
		for _, t := range image.Topics() {
			reply.Topics = append(reply.Topics, h.topicMetadata(t))
		}
	}
	for _, name := range req.Topics {
		if t, ok := image.Topic(name); ok {
			reply.Topics = append(reply.Topics, h.topicMetadata(t))
		}
	}
	return reply, nil
}

func missesOne(image *metadata.Image, topics []string) bool {
	for _, name := range topics {
		if protocol.ValidateTopicName(name) != nil {
			continue // it will never be there
		}
		if _, ok := image.Topic(name); !ok {
			return true
		}
	}
	return false
}

func (h *Handler) topicMetadata(t *metadata.Topic) protocol.TopicMetadata {
	out := protocol.TopicMetadata{
		Name: t.Name, ID: t.ID, MaxBatchBytes: t.Config.MaxBatchBytes,
		Partitions: make([]protocol.PartitionMetadata, len(t.Partitions)),
	}
	for i := range t.Partitions {
		p := &t.Partitions[i]
		leader, epoch, _ := h.options.Leaders.Leader(p.Shard)
		out.Partitions[i] = protocol.PartitionMetadata{Partition: p.ID, Leader: leader, Epoch: epoch, Replicas: p.Nodes()}
	}
	return out
}

func (h *Handler) producerID(ctx context.Context, _ protocol.Empty) (*protocol.ProducerIDReply, error) {
	id, err := h.options.Metadata.NextProducerID(ctx)
	if err != nil {
		return nil, err
	}
	return &protocol.ProducerIDReply{
		ProducerID: id, Window: h.options.ProducerWindow,
		ExpiryMs: h.options.ProducerExpiry.Milliseconds(),
	}, nil
}
