package commitlog

import (
	"fmt"
	"hash/crc32"

	"logbroker/internal/recordbatch"
	"logbroker/internal/storage"
)

// bufferBytesMax is what Append collects before it writes. It bounds the
// buffer that a log keeps between calls (to this and one batch).
const bufferBytesMax = 1 << 20

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
		if len(l.buf) >= bufferBytesMax {
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

// stage copies the batch, patched, to the write buffer and extends tail. The
// entry's own bytes belong to Raft and stay as they are.
func (l *Log) stage(e *Entry) {
	at := len(l.buf)
	l.buf = append(l.buf, e.Batch...)
	recordbatch.PatchHeader(l.buf[at:], e.Batch, e.BaseOffset, e.Epoch)
	if l.tail.length == 0 {
		l.tail.firstMs = l.lastMs
	}
	l.tail.lastMs = l.lastMs
	next := e.BaseOffset + int64(e.Batch.LastOffsetDelta()) + 1
	l.tail.add(next, len(e.Batch), e.Batch.MaxTimestamp(), l.place.interval)
}

// flush writes the buffer and lets readers see it. A crash during or after the
// write leaves bytes behind the marker's position; Open cuts them off.
func (l *Log) flush() error {
	if len(l.buf) == 0 {
		return nil
	}
	if _, err := l.active.file.Write(l.buf); err != nil {
		return fmt.Errorf("write %s: %w", l.active.segment.logPath, err)
	}
	l.tail.crc = crc32.Update(l.tail.crc, castagnoli, l.buf)
	from := l.tail.length - int64(len(l.buf))
	l.buf = l.buf[:0]
	l.dirty = true
	l.publish()
	l.back.wrote(l.active, from, l.tail.length)
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
	if l.checkpointed > 0 {
		l.obsolete = append(l.obsolete, l.tail.base)
	}
	l.tail, l.active, l.checkpointed = newExtent(l.tail.end), next, 0
	l.dirty, l.dirtyDir = true, true
	old := l.view.Load().segments
	segments := append(make([]*segment, 0, len(old)+1), old...)
	l.dropTrimmed(append(segments, next.segment))
	return nil
}

// Sync makes everything appended and trimmed so far durable, names of files
// included, and returns the State it made durable. After an error every later
// Append and Sync fails.
func (l *Log) Sync() (State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failure(); err != nil {
		return State{}, err
	}
	if err := l.sync(); err != nil {
		return State{}, l.fail(err)
	}
	st := l.state()
	l.durableStart = st.LogStart
	return st, nil
}

// sync finishes sealed segments oldest first, then the active one, then the
// names. The order among them does not matter: no marker speaks of any before
// all are done.
func (l *Log) sync() error {
	for len(l.sealed) > 0 {
		if err := l.sealed[0].finish(l.back); err != nil {
			return err
		}
		l.sealed = l.sealed[1:]
		l.dirtyDir = true
	}
	if l.dirty {
		if err := l.active.sync(l.back); err != nil {
			return err
		}
		l.dirty = false
	}
	if l.dirtyDir {
		if err := storage.SyncDir(l.place.fs, l.place.dir); err != nil {
			return err
		}
		l.dirtyDir = false
	}
	return nil
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
