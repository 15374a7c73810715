package consumer

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
)

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// String returns "topic/partition".
func (p TopicPartition) String() string { return fmt.Sprintf("%s/%d", p.Topic, p.Partition) }

func compareTopicPartitions(a, b TopicPartition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

// Consumer is a member of a consumer group: it reads the partitions that the
// group's coordinator gives it, and commits how far the application got. Its
// methods may be called from any number of goroutines; records are handed out
// once.
type Consumer struct {
	options  options
	client   *client.Client
	group    string
	topics   []string
	memberID string
	host     string // shown by describe

	// reading holds a token while somebody is in Poll.
	reading chan struct{}
	// telling holds a token while a callback of the application runs.
	telling chan struct{}
	// committing holds a token while a commit is under way; it guards sequence.
	committing chan struct{}
	sequence   int64
	ready      chan struct{} // to Poll: some feed has something, or failed changed
	beat       chan struct{} // to the membership: report at once
	adoptable  chan struct{} // to the adopter: there may be partitions to adopt
	share      atomic.Int64  // prefetch of one partition, in bytes
	marked     atomic.Bool   // the application has marked something
	// coordinator is the node that answered the last heartbeat; 0: not known.
	coordinator atomic.Uint64
	// validUntil is when the session is over unless it is renewed, in
	// nanoseconds after born; 0: there is none.
	validUntil atomic.Int64
	born       time.Time

	// mu guards what follows. A feed's lock may be taken inside it; it is never
	// held while anything is sent, waited for or called back.
	mu sync.Mutex
	// epoch to target are of the last reply to a heartbeat.
	epoch    int32
	interval time.Duration
	session  time.Duration
	target   map[TopicPartition]allotment
	// claims are the partitions this member holds: from their adoption until
	// they are given up or lost. What is in target or claims counts as owned.
	claims map[TopicPartition]*claim
	// owned are the claims that records are handed out of; turn is where the
	// next Poll begins.
	owned []*claim
	turn  int
	// ownership counts how often everything was lost.
	ownership uint64
	loss      chan struct{} // closed and replaced when everything is lost
	untold    *loss         // the last loss that Commit has not told of
	failed    error         // why there is no membership any more
	changed   chan struct{} // closed and replaced when owned changes
	// replied is closed and replaced at every reply to a heartbeat.
	replied chan struct{}
	closed  bool
	// runs counts the calls of Run, revokes the goroutines that give up
	// partitions. Neither grows once closed is set.
	runs, revokes sync.WaitGroup

	draining chan struct{} // closed when nothing more is to be handed out
	// life ends with Close; all goroutines but the membership's live in it.
	life       context.Context //nolint:containedctx // the consumer's own life, not a caller's.
	end        context.CancelFunc
	goroutines sync.WaitGroup
	// leave ends the membership goroutine, left is closed when it has ended.
	leave context.CancelFunc
	left  chan struct{}
	over  chan struct{} // closed when Drain or Close is done
}

// allotment is a partition of the assignment.
type allotment struct {
	topicID uint64
	// late: it was added after the group first subscribed to its topic.
	late bool
}

// claimState says how far a claim is.
type claimState int

const (
	claimStarting claimState = iota // OnAssigned has not returned yet
	claimOwned                      // records are handed out
	claimRevoking                   // being given up
)

// claim is one partition that this member holds.
type claim struct {
	TopicPartition
	feed *feed
	// committed is the group's committed offset as last heard, -1 for none.
	// The feed's lock guards it.
	committed int64
	paused    bool // the feed's lock guards it
	// gone is closed when the partition is lost, or its time to be finished
	// with is over: the context of its handlers ends.
	gone     chan struct{}
	goneOnce sync.Once

	state claimState // Consumer.mu guards it
}

// New joins a consumer group and returns once the coordinator has taken the
// member in (servers are NATS URLs; none means nats://127.0.0.1:4222).
// Partitions come after that, in the background. It retries until ctx ends, but
// not for a server that cannot be reached at all or a refusal that stays.
//
// Errors: those of the options, all at once; INVALID_GROUP_ID,
// UNKNOWN_TOPIC_OR_PARTITION, GROUP_MAX_SIZE_REACHED; UNRELEASED_INSTANCE_ID
// after a minute in which another member kept the instance id; ctx's.
func New(ctx context.Context, servers []string, group string, topics []string, opts ...Option) (*Consumer, error) {
	o := defaultOptions()
	for _, opt := range opts {
		opt(&o)
	}
	if err := o.validateGroup(group, topics); err != nil {
		return nil, err
	}
	cl, err := client.Dial(ctx, servers, client.Options{Name: o.name, TLS: o.tls, Logger: o.logger})
	if err != nil {
		return nil, err
	}
	c := newConsumer(cl, o, group, topics)
	if err := c.join(ctx); err != nil {
		if ctx.Err() != nil { // the last attempt may have come through
			leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.options.attempt)
			_ = c.sayGoodbye(leaving) // or the session ends
			cancel()
		}
		c.end()
		cl.Close()
		return nil, err
	}
	c.startGoroutines()
	return c, nil
}

func newConsumer(cl *client.Client, o options, group string, topics []string) *Consumer {
	topics = slices.Clone(topics)
	slices.Sort(topics)
	c := &Consumer{
		options: o, client: cl, group: group, topics: slices.Compact(topics), memberID: rand.Text(), host: hostName(), born: time.Now(),
		reading: make(chan struct{}, 1), telling: make(chan struct{}, 1), committing: make(chan struct{}, 1),
		ready: make(chan struct{}, 1), beat: make(chan struct{}, 1), adoptable: make(chan struct{}, 1),
		target: make(map[TopicPartition]allotment), claims: make(map[TopicPartition]*claim),
		changed: make(chan struct{}), loss: make(chan struct{}), replied: make(chan struct{}), draining: make(chan struct{}), left: make(chan struct{}), over: make(chan struct{}),
	}
	c.share.Store(int64(min(o.prefetchBytes, o.maxPrefetchBytes)))
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

func (c *Consumer) startGoroutines() {
	membership, leave := context.WithCancel(context.Background())
	c.leave = leave
	go c.keepMembership(membership)
	c.goroutines.Go(c.adoptLoop)
	if c.options.autoCommit > 0 {
		c.goroutines.Go(c.autoCommitLoop)
	}
}

// MemberID is the id by which the coordinator knows this member.
func (c *Consumer) MemberID() string { return c.memberID }

// Poll returns 1 to max records, waiting under ctx for the first. The
// partitions have their turns, so one with much to read does not hold up the
// others. Cancelling ctx loses nothing: what is not returned comes with the
// next call.
//
// Errors, and then there are no records: ctx's; ErrClosed; what ended the
// membership, for good; what ended reading of one partition, which stays until
// Seek while the others go on: OFFSET_OUT_OF_RANGE (see WithRange),
// OFFSET_OUT_OF_RANGE for a partition of which nothing is committed (see
// FromEarliest and FromLatest), CORRUPT_MESSAGE and other refusals that a retry
// does not mend.
func (c *Consumer) Poll(ctx context.Context, max int) ([]Record, error) {
	if max < 1 {
		return nil, fmt.Errorf("consumer: Poll(%d): ask for at least one record", max)
	}
	select {
	case c.reading <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.draining:
		return nil, ErrClosed
	}
	defer func() { <-c.reading }()
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		out, err := c.pollReady(max)
		if len(out) > 0 || err != nil {
			return out, err
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
		case <-c.draining:
			return nil, ErrClosed
		}
	}
}

// pollReady returns what can be had without waiting.
func (c *Consumer) pollReady(max int) ([]Record, error) {
	owned, err := c.turnOf()
	if err != nil {
		return nil, err
	}
	var out []Record
	for i, cl := range owned {
		out, err = cl.feed.tryTake(out, max-len(out))
		if len(out) >= max || err != nil && !c.toleratesEnd(cl, err) {
			c.endTurn(i + 1)
		}
		if len(out) >= max {
			break
		}
		if err != nil && !c.toleratesEnd(cl, err) {
			if len(out) > 0 {
				break // the error stays for that partition's next turn
			}
			return nil, err
		}
	}
	return out, nil
}

// toleratesEnd reports whether the end of a feed is not for the application to
// know: the partition is being given up, or its topic is no more, which the
// coordinator will find out too.
func (c *Consumer) toleratesEnd(cl *claim, err error) bool {
	return errors.Is(err, ErrClosed) || cl.feed.topicGone()
}

// turnOf returns the partitions to read, the one whose turn it is first.
func (c *Consumer) turnOf() ([]*claim, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if c.failed != nil {
		return nil, c.failed
	}
	if n := len(c.owned); n > 0 {
		c.turn %= n
		return slices.Concat(c.owned[c.turn:], c.owned[:c.turn]), nil
	}
	return nil, nil
}

// endTurn moves the turn on by n partitions.
func (c *Consumer) endTurn(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn += n
}

// Records iterates over the records of all partitions, one Poll of a single
// record each, until ctx ends or reading fails: the last pair then holds the
// error. Stopping early loses nothing.
func (c *Consumer) Records(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for {
			var rec Record
			recs, err := c.Poll(ctx, 1)
			if len(recs) > 0 {
				rec = recs[0]
			}
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

// Mark says that the application is finished with these records, in any order.
// What is committed of a partition is the offset up to which every record
// handed out is marked. Records that are not this consumer's any more count for
// nothing, which the next Commit tells.
func (c *Consumer) Mark(records ...Record) {
	for i := range records {
		m := records[i].marks
		if m == nil {
			continue
		}
		if late := m.mark(records[i].Offset); late != nil {
			c.mu.Lock()
			c.lost(late)
			c.mu.Unlock()
		}
	}
	if len(records) > 0 && !c.marked.Load() {
		c.marked.Store(true)
	}
}

// claim returns the claim on a partition that is owned or being assigned.
func (c *Consumer) claim(p TopicPartition) (*claim, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.claims[p]
	if cl == nil || cl.state == claimRevoking {
		return nil, errcode.New(errcode.PartitionNotOwned, "%s is not owned by this consumer; see WithOnAssigned", p)
	}
	return cl, nil
}

// Pause stops handing out records of these partitions until Resume or until
// they are given up. Records of a call that is under way may still come. A
// paused partition keeps no more than its share of the prefetch.
//
// Errors: PARTITION_NOT_OWNED; the others are paused all the same.
func (c *Consumer) Pause(partitions ...TopicPartition) error {
	return c.setPaused(true, partitions)
}

// Resume ends Pause. Errors: as Pause.
func (c *Consumer) Resume(partitions ...TopicPartition) error {
	return c.setPaused(false, partitions)
}

func (c *Consumer) setPaused(paused bool, partitions []TopicPartition) error {
	var errs []error
	for _, p := range partitions {
		cl, err := c.claim(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		cl.feed.mu.Lock()
		cl.paused = paused
		cl.feed.mu.Unlock()
		cl.feed.tell()
	}
	return errors.Join(errs...)
}

// isWithheld reports whether the application has paused the partition, or a
// commit has found that it is lost.
func (cl *claim) isWithheld() bool {
	cl.feed.mu.Lock()
	defer cl.feed.mu.Unlock()
	return cl.paused || cl.feed.marks.void
}

// Seek moves the position of an owned partition to offset, and clears the error
// that ended reading it, if any. Nothing is committed by that: the next record
// marked is. Marks of records from before the seek do not count any more.
//
// Errors: PARTITION_NOT_OWNED. Whether offset exists shows at the next record.
func (c *Consumer) Seek(p TopicPartition, offset int64) error {
	if offset < 0 {
		return errcode.New(errcode.OffsetOutOfRange, "Seek(%s, %d): an offset is never negative", p, offset)
	}
	cl, err := c.claim(p)
	if err != nil {
		return err
	}
	cl.feed.seekTo(offset, newMarks(cl.feed, offset))
	return nil
}

// Position is how far this consumer is with one of its partitions.
type Position struct {
	TopicPartition
	Offset int64 // of the next record to be handed out
	// Committed is the group's committed offset as far as this consumer knows,
	// -1 for none.
	Committed int64
	// HighWatermark is the partition's, as last heard; -1 while nothing was.
	HighWatermark int64
	Paused        bool
}

// Positions returns where this consumer is with the partitions it owns, by name.
func (c *Consumer) Positions() []Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Position
	for _, cl := range c.claims {
		if cl.state == claimRevoking {
			continue
		}
		cl.feed.mu.Lock()
		out = append(out, Position{cl.TopicPartition, cl.feed.position, cl.committed, cl.feed.highWatermark, cl.paused})
		cl.feed.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Position) int { return compareTopicPartitions(a.TopicPartition, b.TopicPartition) })
	return out
}

// end ends the context of the claim's handlers.
func (cl *claim) end() { cl.goneOnce.Do(func() { close(cl.gone) }) }

// announce tells those who wait for owned to change. c.mu is held.
func (c *Consumer) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
	signal(c.ready)
}

// call runs a callback of the application when it is its turn, unless it is nil
// or has nothing to tell.
func (c *Consumer) call(ctx context.Context, f Callback, partitions []TopicPartition) {
	if f == nil || len(partitions) == 0 {
		return
	}
	c.telling <- struct{}{}
	defer func() { <-c.telling }()
	f(ctx, c, partitions)
}

// hostName is what describe shows of where a member runs.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
