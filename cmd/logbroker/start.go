package main

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"logbroker/consumer"
	"logbroker/internal/cli"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// startPoint is the value of --from.
type startPoint struct {
	text  string
	kind  startKind
	n     int64         // offset, distance
	time  time.Time     // of startTime
	since time.Duration // of startAgo
}

type startKind int

const (
	startBegin    startKind = iota // start
	startEnd                       // end
	startOffset                    // 47
	startAfter                     // +2, from the log start
	startLast                      // -3, from the high watermark
	startTime                      // @2026-01-02T15:04:05Z, @1767366245000
	startDuration                  // @-15m
)

func parseStartPoint(s string) (startPoint, error) {
	p := startPoint{text: s}
	bad := cli.Usage("--from %q: use start, end, an offset, +N after the start, -N before the end, or @TIME like @2026-01-02T15:04:05Z or @-15m", s)
	var err error
	switch {
	case s == "start":
		return p, nil
	case s == "end":
		p.kind = startEnd
		return p, nil
	case strings.HasPrefix(s, "@"):
		return p.at(s[1:], bad)
	case strings.HasPrefix(s, "+"):
		p.kind, s = startAfter, s[1:]
	case strings.HasPrefix(s, "-"):
		p.kind, s = startLast, s[1:]
	default:
		p.kind = startOffset
	}
	if p.n, err = strconv.ParseInt(s, 10, 64); err != nil || p.n < 0 || s[0] == '+' {
		return p, bad
	}
	return p, nil
}

func (p startPoint) at(s string, bad error) (startPoint, error) {
	p.kind = startTime
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		p.time = t
		return p, nil
	}
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms >= 0 {
		p.time = time.UnixMilli(ms)
		return p, nil
	}
	if ago, ok := strings.CutPrefix(s, "-"); ok {
		if d, err := time.ParseDuration(ago); err == nil && d >= 0 {
			p.kind, p.since = startDuration, d
			return p, nil
		}
	}
	return p, bad
}

// span is what is read of one partition: the offsets from start up to but
// without end; end -1 means for ever.
type span struct {
	partition  int32
	start, end int64
	policy     consumer.RangePolicy
}

func (s span) empty() bool { return s.end >= 0 && s.start >= s.end }

// spansAtOnce is how many partitions are asked for their offsets at a time.
const spansAtOnce = 16

// spans finds the offsets to read of every partition, under ctx. The ends are
// the high watermarks of now with -e.
func (c *consuming) spans(ctx context.Context, b backend) ([]span, error) {
	from := c.from
	if from.kind == startDuration {
		from.kind, from.time = startTime, c.app.now().Add(-from.since)
	}
	out, errs := make([]span, len(c.partitions)), make([]error, len(c.partitions))
	slots := make(chan struct{}, spansAtOnce)
	var all sync.WaitGroup
	for i, p := range c.partitions {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			l := offsetLookup{ctx: ctx, b: b, name: partitionName{c.topic, p}}
			out[i], errs[i] = l.span(from, c.exitAtEnd)
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// offsetLookup asks for offsets of one partition. Its error sticks.
type offsetLookup struct {
	ctx  context.Context //nolint:containedctx // it lives for one call of span
	b    backend
	name partitionName
	err  error
}

func (l *offsetLookup) offset(timestampMs int64) int64 {
	if l.err != nil {
		return 0
	}
	reply, err := l.b.Offsets(l.ctx, l.name.topic, l.name.partition, timestampMs)
	l.err = err
	return reply.Offset
}

func (l *offsetLookup) span(from startPoint, exitAtEnd bool) (span, error) {
	s := span{partition: l.name.partition, end: -1, policy: consumer.RangeError}
	// The end is asked for first, so that a start at the end is never before it.
	latest := int64(-1)
	if exitAtEnd || from.kind != startBegin {
		latest = l.offset(protocol.TimestampLatest)
	}
	if exitAtEnd {
		s.end = latest
	}
	switch from.kind {
	case startBegin:
		s.start, s.policy = l.offset(protocol.TimestampEarliest), consumer.RangeEarliest
	case startEnd:
		s.start, s.policy = latest, consumer.RangeLatest
	case startAfter:
		s.start = min(l.offset(protocol.TimestampEarliest)+from.n, latest)
	case startLast:
		s.start = max(l.offset(protocol.TimestampEarliest), latest-from.n)
	case startTime:
		if s.start = l.offset(from.time.UnixMilli()); s.start < 0 {
			s.start = latest
		}
	case startOffset:
		s.start = from.n
		if earliest := l.offset(protocol.TimestampEarliest); l.err == nil && (from.n < earliest || from.n > latest) {
			return s, errcode.New(errcode.OffsetOutOfRange, "%s holds the offsets from %d up to %d, not %d; see: logbroker topic describe %s",
				l.name, earliest, latest, from.n, l.name.topic)
		}
	}
	return s, l.err
}
