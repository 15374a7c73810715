package commitlog

import (
	"log/slog"
	"time"

	"logbroker/internal/recordbatch"
	"logbroker/internal/storage"
)

// Options say where a log lives. The zero value of a field other than Dir
// means its default.
type Options struct {
	// FS defaults to the operating system's.
	FS storage.FS
	// Dir holds the segments. Other files may live there: the log touches only
	// names that are a 20-digit offset with one of its own suffixes.
	Dir string
	// IndexIntervalBytes is the distance between two index entries; default
	// 4096. Replicas may differ in it: index files are no part of a digest.
	IndexIntervalBytes int
	// Logger defaults to one that discards.
	Logger *slog.Logger
}

// Config is the part of the topic's configuration that decides where segments
// end. It is replicated: all replicas roll at the same batch.
type Config struct {
	// SegmentBytes is the size above which a segment is not grown. A batch
	// larger than it gets a segment of its own. 0 = no bound.
	SegmentBytes int64
	// SegmentAge is the append time that a segment spans at most. 0 = no bound.
	SegmentAge time.Duration
}

// State is what a durable marker stores of the log: everything that Open needs
// to come back to exactly this point. The zero State is an empty log at offset
// 0. Invariants: LogStart ≤ End, ActiveBase ≤ End, ActivePosition = 0 ⇔
// ActiveBase = End.
type State struct {
	// LogStart is the first offset that can be read.
	LogStart int64
	// End is the next offset to be appended.
	End int64
	// ActiveBase is the base offset of the segment that grows.
	ActiveBase int64
	// ActivePosition is its length in bytes.
	ActivePosition int64
	// ActiveCRC is the CRC-32C of its bytes [0, ActivePosition).
	ActiveCRC uint32
	// ActiveFirstAppendMs is the append time of its first batch (Unix
	// milliseconds), 0 while it is empty.
	ActiveFirstAppendMs int64
	// LastAppendMs is the append time of the log's last batch.
	LastAppendMs int64
}

// Entry is one batch with the place that replication gave it.
type Entry struct {
	// Batch is exactly one encoded batch. Append reads it and never writes to
	// it; it is not kept after the call.
	Batch recordbatch.Batch
	// BaseOffset is the offset of its first record: the end of the log at this
	// entry.
	BaseOffset int64
	// Epoch is the leader epoch that goes into the stored batch.
	Epoch int32
	// AppendTimeMs is the leader's append time in Unix milliseconds. One that
	// is lower than its predecessor's counts as equal to it.
	AppendTimeMs int64
}

// Log is one partition's log. Append, Sync, Trim and RemoveTrimmed are called
// by one goroutine at a time; everything else by any.
type Log struct {
}

// Open opens the log in opts.Dir at exactly the state st, which must be the
// State of the last durable marker. What is newer is cut away; what st refers
// to must be there and whole, otherwise the error is a *DamageError (wrapping
// ErrDamaged) and nothing was changed. A zero State over an empty or missing
// directory is a new log; over a directory with segments it discards them all.
func Open(opts Options, st State) (*Log, error) { return nil, nil }

// Append writes the entries behind the log's end. Their offsets must continue
// it densely. They can be read at once and are durable after the next Sync.
// Segments roll before an entry as a pure function of the entries before it
// and of cfg. After an error every later Append and Sync fails with it: the
// process should end.
func (l *Log) Append(es []Entry, cfg Config) error { return nil }

// Sync makes everything appended and trimmed so far durable, names of files
// included, and returns the State it made durable. After an error every later
// Append and Sync fails.
func (l *Log) Sync() (State, error) { return State{}, nil }

// LogStart returns the first offset that can be read.
func (l *Log) LogStart() int64 { return 0 }

// End returns the next offset to be appended.
func (l *Log) End() int64 { return 0 }

// SizeBytes returns the size of all segments that hold something at or above
// the log start offset.
func (l *Log) SizeBytes() int64 { return 0 }

// Read appends to dst whole batches as they are stored, beginning with the
// batch that holds offset, below end (exclusive: the high watermark), and
// returns the extended slice. It returns about maxBytes, but at least one
// batch when one is there, and may return less than fits (it stops at the end
// of a segment). At offset = end it returns dst unchanged. Outside
// [LogStart, End] the error is an ErrOffsetOutOfRange. The CRC of every batch
// is checked; a mismatch is a *DamageError and dst is returned unchanged.
func (l *Log) Read(dst []byte, offset, end int64, maxBytes int) ([]byte, error) { return dst, nil }

// OffsetForTimestamp returns offset and timestamp of the first record in
// [LogStart, end) whose timestamp is at least tsMs (Unix milliseconds); ok is
// false where there is none. A batch whose records cannot be decoded counts as
// one record at its first offset with its greatest timestamp.
func (l *Log) OffsetForTimestamp(tsMs, end int64) (offset, timestampMs int64, ok bool, err error) {
	return 0, 0, false, nil
}

// Trim moves the log start offset up to newLogStart (at most End; never down),
// at once for readers. Files stay until RemoveTrimmed.
func (l *Log) Trim(newLogStart int64) {}

// RemoveTrimmed unlinks the segments that lie wholly below the log start
// offset of the last State that Sync returned. Call it after that State is in
// a durable marker, never before. Segments that a reader or a Pinned still
// uses stay until the next call.
func (l *Log) RemoveTrimmed() error { return nil }

// RetentionQuery asks which log start offset the retention limits want.
type RetentionQuery struct {
	NowMs    int64         // now, in Unix milliseconds
	MaxBytes int64         // keep at least this much; ≤ 0 = no limit
	MaxAge   time.Duration // by append time; ≤ 0 = no limit
	End      int64         // exclusive bound of what may go (the high watermark)
}

// RetentionOffset returns the log start offset that q wants: the end of the
// last segment that may go, or the present log start. Only whole segments go,
// the active one never.
func (l *Log) RetentionOffset(q RetentionQuery) int64 { return 0 }

// SegmentInfo describes one segment.
type SegmentInfo struct {
	Base, End int64 // offsets [Base, End)
	Bytes     int64
	CRC       uint32 // CRC-32C of the .log file's first Bytes bytes
	Sealed    bool
	// FirstAppendMs and LastAppendMs are the append times of its first and last
	// batch (Unix milliseconds).
	FirstAppendMs, LastAppendMs int64
}

// Segments lists the segments in offset order; the last one is the active one.
func (l *Log) Segments() []SegmentInfo { return nil }

// Close stops the write-back goroutine and closes the files. It syncs nothing.
// Reads that are running end well, later ones return ErrClosed.
func (l *Log) Close() error { return nil }
