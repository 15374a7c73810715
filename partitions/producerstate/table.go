// Package producerstate is the pure core of idempotent produce: which batch of
// which producer has been stored, and where.
//
// It decides whether a numbered batch (producer id, epoch, sequence) is the
// next one, a retry of one that is stored, or out of order, and it remembers
// the message ids of plain publishes for two minutes. It is part of the
// replicated state machine, so it has no clock, no randomness, no I/O and no
// lock, and no map iteration reaches its output: the same calls give the same
// answers and the same snapshot bytes on every replica.
//
// It is not a validator of batches (package recordbatch is), and it does not
// decide when a producer is idle (the leader does, on its own clock; see
// Expire). Start at Table.Apply; the snapshot form is in snapshot.go.
package producerstate

import "slices"

// Defaults and bounds of Limits.
const (
	// WindowDefault is how many batches per producer are remembered.
	WindowDefault = 64
	// WindowMax bounds Limits.Window.
	WindowMax = 1024
	// ProducersDefault is how many producer ids a partition remembers.
	ProducersDefault = 10_000
	// ProducersMax bounds Limits.Producers.
	ProducersMax = 1 << 20
	// MessageIDsDefault is how many message ids a partition remembers.
	MessageIDsDefault = 100_000
	// MessageIDsMax bounds Limits.MessageIDs.
	MessageIDsMax = 1 << 20
	// MessageIDBytesMax is the longest message id, in bytes.
	MessageIDBytesMax = 255
	// MessageIDAgeMs is how long a message id is remembered, in milliseconds
	// of command time.
	MessageIDAgeMs = 2 * 60 * 1000
)

// Limits bound the table. They decide verdicts, so they are replicated state:
// all replicas of a partition must hold the same limits at the same command.
type Limits struct {
	Window     int // batches remembered per producer; 0 means WindowDefault
	Producers  int // producer ids; 0 means ProducersDefault
	MessageIDs int // message ids; 0 means MessageIDsDefault
}

// WithDefaults returns l with its zero fields replaced by the defaults.
func (l Limits) WithDefaults() Limits {
	if l.Window == 0 {
		l.Window = WindowDefault
	}
	if l.Producers == 0 {
		l.Producers = ProducersDefault
	}
	if l.MessageIDs == 0 {
		l.MessageIDs = MessageIDsDefault
	}
	return l
}

// Valid reports whether every limit is within its bounds.
func (l Limits) Valid() bool {
	return l.Window > 0 && l.Window <= WindowMax &&
		l.Producers > 0 && l.Producers <= ProducersMax &&
		l.MessageIDs > 0 && l.MessageIDs <= MessageIDsMax
}

// OffsetUnknown is the offset of a duplicate whose first copy is stored but
// has left the window.
const OffsetUnknown int64 = -1

// Verdict is what the table says about a numbered batch.
type Verdict uint8

// The verdicts.
const (
	// Append: the batch is new and next; the table has recorded it.
	Append Verdict = iota + 1
	// Duplicate: all records of the batch are stored already.
	Duplicate
	// OutOfOrder: records before this batch are missing, or it begins at or
	// below the last sequence and ends above it (a re-split batch).
	OutOfOrder
	// InvalidEpoch: the producer has been seen with a newer epoch.
	InvalidEpoch
	// UnknownProducer: the id is not known and the batch does not start at 0.
	UnknownProducer
	// TooMany: the id is new and the partition holds Limits.Producers already.
	TooMany
)

// String returns the verdict's name as the scenario files write it.
func (v Verdict) String() string {
	switch v {
	case Append:
		return "append"
	case Duplicate:
		return "duplicate"
	case OutOfOrder:
		return "out-of-order"
	case InvalidEpoch:
		return "invalid-epoch"
	case UnknownProducer:
		return "unknown-producer"
	case TooMany:
		return "too-many"
	default:
		return "invalid"
	}
}

// Batch is what the table needs to know of a numbered batch.
type Batch struct {
	Producer int64 // >= 0
	Epoch    int16 // >= 0
	Sequence int32 // of the first record, >= 0
	Count    int32 // records, > 0
}

// Key names a producer's state: it changes with every batch the producer
// stores. See Expire.
type Key struct {
	Producer     int64
	Epoch        int16
	LastSequence int32
}

// Table is the producer state of one partition. It is not safe for concurrent
// use.
type Table struct {
	limits    Limits
	producers map[int64]*producer
	messages  messages
	version   uint64
}

// New returns an empty table. Zero fields of limits take their defaults; limits
// that are not Valid are a programming error.
func New(limits Limits) *Table {
	limits = limits.WithDefaults()
	if !limits.Valid() {
		panic("producerstate: limits out of bounds")
	}
	return &Table{limits: limits, producers: make(map[int64]*producer), messages: newMessages()}
}

// SetLimits replaces the limits. What is remembered beyond smaller limits goes
// when the next entry of its kind arrives, not now.
func (t *Table) SetLimits(limits Limits) {
	limits = limits.WithDefaults()
	if !limits.Valid() {
		panic("producerstate: limits out of bounds")
	}
	t.limits = limits
}

// Limits returns the limits in force.
func (t *Table) Limits() Limits { return t.limits }

// Version changes whenever the content (what Encode writes) may have changed.
func (t *Table) Version() uint64 { return t.version }

// Producers returns how many producer ids the table holds.
func (t *Table) Producers() int { return len(t.producers) }

// Apply judges b and, where the verdict is Append, records it as stored at
// baseOffset. With Duplicate the offset is that of the first copy of b's first
// record, or OffsetUnknown where that has left the window; with any other
// verdict it is OffsetUnknown. Apply does not allocate for a known producer
// with a full window.
func (t *Table) Apply(b Batch, baseOffset int64) (Verdict, int64) {
	p := t.producers[b.Producer]
	if p == nil {
		return t.admit(b, baseOffset)
	}
	if b.Epoch < p.epoch {
		return InvalidEpoch, OffsetUnknown
	}
	if b.Epoch > p.epoch {
		// The producer started anew and numbers from 0. A later batch of the
		// new epoch that overtook the first must not open the epoch.
		if b.Sequence != 0 {
			return OutOfOrder, OffsetUnknown
		}
		p.restart(b.Epoch)
	}
	v, offset := p.judge(b)
	if v == Append {
		p.push(stored{sequence: b.Sequence, count: b.Count, offset: baseOffset}, t.limits.Window)
		t.version++
		offset = baseOffset
	}
	return v, offset
}

func (t *Table) admit(b Batch, baseOffset int64) (Verdict, int64) {
	if b.Sequence != 0 {
		return UnknownProducer, OffsetUnknown
	}
	if len(t.producers) >= t.limits.Producers {
		return TooMany, OffsetUnknown
	}
	p := &producer{epoch: b.Epoch}
	p.push(stored{count: b.Count, offset: baseOffset}, t.limits.Window)
	t.producers[b.Producer] = p
	t.version++
	return Append, baseOffset
}

// Expire forgets the named producers. A producer whose epoch or last sequence
// is not the one named has written since the leader took the key, and stays.
// It returns how many it forgot.
func (t *Table) Expire(keys []Key) int {
	n := 0
	for _, k := range keys {
		if p := t.producers[k.Producer]; p != nil && p.key(k.Producer) == k {
			delete(t.producers, k.Producer)
			n++
		}
	}
	if n > 0 {
		t.version++
	}
	return n
}

// Keys appends the key of every producer to dst, ordered by producer id.
func (t *Table) Keys(dst []Key) []Key {
	from := len(dst)
	for id, p := range t.producers {
		dst = append(dst, p.key(id))
	}
	slices.SortFunc(dst[from:], func(a, b Key) int {
		if a.Producer < b.Producer {
			return -1
		}
		return 1 // ids are distinct
	})
	return dst
}

// Message returns the offset of the first copy of the message with this id,
// where it is remembered at command time nowMs.
func (t *Table) Message(id []byte, nowMs int64) (offset int64, ok bool) {
	return t.messages.find(id, nowMs)
}

// RememberMessage records that the message with this id is stored at offset.
// The id must not be known at nowMs (see Message), nowMs must not be below
// that of an earlier call, and the id must not be empty nor longer than
// MessageIDBytesMax. The oldest ids go first: those older than MessageIDAgeMs,
// then those beyond Limits.MessageIDs.
func (t *Table) RememberMessage(id []byte, nowMs, offset int64) {
	t.messages.remember(id, nowMs, offset, t.limits.MessageIDs)
	t.version++
}

// MessageIDs returns how many message ids the table holds, expired ones that
// no later message has pushed out included.
func (t *Table) MessageIDs() int { return t.messages.len() }
