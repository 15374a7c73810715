package natsapi

import (
	"github.com/nats-io/nats.go"

	"logbroker/internal/protocol"
)

// onProduce answers lb.p.<partition>.<topic>. The client library gives every
// message its own memory, so the payload can be handed on.
func (s *Server) onProduce(c *nats.Conn, topic string, partition int32) func(*nats.Msg) {
	return func(m *nats.Msg) {
		reply := m.Reply
		s.core.Produce(request(topic, partition, m), func(r *protocol.ProduceReply) {
			if reply != "" {
				s.respond(c, reply, r.Append(make([]byte, 0, protocol.ProduceReplySize+len(r.Message))))
			}
		})
	}
}
