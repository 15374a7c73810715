package natsapi

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// onFetch answers lb.f.<partition>.<topic>. A fetch without a reply subject is
// for nobody.
func (s *Server) onFetch(c *nats.Conn, topic string, partition int32) func(*nats.Msg) {
	return func(m *nats.Msg) {
		if reply := m.Reply; reply != "" {
			s.core.Fetch(request(topic, partition, m), func(msg []byte) { s.respond(c, reply, msg) })
		}
	}
}

// subscribeFetchFrom subscribes to lb.fr.<this node>.>: fetches from whatever
// replica this node has.
func (s *Server) subscribeFetchFrom() error {
	prefix := fmt.Sprintf("%s%d.", protocol.PrefixFetchFrom, s.options.NodeID)
	_, err := s.listen(s.fetch[0], prefix+">", smallPending(), func(m *nats.Msg) {
		if m.Reply != "" {
			s.fetchFrom(strings.TrimPrefix(m.Subject, prefix), m)
		}
	})
	return err
}

// fetchFrom answers a fetch whose subject ends in <partition>.<topic>. The
// answers of one partition all take one connection.
func (s *Server) fetchFrom(address string, m *nats.Msg) {
	partition, topic, err := splitAddress(address)
	c, reply := s.fetch[int(uint32(partition))%len(s.fetch)], m.Reply
	if err != nil {
		e := errcode.From(err)
		r := protocol.FetchReply{Code: e.Code, Last: true, HighWatermark: -1, LogStart: -1}
		s.respond(c, reply, append(r.AppendHeader(nil, len(e.Message)), e.Message...))
		return
	}
	r := request(topic, partition, m)
	r.AnyReplica = true
	s.core.Fetch(r, func(msg []byte) { s.respond(c, reply, msg) })
}

// splitAddress splits <partition>.<topic…>.
func splitAddress(s string) (partition int32, topic string, err error) {
	number, topic, ok := strings.Cut(s, ".")
	n, perr := strconv.ParseUint(number, 10, 31)
	if !ok || perr != nil {
		return 0, "", errcode.New(errcode.InvalidRequest, "subject ends in %q; it must end in <partition>.<topic>", clip(s))
	}
	return int32(n), topic, nil
}
