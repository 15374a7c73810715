package partitions

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"logbroker/internal/raftnode"
	"logbroker/internal/storage"
)

// Defaults of Options.
const (
	DefaultProposeTimeout    = 4 * time.Second
	DefaultInFlightMax       = 128
	DefaultInFlightBytesMax  = 16 << 20
	DefaultRetentionInterval = time.Minute
	DefaultProducerExpiry    = 24 * time.Hour
	DefaultSnapshotBytes     = 32 << 20
)

// Errors of Host. They never reach a client.
var (
	// ErrQuarantined: the replica lost its Raft log or its files are damaged. It
	// never starts again under its id; replace it under a new one.
	ErrQuarantined = errors.New("partitions: replica is quarantined; replace it under a new replica id")
	// ErrStarted: a replica of that shard runs here already.
	ErrStarted = errors.New("partitions: a replica of the shard is started already; stop it first")
	// ErrNotFound: no replica of that shard is on this node.
	ErrNotFound = errors.New("partitions: no replica of the shard is on this node")
	// ErrClosed: the Host is closed.
	ErrClosed = errors.New("partitions: host is closed")
	// ErrLeftovers: the directory of a replica that never ran is not empty, so
	// it holds somebody else's data.
	ErrLeftovers = errors.New("partitions: directory of a new replica is not empty; move it away")
)

// errNoPeers is what Options.Stream says by default.
var errNoPeers = errors.New("partitions: no way to other nodes")

// Options configures a Host. Node, FS and Dir have no default.
type Options struct {
	// Node runs the shards. Its OnLeader must be wired to Host.LeaderEvent.
	Node *raftnode.Node
	// FS holds Dir, the parent of all replica directories.
	FS  storage.FS
	Dir string
	// NodeID is this node's number in the cluster.
	NodeID uint64
	// IndexIntervalBytes, Window and ProducersMax go to every state machine; 0
	// means its default.
	IndexIntervalBytes, Window, ProducersMax int
	// ProducerExpiry is the silence after which a producer's state goes. Default
	// 24 h.
	ProducerExpiry time.Duration
	// RetentionInterval is the time between two looks at retention and idle
	// producers. Default 1 min.
	RetentionInterval time.Duration
	// Clock is the wall clock. Default time.Now.
	Clock func() time.Time
	// ClockTrusted reports whether the wall clock agrees with the peers' to
	// within a minute. While it does not, nothing is trimmed by age. nil = always.
	ClockTrusted func() bool
	// Logger default: discard.
	Logger *slog.Logger
	// OnLeadership is told when a local replica begins or ends to serve as
	// leader: serially, from one goroutine; for one partition only the latest
	// state counts, states between may be skipped. It should not block for long
	// (other partitions' news wait) and must not call Close.
	OnLeadership func(Leadership)
	// OnDamage is told once of a replica whose files were found damaged: from
	// the goroutine that found it, so it must not block. Default: nobody is told.
	OnDamage func(Damage)
	// OnRepaired is told of each damaged segment that was replaced by a peer's.
	OnRepaired func()
	// OnQuarantined is told when a replica was quarantined, at its start or while it
	// ran, and Get shows it. It must not block.
	OnQuarantined func()
	// ScrubInterval is the time between the beginnings of two scrubs, in which
	// everything on disk is read again; 0 = never. ScrubBytesPerSecond is how fast
	// it is read; 0 = as fast as the disk. OnScrubbed counts the bytes read.
	ScrubInterval       time.Duration
	ScrubBytesPerSecond int64
	OnScrubbed          func(bytes int)
	// OnSync is told for how long a sync of a replica's state held up its applying,
	// OnSave how long the disk then took for it, beside the applying.
	OnSync, OnSave func(took time.Duration)
	// ProposeTimeout bounds one proposal; after it the outcome is unknown.
	// Default 4 s.
	ProposeTimeout time.Duration
	// InFlightMax and InFlightBytesMax bound what one partition has proposed and
	// not yet answered. Defaults 128 requests and 16 MiB.
	InFlightMax      int
	InFlightBytesMax int64
	// Stream sends a request to a node's Host.ServeStream and returns the answer;
	// see raftnode.Endpoint.Stream. Default: no node can be reached.
	Stream func(ctx context.Context, node uint64, request []byte) (io.ReadCloser, error)
	// CatchUpBytesPerSecond bounds what the node gives to replicas elsewhere that
	// lack segments, and what its own replicas take. ≤ 0 = no bound.
	CatchUpBytesPerSecond int64
	// OnFetched and OnGiven count the bytes of segments that came from and went to
	// other nodes.
	OnFetched, OnGiven func(bytes int)
	// SnapshotBytes is how many bytes a replica applies between two Raft
	// snapshots (which is what compacts its Raft log). Default 32 MiB.
	SnapshotBytes int64
	// NoDeduplication stores every retry again. For tests of those who check that
	// it does not happen.
	NoDeduplication bool
}

// withDefaults returns o with the defaults filled in.
func (o Options) withDefaults() Options {
	orDuration := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
	}
	orDuration(&o.ProducerExpiry, DefaultProducerExpiry)
	orDuration(&o.RetentionInterval, DefaultRetentionInterval)
	orDuration(&o.ProposeTimeout, DefaultProposeTimeout)
	if o.InFlightMax == 0 {
		o.InFlightMax = DefaultInFlightMax
	}
	if o.InFlightBytesMax == 0 {
		o.InFlightBytesMax = DefaultInFlightBytesMax
	}
	if o.SnapshotBytes == 0 {
		o.SnapshotBytes = DefaultSnapshotBytes
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.ClockTrusted == nil {
		o.ClockTrusted = func() bool { return true }
	}
	if o.OnDamage == nil {
		o.OnDamage = func(Damage) {}
	}
	if o.OnScrubbed == nil {
		o.OnScrubbed = func(int) {}
	}
	if o.OnSync == nil {
		o.OnSync = func(time.Duration) {}
	}
	if o.OnSave == nil {
		o.OnSave = func(time.Duration) {}
	}
	if o.OnLeadership == nil {
		o.OnLeadership = func(Leadership) {}
	}
	o.peerDefaults()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// peerDefaults fills in what has to do with fetching from other nodes.
func (o *Options) peerDefaults() {
	if o.OnRepaired == nil {
		o.OnRepaired = func() {}
	}
	if o.OnQuarantined == nil {
		o.OnQuarantined = func() {}
	}
	if o.OnFetched == nil {
		o.OnFetched = func(int) {}
	}
	if o.OnGiven == nil {
		o.OnGiven = func(int) {}
	}
	if o.Stream == nil {
		o.Stream = func(context.Context, uint64, []byte) (io.ReadCloser, error) { return nil, errNoPeers }
	}
}

// Spec says which replica to start. Its maps belong to the replica from then on.
type Spec struct {
	// Shard and Replica are the Raft ids; neither is ever reused.
	Shard, Replica uint64
	// Topic, TopicID and Partition say what the shard is for.
	Topic     string
	TopicID   uint64
	Partition int32
	// Members maps every replica id to its node's incarnation; used on the very
	// first start only, and not where Join is set.
	Members map[uint64]string
	// Join is set for a replica that took the place of another one: it is added to
	// the running shard.
	Join bool
	// Joining is the replica of the shard that is taking the place of another one and
	// does not vote yet, 0 = none.
	Joining uint64
	// Nodes maps replica id to node id.
	Nodes map[uint64]uint64
	// Config is the topic's configuration.
	Config TopicConfig
	// Restart is set when the metadata has the replica as started: then the Raft
	// log must know it. See Host.Prepare.
	Restart bool
}

// TopicConfig is what a partition needs of its topic's configuration.
type TopicConfig struct {
	// SegmentBytes and SegmentAge say when a segment is rolled. They are
	// replicated to the state machine.
	SegmentBytes int64
	SegmentAge   time.Duration
	// RetentionBytes and RetentionAge bound what is kept; ≤ 0 means no bound.
	RetentionBytes int64
	RetentionAge   time.Duration
	// MaxBatchBytes bounds one batch. It is checked at the door, not here.
	MaxBatchBytes int64
}

// Leadership is the news that a local replica serves as its partition's leader,
// or no longer does. Leading is true only once the replica's own epoch entry of
// this term is applied; Epoch is the epoch it serves, or served, in.
type Leadership struct {
	Shard     uint64
	Topic     string
	TopicID   uint64
	Partition int32
	Epoch     int32
	Leading   bool
}

// LeaderHint is where a replica believes the leader to be. Node is 0 where none
// is known. Serving says that the leader is this replica and that it serves.
// Own says that this replica opened Epoch: nobody else ever proposes a batch in
// it.
type LeaderHint struct {
	Node    uint64
	Epoch   int32
	Serving bool
	Own     bool
}

// States of a replica, as Status.State has them.
const (
	StateStarting    = "starting"
	StateRunning     = "running"
	StateStopped     = "stopped"
	StateQuarantined = "quarantined" // never starts again under its id
	StateDamaged     = "damaged"     // a read found bad bytes: it serves nothing any more
)

// Status is a replica's state for people and metrics. Values that are not known
// are zero.
type Status struct {
	Shard, Replica uint64
	Topic          string
	TopicID        uint64
	Partition      int32
	State          string
	// Role is "leader", "follower" or "unknown".
	Role string
	// Term, Vote, Last and Commit are Raft's, as last written to the Raft log;
	// Applied is the state machine's.
	Term, Vote, Last, Commit, Applied uint64
	// Leader is the leading replica, LeaderNode its node; 0 = none known.
	Leader, LeaderNode uint64
	Epoch              int32
	Serving            bool
	// FetchedBytes of FetchBytes have come from peers of what the replica lacks, in
	// the fetch that is under way; 0 of 0 while there is none.
	FetchedBytes, FetchBytes int64
	// LogStart and HighWatermark are offsets, SizeBytes the bytes of all segments.
	LogStart, HighWatermark, SizeBytes int64
	// Err says why a replica is quarantined or damaged.
	Err string
}

// AppendRequest asks to append the batch Buf[BatchAt:], which is one validated
// RecordBatch. BatchAt must be at least fsm.ProduceHeaderSize + len(MsgID): the
// command's header is written right in front of the batch.
type AppendRequest struct {
	Buf     []byte
	BatchAt int
	// Epoch is the leader epoch the client believes in, -1 = it knows none.
	Epoch int32
	// MsgID is a plain publisher's de-duplication id, at most 255 bytes.
	MsgID string
}

// AppendResult is the outcome of a queued append. With Err nil the batch is
// committed and applied at BaseOffset. With REQUEST_TIMED_OUT the outcome is
// unknown; every other error means: not appended by this attempt.
type AppendResult struct {
	Err        error
	BaseOffset int64
	// AppendTimeMs is when the leader took the batch; 0 where Duplicate.
	AppendTimeMs int64
	// Duplicate: an earlier attempt stored the batch; BaseOffset is the first
	// copy's.
	Duplicate bool
	Epoch     int32
}

// ReadResult is what a Read found.
type ReadResult struct {
	// Data is the caller's buffer with whole batches appended. The first may
	// begin below the asked offset.
	Data                    []byte
	HighWatermark, LogStart int64
}
