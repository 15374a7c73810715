package consumer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Defaults of the options.
const (
	DefaultPrefetchBytes = 4 << 20
	DefaultMaxWait       = 500 * time.Millisecond
)

// RangePolicy says what becomes of a position that is not in the log: below
// its start after retention or a trim, or beyond its end.
type RangePolicy int

// The policies.
const (
	RangeError    RangePolicy = iota // reading ends with OFFSET_OUT_OF_RANGE
	RangeEarliest                    // go on at the log start offset
	RangeLatest                      // go on at the high watermark
)

// Option changes a default of NewReader.
type Option func(*options)

type startKind int

const (
	startEarliest startKind = iota
	startLatest
	startOffset
	startTime
)

type options struct {
	name          string
	tls           *tls.Config
	logger        *slog.Logger
	start         startKind
	startOffset   int64
	startTime     time.Time
	policy        RangePolicy
	prefetchBytes int
	maxWait       time.Duration
	// replyTimeout is how long the next reply of a stream may take beyond the
	// time the broker may wait for data.
	replyTimeout time.Duration
}

func defaultOptions() options {
	return options{
		name:          "logbroker-consumer",
		logger:        slog.New(slog.DiscardHandler),
		start:         startEarliest,
		policy:        RangeError,
		prefetchBytes: DefaultPrefetchBytes,
		maxWait:       DefaultMaxWait,
		replyTimeout:  2 * time.Second,
	}
}

// validate returns all faults at once.
func (o *options) validate() error {
	var errs []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("consumer: "+format, args...))
		}
	}
	fault(o.start == startOffset && o.startOffset < 0, "FromOffset(%d): an offset is never negative; see FromEarliest and FromLatest", o.startOffset)
	fault(o.policy < RangeError || o.policy > RangeLatest, "WithRange(%d): unknown policy", o.policy)
	fault(o.prefetchBytes < 64<<10 || o.prefetchBytes > 64<<20, "WithPrefetchBytes(%d): must lie between 64 KiB and 64 MiB", o.prefetchBytes)
	fault(o.maxWait < time.Millisecond || o.maxWait > 30*time.Second, "WithMaxWait(%s): must lie between 1 ms and 30 s", o.maxWait)
	return errors.Join(errs...)
}

// FromEarliest starts at the log start offset. This is the default.
func FromEarliest() Option { return func(o *options) { o.start = startEarliest } }

// FromLatest starts at the high watermark as of NewReader: only what comes later.
func FromLatest() Option { return func(o *options) { o.start = startLatest } }

// FromOffset starts at offset.
func FromOffset(offset int64) Option {
	return func(o *options) { o.start, o.startOffset = startOffset, offset }
}

// FromTime starts at the first record whose timestamp is t or later, or at the
// high watermark where there is none.
func FromTime(t time.Time) Option {
	return func(o *options) { o.start, o.startTime = startTime, t }
}

// WithRange sets what becomes of a position outside the log. Default RangeError.
func WithRange(p RangePolicy) Option { return func(o *options) { o.policy = p } }

// WithPrefetchBytes bounds what is fetched ahead of the application, in
// compressed bytes. Default 4 MiB.
func WithPrefetchBytes(n int) Option { return func(o *options) { o.prefetchBytes = n } }

// WithMaxWait sets how long the broker holds a request that finds nothing new.
// Default 500 ms. It does not delay records.
func WithMaxWait(d time.Duration) Option { return func(o *options) { o.maxWait = d } }

// WithLogger sets the logger. Default: nothing is logged.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// WithTLS makes every connection use TLS. Default: none.
func WithTLS(c *tls.Config) Option { return func(o *options) { o.tls = c } }

// WithName sets the connection's name in the broker's lists. Default
// "logbroker-consumer".
func WithName(name string) Option { return func(o *options) { o.name = name } }
