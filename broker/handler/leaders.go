package handler

import (
	"context"
	"slices"
	"time"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// transferLeader hands a partition's leadership to a node that has a replica
// of it; node 0 means any other one.
func (h *Handler) transferLeader(ctx context.Context, req protocol.TransferLeaderRequest) (*protocol.Empty, error) {
	t, p, err := h.partitionOfTopic(ctx, req.Topic, req.Partition)
	if err != nil {
		return nil, err
	}
	leader := h.leaderNow(ctx, p)
	to := req.To
	if to == 0 {
		to = h.otherReplica(p, leader)
	}
	switch {
	case to == 0:
		return nil, errcode.New(errcode.InvalidRequest, "%s/%d has no other replica that could lead; name a node", t.Name, p.ID)
	case slices.Contains(p.Nodes(), to) && !slices.Contains(p.Voters(), to):
		return nil, errcode.New(errcode.InvalidRequest, "the replica of %s/%d on node %d is being replaced and cannot lead yet; choose one of %v", t.Name, p.ID, to, p.Voters())
	case !slices.Contains(p.Nodes(), to):
		return nil, errcode.New(errcode.InvalidRequest, "node %d has no replica of %s/%d; choose one of %v", to, t.Name, p.ID, p.Nodes())
	case to == leader:
		return &protocol.Empty{}, nil
	}
	ask := protocol.NodeTransferRequest{Version: protocol.ControlVersion, Shard: p.Shard, To: to}
	return &protocol.Empty{}, h.callLeader(ctx, p, protocol.VerbNodeTransfer, ask, &protocol.Empty{})
}

// leaderNow returns the node that says that it leads p, 0 where none does. The
// leaders table may be late; a verb that acts on the answer asks.
func (h *Handler) leaderNow(ctx context.Context, p *metadata.Partition) uint64 {
	v := h.gather(ctx, p.Nodes(), []uint64{p.Shard})
	node, _ := v.leader(p.Shard)
	return node
}

// callLeader asks the node that leads p. All refusals of a node that does not
// lead are definite.
func (h *Handler) callLeader(ctx context.Context, p *metadata.Partition, name string, req, reply any) error {
	return h.whileMoving(ctx, func() error {
		if node := h.leaderNow(ctx, p); node != 0 {
			return h.call(ctx, node, name, req, reply)
		}
		return leaderless("partition %d has no serving leader; retry, or see `logbroker cluster health`", p.ID)
	})
}

// whileMoving tries again for about Options.PeerTimeout where the leadership is
// just moving.
func (h *Handler) whileMoving(ctx context.Context, try func() error) error {
	waiting, cancel := context.WithTimeout(ctx, h.options.PeerTimeout)
	defer cancel()
	for {
		err := try()
		switch errcode.Of(err) {
		case errcode.NotLeaderOrFollower, errcode.LeaderNotAvailable:
		default:
			return err
		}
		select {
		case <-time.After(leaderlessRetryAfter):
		case <-waiting.Done():
			return err
		}
	}
}

func leaderless(format string, args ...any) error {
	e := errcode.New(errcode.LeaderNotAvailable, format, args...)
	e.RetryAfter = leaderlessRetryAfter
	return e
}

// otherReplica returns a node that holds p, is alive and does not lead; the
// preferred leader first; 0 where there is none.
func (h *Handler) otherReplica(p *metadata.Partition, leader uint64) uint64 {
	for _, n := range p.Voters() {
		if n != leader && (n == h.options.NodeID || h.options.Alive(n)) {
			return n
		}
	}
	return 0
}

// balanceLeaders has the node that leads the metadata start to spread the
// leaderships. It is that node's balancer, which does so by itself too, so that
// the bound on moves at once holds for both together.
func (h *Handler) balanceLeaders(ctx context.Context, _ protocol.Empty) (*protocol.BalanceReply, error) {
	reply := &protocol.BalanceReply{}
	ask := protocol.NodeBalanceRequest{Version: protocol.ControlVersion}
	err := h.whileMoving(ctx, func() error {
		s, ok := h.options.MetadataRaft()
		if !ok || s.Leader == 0 {
			return leaderless("the metadata has no leader; retry, or see `logbroker cluster health`")
		}
		bounded, cancel := context.WithTimeout(ctx, h.options.PeerTimeout)
		defer cancel()
		return h.call(bounded, s.Leader, protocol.VerbNodeBalance, ask, reply)
	})
	return reply, err
}

// nodeBalance starts this node's balancer, if it is the one to ask.
func (h *Handler) nodeBalance(_ context.Context, _ protocol.NodeBalanceRequest) (*protocol.BalanceReply, error) {
	if s, ok := h.options.MetadataRaft(); !ok || s.Leader != h.options.NodeID {
		return nil, errcode.New(errcode.NotLeaderOrFollower, "node %d does not lead the metadata; ask the node that does", h.options.NodeID)
	}
	return &protocol.BalanceReply{Moves: h.options.BalanceNow()}, nil
}
