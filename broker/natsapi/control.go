package natsapi

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"logbroker/broker/handler"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// subscribeControl subscribes to the control verbs: metadata and admin are
// answered by one node, node verbs by this one.
func (s *Server) subscribeControl() error {
	for prefix, plane := range map[string]handler.Plane{
		protocol.PrefixMetadata: handler.PlaneMetadata, protocol.PrefixAdmin: handler.PlaneAdmin,
	} {
		if err := s.listenQueue(s.control, prefix+">", smallPending(), s.onControl(prefix, plane)); err != nil {
			return err
		}
	}
	if _, err := s.listen(s.control, protocol.PrefixGroup+">", groupPending(), s.onGroup); err != nil {
		return err
	}
	own := fmt.Sprintf("%s%d.", protocol.PrefixNode, s.options.NodeID)
	_, err := s.listen(s.control, own+">", smallPending(), s.onControl(own, handler.PlaneNode))
	return err
}

func (s *Server) onControl(prefix string, plane handler.Plane) func(*nats.Msg) {
	return func(m *nats.Msg) {
		reply := m.Reply
		s.core.Control(plane, strings.TrimPrefix(m.Subject, prefix), m.Data, func(data []byte) {
			if most := s.control.MaxPayload(); int64(len(data)) > most {
				data = tooLarge(len(data), most)
			}
			s.respond(s.control, reply, data)
		})
	}
}

// onGroup passes on lb.g.<verb>.<group>. Every node with coordinator replicas
// hears every request, and those that have nothing to say about the group are
// silent: so no request is lost while a subscription moves with the coordinator.
func (s *Server) onGroup(m *nats.Msg) {
	reply := m.Reply
	verb, group, _ := protocol.SplitGroupSubject(strings.TrimPrefix(m.Subject, protocol.PrefixGroup))
	s.core.Group(verb, group, m.Data, func(data []byte) {
		if data == nil {
			return
		}
		if most := s.control.MaxPayload(); int64(len(data)) > most {
			data = tooLarge(len(data), most)
		}
		s.respond(s.control, reply, data)
	})
}

// tooLarge is the answer where the answer does not fit into a message.
func tooLarge(n int, most int64) []byte {
	return refusal(errcode.New(errcode.MessageTooLarge,
		"the answer has %d bytes, a message holds %d; ask for less, a topic at a time", n, most))
}

// refusal encodes a control-plane error.
func refusal(err error) []byte {
	data, err := json.Marshal(protocol.Envelope[*protocol.Empty]{Version: protocol.ControlVersion, Error: protocol.NewControlError(err)})
	if err != nil {
		panic(err) // a struct of numbers and strings
	}
	return data
}
