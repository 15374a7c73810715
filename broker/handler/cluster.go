package handler

import (
	"context"
	"fmt"
	"strings"

	"logbroker/broker/metadata"
	"logbroker/internal/protocol"
	"logbroker/partitions"
)

const stateRunning = partitions.StateRunning

// lagMax is how many Raft entries a replica may be behind its leader and still
// count as replicated. The nodes are not asked at exactly the same moment.
const lagMax = 1000

func (h *Handler) clusterInfo(ctx context.Context, _ protocol.Empty) (*protocol.ClusterInfo, error) {
	image := h.options.Metadata.Image()
	v := h.gather(ctx, nodeIDs(image), nil)
	info := &protocol.ClusterInfo{
		ClusterID: image.ClusterID, ClusterName: image.ClusterName, Version: h.options.Version,
		MetadataLeader: h.metadataLeader(), Topics: len(image.Topics()), Partitions: image.PartitionCount(), Nodes: []protocol.NodeInfo{},
	}
	for _, n := range image.Nodes() {
		node := protocol.NodeInfo{ID: n.ID, Version: n.Version, Rack: n.Rack, Client: n.ClientURLs, HTTP: n.HTTPAddr, Raft: n.RaftAddr}
		if reply := v.nodes[n.ID]; reply != nil {
			node.Alive, node.Version, node.Replicas = true, reply.Version, len(reply.Replicas)
			for _, r := range reply.Replicas {
				if r.Serving {
					node.Leaders++
				}
			}
		}
		info.Nodes = append(info.Nodes, node)
	}
	return info, nil
}

// metadataLeader returns the node that leads the metadata shard as far as this
// node knows, nil where there is none.
func (h *Handler) metadataLeader() *uint64 {
	s, ok := h.options.MetadataRaft()
	if !ok || s.Leader == 0 {
		return nil
	}
	return &s.Leader
}

// partitions lists every partition of the cluster.
func (h *Handler) partitions(ctx context.Context, _ protocol.Empty) (*protocol.PartitionListReply, error) {
	image := h.options.Metadata.Image()
	return &protocol.PartitionListReply{Partitions: rows(image, h.gather(ctx, nodeIDs(image), nil))}, nil
}

func rows(image *metadata.Image, v view) []protocol.PartitionRow {
	out := []protocol.PartitionRow{}
	for _, t := range image.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			out = append(out, protocol.PartitionRow{
				Topic: t.Name, PartitionDescription: describePartition(p, v),
				UnderReplicated: v.underReplicated(p), Fetching: v.fetching(p), Joining: joining(p),
			})
		}
	}
	return out
}

// fetching lists the replicas of p that are getting what they lack.
func (v *view) fetching(p *metadata.Partition) (out []protocol.FetchProgress) {
	for _, n := range p.Nodes() {
		if s := v.replicas[p.Shard][n]; s != nil && s.FetchBytes > 0 {
			out = append(out, protocol.FetchProgress{Node: n, FetchedBytes: s.FetchedBytes, FetchBytes: s.FetchBytes})
		}
	}
	return out
}

// joining lists the nodes whose replica of p is being replaced.
func joining(p *metadata.Partition) []uint64 {
	if r, ok := p.Joining(); ok {
		return []uint64{r.Node}
	}
	return nil
}

// underReplicated reports whether some replica of p does not answer, does not
// run, does not vote yet, is fetching what it lacks, or is far behind its leader.
func (v *view) underReplicated(p *metadata.Partition) bool {
	if _, ok := p.Joining(); ok {
		return true
	}
	_, leader := v.leader(p.Shard)
	for _, n := range p.Nodes() {
		s := v.replicas[p.Shard][n]
		if s == nil || s.State != stateRunning || s.FetchBytes > 0 {
			return true
		}
		if leader != nil && s.Commit+lagMax < leader.Commit {
			return true
		}
	}
	return false
}

// faultsMax bounds how many replicas that are out of service health names.
const faultsMax = 20

// faults says which replicas are damaged, quarantined or being replaced, and why.
func (v *view) faults(image *metadata.Image) []string {
	var out []string
	for _, t := range image.Topics() {
		for _, p := range t.Partitions {
			for _, r := range p.Replicas {
				what := fault(r, v.replicas[p.Shard][r.Node])
				if what == "" {
					continue
				}
				if len(out) == faultsMax {
					return append(out, "and more replicas are out of service")
				}
				out = append(out, fmt.Sprintf("the replica of %s/%d on node %d is %s", t.Name, p.ID, r.Node, what))
			}
		}
	}
	return out
}

// fault says what is wrong with a replica, "" for nothing. s is what its node says
// of it, nil where it does not.
func fault(r metadata.Replica, s *protocol.ReplicaStatus) string {
	switch {
	case s != nil && s.Replica == r.Replica && (s.State == partitions.StateDamaged || s.State == partitions.StateQuarantined):
		return s.State + ": " + s.Error
	case r.Joining && s != nil && s.FetchBytes > 0:
		return fmt.Sprintf("being replaced: replica %d has fetched %d of %d bytes", r.Replica, s.FetchedBytes, s.FetchBytes)
	case r.Joining:
		return fmt.Sprintf("being replaced: replica %d is joining and does not vote yet", r.Replica)
	}
	return ""
}

// clusterHealth says whether all nodes answer, the metadata and every coordinator
// shard have a leader, every partition a leader and all its replicas, and every
// disk more free than its reserve.
func (h *Handler) clusterHealth(ctx context.Context, _ protocol.Empty) (*protocol.ClusterHealth, error) {
	image := h.options.Metadata.Image()
	v := h.gather(ctx, nodeIDs(image), nil)
	health := &protocol.ClusterHealth{Reasons: []string{}, Leaderless: []string{}, UnderReplicated: []string{}}
	if h.metadataLeader() == nil {
		health.Reasons = append(health.Reasons, "the metadata has no leader")
	}
	for _, n := range image.Nodes() {
		reply := v.nodes[n.ID]
		if reply == nil {
			health.Reasons = append(health.Reasons, fmt.Sprintf("node %d does not answer", n.ID))
			continue
		}
		for _, name := range reply.Replacing {
			health.Reasons = append(health.Reasons, fmt.Sprintf("node %d gets a new replica of %s, whose log it has lost: it does not vote yet", n.ID, name))
		}
	}
	for _, n := range h.options.DiskLow() {
		health.Reasons = append(health.Reasons, fmt.Sprintf("node %d is below its disk reserve: produce to its partitions is refused until space returns", n))
	}
	health.Reasons = append(health.Reasons, v.faults(image)...)
	for _, row := range rows(image, v) {
		name := fmt.Sprintf("%s/%d", row.Topic, row.Partition)
		if row.Leader == nil {
			health.Leaderless = append(health.Leaderless, name)
		}
		if row.UnderReplicated {
			health.UnderReplicated = append(health.UnderReplicated, name)
		}
	}
	if n := len(health.Leaderless); n > 0 {
		health.Reasons = append(health.Reasons, fmt.Sprintf("%d partitions have no leader", n))
	}
	if n := len(health.UnderReplicated); n > 0 {
		health.Reasons = append(health.Reasons, fmt.Sprintf("%d partitions are under-replicated", n))
	}
	if names := h.uncoordinated(ctx); len(names) > 0 {
		health.Reasons = append(health.Reasons, "coordinator shards of consumer groups without a leader: "+strings.Join(names, ", "))
	}
	health.Healthy = len(health.Reasons) == 0
	return health, nil
}
