package commitlog

import (
	"fmt"
	"hash/crc32"

	"logbroker/internal/recordbatch"
	"logbroker/internal/storage"
)

const (
	// stagedBytesMax is what Append collects before it writes. Together with
	// copiedBytesMax it bounds the memory that a log keeps between calls.
	stagedBytesMax = 1 << 20
	// A batch below this size is copied: that costs less than two pieces more in
	// a write.
	copiedBytesMax = 4 << 10
)

// staged are batches on their way to a segment, one behind the other. The long
// ones are not copied: only their patched headers are.
type staged struct {
	pieces [][]byte // in front of copied[from:]; they alias entries and copied
	copied []byte
	from   int // copied[from:] is no piece yet
	bytes  int
}

// add stages batch with another base offset and epoch. Its bytes are read until
// the next reset and stay as they are.
func (s *staged) add(batch recordbatch.Batch, baseOffset int64, epoch int32) {
	at := len(s.copied)
	s.bytes += len(batch)
	if len(batch) < copiedBytesMax {
		s.copied = append(s.copied, batch...)
		recordbatch.PatchHeader(s.copied[at:], batch, baseOffset, epoch)
		return
	}
	// Where copied moves to new memory, earlier pieces keep the old.
	s.copied = append(s.copied, batch[:recordbatch.PatchSize]...)
	recordbatch.PatchHeader(s.copied[at:], batch, baseOffset, epoch)
	s.pieces = append(s.pieces, s.copied[s.from:], batch[recordbatch.PatchSize:])
	s.from = len(s.copied)
}

// all returns everything staged, in order.
func (s *staged) all() [][]byte {
	if s.from < len(s.copied) {
		s.pieces = append(s.pieces, s.copied[s.from:])
		s.from = len(s.copied)
	}
	return s.pieces
}

// reset keeps the memory and nothing of the batches.
func (s *staged) reset() {
	clear(s.pieces[:cap(s.pieces)])
	*s = staged{pieces: s.pieces[:0], copied: s.copied[:0]}
}

// Append writes the entries behind the log's end. Their offsets must continue
// it densely. They can be read at once and are durable after the next Sync.
// Segments roll before an entry as a pure function of the entries before it
// and of cfg. After an error of the disk every later Append and Sync fails
// with it: the process should end.
func (l *Log) Append(es []Entry, cfg Config) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failure(); err != nil {
		return err
	}
	if err := l.check(es); err != nil {
		return err
	}
	if err := l.append(es, cfg); err != nil {
		return l.fail(err)
	}
	return nil
}

// check refuses entries that would break the log's density, before anything is
// written. Such entries are a programmer's mistake.
func (l *Log) check(es []Entry) error {
	next := l.tail.end
	for i := range es {
		e := &es[i]
		if len(e.Batch) < recordbatch.HeaderSize {
			return fmt.Errorf("append to %s: entry %d has %d bytes, that is no batch", l.place.dir, i, len(e.Batch))
		}
		size, err := recordbatch.PeekSize(e.Batch)
		if err != nil {
			return fmt.Errorf("append to %s: entry %d: %w", l.place.dir, i, err)
		}
		if size != len(e.Batch) || e.Batch.LastOffsetDelta() < 0 {
			return fmt.Errorf("append to %s: entry %d is not exactly one batch; pass what recordbatch.Parse returned",
				l.place.dir, i)
		}
		if e.BaseOffset != next {
			return fmt.Errorf("append to %s: entry %d has offset %d, the log ends at %d", l.place.dir, i, e.BaseOffset, next)
		}
		next += int64(e.Batch.LastOffsetDelta()) + 1
	}
	return nil
}

// append stages entry after entry and writes at the end, at a roll and when the
// buffer is full: one write per call and segment as a rule.
func (l *Log) append(es []Entry, cfg Config) error {
	for i := range es {
		e := &es[i]
		l.lastMs = max(l.lastMs, e.AppendTimeMs)
		if rolls(&l.tail, len(e.Batch), l.lastMs, cfg) {
			if err := l.roll(); err != nil {
				return err
			}
		}
		l.stage(e)
		if l.staged.bytes >= stagedBytesMax {
			if err := l.flush(); err != nil {
				return err
			}
		}
	}
	return l.flush()
}

// rolls says whether a batch of size bytes appended at appendMs begins a new
// segment. Replicated state only: every replica must answer the same.
func rolls(active *extent, size int, appendMs int64, cfg Config) bool {
	if active.length == 0 {
		return false
	}
	if cfg.SegmentBytes > 0 && active.length+int64(size) > cfg.SegmentBytes {
		return true
	}
	return cfg.SegmentAge > 0 && appendMs-active.firstMs >= cfg.SegmentAge.Milliseconds()
}

// stage stages the batch, patched, and extends tail. The entry's own bytes belong
// to Raft and stay as they are.
func (l *Log) stage(e *Entry) {
	l.staged.add(e.Batch, e.BaseOffset, e.Epoch)
	if l.tail.length == 0 {
		l.tail.firstMs = l.lastMs
	}
	l.tail.lastMs = l.lastMs
	next := e.BaseOffset + int64(e.Batch.LastOffsetDelta()) + 1
	l.tail.add(next, len(e.Batch), e.Batch.MaxTimestamp(), l.place.interval)
}

// flush writes what is staged and lets readers see it. A crash during or after
// the write leaves bytes behind the marker's position; Open cuts them off.
func (l *Log) flush() error {
	if l.staged.bytes == 0 {
		return nil
	}
	defer l.staged.reset()
	pieces := l.staged.all()
	for _, p := range pieces {
		l.tail.crc = crc32.Update(l.tail.crc, castagnoli, p)
	}
	if err := storage.WritePieces(l.active.file, pieces); err != nil {
		return fmt.Errorf("write %s: %w", l.active.segment.logPath, err)
	}
	l.publish()
	l.back.wrote(l.active, l.tail.length-int64(l.staged.bytes), l.tail.length)
	return nil
}

// publish shows tail to readers: first the bytes, then the end offset.
func (l *Log) publish() {
	x := l.tail
	l.active.segment.ext.Store(&x)
	l.end.Store(x.end)
}

// roll seals the active segment in memory and starts the next one. The sealed
// one gets its footer from the next Sync, before any marker can call it
// sealed: until then the last marker has it as active, and Open would cut it
// and remove the new one.
func (l *Log) roll() error {
	if err := l.flush(); err != nil {
		return err
	}
	next, err := createSegment(l.place, l.tail.end)
	if err != nil {
		return err
	}
	l.tail.sealed = true
	l.publish()
	l.sealed = append(l.sealed, l.active)
	l.tail, l.active = newExtent(l.tail.end), next
	l.names++
	old := l.view.Load().segments
	segments := append(make([]*segment, 0, len(old)+1), old...)
	l.dropTrimmed(append(segments, next.segment))
	return nil
}

// Sync makes everything appended and trimmed so far durable, names of files
// included, and returns the State it made durable. After an error every later
// Append and Sync fails.
func (l *Log) Sync() (State, error) {
	p := l.StartSync()
	if err := l.FinishSync(p); err != nil {
		return State{}, err
	}
	return p.State, nil
}

// State returns the log's state as it is now, durable or not. It is for who writes
// the log.
func (l *Log) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state()
}

// state returns the log's state as of now, durable or not.
func (l *Log) state() State {
	return State{
		LogStart:            l.logStart.Load(),
		End:                 l.tail.end,
		ActiveBase:          l.tail.base,
		ActivePosition:      l.tail.length,
		ActiveCRC:           l.tail.crc,
		ActiveFirstAppendMs: l.tail.firstMs,
		LastAppendMs:        l.lastMs,
	}
}
