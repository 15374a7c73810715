// Package client is what the producer, the consumer and the command line have
// in common: connections to the cluster's nodes, the metadata cache that says
// who leads what, and calls (one request, its replies, a time-out).
//
// It is not an API for users: they use the packages producer and consumer. It
// does not know what a record is, and it repeats no data-plane request by
// itself: only the caller knows whether a repeat is safe.
//
// Start at Client, then Conn.Call (one request on one connection), then
// metadata.go (routing), then Admin (one method per control verb).
package client

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"logbroker/internal/protocol"
)

// Options of a Client. The zero value is usable.
type Options struct {
	// Name is shown in the broker's list of connections. Default "logbroker-client".
	Name string
	// TLS, when not nil, is used for every connection.
	TLS *tls.Config
	// Logger gets connection and routing events. Default: discard.
	Logger *slog.Logger
	// RequestTimeout bounds a control request whose context has no deadline
	// of its own. Default 10 s.
	RequestTimeout time.Duration
}

// Client is a connection to a cluster. Its methods may be called from any
// number of goroutines.
type Client struct{}

// Dial connects to the first of servers (NATS URLs) that answers.
func Dial(ctx context.Context, servers []string, o Options) (*Client, error) { panic("unwritten") }

// Close closes every connection. Calls under way end with ErrClosed.
func (c *Client) Close() {}

// Conn returns the connection to use for requests that node leads: the one to
// the node itself where it stands, otherwise the seed connection, whose server
// passes the request on. It never blocks.
func (c *Client) Conn(node uint64) *Conn { panic("unwritten") }

// Conn is one NATS connection with its reply inbox.
type Conn struct{}

// Request is one request of Conn.Call. Payload is not kept after Call returns.
type Request struct {
	Subject string
	Payload []byte
	// Timeout until the handler is told ErrTimeout.
	Timeout time.Duration
	// Stream says that several replies are expected: each restarts Timeout.
	Stream bool
}

// Handler is told what comes of a call: every reply (err nil), and once the
// time-out or the loss of the connection. It runs on the connection's delivery
// goroutine or on a timer's and must not block.
type Handler func(data []byte, err error)

// Call is a request under way.
type Call struct{}

// Call sends a request.
func (n *Conn) Call(r Request, h Handler) (*Call, error) { panic("unwritten") }

// Cancel ends the call: the handler hears nothing more, except what it is just
// being told.
func (c *Call) Cancel() {}

// Leader says where requests for a partition go, as far as is known.
type Leader struct {
	TopicID uint64
	Node    uint64 // 0 unknown
	Epoch   int32  // protocol.EpochUnknown
}

// Leader returns what is known about a partition's leader, without asking.
func (c *Client) Leader(topic string, partition int32) Leader { panic("unwritten") }

// Learn takes a hint from a reply: the higher leader epoch wins.
func (c *Client) Learn(topic string, partition int32, hint Leader) {}

// Stale asks for a refresh of what is known about topic, soon and without waiting.
func (c *Client) Stale(topic string) {}

// Metadata returns the cluster's nodes and the named topics.
func (c *Client) Metadata(ctx context.Context, topics ...string) (*protocol.MetadataReply, error) {
	panic("unwritten")
}

// Topic returns the cached metadata of a topic and asks the cluster only when
// there is none.
func (c *Client) Topic(ctx context.Context, name string) (*protocol.TopicMetadata, error) {
	panic("unwritten")
}

// Control sends a control request and decodes the envelope of its reply.
func (c *Client) Control(ctx context.Context, subject string, req, reply any) error {
	panic("unwritten")
}

// Offsets asks a partition's leader for an offset by time (or one of
// protocol.TimestampEarliest and protocol.TimestampLatest) and retries until
// ctx ends.
func (c *Client) Offsets(ctx context.Context, topic string, partition int32, timestampMs int64) (protocol.OffsetsReply, error) {
	panic("unwritten")
}
