package natsapi

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/nats-io/nats.go"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// Call is handler.Peers; see there.
func (s *Server) Call(ctx context.Context, node uint64, verb string, req, reply any) error {
	data, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if s.control == nil {
		return errcode.New(errcode.LeaderNotAvailable, "node %d is not reachable yet; retry", node)
	}
	m, err := s.control.RequestWithContext(ctx, protocol.NodeSubject(node, verb), data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return errcode.New(errcode.LeaderNotAvailable, "node %d is not connected to node %d; retry", node, s.options.NodeID)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, nats.ErrTimeout):
		return errcode.New(errcode.RequestTimedOut, "node %d did not answer in time", node)
	case err != nil:
		return errcode.New(errcode.LeaderNotAvailable, "node %d cannot be asked: %v", node, err)
	}
	var envelope protocol.Envelope[json.RawMessage]
	if err := json.Unmarshal(m.Data, &envelope); err != nil {
		return errcode.New(errcode.UnknownServerError, "node %d answered something else than JSON: %v", node, err)
	}
	if envelope.Error != nil {
		return envelope.Error.Err()
	}
	return json.Unmarshal(envelope.Body, reply)
}
