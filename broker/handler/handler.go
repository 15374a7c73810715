// Package handler is the core of a broker: what each request means. It checks
// a request, finds the partition it is for, bounds what may be in work, and
// gives the answer or the coded refusal.
//
// It is not a transport: it knows no NATS and no connection, and requests come
// in as bytes with a function to answer them. It is not replication either:
// that is package partitions; what the cluster agrees on is package metadata.
//
// There is a file per verb. Data plane: produce.go, fetch.go, offsets.go, and
// publish.go for plain messages. Control plane (JSON): control.go dispatches to
// topics.go, cluster.go, raft.go, leaders.go; nodes.go gathers from and answers
// other nodes. Consumer groups: groups.go, with commit.go and lag.go. Start at
// Handler.
package handler

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// Defaults of Options.
const (
	DefaultInFlightBytesMax = 64 << 20
	DefaultPublishBytesMax  = 32 << 20
	DefaultFetchesMax       = 50_000
	DefaultReplyBytes       = 512 << 10
	DefaultPieceBytes       = 64<<10 - 256
	DefaultGiveWayMax       = 20 * time.Millisecond
	DefaultOffsetsTimeout   = 3 * time.Second
	DefaultPublishTimeout   = 4 * time.Second
	DefaultControlTimeout   = 9 * time.Second
	DefaultPeerTimeout      = time.Second
)

const (
	// fetchBytesMax and fetchWaitMax clamp what a fetch may ask for.
	fetchBytesMax = 8 << 20
	fetchWaitMax  = 30 * time.Second
	// throttledRetryAfter is the hint that comes with THROTTLED: about the time
	// in which a commit round trip makes room.
	throttledRetryAfter = 20 * time.Millisecond
	// leaderlessRetryAfter is about a few heartbeats.
	leaderlessRetryAfter = 50 * time.Millisecond
)

// Metadata is what the handler uses of metadata.Store.
type Metadata interface {
	Image() *metadata.Image
	CreateTopic(ctx context.Context, spec metadata.TopicSpec) (*metadata.Topic, error)
	DeleteTopic(ctx context.Context, name, requestID string) error
	PlanTopic(ctx context.Context, spec metadata.TopicSpec) (*metadata.Topic, error)
	AlterTopic(ctx context.Context, name string, changes map[string]string, requestID string) (*metadata.Topic, error)
	AddPartitions(ctx context.Context, name string, partitions int32, requestID string) (*metadata.Topic, error)
	NextProducerID(ctx context.Context) (int64, error)
	// Barrier returns once Image shows all that was acknowledged before.
	Barrier(ctx context.Context) error
}

// Leaders is what the handler uses of metadata.Leaders: who leads which shard,
// as the leaders themselves told.
type Leaders interface {
	Leader(shard uint64) (node uint64, epoch int32, ok bool)
	Set(b protocol.LeadersBroadcast)
	WaitFor(ctx context.Context, cond func() bool) error
}

// Peers calls control verbs of other nodes.
type Peers interface {
	// Call sends req to the node's verb and decodes the reply's body into
	// reply. An error is coded; a node that does not answer before ctx ends is
	// REQUEST_TIMED_OUT, one that is not there LEADER_NOT_AVAILABLE or the like.
	Call(ctx context.Context, node uint64, verb string, req, reply any) error
}

// ProduceSender sends produce requests to whichever node leads a partition.
type ProduceSender interface {
	// SendProduce sends payload to the partition's leader and must not block
	// for long; payload is the caller's again on return. on is called, never
	// before SendProduce returns, for every reply that comes within timeout
	// until it returns false; and once with an error when timeout is over or
	// nobody listens (LEADER_NOT_AVAILABLE), after which it is not called again.
	SendProduce(topic string, partition int32, payload []byte, timeout time.Duration, on func(reply []byte, err error) (more bool))
}

// RaftState is the state of this node's replica of a shard that is no
// partition. Its fields are as in protocol.ReplicaStatus.
type RaftState = protocol.ReplicaStatus

// Options configures a Handler. NodeID, Replicas, Metadata and Leaders have no
// default; Peers and Producer may be nil on a node without others.
type Options struct {
	NodeID   uint64
	Version  string // of this binary, for people
	Replicas Replicas
	Metadata Metadata
	Leaders  Leaders
	Peers    Peers
	Producer ProduceSender
	// Groups coordinates consumer groups. nil = there are none: NOT_IMPLEMENTED.
	Groups Groups
	// Coordinators are the shards that Groups rests on. nil = there are none.
	Coordinators Coordinators

	// Alive reports whether another node was heard of lately. nil = all are.
	Alive func(node uint64) bool
	// MetadataRaft returns this node's replica of the metadata shard. nil = unknown.
	MetadataRaft func() (RaftState, bool)
	// BalanceNow starts spreading the leaderships and returns how many moves that
	// takes. It is called where this node leads the metadata. nil = nothing moves.
	BalanceNow func() (moves int)
	// DiskLow returns the nodes that are below their disk reserve. To a partition
	// with a replica on one of them produce is refused. nil = none ever.
	DiskLow func() []uint64
	// Replacing names the metadata and the group shards that this node gets a new
	// replica of. nil = none ever.
	Replacing func() []string

	// ProducerWindow and ProducerExpiry are told to producers.
	ProducerWindow int
	ProducerExpiry time.Duration

	// InFlightBytesMax bounds the produce requests in work, PublishBytesMax the
	// plain messages in work. Defaults 64 MiB and 32 MiB.
	InFlightBytesMax, PublishBytesMax int64
	// FetchesMax bounds the fetches in work or waiting. Default 50,000.
	FetchesMax int
	// ReplyBytes bounds the batches of one fetch reply. Default 512 KiB.
	ReplyBytes int
	// PieceBytes bounds one message of a reply to a client that takes pieces; at
	// least 64. Default 64 KiB less 256: with its subject that is what the
	// embedded NATS server reads from a connection at once, and it copies a
	// message once more, into memory of its own, where it does not.
	PieceBytes int
	// GiveWayMax bounds the pause of a catch-up read between two replies while
	// there is something to produce. Default 20 ms: with ReplyBytes as it is, 25 MB/s
	// for each processor are left to the readers in the worst case; see turns.
	GiveWayMax time.Duration
	// OffsetsTimeout bounds a look-up of offsets, PublishTimeout the delivery of
	// a plain message, ControlTimeout a control verb, PeerTimeout one call to
	// another node. Defaults 3 s, 4 s, 9 s, 1 s.
	OffsetsTimeout, PublishTimeout, ControlTimeout, PeerTimeout time.Duration

	Clock   func() time.Time // default time.Now
	Logger  *slog.Logger     // default: discard
	Metrics Metrics          // default: none
}

func (o Options) withDefaults() Options {
	orElse(&o.InFlightBytesMax, DefaultInFlightBytesMax)
	orElse(&o.PublishBytesMax, DefaultPublishBytesMax)
	orElse(&o.FetchesMax, DefaultFetchesMax)
	orElse(&o.ReplyBytes, DefaultReplyBytes)
	orElse(&o.PieceBytes, DefaultPieceBytes)
	orElse(&o.GiveWayMax, DefaultGiveWayMax)
	orElse(&o.OffsetsTimeout, DefaultOffsetsTimeout)
	orElse(&o.PublishTimeout, DefaultPublishTimeout)
	orElse(&o.ControlTimeout, DefaultControlTimeout)
	orElse(&o.PeerTimeout, DefaultPeerTimeout)
	orElse(&o.ProducerWindow, 64)
	orElse(&o.ProducerExpiry, 24*time.Hour)
	if o.Alive == nil {
		o.Alive = func(uint64) bool { return true }
	}
	if o.MetadataRaft == nil {
		o.MetadataRaft = func() (RaftState, bool) { return RaftState{}, false }
	}
	if o.BalanceNow == nil {
		o.BalanceNow = func() int { return 0 }
	}
	if o.Groups == nil {
		o.Groups = noGroups{}
	}
	if o.Coordinators == nil {
		o.Coordinators = noGroups{}
	}
	if o.DiskLow == nil {
		o.DiskLow = func() []uint64 { return nil }
	}
	if o.Replacing == nil {
		o.Replacing = func() []string { return nil }
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
	return o
}

func orElse[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Handler answers requests. Its methods may be called from any goroutine and
// never block, unless they say so.
type Handler struct {
	options Options
	metrics Metrics

	// ctx ends when Close begins: it bounds every wait inside.
	ctx    context.Context
	cancel context.CancelFunc

	gate          *gate // every request in work
	produceBudget budget
	produceCalls  sync.Pool // *produceCall
	fetches       atomic.Int64
	fetchPool     *pool
	fetchBuffers  sync.Pool // *[]byte
	parked        *parked
	turns         *turns
	offsetsPool   *pool
	// The three planes of control verbs have a pool each, so that admin verbs
	// that wait for other nodes cannot keep those nodes' questions waiting.
	controlPools [3]*pool
	// Group verbs that wait for Raft on their worker have a pool of their own, so
	// that they cannot keep heartbeats and commits waiting.
	groupPool, groupReadPool *pool
	// Commits whose offsets a leader must be asked about wait on a pool of their own.
	endsPool  *pool
	logEnds   *logEnds
	publisher *publisher
}

// New returns a Handler that is ready at once.
func New(o Options) *Handler {
	o = o.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	h := &Handler{
		options: o, metrics: o.Metrics, ctx: ctx, cancel: cancel,
		gate:          newGate(),
		produceBudget: budget{max: o.InFlightBytesMax},
		fetchPool:     newPool(fetchWorkers, o.FetchesMax),
		parked:        newParked(),
		turns:         newTurns(o.GiveWayMax),
		offsetsPool:   newPool(offsetsWorkers, offsetsWaitingMax),
		controlPools: [3]*pool{
			PlaneMetadata: newPool(metadataWorkers, controlWaitingMax),
			PlaneAdmin:    newPool(adminWorkers, controlWaitingMax),
			PlaneNode:     newPool(nodeWorkers, controlWaitingMax),
		},
		groupPool:     newPool(groupWorkers, groupWaitingMax),
		groupReadPool: newPool(groupReadWorkers, controlWaitingMax),
		endsPool:      newPool(endsWorkers, controlWaitingMax),
		logEnds:       newLogEnds(),
	}
	h.publisher = newPublisher(h)
	return h
}

// Workers of the pools. A fetch worker holds one reply's buffer, so
// fetchWorkers × about 1 MiB bounds the memory of replies being read.
const (
	fetchWorkers      = 64
	offsetsWorkers    = 64
	offsetsWaitingMax = 4096
	metadataWorkers   = 8
	adminWorkers      = 32
	nodeWorkers       = 16
	controlWaitingMax = 1024
	groupWorkers      = 16
	groupReadWorkers  = 32
	endsWorkers       = 16
	groupWaitingMax   = 16_384
)

// producing reports whether there is something to produce just now.
func (h *Handler) producing() bool { return h.produceBudget.used.Load() > 0 }

// LeadershipChanged tells that this node began or ceased to serve shard as its
// leader: waiting fetches look again.
func (h *Handler) LeadershipChanged(shard uint64) { h.parked.wake(shard) }

// PeerLeaders takes what another node says it leads.
func (h *Handler) PeerLeaders(b protocol.LeadersBroadcast) { h.options.Leaders.Set(b) }

// Drain makes every new request be answered with SHUTTING_DOWN, ends the wait
// of parked fetches and returns when the requests in work are answered, or with
// ctx's error.
func (h *Handler) Drain(ctx context.Context) error {
	idle := h.gate.shut()
	h.parked.close()
	h.options.Groups.Release()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close refuses everything, cuts short what still waits inside and returns
// when the handler's goroutines have ended. What was appended and not answered
// yet is answered later by the partitions' completion.
func (h *Handler) Close() {
	h.gate.shut()
	h.cancel()
	h.parked.close()
	h.publisher.close()
	h.fetchPool.close()
	h.offsetsPool.close()
	for _, p := range append(h.controlPools[:], h.groupPool, h.groupReadPool, h.endsPool) {
		p.close()
	}
}

// buffer returns an empty buffer for a fetch reply. Most fetches find nothing
// new, and thousands of them may wait; what they take and drop is a header's
// room. Where records come in just then it grows.
func (h *Handler) buffer(records bool) *[]byte {
	if !records {
		b := make([]byte, 0, protocol.FetchReplyHeaderSize)
		return &b
	}
	if b, ok := h.fetchBuffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, protocol.FetchReplyHeaderSize+h.options.ReplyBytes)
	return &b
}

// recycle takes a buffer back, unless it holds no reply or an unusually large
// batch made it grow.
func (h *Handler) recycle(b *[]byte) {
	const largest = 2 << 20
	if n := cap(*b); n >= h.options.ReplyBytes && n <= largest {
		h.fetchBuffers.Put(b)
	}
}

func errShuttingDown() error {
	return errcode.New(errcode.ShuttingDown, "the node is shutting down; ask another node")
}

func throttled(format string, args ...any) error {
	e := errcode.New(errcode.Throttled, format, args...)
	e.RetryAfter = throttledRetryAfter
	return e
}
