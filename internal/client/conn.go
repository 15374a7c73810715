package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/errcode"
)

// Bounds of one connection.
const (
	dialTimeout  = 5 * time.Second
	pingInterval = 5 * time.Second
	writeTimeout = 5 * time.Second
	// Replies wait in the subscription only while a handler runs, and handlers
	// do not block. Should the bounds be met all the same, nothing is dropped
	// silently: every call of the connection fails (see onAsyncError).
	pendingMsgsMax  = 1 << 20
	pendingBytesMax = 1 << 30
	// lateReplies is how long a call that timed out still hears replies.
	lateReplies = 30 * time.Second
)

// Conn is one NATS connection with its reply inbox: one wildcard subscription,
// whose messages find their call by the last token of the subject.
type Conn struct {
	nc     *nats.Conn
	prefix string // of reply subjects, with the final dot
	// server is the name of the server that the connection stands with, or stood
	// with last.
	server atomic.Pointer[string]

	// mu guards calls and next. It is held for a map access only.
	mu    sync.Mutex
	calls map[uint64]*Call
	next  uint64
}

// Request is one request of Conn.Call. Payload is not kept after Call returns.
type Request struct {
	Subject string
	Payload []byte
	// Timeout until the handler is told ErrTimeout.
	Timeout time.Duration
	// Stream says that several replies are expected: each restarts Timeout.
	Stream bool
}

// Handler is told what comes of a call: replies (err nil, data is the
// handler's to keep), and at most one failure: ErrTimeout, ErrDisconnected,
// ErrNoResponders, ErrClosed or a refusal with a code. Replies may still come
// after ErrTimeout. It runs on the connection's delivery goroutine or on a
// timer's and must not block.
type Handler func(data []byte, err error)

// Call is a request under way.
type Call struct {
	conn    *Conn
	token   uint64
	subject string
	stream  bool
	timeout time.Duration
	handler Handler

	// mu guards timer and timedOut.
	mu       sync.Mutex
	timer    *time.Timer
	timedOut bool
}

// dial connects to one of urls. own says that they are all the same node's, so
// that other nodes' URLs, which servers advertise, are not to be used.
func dial(ctx context.Context, urls []string, o Options, own bool) (*Conn, error) {
	n := &Conn{prefix: nats.NewInbox() + ".", calls: make(map[uint64]*Call)}
	timeout := dialTimeout
	if until, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(until), time.Millisecond))
	}
	opts := []nats.Option{
		nats.Name(o.Name), nats.Timeout(timeout), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.CustomReconnectDelay(func(attempts int) time.Duration {
			return Backoff(attempts, 50*time.Millisecond, 2*time.Second)
		}),
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(2), nats.FlusherTimeout(writeTimeout),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { n.failAll(ErrDisconnected) }),
		nats.ReconnectHandler(n.learnServer),
		nats.ClosedHandler(func(*nats.Conn) { n.failAll(ErrClosed) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { n.onAsyncError(err, o) }),
	}
	if own {
		opts = append(opts, nats.IgnoreDiscoveredServers())
	}
	if o.TLS != nil {
		opts = append(opts, nats.Secure(o.TLS))
	}
	if o.Dial != nil {
		opts = append(opts, nats.SetCustomDialer(dialer(o.Dial)))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	nc, err := nats.Connect(strings.Join(urls, ","), opts...)
	if err != nil {
		return nil, err
	}
	n.nc = nc
	n.learnServer(nc)
	if err := n.subscribe(); err != nil {
		nc.Close()
		return nil, err
	}
	return n, nil
}

// dialer is a function as nats.go wants it.
type dialer func(network, address string) (net.Conn, error)

// Dial implements nats.CustomDialer.
func (d dialer) Dial(network, address string) (net.Conn, error) { return d(network, address) }

func (n *Conn) subscribe() error {
	sub, err := n.nc.Subscribe(n.prefix+"*", n.deliver)
	if err != nil {
		return fmt.Errorf("subscribing to the reply inbox: %w", err)
	}
	return sub.SetPendingLimits(pendingMsgsMax, pendingBytesMax)
}

// connected reports whether the connection stands just now.
func (n *Conn) connected() bool { return n.nc.IsConnected() }

// connectedTo reports whether the connection stands with the server of that
// name. The seed may move from one to another.
func (n *Conn) connectedTo(server string) bool {
	at := n.server.Load()
	return at != nil && *at == server && n.connected()
}

func (n *Conn) learnServer(nc *nats.Conn) {
	name := nc.ConnectedServerName()
	n.server.Store(&name)
}

// MaxPayload returns the largest message the server takes, in bytes.
func (n *Conn) MaxPayload() int64 { return n.nc.MaxPayload() }

func (n *Conn) close() {
	n.nc.Close()
	n.failAll(ErrClosed)
}

// Call sends a request. An error means that nobody got it (ErrNotSent,
// MESSAGE_TOO_LARGE; the handler hears nothing), except ErrDisconnected, which
// leaves that open.
func (n *Conn) Call(r Request, h Handler) (*Call, error) {
	c := &Call{conn: n, subject: r.Subject, stream: r.Stream, timeout: r.Timeout, handler: h}
	n.mu.Lock()
	n.next++
	c.token = n.next
	n.calls[c.token] = c
	n.mu.Unlock()
	c.startTimer()
	reply := n.prefix + strconv.FormatUint(c.token, 36)
	if err := n.nc.PublishRequest(r.Subject, reply, r.Payload); err != nil {
		c.Cancel()
		return nil, publishError(err, len(r.Payload), n.nc.MaxPayload())
	}
	return c, nil
}

// publishError tells the refusals that come before anything is written from
// failures of the write itself.
func publishError(err error, size int, limit int64) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return errcode.New(errcode.MessageTooLarge, "a request of %d bytes is over the server's max_payload of %d; use smaller batches", size, limit)
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionDraining), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrInvalidConnection):
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	default:
		return fmt.Errorf("%w: %w", ErrDisconnected, err)
	}
}

// deliver runs on the subscription's goroutine, one message after the other.
func (n *Conn) deliver(m *nats.Msg) {
	if len(m.Subject) <= len(n.prefix) {
		return
	}
	token, err := strconv.ParseUint(m.Subject[len(n.prefix):], 36, 64)
	if err != nil {
		return
	}
	n.mu.Lock()
	c := n.calls[token]
	n.mu.Unlock()
	if c == nil {
		return // cancelled, or a second reply nobody waits for
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		c.fail(ErrNoResponders)
		return
	}
	if c.stream {
		c.restart()
	}
	c.handler(m.Data, nil)
}

// onAsyncError runs on the connection's callback goroutine.
func (n *Conn) onAsyncError(err error, o Options) {
	o.Logger.Warn("connection error", "name", o.Name, "server", n.nc.ConnectedUrlRedacted(), "err", err)
	switch {
	case errors.Is(err, nats.ErrSlowConsumer):
		n.failAll(ErrDisconnected)
	case errors.Is(err, nats.ErrPermissionViolation):
		n.failDenied(err.Error())
	}
}

// failDenied fails the calls whose subject the server named in its refusal.
func (n *Conn) failDenied(text string) {
	n.mu.Lock()
	var denied []*Call
	for _, c := range n.calls {
		if strings.Contains(text, `"`+c.subject+`"`) {
			denied = append(denied, c)
		}
	}
	n.mu.Unlock()
	for _, c := range denied {
		c.fail(errcode.New(errcode.TopicAuthorizationFailed, "the server denies %s to this user: %s", c.subject, text))
	}
}

// failAll ends every call with err.
func (n *Conn) failAll(err error) {
	n.mu.Lock()
	calls := n.calls
	n.calls = make(map[uint64]*Call)
	n.mu.Unlock()
	for _, c := range calls {
		c.stopTimer()
		c.handler(nil, err)
	}
}

// fail ends the call with err, unless it has ended.
func (c *Call) fail(err error) {
	if c.forget() {
		c.stopTimer()
		c.handler(nil, err)
	}
}

// forget takes the call off the connection and reports whether it was there.
func (c *Call) forget() bool {
	c.conn.mu.Lock()
	defer c.conn.mu.Unlock()
	if c.conn.calls[c.token] != c {
		return false
	}
	delete(c.conn.calls, c.token)
	return true
}

// Cancel ends the call: the handler hears nothing more, except what it is just
// being told.
func (c *Call) Cancel() {
	c.forget()
	c.stopTimer()
}

func (c *Call) startTimer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(c.timeout, c.onTimer)
}

func (c *Call) stopTimer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil { // the connection may break before Call gets to it
		c.timer.Stop()
	}
}

// restart begins the time-out anew, for the next reply of a stream.
func (c *Call) restart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.timedOut {
		c.timer.Reset(c.timeout)
	}
}

// onTimer runs on the timer's goroutine: first the time-out, much later the end
// of the wait for late replies.
func (c *Call) onTimer() {
	c.mu.Lock()
	late := c.timedOut
	c.timedOut = true
	if !late {
		c.timer.Reset(lateReplies)
	}
	c.mu.Unlock()
	if late {
		c.forget()
		return
	}
	c.conn.mu.Lock()
	live := c.conn.calls[c.token] == c
	c.conn.mu.Unlock()
	if live {
		c.handler(nil, ErrTimeout)
	}
}
