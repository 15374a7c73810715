package commitlog

import (
	"slices"

	"logbroker/internal/recordbatch"
	"logbroker/internal/storage"
)

// Read appends to dst whole batches as they are stored, beginning with the
// batch that holds offset, below end (exclusive: the high watermark), and
// returns the extended slice. It returns about maxBytes, but at least one
// batch when one is there, and may return less than fits (it stops at the end
// of a segment). At or above end it returns dst unchanged. Outside
// [LogStart, End] the error is an OffsetRangeError. The CRC of every batch
// is checked; a mismatch is a *DamageError and dst is returned unchanged.
func (l *Log) Read(dst []byte, offset, end int64, maxBytes int) ([]byte, error) {
	for {
		// end before view: the view then covers everything below end.
		logEnd := l.End()
		v := l.view.Load()
		if v.closed {
			return dst, ErrClosed
		}
		if start := l.LogStart(); offset < start || offset > logEnd {
			return dst, OffsetRangeError{Offset: offset, LogStart: start, End: logEnd}
		}
		end = min(end, logEnd)
		if offset >= end {
			return dst, nil
		}
		s := v.find(offset)
		if s == nil {
			continue // trimmed just now: the log start offset tells
		}
		file, ok, err := l.enter(s)
		if err != nil {
			return dst, err
		}
		if !ok {
			continue // trimmed or closed just now: the view tells
		}
		r := segmentRead{segment: s, file: file, size: s.ext.Load().length, offset: offset, end: end, maxBytes: maxBytes}
		dst, err = r.read(dst)
		s.release()
		return dst, err
	}
}

// enter acquires s for a read. ok is false when s is going away.
func (l *Log) enter(s *segment) (file storage.File, ok bool, err error) {
	file, ok, opened, err := s.acquire()
	if opened {
		l.noteOpened(s)
	}
	return file, ok, err
}

// segmentRead is one read in one segment.
type segmentRead struct {
	segment     *segment
	file        storage.File
	size        int64 // bytes of the segment that may be read
	offset, end int64 // what is wanted: [offset, end)
	maxBytes    int
}

// read appends the wanted batches to dst. As a rule it reads the file once: at
// the position of the wanted batch where an earlier read ended there, otherwise
// from the index entry before it.
func (r *segmentRead) read(dst []byte) ([]byte, error) {
	at := r.segment.locate(r.offset)
	window := int64(max(r.maxBytes, recordbatch.HeaderSize))
	if at.offset < r.offset {
		window += r.segment.interval
	}
	for {
		window = min(window, r.size-at.position)
		if window < recordbatch.HeaderSize {
			return dst, damaged(r.segment.logPath, at.position, "no batch holds offset %d", r.offset)
		}
		dst = slices.Grow(dst, int(window))
		buf := dst[len(dst) : len(dst)+int(window)]
		if err := readFull(r.file, r.segment.logPath, buf, at.position); err != nil {
			return dst, err
		}
		skipped, need, err := r.skip(buf, &at)
		if err != nil {
			return dst, err
		}
		if need > 0 {
			// The wanted batch is not wholly in buf: read it again from its begin.
			window = need
			continue
		}
		taken, err := r.take(buf[skipped:], at)
		if err != nil {
			return dst, err
		}
		if skipped > 0 {
			copy(buf, buf[skipped:skipped+taken])
		}
		return dst[:len(dst)+taken], nil
	}
}

// skip moves at to the batch that holds the wanted offset and returns how many
// bytes of buf lie before it. need > 0 means that buf does not hold all of the
// batch at at; it is how much to read from there.
func (r *segmentRead) skip(buf []byte, at *indexEntry) (skipped int, need int64, err error) {
	for {
		rest := buf[skipped:]
		if len(rest) < recordbatch.HeaderSize {
			return 0, int64(max(r.maxBytes, recordbatch.HeaderSize)), nil
		}
		size, err := r.frame(rest, *at)
		if err != nil {
			return 0, 0, err
		}
		next := recordbatch.Batch(rest[:recordbatch.HeaderSize]).NextOffset()
		if next > r.offset {
			if size > int64(len(rest)) {
				need = max(size, int64(r.maxBytes))
			}
			return skipped, need, nil
		}
		at.offset, at.position = next, at.position+size
		if size > int64(len(rest)) {
			return 0, int64(max(r.maxBytes, recordbatch.HeaderSize)), nil
		}
		skipped += int(size)
	}
}

// take returns how many bytes of whole, checked batches buf begins with: at
// least one batch, not above end, not more than maxBytes.
func (r *segmentRead) take(buf []byte, at indexEntry) (taken int, err error) {
	for len(buf)-taken >= recordbatch.HeaderSize {
		size, err := r.frame(buf[taken:], at)
		if err != nil {
			return 0, err
		}
		if size > int64(len(buf)-taken) || taken > 0 && taken+int(size) > r.maxBytes {
			break
		}
		b := recordbatch.Batch(buf[taken : taken+int(size)])
		if b.NextOffset() > r.end {
			break
		}
		if err := b.CheckCRC(); err != nil {
			return 0, damaged(r.segment.logPath, at.position, "the batch at offset %d: %v", at.offset, err)
		}
		at.offset, at.position = b.NextOffset(), at.position+size
		taken += int(size)
	}
	if taken > 0 {
		r.segment.remember(at.offset, at.position)
	}
	return taken, nil
}

// frame is frame for a header read at at.
func (r *segmentRead) frame(b []byte, at indexEntry) (int64, error) {
	size, reason := frame(b, at.offset, r.size-at.position)
	if reason != "" {
		return 0, damaged(r.segment.logPath, at.position, "the batch at offset %d: %s", at.offset, reason)
	}
	return size, nil
}
