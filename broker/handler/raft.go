package handler

import (
	"context"

	"logbroker/broker/groups"
	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// raftShow returns the Raft state of every replica of a partition, of a
// coordinator shard, or of the metadata. What is not known is null, never zero.
func (h *Handler) raftShow(ctx context.Context, req protocol.RaftShowRequest) (*protocol.RaftShowReply, error) {
	shard, nodes, err := h.raftGroup(ctx, req)
	if err != nil {
		return nil, err
	}
	v := h.gather(ctx, nodes, []uint64{shard})
	reply := &protocol.RaftShowReply{Shard: shard, Replicas: []protocol.RaftReplica{}}
	for _, node := range nodes {
		row := protocol.RaftReplica{Node: node}
		if s := v.replicas[shard][node]; s != nil {
			row.Role, row.Term, row.Last, row.Commit, row.Applied = &s.Role, &s.Term, &s.Last, &s.Commit, &s.Applied
			if s.Leader != 0 {
				row.Leader = &s.Leader
			}
		}
		reply.Replicas = append(reply.Replicas, row)
	}
	return reply, nil
}

// raftGroup returns the shard that is meant and the nodes that hold its replicas.
func (h *Handler) raftGroup(ctx context.Context, req protocol.RaftShowRequest) (shard uint64, nodes []uint64, err error) {
	image := h.options.Metadata.Image()
	switch {
	case req.Topic != "":
		_, p, err := h.partitionOfTopic(ctx, req.Topic, req.Partition)
		if err != nil {
			return 0, nil, err
		}
		return p.Shard, p.Nodes(), nil
	case req.GroupShard == nil:
		return metadata.ShardID, nodeIDs(image), nil
	}
	n := int(*req.GroupShard)
	if n < 0 || n >= image.GroupShards {
		return 0, nil, errcode.New(errcode.UnknownTopicOrPartition, "there is no %s: this cluster has %d coordinator shards of consumer groups, counted from 0",
			protocol.GroupShardName(n), image.GroupShards)
	}
	return groups.FirstShard + uint64(n), h.options.Coordinators.Nodes(), nil
}
