package handler

import (
	"context"
	"reflect"
	"sync"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// nodeReplicas is this node's own view of its replicas. The metadata and the
// coordinator shards are among them only when they are asked for by number.
func (h *Handler) nodeReplicas(_ context.Context, req protocol.ReplicasRequest) (*protocol.ReplicasReply, error) {
	reply := &protocol.ReplicasReply{Node: h.options.NodeID, Version: h.options.Version, Replicas: []protocol.ReplicaStatus{}}
	if len(req.Shards) == 0 {
		reply.Replacing = h.options.Replacing()
		for _, r := range h.options.Replicas.All() {
			reply.Replicas = append(reply.Replicas, replicaStatus(r))
		}
		return reply, nil
	}
	for _, shard := range req.Shards {
		if shard == metadata.ShardID {
			if s, ok := h.options.MetadataRaft(); ok {
				reply.Replicas = append(reply.Replicas, s)
			}
			continue
		}
		if shard < metadata.FirstPartitionShard {
			if s, ok := h.options.Coordinators.Status(shard); ok {
				reply.Replicas = append(reply.Replicas, s)
			}
			continue
		}
		if r, ok := h.options.Replicas.Get(shard); ok {
			reply.Replicas = append(reply.Replicas, replicaStatus(r))
		}
	}
	return reply, nil
}

func replicaStatus(r Replica) protocol.ReplicaStatus {
	s := r.Status()
	return protocol.ReplicaStatus{
		Shard: s.Shard, Replica: s.Replica, State: s.State, Role: s.Role, Term: s.Term,
		Leader: s.LeaderNode, Last: s.Last, Commit: s.Commit, Applied: s.Applied, Epoch: s.Epoch, Serving: s.Serving,
		LogStart: s.LogStart, HighWatermark: s.HighWatermark, SizeBytes: s.SizeBytes, Error: s.Err,
		FetchedBytes: s.FetchedBytes, FetchBytes: s.FetchBytes,
	}
}

// transferLagMax is how many log entries the next leader may lack. It gets them
// while no append is taken in, so they must be few.
const transferLagMax = 256

// nodeTransfer hands leadership of a shard that this node leads to another
// node, if that node's replica is near: a partition takes no appends while its
// next leader catches up.
func (h *Handler) nodeTransfer(ctx context.Context, req protocol.NodeTransferRequest) (*protocol.Empty, error) {
	if req.Shard < metadata.FirstPartitionShard {
		return &protocol.Empty{}, h.coordinatorTransfer(ctx, req)
	}
	r, ok := h.options.Replicas.Get(req.Shard)
	if !ok {
		return nil, h.noReplica(req.Shard)
	}
	if err := h.checkNear(ctx, req.Shard, req.To, r.Status().Applied); err != nil {
		return nil, err
	}
	return &protocol.Empty{}, r.TransferLeader(ctx, req.To)
}

// coordinatorTransfer is nodeTransfer for a coordinator shard.
func (h *Handler) coordinatorTransfer(ctx context.Context, req protocol.NodeTransferRequest) error {
	s, ok := h.options.Coordinators.Status(req.Shard)
	if !ok {
		return h.noReplica(req.Shard)
	}
	if err := h.checkNear(ctx, req.Shard, req.To, s.Applied); err != nil {
		return err
	}
	return h.options.Coordinators.Transfer(ctx, req.Shard, req.To)
}

// checkNear asks node how far its replica of shard is.
func (h *Handler) checkNear(ctx context.Context, shard, node, applied uint64) error {
	if node == h.options.NodeID {
		return nil // TransferLeader has its own answer to that
	}
	ctx, cancel := context.WithTimeout(ctx, h.options.PeerTimeout)
	defer cancel()
	var reply protocol.ReplicasReply
	ask := protocol.ReplicasRequest{Version: protocol.ControlVersion, Shards: []uint64{shard}}
	if err := h.call(ctx, node, protocol.VerbNodeReplicas, ask, &reply); err != nil {
		if errcode.Of(err).Retriable() { // a time-out is no unknown outcome here: nothing was moved
			return errcode.New(errcode.LeaderNotAvailable, "node %d did not say how far its replica is, so it cannot take over now; try again in a moment (%v)", node, err)
		}
		return err
	}
	for _, s := range reply.Replicas {
		if s.Shard == shard && s.State == stateRunning && s.Applied+transferLagMax >= applied {
			return nil
		}
	}
	return errcode.New(errcode.LeaderNotAvailable, "node %d has not caught up with shard %d; try again in a moment", node, shard)
}

// TransferLeader is nodeTransfer for this process.
func (h *Handler) TransferLeader(ctx context.Context, shard, to uint64) error {
	_, err := h.nodeTransfer(ctx, protocol.NodeTransferRequest{Version: protocol.ControlVersion, Shard: shard, To: to})
	return err
}

// nodeTrim trims a partition that this node leads.
func (h *Handler) nodeTrim(ctx context.Context, req protocol.NodeTrimRequest) (*protocol.TopicTrimPartition, error) {
	r, ok := h.options.Replicas.Get(req.Shard)
	if !ok {
		return nil, h.noReplica(req.Shard)
	}
	offset := req.Offset
	if offset == trimToHighWatermark {
		var err error
		if offset, err = r.Latest(ctx); err != nil {
			return nil, err
		}
	}
	start, err := r.Trim(ctx, offset)
	return &protocol.TopicTrimPartition{Partition: req.Partition, LogStart: start}, err
}

func (h *Handler) noReplica(shard uint64) error {
	return errcode.New(errcode.NotLeaderOrFollower, "node %d has no replica of shard %d", h.options.NodeID, shard)
}

// call asks a node, which may be this one.
func (h *Handler) call(ctx context.Context, node uint64, name string, req, reply any) error {
	if node == h.options.NodeID {
		return h.callSelf(ctx, name, req, reply)
	}
	if h.options.Peers == nil {
		return errcode.New(errcode.NodeNotFound, "node %d cannot be reached: node %d runs alone", node, h.options.NodeID)
	}
	return h.options.Peers.Call(ctx, node, name, req, reply)
}

// callSelf answers what a node asks itself, without the wire.
func (h *Handler) callSelf(ctx context.Context, name string, req, reply any) error {
	switch req := req.(type) {
	case protocol.ReplicasRequest:
		return assign(reply)(h.nodeReplicas(ctx, req))
	case protocol.NodeTransferRequest:
		return assign(reply)(h.nodeTransfer(ctx, req))
	case protocol.NodeTrimRequest:
		return assign(reply)(h.nodeTrim(ctx, req))
	case protocol.NodeBalanceRequest:
		return assign(reply)(h.nodeBalance(ctx, req))
	case protocol.NodeEnds:
		return assign(reply)(h.nodeEnds(ctx, req))
	case protocol.GroupRequest:
		return assign(reply)(h.groupDescribe(ctx, req))
	case protocol.Empty:
		return assign(reply)(h.nodeGroups(ctx, req))
	}
	panic("handler: a node asks itself nothing like " + name)
}

// assign returns a function that stores a verb's result in *reply.
func assign(reply any) func(result any, err error) error {
	return func(result any, err error) error {
		if err == nil {
			reflect.ValueOf(reply).Elem().Set(reflect.ValueOf(result).Elem())
		}
		return err
	}
}

// view is what the nodes said just now about their replicas. A node that is
// not in nodes did not answer in time.
type view struct {
	nodes map[uint64]*protocol.ReplicasReply
	// replicas: shard → node → replica.
	replicas map[uint64]map[uint64]*protocol.ReplicaStatus
}

// gather asks nodes for their replicas of shards (none = all), at once, and
// gives each of them Options.PeerTimeout.
func (h *Handler) gather(ctx context.Context, nodes []uint64, shards []uint64) view {
	ctx, cancel := context.WithTimeout(ctx, h.options.PeerTimeout)
	defer cancel()
	req := protocol.ReplicasRequest{Version: protocol.ControlVersion, Shards: shards}
	v := view{nodes: map[uint64]*protocol.ReplicasReply{}, replicas: map[uint64]map[uint64]*protocol.ReplicaStatus{}}
	var mu sync.Mutex // guards v
	inParallel(len(nodes), len(nodes), func(i int) {
		var reply protocol.ReplicasReply
		if err := h.call(ctx, nodes[i], protocol.VerbNodeReplicas, req, &reply); err != nil {
			h.options.Logger.Debug("node did not tell its replicas", "node", nodes[i], "err", err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		v.add(nodes[i], &reply)
	})
	return v
}

// ReplicaStatuses asks nodes, at once, for their replicas of a shard. A node that
// does not answer in time, or has none, is not in it.
func (h *Handler) ReplicaStatuses(ctx context.Context, nodes []uint64, shard uint64) map[uint64]*protocol.ReplicaStatus {
	v := h.gather(ctx, nodes, []uint64{shard})
	return v.replicas[shard]
}

func (v *view) add(node uint64, r *protocol.ReplicasReply) {
	v.nodes[node] = r
	for i := range r.Replicas {
		s := &r.Replicas[i]
		if v.replicas[s.Shard] == nil {
			v.replicas[s.Shard] = map[uint64]*protocol.ReplicaStatus{}
		}
		v.replicas[s.Shard][node] = s
	}
}

// leader returns the node that serves shard as its leader, and its replica.
// Of two that think so the one with the higher epoch is right.
func (v *view) leader(shard uint64) (node uint64, status *protocol.ReplicaStatus) {
	for n, s := range v.replicas[shard] {
		if s.Serving && (status == nil || s.Epoch > status.Epoch) {
			node, status = n, s
		}
	}
	return node, status
}

// best returns the replica of shard that has the most.
func (v *view) best(shard uint64) *protocol.ReplicaStatus {
	var out *protocol.ReplicaStatus
	for _, s := range v.replicas[shard] {
		if out == nil || s.HighWatermark > out.HighWatermark {
			out = s
		}
	}
	return out
}

// inParallel calls fn(0) … fn(n-1), at most limit at once, and returns when all
// have returned.
func inParallel(n, limit int, fn func(i int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(limit, 1))
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			fn(i)
		})
	}
	wg.Wait()
}

// nodeIDs returns the registered nodes.
func nodeIDs(image *metadata.Image) []uint64 {
	out := make([]uint64, 0, len(image.Nodes()))
	for _, n := range image.Nodes() {
		out = append(out, n.ID)
	}
	return out
}
