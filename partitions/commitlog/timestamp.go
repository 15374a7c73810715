package commitlog

import (
	"errors"

	"logbroker/internal/recordbatch"
)

// timestampReadBytes is how much of a segment a search by time reads at once.
const timestampReadBytes = 64 << 10

// OffsetForTimestamp returns offset and timestamp of the first record in
// [LogStart, end) whose timestamp is at least tsMs (Unix milliseconds); ok is
// false where there is none. A batch whose records cannot be decoded counts as
// one record at its first offset with its greatest timestamp. A record that is
// later than its batch's header says is not found.
func (l *Log) OffsetForTimestamp(tsMs, end int64) (offset, timestampMs int64, ok bool, err error) {
	v := l.view.Load()
	if v.closed {
		return 0, 0, false, ErrClosed
	}
	search := timeSearch{log: l, tsMs: tsMs, end: min(end, l.End())}
	for _, s := range v.segments {
		x := s.ext.Load()
		if x.maxTs < tsMs || x.end <= l.LogStart() {
			continue
		}
		if ok, err = search.segment(s, min(x.end, search.end)); ok || err != nil {
			return search.found.Offset, search.found.TimestampMs, ok, err
		}
	}
	return 0, 0, false, nil
}

// timeSearch is one search by time.
type timeSearch struct {
	log       *Log
	tsMs, end int64
	buf       []byte
	found     recordbatch.Record // Offset and TimestampMs of the answer
}

// segment searches one segment below end.
func (t *timeSearch) segment(s *segment, end int64) (bool, error) {
	_, ok, err := t.log.enter(s)
	if err != nil || !ok {
		return false, err // not ok: trimmed just now, so it holds no answer
	}
	next := s.locateTime(t.tsMs).offset
	s.release()
	for {
		next = max(next, t.log.LogStart())
		if next >= end {
			return false, nil
		}
		t.buf, err = t.log.Read(t.buf[:0], next, end, timestampReadBytes)
		if errors.As(err, new(OffsetRangeError)) {
			continue // trimmed just now, up to a log start offset above next
		}
		if err != nil {
			return false, err
		}
		if len(t.buf) == 0 {
			return false, nil
		}
		for rest := t.buf; len(rest) > 0; {
			var b recordbatch.Batch
			if b, rest, err = recordbatch.Parse(rest); err != nil {
				return false, err
			}
			if t.batch(b) {
				return true, nil
			}
			next = b.NextOffset()
		}
	}
}

// batch searches one batch for the first record that answers.
func (t *timeSearch) batch(b recordbatch.Batch) bool {
	if b.MaxTimestamp() < t.tsMs {
		return false
	}
	start := t.log.LogStart()
	it, err := b.Iterate(recordbatch.IterateOptions{})
	if err == nil {
		for it.Next() {
			r := it.Record()
			if r.TimestampMs >= t.tsMs && r.Offset >= start {
				t.found = recordbatch.Record{Offset: r.Offset, TimestampMs: r.TimestampMs}
				return true
			}
		}
		err = it.Err()
	}
	if err == nil {
		return false // the header promised a timestamp that no record has
	}
	t.found = recordbatch.Record{Offset: max(b.BaseOffset(), start), TimestampMs: b.MaxTimestamp()}
	return true
}
