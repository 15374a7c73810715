package handler

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
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

// callLeader asks the node that leads p, and asks again for about
// Options.PeerTimeout where the leadership is just moving. All refusals of a
// node that does not lead are definite.
func (h *Handler) callLeader(ctx context.Context, p *metadata.Partition, name string, req, reply any) error {
	waiting, cancel := context.WithTimeout(ctx, h.options.PeerTimeout)
	defer cancel()
	for {
		var err error
		if node := h.leaderNow(ctx, p); node != 0 {
			err = h.call(ctx, node, name, req, reply)
		} else {
			err = &errcode.Error{
				Code: errcode.LeaderNotAvailable, RetryAfter: leaderlessRetryAfter,
				Message: fmt.Sprintf("partition %d has no serving leader; retry, or see `logbroker cluster health`", p.ID),
			}
		}
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

// otherReplica returns a node that holds p, is alive and does not lead; the
// preferred leader first; 0 where there is none.
func (h *Handler) otherReplica(p *metadata.Partition, leader uint64) uint64 {
	for _, n := range p.Nodes() {
		if n != leader && (n == h.options.NodeID || h.options.Alive(n)) {
			return n
		}
	}
	return 0
}

// balanceLeaders asks for every partition to be led by its preferred leader,
// where that node answers, and returns how many moves that took. A move that
// fails is not counted; the next call tries it again.
func (h *Handler) balanceLeaders(ctx context.Context, _ protocol.Empty) (*protocol.BalanceReply, error) {
	image := h.options.Metadata.Image()
	v := h.gather(ctx, nodeIDs(image), nil)
	type move struct{ shard, from, to uint64 }
	var moves []move
	for _, t := range image.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			from, _ := v.leader(p.Shard)
			to := p.Nodes()[0]
			if s := v.replicas[p.Shard][to]; from != 0 && from != to && s != nil && s.State == stateRunning {
				moves = append(moves, move{p.Shard, from, to})
			}
		}
	}
	var moved atomic.Int64
	inParallel(len(moves), callsMax, func(i int) {
		m := moves[i]
		ask := protocol.NodeTransferRequest{Version: protocol.ControlVersion, Shard: m.shard, To: m.to}
		if err := h.call(ctx, m.from, protocol.VerbNodeTransfer, ask, &protocol.Empty{}); err != nil {
			h.options.Logger.Warn("leadership was not moved", "shard", m.shard, "from", m.from, "to", m.to, "err", err)
			return
		}
		moved.Add(1)
	})
	return &protocol.BalanceReply{Moves: int(moved.Load())}, nil
}
