package commitlog

import (
	"errors"
	"log/slog"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/internal/recordbatch"
	"logbroker/internal/storage"
)

// Defaults and bounds of a log.
const (
	indexIntervalBytesDefault = 4096
	// openSegmentsMax is how many segments a log keeps open for reading while
	// nobody reads them.
	openSegmentsMax = 8
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
	// CheckpointBytes is how much is appended between two checkpoints of the active
	// segment, and so how much of it Open reads beside what no marker had spoken of
	// at the last one. Default 8 MiB.
	CheckpointBytes int64
	// Unread says that nobody reads the log just now. What was written then leaves
	// the page cache soon, so that logs which are read have more of it. It is asked
	// by a goroutine of the log's own and must not wait for it. Default: never.
	Unread func() bool
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

// Log is one partition's log. Append, StartSync, Sync, Trim and Close are called by
// one goroutine at a time, the writer; FinishSync and Marked by one, which may be
// another; everything else by any.
type Log struct {
	place *place

	// logStart ≤ end. The writer stores end after the extent that holds it, and
	// logStart before it takes segments out of the view.
	logStart atomic.Int64
	end      atomic.Int64
	// view is what readers see.
	view atomic.Pointer[view]

	// openMu guards opened: segments opened for reading, the longest ago first.
	openMu sync.Mutex
	opened []*segment

	// beside is held while files are written beside the writer; Close waits for it.
	// It comes before mu.
	beside sync.Mutex
	// tidying counts the goroutines that Marked starts. They wait for the disk only,
	// and Close waits for them.
	tidying sync.WaitGroup

	// mu guards the rest: the writer's state, also against Pin and Close.
	mu sync.Mutex
	// tail is the extent of the active segment including what is staged.
	// Between calls nothing is staged and tail is what is published.
	tail   extent
	active *writer
	staged staged
	lastMs int64 // append time of the last batch
	// sealed are the segments that no FinishSync has finished: no footer yet.
	sealed []*writer
	// trimmed are the segments that left the view and whose files remain.
	trimmed []*segment
	// names counts the names that came into dir; the first namesSynced are durable.
	names, namesSynced uint64
	// synced is the active segment as of the last Sync, marked as of the last that
	// a durable marker speaks of. checkpoints are those on disk.
	synced, marked extent
	checkpoints    []checkpoint
	// durableStart is the log start offset of the last State that Sync gave,
	// markedStart that of the last that a durable marker speaks of.
	durableStart, markedStart int64
	// failed is the first error of a write or sync; it stays.
	failed error
	back   *writeBack
}

// view is an immutable list of segments, in offset order and without gaps; the
// last one is active. It has at least one unless the log is closed.
type view struct {
	segments []*segment
	closed   bool
}

// find returns the segment that holds offset, or nil where the view begins
// above it.
func (v *view) find(offset int64) *segment {
	i := sort.Search(len(v.segments), func(i int) bool { return v.segments[i].base > offset })
	if i == 0 {
		return nil
	}
	return v.segments[i-1]
}

// Open opens the log in opts.Dir at exactly the state st, which must be the
// State of the last durable marker. What is newer is cut away; what st refers
// to must be there and whole, otherwise the error is a *DamageError (wrapping
// ErrDamaged) and nothing was changed. A zero State over an empty or missing
// directory is a new log; over a directory with segments it discards them all,
// so it is the caller's to know that there never was a marker.
func Open(opts Options, st State) (*Log, error) {
	p := opts.place()
	if err := storage.MkdirAll(p.fs, p.dir); err != nil {
		return nil, err
	}
	found, err := inspect(p, st)
	if err != nil {
		return nil, err
	}
	if err := found.settle(p, st); err != nil {
		return nil, err
	}
	file, err := openForAppend(p, st.ActiveBase)
	if err != nil {
		return nil, err
	}
	l := &Log{
		place: p, tail: found.active, lastMs: st.LastAppendMs,
		synced: found.active, marked: found.active, durableStart: st.LogStart, markedStart: st.LogStart, back: newWriteBack(opts.Unread),
	}
	if found.checkpointed > 0 {
		l.checkpoints = []checkpoint{{base: st.ActiveBase, length: found.checkpointed}}
	}
	segments := make([]*segment, 0, len(found.sealed)+1)
	for _, x := range found.sealed {
		segments = append(segments, newSegment(p, x))
	}
	activeSegment := newSegment(p, found.active)
	l.active = &writer{segment: activeSegment, file: file, durable: st.ActivePosition}
	l.view.Store(&view{segments: append(segments, activeSegment)})
	l.logStart.Store(st.LogStart)
	l.end.Store(st.End)
	l.back.start()
	return l, nil
}

// place resolves the defaults.
func (o Options) place() *place {
	p := &place{fs: o.FS, dir: o.Dir, interval: int64(o.IndexIntervalBytes), checkpointBytes: o.CheckpointBytes, logger: o.Logger}
	if p.fs == nil {
		p.fs = storage.OS()
	}
	if p.interval <= 0 {
		p.interval = indexIntervalBytesDefault
	}
	if p.checkpointBytes <= 0 {
		p.checkpointBytes = checkpointBytesDefault
	}
	if p.logger == nil {
		p.logger = slog.New(slog.DiscardHandler)
	}
	return p
}

// LogStart returns the first offset that can be read.
func (l *Log) LogStart() int64 { return l.logStart.Load() }

// End returns the next offset to be appended.
func (l *Log) End() int64 { return l.end.Load() }

// SizeBytes returns the size of all segments that hold something at or above
// the log start offset.
func (l *Log) SizeBytes() int64 {
	var n int64
	for _, s := range l.view.Load().segments {
		n += s.ext.Load().length
	}
	return n
}

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
// It is empty after Close.
func (l *Log) Segments() []SegmentInfo {
	segments := l.view.Load().segments
	infos := make([]SegmentInfo, len(segments))
	for i, s := range segments {
		infos[i] = s.ext.Load().info()
	}
	return infos
}

// Close stops the write-back goroutine and closes the files. It syncs nothing.
// Reads that are running end well, later ones return ErrClosed. A second Close
// does nothing.
func (l *Log) Close() error {
	l.tidying.Wait()
	l.beside.Lock()
	defer l.beside.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.view.Swap(&view{closed: true})
	if old.closed {
		return nil
	}
	l.failed = errors.Join(ErrClosed, l.failed)
	l.back.stop()
	err := l.active.close()
	for _, w := range l.sealed {
		err = errors.Join(err, w.close())
	}
	for _, s := range append(old.segments, l.trimmed...) {
		s.retire()
	}
	return err
}

// noteOpened counts a segment that was just opened for reading, and closes the
// longest open ones above openSegmentsMax that nobody reads.
func (l *Log) noteOpened(s *segment) {
	l.openMu.Lock()
	defer l.openMu.Unlock()
	l.opened = append(l.opened, s)
	for i := len(l.opened) - openSegmentsMax; i > 0; i-- {
		oldest := l.opened[0]
		l.opened = l.opened[1:]
		if !oldest.park() {
			l.opened = append(l.opened, oldest)
		}
	}
}
