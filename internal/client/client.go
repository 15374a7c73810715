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
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/protocol"
)

// Options of a Client. The zero value is usable.
type Options struct {
	// Name is shown in the broker's list of connections. Default "logbroker-client".
	Name string
	// TLS, when not nil, is used for every connection.
	TLS *tls.Config
	// Dial, when not nil, makes every connection.
	Dial func(network, address string) (net.Conn, error)
	// Logger gets connection and routing events. Default: discard.
	Logger *slog.Logger
	// RequestTimeout bounds a control request whose context has no deadline
	// of its own. Default 10 s.
	RequestTimeout time.Duration
	// AdminAttempt is after how long without any reply an admin request is sent
	// again: a node that has just died answers nothing. Replies to the earlier
	// attempts still count, so what takes a node longer is not lost. Default 4 s.
	AdminAttempt time.Duration
}

func (o *Options) setDefaults() {
	if o.Name == "" {
		o.Name = "logbroker-client"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.RequestTimeout <= 0 {
		o.RequestTimeout = 10 * time.Second
	}
	if o.AdminAttempt <= 0 {
		o.AdminAttempt = 4 * time.Second
	}
}

// Client is a connection to a cluster. Its methods may be called from any
// number of goroutines.
type Client struct {
	options Options
	servers []string
	seed    *Conn

	// mu guards nodes, topics, index and the fields of what they hold. It is
	// never held while something is sent or dialled.
	mu     sync.RWMutex
	nodes  map[uint64]*node
	topics map[string]*topic
	// index is the newest metadata log index seen.
	index uint64

	refresh refresher

	// ctx ends with Close; the goroutines of the client live in it.
	//
	//nolint:containedctx // it is the client's own life, not a caller's.
	ctx        context.Context
	stop       context.CancelFunc
	goroutines sync.WaitGroup
}

// node is a cluster node as metadata has it, and the connection to it.
type node struct {
	urls     []string
	server   string // its name on the NATS side
	conn     *Conn  // nil until dialled
	dialing  bool
	failures int
	retryAt  time.Time
}

// Dial connects to the first of servers (NATS URLs) that answers. Without
// servers it tries nats://127.0.0.1:4222. It does not wait for a cluster to
// come up: the error then says how to start one.
func Dial(ctx context.Context, servers []string, o Options) (*Client, error) {
	o.setDefaults()
	if len(servers) == 0 {
		servers = []string{nats.DefaultURL}
	}
	c := &Client{
		options: o, servers: servers,
		nodes: make(map[uint64]*node), topics: make(map[string]*topic),
	}
	c.refresh.init()
	c.ctx, c.stop = context.WithCancel(context.Background())
	seed, err := dial(ctx, servers, o, false)
	if err != nil {
		c.stop()
		return nil, dialError(servers, err)
	}
	c.seed = seed
	c.goroutines.Add(1)
	go c.refreshLoop()
	return c, nil
}

func dialError(servers []string, err error) error {
	at := strings.Join(servers, ", ")
	if errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) {
		return fmt.Errorf("no server at %s: is it running? start one with: logbrokerd dev (%w)", at, err)
	}
	return fmt.Errorf("connecting to %s: %w", at, err)
}

// Close closes every connection and waits for the client's goroutines. Calls
// under way end with ErrClosed.
func (c *Client) Close() {
	c.stop()
	c.goroutines.Wait()
	c.mu.Lock()
	conns := []*Conn{c.seed}
	for _, n := range c.nodes {
		if n.conn != nil {
			conns = append(conns, n.conn)
		}
	}
	c.nodes = make(map[uint64]*node)
	c.mu.Unlock()
	for _, conn := range conns {
		conn.close()
	}
}

// Servers returns the URLs given to Dial.
func (c *Client) Servers() []string { return c.servers }

// Conn returns the connection to use for requests that node answers (0: any
// node): the one to the node itself where it stands, otherwise one whose server
// passes the request on. It never blocks; a missing connection is dialled in
// the background. Where the seed happens to stand with the node, it is used: a
// broker pays memory for every connection.
func (c *Client) Conn(id uint64) *Conn {
	c.mu.RLock()
	n := c.nodes[id]
	var own *Conn
	switch {
	case n == nil:
	case n.conn != nil && n.conn.connected():
		own = n.conn
	case n.conn == nil && c.seed.connectedTo(n.server):
		own = c.seed
	}
	dialNow := n != nil && n.conn == nil && !n.dialing && len(n.urls) > 0 && time.Now().After(n.retryAt)
	c.mu.RUnlock()
	if own != nil {
		return own
	}
	if dialNow {
		c.startDial(id)
	}
	return c.fallback()
}

// fallback returns any connection that stands, the seed first, and the seed
// where none does.
func (c *Client) fallback() *Conn {
	if c.seed.connected() {
		return c.seed
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, n := range c.nodes {
		if n.conn != nil && n.conn.connected() {
			return n.conn
		}
	}
	return c.seed
}

// startDial starts the goroutine that connects to a node, unless one runs.
func (c *Client) startDial(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[id]
	if n == nil || n.dialing || n.conn != nil || c.ctx.Err() != nil {
		return
	}
	n.dialing = true
	c.goroutines.Add(1)
	go c.dialNode(id, n.urls)
}

// dialNode connects to a node and keeps the connection if the node is still
// wanted under these URLs. Started by startDial, ends by itself within the dial
// time-out.
func (c *Client) dialNode(id uint64, urls []string) {
	defer c.goroutines.Done()
	conn, err := dial(c.ctx, urls, c.options, true)
	c.mu.Lock()
	n := c.nodes[id]
	keep := err == nil && n != nil && n.conn == nil && sameURLs(n.urls, urls) && c.ctx.Err() == nil
	if keep {
		n.conn, n.failures = conn, 0
	}
	if n != nil {
		n.dialing = false
		if err != nil {
			n.failures++
			n.retryAt = time.Now().Add(Backoff(n.failures, time.Second, 30*time.Second))
		}
	}
	c.mu.Unlock()
	switch {
	case err != nil:
		c.options.Logger.Info("node not reachable, its requests are routed", "node", id, "urls", urls, "err", err)
	case !keep:
		conn.close()
	}
}

// setNodes takes over a node list. It returns the connections to close: those
// to nodes that are gone or have moved. c.mu is held.
func (c *Client) setNodes(cluster string, list []protocol.NodeMetadata) (drop []*Conn) {
	known := make(map[uint64]bool, len(list))
	for _, m := range list {
		known[m.ID] = true
		n := c.nodes[m.ID]
		if n == nil {
			c.nodes[m.ID] = &node{urls: m.ClientURLs, server: protocol.ServerName(cluster, m.ID)}
			continue
		}
		if sameURLs(n.urls, m.ClientURLs) {
			continue
		}
		if n.conn != nil {
			drop = append(drop, n.conn)
		}
		n.urls, n.conn, n.retryAt, n.failures = m.ClientURLs, nil, time.Time{}, 0
	}
	for id, n := range c.nodes {
		if known[id] {
			continue
		}
		if n.conn != nil {
			drop = append(drop, n.conn)
		}
		delete(c.nodes, id)
	}
	return drop
}

func sameURLs(a, b []string) bool { return strings.Join(a, ",") == strings.Join(b, ",") }
