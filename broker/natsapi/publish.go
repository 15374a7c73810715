package natsapi

import (
	"encoding/json"
	"strings"

	"github.com/nats-io/nats.go"

	"logbroker/broker/handler"
	"logbroker/internal/protocol"
)

// subscribePublish subscribes to lb.pub.>: plain messages, taken by one node.
func (s *Server) subscribePublish() error {
	return s.listenQueue(s.gateway, protocol.PrefixPublish+">", producePending(), s.onPublish)
}

func (s *Server) onPublish(m *nats.Msg) {
	reply := m.Reply
	s.core.Publish(handler.PublishRequest{
		Topic: strings.TrimPrefix(m.Subject, protocol.PrefixPublish), Header: m.Header, Value: m.Data,
	}, func(ack *protocol.PubAck) {
		if reply == "" {
			return // published without a wish for an answer
		}
		data, err := json.Marshal(ack)
		if err != nil {
			panic(err) // a struct of numbers and strings
		}
		s.respond(s.gateway, reply, data)
	})
}
