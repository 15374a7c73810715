package consumer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// Defaults of the options.
const (
	DefaultPrefetchBytes     = 4 << 20
	DefaultMaxWait           = 2 * time.Second
	DefaultMaxPrefetchBytes  = 32 << 20
	DefaultAutoCommit        = 5 * time.Second
	DefaultRebalanceTimeout  = time.Minute
	defaultUnreleasedTimeout = time.Minute
	// groupRetrySpaceMax is less than retrySpaceMax: a coordinator that died has a
	// successor in about a second, and commits wait for it.
	groupRetrySpaceMax = 400 * time.Millisecond
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

// Option changes a default of NewReader or New. An option that has no meaning
// for the one it is given to is an error there.
type Option func(*options)

type startKind int

const (
	startDefault startKind = iota
	startEarliest
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

	// reader and group name the options that only NewReader, or only New, takes.
	reader, group []string
	groupOptions
}

// groupOptions are the options of New alone.
type groupOptions struct {
	maxPrefetchBytes int
	autoCommit       time.Duration
	instanceID       string
	sessionTimeout   time.Duration // 0: the coordinator's
	rebalanceTimeout time.Duration
	assigned         Callback
	revoked          Callback
	lost             Callback
	// attempt is how long the coordinator has for one attempt, beyond the time it
	// holds an answer: it answers in milliseconds, and what is sent again does no
	// harm. retrySpace is the least and the most time between attempts.
	attempt                      time.Duration
	retrySpaceMin, retrySpaceMax time.Duration
	// unreleasedTimeout bounds the wait for an instance id to be released.
	unreleasedTimeout time.Duration
}

func defaultOptions() options {
	return options{
		name:          "logbroker-consumer",
		logger:        slog.New(slog.DiscardHandler),
		policy:        RangeError,
		prefetchBytes: DefaultPrefetchBytes,
		maxWait:       DefaultMaxWait,
		replyTimeout:  2 * time.Second,
		groupOptions: groupOptions{
			maxPrefetchBytes: DefaultMaxPrefetchBytes, autoCommit: DefaultAutoCommit, rebalanceTimeout: DefaultRebalanceTimeout,
			attempt: time.Second, retrySpaceMin: retrySpaceMin, retrySpaceMax: groupRetrySpaceMax, unreleasedTimeout: defaultUnreleasedTimeout,
		},
	}
}

// faults gathers what is wrong with options, to return it all at once.
type faults struct{ errs []error }

func (f *faults) add(bad bool, format string, args ...any) {
	if bad {
		f.errs = append(f.errs, fmt.Errorf("consumer: "+format, args...))
	}
}

func (o *options) check(f *faults) {
	f.add(o.policy < RangeError || o.policy > RangeLatest, "WithRange(%d): unknown policy", o.policy)
	f.add(o.prefetchBytes < 64<<10 || o.prefetchBytes > 64<<20, "WithPrefetchBytes(%d): must lie between 64 KiB and 64 MiB", o.prefetchBytes)
	f.add(o.maxWait < time.Millisecond || o.maxWait > 30*time.Second, "WithMaxWait(%s): must lie between 1 ms and 30 s", o.maxWait)
}

// validateReader returns all faults at once.
func (o *options) validateReader() error {
	var f faults
	o.check(&f)
	f.add(o.start == startOffset && o.startOffset < 0, "FromOffset(%d): an offset is never negative; see FromEarliest and FromLatest", o.startOffset)
	for _, name := range o.group {
		f.add(true, "%s is an option of New, for consumer groups; NewReader does not take it", name)
	}
	return errors.Join(f.errs...)
}

// validateGroup returns all faults at once.
func (o *options) validateGroup(group string, topics []string) error {
	var f faults
	o.check(&f)
	if err := protocol.ValidateGroupName(group); err != nil {
		f.errs = append(f.errs, err)
	}
	f.add(len(topics) == 0, "New: name at least one topic")
	if len(topics) > protocol.GroupTopicsMax {
		f.errs = append(f.errs, errcode.New(errcode.InvalidRequest, "New: %d topics; at most %d can be subscribed to", len(topics), protocol.GroupTopicsMax))
		topics = nil
	}
	for _, topic := range topics {
		if err := protocol.ValidateTopicName(topic); err != nil {
			f.errs = append(f.errs, err)
		}
	}
	for _, name := range o.reader {
		f.add(true, "%s is an option of NewReader; New takes FromEarliest or FromLatest, and Seek moves anywhere", name)
	}
	f.add(o.maxPrefetchBytes < 64<<10, "WithMaxPrefetchBytes(%d): must be at least 64 KiB", o.maxPrefetchBytes)
	f.add(o.autoCommit < 0 || o.autoCommit > 0 && o.autoCommit < 10*time.Millisecond, "WithAutoCommit(%s): must be at least 10 ms, or 0 for never", o.autoCommit)
	f.add(len(o.instanceID) > protocol.GroupMemberNameMax, "WithInstanceID: %d bytes; at most %d are allowed", len(o.instanceID), protocol.GroupMemberNameMax)
	f.add(o.sessionTimeout != 0 && (o.sessionTimeout < protocol.GroupSessionTimeoutMinMs*time.Millisecond || o.sessionTimeout > protocol.GroupSessionTimeoutMaxMs*time.Millisecond),
		"WithSessionTimeout(%s): must lie between 1 s and 30 min", o.sessionTimeout)
	f.add(o.rebalanceTimeout < time.Second || o.rebalanceTimeout > protocol.GroupRebalanceTimeoutMaxMs*time.Millisecond,
		"WithRebalanceTimeout(%s): must lie between 1 s and 1 h", o.rebalanceTimeout)
	return errors.Join(f.errs...)
}

// FromEarliest starts at the log start offset. This is a Reader's default. In a
// group it is the policy for partitions of which nothing is committed.
func FromEarliest() Option { return func(o *options) { o.start = startEarliest } }

// FromLatest starts at the high watermark as of NewReader: only what comes
// later. In a group it is the policy for partitions of which nothing is
// committed; the position found is committed, so that it holds for the next
// owner too. A partition that is added after the group first subscribed to the
// topic starts at its log start all the same: nothing of it is skipped.
func FromLatest() Option { return func(o *options) { o.start = startLatest } }

// FromOffset starts at offset. For NewReader only.
func FromOffset(offset int64) Option {
	return func(o *options) {
		o.start, o.startOffset = startOffset, offset
		o.reader = append(o.reader, "FromOffset")
	}
}

// FromTime starts at the first record whose timestamp is t or later, or at the
// high watermark where there is none. For NewReader only.
func FromTime(t time.Time) Option {
	return func(o *options) {
		o.start, o.startTime = startTime, t
		o.reader = append(o.reader, "FromTime")
	}
}

// WithRange sets what becomes of a position outside the log. Default RangeError.
func WithRange(p RangePolicy) Option { return func(o *options) { o.policy = p } }

// WithPrefetchBytes bounds what is fetched ahead of the application from one
// partition, in compressed bytes. Default 4 MiB.
func WithPrefetchBytes(n int) Option { return func(o *options) { o.prefetchBytes = n } }

// WithMaxWait bounds how long the broker holds a request that finds nothing new.
// Default 2 s. It does not delay records. The first requests of a partition that
// falls quiet are held for less (500 ms, then twice as long each time): while
// records come, a leader that stands still is noticed early, and a partition that
// stays quiet costs few requests.
func WithMaxWait(d time.Duration) Option { return func(o *options) { o.maxWait = d } }

// WithLogger sets the logger. Default: nothing is logged.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// WithTLS makes every connection use TLS. Default: none.
func WithTLS(c *tls.Config) Option { return func(o *options) { o.tls = c } }

// WithName sets the connection's name in the broker's lists. Default
// "logbroker-consumer".
func WithName(name string) Option { return func(o *options) { o.name = name } }

// Callback is told which partitions this consumer was given, is to give up, or
// has lost. See WithOnAssigned, WithOnRevoked and WithOnLost.
type Callback func(ctx context.Context, c *Consumer, partitions []TopicPartition)

func groupOption(name string, set func(*groupOptions)) Option {
	return func(o *options) {
		set(&o.groupOptions)
		o.group = append(o.group, name)
	}
}

// WithMaxPrefetchBytes bounds what is fetched ahead of the application from all
// partitions together, in compressed bytes. Default 32 MiB. Each partition has
// an equal share of it, paused ones included, up to what WithPrefetchBytes
// says; a share takes one batch at least, however large. When partitions are
// added, what was fetched of the others before counts until it is handed out.
// For New only.
func WithMaxPrefetchBytes(n int) Option {
	return groupOption("WithMaxPrefetchBytes", func(o *groupOptions) { o.maxPrefetchBytes = n })
}

// WithAutoCommit sets how often marked records are committed without being
// asked. Default 5 s; 0 leaves it to Commit, except that what is marked is
// still committed when partitions are given up and by Drain. For New only.
func WithAutoCommit(every time.Duration) Option {
	return groupOption("WithAutoCommit", func(o *groupOptions) { o.autoCommit = every })
}

// WithInstanceID makes the member static: when it leaves, its partitions wait
// for the next member with the same id, for as long as the session time-out.
// No two members may have the same id at a time. Default: none. For New only.
func WithInstanceID(id string) Option {
	return groupOption("WithInstanceID", func(o *groupOptions) { o.instanceID = id })
}

// WithSessionTimeout sets after which silence of this process its partitions go
// to others. Default: the brokers' groups.session_timeout. For New only.
func WithSessionTimeout(d time.Duration) Option {
	return groupOption("WithSessionTimeout", func(o *groupOptions) { o.sessionTimeout = d })
}

// WithRebalanceTimeout bounds how long a partition that is to be given up waits
// for its records to be marked. Default 1 minute. For New only.
func WithRebalanceTimeout(d time.Duration) Option {
	return groupOption("WithRebalanceTimeout", func(o *groupOptions) { o.rebalanceTimeout = d })
}

// WithOnAssigned sets what is called with partitions that this consumer was
// given, before their first record is handed out: the place for Seek. The three
// callbacks are never called at the same time, and must not call Close or
// Drain. For New only.
func WithOnAssigned(f Callback) Option {
	return groupOption("WithOnAssigned", func(o *groupOptions) { o.assigned = f })
}

// WithOnRevoked sets what is called with partitions that this consumer gives
// up: nothing more of them is handed out, and what was is to be finished and
// marked. It ends with the rebalance time-out (see ctx). After it returned, the
// consumer waits for the records handed out to be marked, commits, and only
// then lets go of the partitions. Drain calls it too. For New only.
func WithOnRevoked(f Callback) Option {
	return groupOption("WithOnRevoked", func(o *groupOptions) { o.revoked = f })
}

// WithOnLost sets what is called with partitions that were taken away because
// this process was silent for too long: others may own them already, and what
// was not committed comes again there. For New only.
func WithOnLost(f Callback) Option {
	return groupOption("WithOnLost", func(o *groupOptions) { o.lost = f })
}
