package handler

import (
	"context"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// Offsets looks up an offset: the earliest, the latest (the high watermark,
// after the leader has made sure that it still leads) or the first at or after
// a timestamp. It never blocks; done is called exactly once.
func (h *Handler) Offsets(r PartitionRequest, done func(*protocol.OffsetsReply)) {
	start := h.options.Clock()
	answer := func(reply *protocol.OffsetsReply, t target, err error) {
		if e := errcode.From(err); e != nil {
			reply.Code, reply.Message, reply.RetryAfterMs = e.Code, e.Message, uint32(e.RetryAfter.Milliseconds())
			reply.Offset, reply.TimestampMs = -1, -1
		}
		reply.Leader, reply.Epoch = h.hint(t)
		h.metrics.Request("offsets", reply.Code, h.options.Clock().Sub(start))
		done(reply)
	}
	if !h.gate.enter() {
		answer(&protocol.OffsetsReply{}, target{}, errShuttingDown())
		return
	}
	// The look-up waits for a Raft round trip or for storage: not here.
	ok := h.offsetsPool.submit(func() {
		defer h.gate.exit()
		var reply protocol.OffsetsReply
		t, err := h.offsets(r, &reply)
		answer(&reply, t, err)
	})
	if !ok {
		defer h.gate.exit()
		answer(&protocol.OffsetsReply{}, target{}, throttled("node %d has too many offset look-ups waiting; retry", h.options.NodeID))
	}
}

func (h *Handler) offsets(r PartitionRequest, reply *protocol.OffsetsReply) (target, error) {
	req, err := protocol.DecodeOffsetsRequest(r.Payload)
	if err != nil {
		return target{}, err
	}
	if err := exactly(r.Payload, protocol.OffsetsRequestSize); err != nil {
		return target{}, err
	}
	reply.TopicID = req.TopicID
	t, err := h.resolve(r.Topic, req.TopicID, r.Partition)
	if err != nil {
		return t, err
	}
	if err := h.checkLeader(t, req.Epoch); err != nil {
		return t, err
	}
	ctx, cancel := context.WithTimeout(h.ctx, h.options.OffsetsTimeout)
	defer cancel()
	switch {
	case req.TimestampMs == protocol.TimestampEarliest:
		reply.Offset, reply.TimestampMs = t.replica.Earliest(), -1
	case req.TimestampMs == protocol.TimestampLatest:
		reply.TimestampMs = -1
		reply.Offset, err = t.replica.Latest(ctx)
	case req.TimestampMs < 0:
		err = errcode.New(errcode.InvalidRequest, "timestamp %d: use milliseconds since 1970, -1 (latest) or -2 (earliest)", req.TimestampMs)
	default:
		reply.Offset, reply.TimestampMs, err = t.replica.OffsetForTimestamp(ctx, req.TimestampMs)
	}
	return t, err
}

// exactly refuses a request that is longer than its version says.
func exactly(payload []byte, size int) error {
	if len(payload) != size {
		return errcode.New(errcode.InvalidRequest, "the request has %d bytes, version %d has %d", len(payload), protocol.Version, size)
	}
	return nil
}

// checkLeader refuses what only the serving leader may answer. A client that
// has seen a newer epoch than this replica proves that it is deposed.
func (h *Handler) checkLeader(t target, clientEpoch int32) error {
	if t.replica == nil {
		return h.notLeader(t)
	}
	l := t.replica.Leader()
	if !l.Serving {
		return h.notLeader(t)
	}
	if clientEpoch > l.Epoch {
		return errcode.New(errcode.NotLeaderOrFollower,
			"the client knows epoch %d of %s/%d, node %d is only in %d; ask the newer leader",
			clientEpoch, t.topic, t.partition, h.options.NodeID, l.Epoch)
	}
	return nil
}
