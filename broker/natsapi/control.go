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
	if err := s.listenQueue(s.control, protocol.PrefixGroup+">", smallPending(), s.onGroup); err != nil {
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

// onGroup answers lb.g.<verb>.<group>. There are no consumer groups yet, and a
// client that asks for them is told so.
func (s *Server) onGroup(m *nats.Msg) {
	s.respond(s.control, m.Reply, refusal(errcode.New(errcode.NotImplemented,
		"consumer groups are not built yet; read partitions with consumer.NewReader")))
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
