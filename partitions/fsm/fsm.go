// Package fsm is the replicated state machine of one partition: it turns the
// entries of the partition's Raft log into batches in the commit log, producer
// state, epochs and configuration, and keeps all of it on disk behind one
// marker file.
//
// It knows neither leadership nor clients: it does not propose, wait or
// answer (package partitions does), and it does not lay out segments (package
// commitlog does). Everything Update does is a function of its entries and the
// state before them: no clock, no randomness, no map iteration that reaches
// the output, nothing of this node's own settings.
//
// Start at FSM, then update.go (what a command does), marker.go and sync.go
// (what is durable when), open.go (what a crash leaves), snapshot.go (how a
// replica that fell behind gets everything).
package fsm

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/storage"
	"logbroker/partitions/commitlog"
	"logbroker/partitions/producerstate"
)

// SyncBytesDefault is the default of Options.SyncBytes.
const SyncBytesDefault = 48 << 20

// Options are what New needs. None of it may influence what Update does to the
// replicated state.
type Options struct {
	// FS is the file system; nil means the operating system's.
	FS storage.FS
	// Dir holds all files of this replica. It is made where missing; its
	// parent must exist.
	Dir string
	// ShardID and ReplicaID name the replica in log lines and in the marker,
	// so that a directory cannot be opened by another replica.
	ShardID, ReplicaID uint64
	// IndexIntervalBytes is passed to the commit log; 0 means its default.
	IndexIntervalBytes int
	// CheckpointBytes is passed to the commit log; 0 means its default.
	CheckpointBytes int64
	// SyncBytes bounds what a restart must replay: after that many bytes of
	// commands since the marker, Update syncs; after three quarters of it, and no
	// sync, it begins one. 0 means SyncBytesDefault.
	SyncBytes int64
	// Unread is passed to the commit log; it may be nil.
	Unread func() bool
	// TimeSync runs what of every sync holds up Update, and TimeSave what makes the
	// state durable, to measure them; nil: it just runs.
	TimeSync, TimeSave func(do func() error) error
	// Fetcher gets what a snapshot lists and does not carry; without one this
	// replica cannot recover from a snapshot.
	Fetcher Fetcher
	// NoDeduplication stores every retry again. For tests of those who check that
	// it does not happen.
	NoDeduplication bool
	// Logger may be nil.
	Logger *slog.Logger
	// Observer may be nil.
	Observer Observer
}

// Observer is told of what Update did, after its write, from the apply
// goroutine. Its methods must not block: the partition and the other
// partitions of the same apply worker wait for them.
type Observer interface {
	// EpochApplied says that an epoch has begun. All commands before its entry
	// are applied and readable.
	EpochApplied(epoch int32, replica uint64)
	// Advanced says that the high watermark has risen: everything below it is
	// readable.
	Advanced(highWatermark int64)
}

// EpochStart is one entry of the epoch history: from offset Start on, records
// were appended in Epoch, by the leader Replica.
type EpochStart struct {
	Epoch   int32
	Replica uint64
	Start   int64
}

// FSM is the state machine of one replica. It implements dragonboat's
// statemachine.IOnDiskStateMachine, which calls Open, Update, Sync,
// PrepareSnapshot, RecoverFromSnapshot and Close one at a time; SaveSnapshot
// may run beside them. The methods listed under "Readers" may be called by any
// goroutine at any time.
type FSM struct {
	opts     Options
	fs       storage.FS
	logger   *slog.Logger
	observer Observer

	// What follows belongs to the goroutine that applies, except where said.

	log    *commitlog.Log
	config Config
	// applied is the index of the last entry seen by Update, whatever it held:
	// dragonboat compares it with the index it remembers of Update's last entry.
	applied uint64
	// lastAppendMs is the append time of the last appended batch. It never
	// goes back.
	lastAppendMs int64
	// epochs is the history, oldest first; never changed in place.
	epochs []EpochStart
	// generation is that of the log.
	generation uint64
	// syncing is what the last sync that was begun, or Open, was of.
	syncing struct {
		applied uint64
		bytes   int64 // of commands
	}
	// slots is the marker's file; while saves run it is theirs.
	slots *slots
	saves saves
	// failed is the first storage error: see failure. After it nothing is written any more:
	// a second fsync after a failed one reports success for lost data.
	failed error

	// tableMu guards table, which Update changes and ProducerKeys reads.
	tableMu sync.Mutex
	table   *producerstate.Table

	// round is the work of the Update call that runs.
	round round

	// snapshotMu guards unclaimed: the snapshot that PrepareSnapshot made and
	// SaveSnapshot has not taken yet.
	snapshotMu sync.Mutex
	unclaimed  *snapshot

	published published
}

// published is what other goroutines read.
type published struct {
	log           atomic.Pointer[commitlog.Log]
	highWatermark atomic.Int64
	applied       atomic.Uint64
	durable       atomic.Uint64 // index of the durable marker
	lastAppendMs  atomic.Int64
	// bytes are those of commands since Open, durableBytes those of them that the
	// marker covers.
	bytes, durableBytes atomic.Int64
	epochs              atomic.Pointer[[]EpochStart]
	config              atomic.Pointer[Config]
}

var _ statemachine.IOnDiskStateMachine = (*FSM)(nil)

// New returns a state machine that is not open yet: until Open the readers see
// an empty partition.
func New(o Options) *FSM {
	if o.FS == nil {
		o.FS = storage.OS()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Observer == nil {
		o.Observer = noObserver{}
	}
	if o.TimeSync == nil {
		o.TimeSync = untimed
	}
	if o.TimeSave == nil {
		o.TimeSave = untimed
	}
	if o.SyncBytes <= 0 {
		o.SyncBytes = SyncBytesDefault
	}
	f := &FSM{
		opts:     o,
		fs:       o.FS,
		logger:   o.Logger.With("shard", o.ShardID, "replica", o.ReplicaID),
		observer: o.Observer,
		config:   Config{}.WithDefaults(),
		table:    producerstate.New(producerstate.Limits{}),
	}
	f.saves.changed.L = &f.saves.mu
	f.published.config.Store(new(f.config))
	return f
}

func untimed(do func() error) error { return do() }

type noObserver struct{}

func (noObserver) EpochApplied(int32, uint64) {}
func (noObserver) Advanced(int64)             {}

// ErrLookup is returned by Lookup.
var ErrLookup = errors.New("fsm: no queries; use the methods of FSM")

// Lookup is part of dragonboat's interface and not used: readers call the
// methods below, which need no round through dragonboat.
func (f *FSM) Lookup(any) (any, error) { return nil, ErrLookup }

// Readers.

// HighWatermark returns the next offset after the last applied record.
// Everything from the log start up to it can be read.
func (f *FSM) HighWatermark() int64 { return f.published.highWatermark.Load() }

// LogStart returns the first offset that can be read.
func (f *FSM) LogStart() int64 {
	if l := f.published.log.Load(); l != nil {
		return l.LogStart()
	}
	return 0
}

// Log returns the commit log, or false before Open and after Close. Read the
// high watermark first: then the log holds all below it. A snapshot from a
// peer replaces the log; reads of the old one then fail with
// commitlog.ErrClosed and are to be tried on the new one.
func (f *FSM) Log() (*commitlog.Log, bool) {
	l := f.published.log.Load()
	return l, l != nil
}

// AppliedIndex returns the Raft index of the last entry given to Update.
func (f *FSM) AppliedIndex() uint64 { return f.published.applied.Load() }

// DurableIndex returns the index of the durable marker: what Open would return
// after a power cut.
func (f *FSM) DurableIndex() uint64 { return f.published.durable.Load() }

// LastAppendMs returns the append time of the last batch in milliseconds since
// 1970, 0 where there was none.
func (f *FSM) LastAppendMs() int64 { return f.published.lastAppendMs.Load() }

// BytesSinceMarker returns how many bytes of commands a restart would replay.
func (f *FSM) BytesSinceMarker() int64 {
	durable := f.published.durableBytes.Load() // first, for it follows the other one
	return f.published.bytes.Load() - durable
}

// Config returns the replicated configuration.
func (f *FSM) Config() Config { return *f.published.config.Load() }

// Epoch returns the current epoch, the replica that leads in it and the offset
// at which it began. Epoch 0 means that none has begun.
func (f *FSM) Epoch() (epoch int32, replica uint64, start int64) {
	e := current(f.Epochs())
	return e.Epoch, e.Replica, e.Start
}

// Epochs returns the epoch history, oldest first. The caller must not change
// it. Every epoch of it but the last holds at least one record at or above the
// log start.
func (f *FSM) Epochs() []EpochStart {
	if p := f.published.epochs.Load(); p != nil {
		return *p
	}
	return nil
}

// ProducerKeys appends the key of every known producer to dst, ordered by id.
// A leader compares two such lists to find idle producers, and passes their
// keys to EncodeExpire.
func (f *FSM) ProducerKeys(dst []producerstate.Key) []producerstate.Key {
	f.tableMu.Lock()
	defer f.tableMu.Unlock()
	return f.table.Keys(dst)
}
