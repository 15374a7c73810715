package natsapi

import (
	"github.com/nats-io/nats.go"

	"logbroker/internal/protocol"
)

// onOffsets answers lb.o.<partition>.<topic>.
func (s *Server) onOffsets(c *nats.Conn, topic string, partition int32) func(*nats.Msg) {
	return func(m *nats.Msg) {
		reply := m.Reply
		s.core.Offsets(request(topic, partition, m), func(r *protocol.OffsetsReply) { s.respond(c, reply, r.Append(nil)) })
	}
}
