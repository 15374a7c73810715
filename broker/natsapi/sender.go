package natsapi

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// sender sends the produce requests of plain messages and matches the replies.
// Unlike the client library's own requests it takes several replies to one
// request: an old leader may refuse what the new one stores.
type sender struct {
	s     *Server
	inbox string // subject of all replies, up to the token

	mu   sync.Mutex // guards what follows
	next uint64
	open map[string]*sent // by token
}

// sent is a request that may get more replies.
type sent struct {
	on    func(reply []byte, err error) (more bool)
	timer *time.Timer
}

func newSender(s *Server) *sender { return &sender{s: s, open: make(map[string]*sent)} }

func (x *sender) subscribe() error {
	x.inbox = x.s.gateway.NewInbox() + "."
	_, err := x.s.listen(x.s.gateway, x.inbox+"*", smallPending(), x.onReply)
	return err
}

// SendProduce is handler.ProduceSender; see there.
func (s *Server) SendProduce(topic string, partition int32, payload []byte, timeout time.Duration, on func([]byte, error) bool) {
	x := s.sender
	r := &sent{on: on}
	x.mu.Lock()
	token := strconv.FormatUint(x.next, 36)
	x.next++
	x.open[token] = r
	r.timer = time.AfterFunc(timeout, func() {
		x.fail(token, errcode.New(errcode.RequestTimedOut, "%s/%d: no answer within %s; the outcome is unknown", topic, partition, timeout))
	})
	x.mu.Unlock()
	if err := s.gateway.PublishRequest(protocol.ProduceSubject(topic, partition), x.inbox+token, payload); err != nil {
		// From another goroutine: on is never called before SendProduce returns.
		time.AfterFunc(0, func() {
			x.fail(token, errcode.New(errcode.LeaderNotAvailable, "%s/%d: the request was not sent: %v", topic, partition, err))
		})
	}
}

func (x *sender) onReply(m *nats.Msg) {
	token := strings.TrimPrefix(m.Subject, x.inbox)
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		x.fail(token, errcode.New(errcode.LeaderNotAvailable, "nobody leads the partition now; retry"))
		return
	}
	x.mu.Lock()
	r := x.open[token]
	x.mu.Unlock()
	if r != nil && !r.on(m.Data, nil) {
		x.take(token)
	}
}

// fail ends a request with err, unless it has ended.
func (x *sender) fail(token string, err error) {
	if r := x.take(token); r != nil {
		r.on(nil, err)
	}
}

// take removes a request; nil where it has ended.
func (x *sender) take(token string) *sent {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := x.open[token]
	if r != nil {
		delete(x.open, token)
		r.timer.Stop()
	}
	return r
}
