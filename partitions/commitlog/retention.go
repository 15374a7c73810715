package commitlog

import (
	"slices"
	"time"
)

// Trim moves the log start offset up to newLogStart (at most End; never down),
// at once for readers. Files stay until a durable marker carries the new one:
// Checkpoint.
func (l *Log) Trim(newLogStart int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	newLogStart = min(newLogStart, l.tail.end)
	v := l.view.Load()
	if newLogStart <= l.logStart.Load() || v.closed {
		return
	}
	// A reader that still sees the old view reads what is going away, which
	// does no harm; one that misses a segment in the new view finds the new
	// log start offset.
	l.logStart.Store(newLogStart)
	l.dropTrimmed(v.segments)
}

// dropTrimmed publishes segments without those that lie wholly below the log
// start offset. The active one stays even then; it goes when it is sealed.
func (l *Log) dropTrimmed(segments []*segment) {
	start, keep := l.logStart.Load(), 0
	for keep < len(segments)-1 && segments[keep].ext.Load().end <= start {
		keep++
	}
	l.trimmed = append(l.trimmed, segments[:keep]...)
	l.view.Store(&view{segments: segments[keep:]})
}

// TrimmedWaits reports whether trimmed segments wait for a marker that carries
// the new log start offset.
func (l *Log) TrimmedWaits() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.trimmed, func(s *segment) bool { return !l.removable(s) })
}

// RetentionQuery asks which log start offset the retention limits want.
type RetentionQuery struct {
	NowMs    int64         // now, in Unix milliseconds
	MaxBytes int64         // keep at least this much; ≤ 0 = no limit
	MaxAge   time.Duration // by append time; ≤ 0 = no limit
	End      int64         // exclusive bound of what may go (the high watermark)
}

// RetentionOffset returns the log start offset that q wants: the end of the
// last segment that may go, or the present log start. Only whole segments go,
// oldest first, the active one never. By size a segment goes while what
// remains without it is at least MaxBytes; by age when its last batch was
// appended more than MaxAge ago.
func (l *Log) RetentionOffset(q RetentionQuery) int64 {
	start := l.LogStart()
	segments := l.view.Load().segments
	var size int64
	for _, s := range segments {
		size += s.ext.Load().length
	}
	for i, s := range segments {
		x := s.ext.Load()
		tooMuch := q.MaxBytes > 0 && size-x.length >= q.MaxBytes
		tooOld := q.MaxAge > 0 && q.NowMs-x.lastMs > q.MaxAge.Milliseconds()
		if i == len(segments)-1 || x.end > q.End || !tooMuch && !tooOld {
			break
		}
		size -= x.length
		start = max(start, x.end)
	}
	return start
}
