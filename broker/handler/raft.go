package handler

import (
	"context"

	"logbroker/broker/metadata"
	"logbroker/internal/protocol"
)

// raftShow returns the Raft state of every replica of a partition, or of the
// metadata shard where no topic is named. What is not known is null, never zero.
func (h *Handler) raftShow(ctx context.Context, req protocol.RaftShowRequest) (*protocol.RaftShowReply, error) {
	shard, nodes := uint64(metadata.ShardID), nodeIDs(h.options.Metadata.Image())
	if req.Topic != "" {
		_, p, err := h.partitionOfTopic(ctx, req.Topic, req.Partition)
		if err != nil {
			return nil, err
		}
		shard, nodes = p.Shard, p.Nodes()
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
