package natsapi

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// brokerInbox begins the inboxes of the brokers themselves. Clients may neither
// read nor write them.
const brokerInbox = "_LB"

// refusalLogInterval is the least time between two lines about refused requests.
const refusalLogInterval = 10 * time.Second

// mayReply reports whether the answer to m may be published where m asks for
// it. nats-server does not check reply subjects, so a client could make the
// broker write to any subject the broker may write to. Such a request is
// dropped before anything is done; it cannot be answered.
func (s *Server) mayReply(m *nats.Msg) bool {
	if m.Reply == "" || isInbox(m.Reply) {
		return true
	}
	s.refused.note(m)
	return false
}

func isInbox(subject string) bool {
	if strings.ContainsAny(subject, "*>") {
		return false
	}
	for _, prefix := range []string{"_INBOX.", "_R_.", brokerInbox + "."} {
		if len(subject) > len(prefix) && strings.HasPrefix(subject, prefix) {
			return true
		}
	}
	return false
}

// respond publishes an answer; without a reply subject there is none to give.
// The server has taken data when respond returns.
func (s *Server) respond(c *nats.Conn, reply string, data []byte) {
	if reply == "" {
		return
	}
	if err := c.Publish(reply, data); err != nil {
		s.logger.Debug("answer was not sent", "err", err)
	}
}

// refusals counts dropped requests and logs about them now and then.
type refusals struct {
	logger *slog.Logger
	count  atomic.Uint64
	lastNs atomic.Int64 // when the last line was written
}

func (r *refusals) note(m *nats.Msg) {
	n := r.count.Add(1)
	now, last := time.Now().UnixNano(), r.lastNs.Load()
	if now-last > int64(refusalLogInterval) && r.lastNs.CompareAndSwap(last, now) {
		r.logger.Warn("request dropped: its reply subject is no inbox", slog.String("subject", clip(m.Subject)),
			slog.String("reply", clip(m.Reply)), slog.Uint64("dropped", n))
	}
}

func clip(s string) string {
	const most = 100
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
