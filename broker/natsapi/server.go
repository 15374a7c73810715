// Package natsapi is the native front door: a NATS server inside the broker,
// and the subscriptions that turn messages into requests to the handler and its
// answers into messages.
//
// It decides nothing about what a request means (package handler does), and it
// holds no data. What it does own are the rules of the wire that come from how
// NATS works: plain subscriptions that outlive a lost leadership for a moment,
// replies to inboxes only, bounds in front of every subscription, several
// connections, the order of shutting down.
//
// Start at Server. subscriptions.go follows the partitions that this node leads;
// produce.go, fetch.go, offsets.go, publish.go and control.go each answer one
// kind of subject; peers.go and leaders.go are what brokers tell each other.
package natsapi

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"logbroker/broker/handler"
	"logbroker/internal/protocol"
)

// Core is what the front door needs of handler.Handler; see there. All methods
// answer through their function and never block.
type Core interface {
	Produce(r handler.PartitionRequest, done func(*protocol.ProduceReply))
	Fetch(r handler.PartitionRequest, send func(msg []byte))
	Offsets(r handler.PartitionRequest, done func(*protocol.OffsetsReply))
	Publish(r handler.PublishRequest, done func(*protocol.PubAck))
	Control(p handler.Plane, verb string, body []byte, done func(reply []byte))
	// Group answers a group verb; done(nil) means that this node stays silent.
	Group(verb, group string, body []byte, done func(reply []byte))
	LeadershipChanged(shard uint64)
	PeerLeaders(b protocol.LeadersBroadcast)
	Drain(ctx context.Context) error
}

// Options configures a Server. NodeID, ClusterName and ClientListen have no
// default.
type Options struct {
	NodeID      uint64
	ClusterName string
	// ClientListen and RouteListen are host:port; port 0 takes a free one. An
	// empty RouteListen makes a server without routes.
	ClientListen, RouteListen string
	// AdvertiseHost is the host that clients and other servers are told where
	// the listen address is a wildcard (0.0.0.0).
	AdvertiseHost string
	// RouteAdvertise is the host:port of the route port that the other nodes are
	// told, where it is not the one listened on.
	RouteAdvertise string
	// Routes are the route addresses (host:port) of the other nodes known at
	// the start; SetRoutes replaces them.
	Routes []string
	// ClientTLS and RouteTLS turn TLS on. A RouteTLS is used for both ends of a
	// route, so it needs certificates, RootCAs and ClientCAs. Whether clients must
	// show a certificate is ClientTLS.ClientAuth.
	ClientTLS, RouteTLS *tls.Config
	// MaxBatchBytes is the largest batch of any topic (client.max_batch_bytes).
	// A message may be 64 KiB larger. Default 1 MiB, which is also the least.
	MaxBatchBytes int
	// PendingBytesMax is what the server holds for one connection that does not
	// read before it cuts it. Default 128 MiB.
	PendingBytesMax int64
	// DataConns is the number of in-process connections for requests to
	// partitions, and again for fetches. Default 2.
	DataConns int
	// Leaderless reports whether this node has a replica of shard that knows no
	// leader. While that is so, a lost leadership keeps its subscriptions: who
	// asks is then told by name that the majority is missing. nil = never.
	Leaderless func(shard uint64) bool
	// Linger is how long a subscription stays after its leadership is lost.
	// Default 1 s.
	Linger time.Duration
	// FullBroadcastInterval is the time between two full broadcasts of what
	// this node leads. Default 2 s.
	FullBroadcastInterval time.Duration
	// LameDuck is over how long Close spreads the closing of clients'
	// connections, so that they find other nodes. 0 closes them at once.
	LameDuck time.Duration
	Logger   *slog.Logger // default: discard
	// NATSLevel is the least level of the NATS server's own lines. Default warn.
	NATSLevel slog.Leveler
}

const (
	defaultMaxBatchBytes   = 1 << 20
	defaultPendingBytesMax = 128 << 20
	defaultDataConns       = 2
	defaultLinger          = time.Second
	defaultBroadcast       = 2 * time.Second
	// payloadExtra is what a message may hold besides a batch: our header, and
	// the headers of a plain message.
	payloadExtra = 64 << 10
	readyTimeout = 10 * time.Second
)

func (o Options) withDefaults() Options {
	o.MaxBatchBytes = max(o.MaxBatchBytes, defaultMaxBatchBytes)
	if o.PendingBytesMax == 0 {
		o.PendingBytesMax = defaultPendingBytesMax
	}
	if o.DataConns == 0 {
		o.DataConns = defaultDataConns
	}
	if o.Leaderless == nil {
		o.Leaderless = func(uint64) bool { return false }
	}
	if o.Linger == 0 {
		o.Linger = defaultLinger
	}
	if o.FullBroadcastInterval == 0 {
		o.FullBroadcastInterval = defaultBroadcast
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.NATSLevel == nil {
		o.NATSLevel = slog.LevelWarn
	}
	return o
}

// Server is the embedded NATS server with the broker's own connections to it.
// The order of use: New, Start, (leadership comes and goes), Drain, Close.
type Server struct {
	options  Options
	logger   *slog.Logger
	password string // of the user broker; never leaves the process
	core     Core

	nats       *server.Server
	natsLogger *natsLogger
	// optionsMu guards natsOptions, which SetRoutes replaces.
	optionsMu   sync.Mutex
	natsOptions *server.Options

	// The broker's own connections. control carries metadata, admin and node
	// verbs and broadcasts; gateway carries plain messages; produce and fetch
	// carry the partitions' subjects, each partition on one of them.
	control, gateway *nats.Conn
	produce, fetch   []*nats.Conn

	partitions *ledPartitions
	sender     *sender
	leaders    *leaders

	// shared are the subscriptions in the queue group; written by Start only.
	shared []*nats.Subscription

	draining atomic.Bool // set by Drain: nothing is unexpected any more
	refused  refusals
}

// New returns a Server that is not started. It is ready to be given to the
// handler as its Peers and ProduceSender.
func New(o Options) *Server {
	o = o.withDefaults()
	s := &Server{options: o, logger: o.Logger.With(slog.Uint64("node", o.NodeID)), password: rand.Text()}
	s.refused.logger = s.logger
	s.partitions = newLedPartitions(s)
	s.sender = newSender(s)
	s.leaders = newLeaders(s)
	return s
}

// Start starts the NATS server and answers requests with core. After an error
// nothing is left running. An error names a port that is in use.
func (s *Server) Start(core Core) error {
	s.core = core
	if err := s.startNATS(); err != nil {
		return err
	}
	if err := s.connect(); err != nil {
		s.Close()
		return err
	}
	if err := s.subscribe(); err != nil {
		s.Close()
		return err
	}
	s.partitions.start()
	s.leaders.start()
	return nil
}

func (s *Server) startNATS() error {
	options, err := s.serverOptions()
	if err != nil {
		return err
	}
	for _, l := range []struct{ key, address string }{
		{"client.listen", s.options.ClientListen}, {"nats_cluster.listen", s.options.RouteListen},
	} {
		if err := probe(l.key, l.address); err != nil {
			return err
		}
	}
	s.natsOptions = options
	if s.nats, err = server.NewServer(options.Clone()); err != nil {
		return fmt.Errorf("start the NATS server: %w", err)
	}
	s.natsLogger = &natsLogger{logger: s.logger, level: s.options.NATSLevel}
	s.nats.SetLoggerV2(s.natsLogger, s.natsLogger.debug(), false, false)
	s.nats.Start()
	if !s.nats.ReadyForConnections(readyTimeout) {
		s.nats.Shutdown()
		return fmt.Errorf("the NATS server did not get ready on %s and %s: %s",
			s.options.ClientListen, s.options.RouteListen, s.natsLogger.fatal())
	}
	return nil
}

// connect makes the broker's own connections.
func (s *Server) connect() error {
	var err error
	dial := func(name string) *nats.Conn {
		if err != nil {
			return nil
		}
		var c *nats.Conn
		c, err = s.dial(name)
		return c
	}
	s.control = dial("control")
	s.gateway = dial("gateway")
	for i := range s.options.DataConns {
		s.produce = append(s.produce, dial(fmt.Sprintf("produce-%d", i)))
		s.fetch = append(s.fetch, dial(fmt.Sprintf("fetch-%d", i)))
	}
	if err != nil {
		return fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	return nil
}

// subscribe makes the subscriptions that do not depend on leadership.
func (s *Server) subscribe() error {
	return errors.Join(s.subscribeFetchFrom(), s.subscribePublish(), s.subscribeControl(),
		s.sender.subscribe(), s.leaders.subscribe(), s.flush())
}

// flush returns once the server knows the subscriptions made so far.
func (s *Server) flush() error {
	for _, c := range s.conns() {
		if err := c.FlushTimeout(readyTimeout); err != nil {
			return err
		}
	}
	return nil
}

// conns returns the broker's own connections.
func (s *Server) conns() []*nats.Conn {
	var out []*nats.Conn
	for _, c := range append(append([]*nats.Conn{s.control, s.gateway}, s.produce...), s.fetch...) {
		if c != nil {
			out = append(out, c)
		}
	}
	return out
}

// ClientURL returns the URL that clients connect to, with the real port and
// Options.AdvertiseHost where that is set.
func (s *Server) ClientURL() string {
	scheme := "nats://"
	if s.options.ClientTLS != nil {
		scheme = "tls://"
	}
	return scheme + s.ClientAddr()
}

// ClientAddr returns the host:port that clients connect to.
func (s *Server) ClientAddr() string { return s.advertised(s.nats.Addr()) }

// RouteAddr returns the host:port that other nodes' servers connect to, "" for
// a server without routes.
func (s *Server) RouteAddr() string {
	if a := s.nats.ClusterAddr(); a != nil {
		return s.advertised(a)
	}
	return ""
}

// advertised returns a listening address as others should be told it.
func (s *Server) advertised(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil || s.options.AdvertiseHost == "" {
		return a.String()
	}
	ip := net.ParseIP(host)
	if ip != nil && !ip.IsUnspecified() {
		return a.String() // it listens on one address only
	}
	return net.JoinHostPort(s.options.AdvertiseHost, port)
}

// ClientConnections returns the number of clients' connections, the broker's
// own not counted.
func (s *Server) ClientConnections() int { return max(s.nats.NumClients()-len(s.conns()), 0) }

// Routes returns the number of other nodes' servers that a route leads to.
func (s *Server) Routes() int { return s.nats.NumRemotes() }

// RefusedReplies returns how many requests were dropped because their reply
// subject is no inbox.
func (s *Server) RefusedReplies() uint64 { return s.refused.count.Load() }
