package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

const (
	rangeTimeout  = 6 * time.Second
	retrySpaceMin = 20 * time.Millisecond
	retrySpaceMax = time.Second
	// damagedMax and gapMax are how often in a row the same damage is fetched
	// again before it is believed to be in the log, not on the way.
	damagedMax = 5
	gapMax     = 3
	// creditSole is a credit that brings one reply only, with one batch: whatever
	// begins above the position then, no reply was lost before it.
	creditSole = 1
)

// fetch is one fetch request of one generation.
type fetch struct {
	generation uint64
	offset     int64
	credit     int
	leader     client.Leader
}

// fetcher is the state of the fetching goroutine.
type fetcher struct {
	r        *feed
	failures int // in a row
	empty    int // replies without data that came at once, in a row
	quiet    int // replies without data that were held, in a row
	damaged  int // batches with a wrong CRC, in a row
	gapAt    int64
	gaps     int // in a row, all at gapAt
	partial  partial
}

// partial is the reply that is being taken in: its pieces so far.
type partial struct {
	last  protocol.FetchReply // the piece taken in last
	parts [][]byte            // the batches, as they came
}

// run is the fetching goroutine. Started by begin, ended by close. It
// blocks on replies, with a time-out, and on room in the queue.
func (r *feed) run(ctx context.Context) {
	defer close(r.done)
	f := fetcher{r: r}
	for {
		next, ok := r.nextFetch()
		if !ok {
			select {
			case <-r.work:
				continue
			case <-r.stop:
				return
			}
		}
		if f.stopped() {
			return
		}
		if f.gaps > 0 && f.gapAt == next.offset {
			next.credit = creditSole
		}
		begun := time.Now()
		some, err := f.do(next)
		f.pause(f.judge(ctx, next, some, err, time.Since(begun)))
	}
}

func (f *fetcher) stopped() bool {
	select {
	case <-f.r.stop:
		return true
	default:
		return false
	}
}

// nextFetch returns the next request, if there is room for what it brings.
func (r *feed) nextFetch() (fetch, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	prefetch := r.prefetch()
	if r.failed != nil || r.queued > prefetch/2 {
		return fetch{}, false
	}
	leader := r.client.Leader(r.topic, r.partition)
	if leader.TopicID != r.topicID {
		leader = client.Leader{TopicID: r.topicID, Epoch: protocol.EpochUnknown}
	}
	return fetch{
		generation: r.generation, offset: r.fetchAt, leader: leader,
		credit: max(prefetch-r.queued, creditSole),
	}, true
}

// pause waits between attempts.
func (f *fetcher) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-f.r.stop:
	}
}

// Faults of a stream that are mended by fetching again.
var (
	errSeek    = errors.New("a seek has made the stream void")
	errGap     = errors.New("the stream has a gap")
	errTorn    = errors.New("a piece of a reply is missing")
	errBeyond  = errors.New("the stream goes beyond the high watermark")
	errDamaged = errors.New("a batch of the stream is damaged")
	errClosing = errors.New("the feed is closing")
)

// judge digests the end of a request and returns how long to wait before the
// next.
func (f *fetcher) judge(ctx context.Context, q fetch, some bool, err error, took time.Duration) time.Duration {
	r := f.r
	if some {
		f.failures, f.empty, f.quiet = 0, 0, 0
	}
	switch {
	case err == nil && some:
		return 0
	case err == nil:
		return f.pauseEmpty(took)
	case errors.Is(err, errSeek), errors.Is(err, errClosing):
		return 0
	case errcode.Of(err) == errcode.OffsetOutOfRange:
		err = f.outOfRange(ctx, q, err)
		if err == nil {
			return 0
		}
	}
	if end, deleted := f.terminal(ctx, err); end {
		if deleted {
			err = errcode.New(errcode.UnknownTopicID, "topic %q was deleted", r.topic)
		}
		r.fail(q.generation, fmt.Errorf("%s/%d at offset %d: %w", r.topic, r.partition, q.offset, err))
		return 0
	}
	f.quiet = 0
	f.failures++
	r.options.logger.Debug("fetch failed, retrying", "topic", r.topic, "partition", r.partition, "offset", q.offset, "err", err)
	r.client.Stale(r.topic)
	return max(client.Backoff(f.failures, retrySpaceMin, retrySpaceMax), retryAfter(err))
}

// pauseEmpty keeps a broker that does not hold requests from being spun on.
func (f *fetcher) pauseEmpty(took time.Duration) time.Duration {
	f.failures = 0
	if took > f.wait()/2 {
		f.empty = 0
		f.quiet++
		return 0
	}
	f.empty++
	return client.Backoff(f.empty, time.Millisecond, f.r.options.maxWait)
}

// firstWait is how long the first request is held that finds nothing new.
const firstWait = 500 * time.Millisecond

// wait is how long the next request may be held; see WithMaxWait.
func (f *fetcher) wait() time.Duration {
	wait := firstWait
	for n := 0; n < f.quiet && wait < f.r.options.maxWait; n++ {
		wait *= 2
	}
	return min(wait, f.r.options.maxWait)
}

func retryAfter(err error) time.Duration {
	var e *errcode.Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// terminal reports whether fetching again cannot mend err, and whether err is one by
// which a reader learns that its topic is no more and does not say so.
func (f *fetcher) terminal(ctx context.Context, err error) (end, deleted bool) {
	if errors.Is(err, errDamaged) {
		return f.damaged >= damagedMax, false
	}
	switch code := errcode.Of(err); code {
	case errcode.UnknownTopicID:
		return f.gone(ctx) || f.failures >= 10, false
	case errcode.UnknownTopicOrPartition:
		deleted = f.gone(ctx)
		return deleted || f.failures >= 10, deleted
	case errcode.UnknownServerError: // also everything without a code: time-outs, gaps …
		deleted = errors.Is(err, client.ErrNoResponders) && f.failures >= 3 && f.gone(ctx)
		return deleted, deleted
	default:
		return !code.Retriable(), false
	}
}

// gone asks the metadata whether the reader's topic is no more: a single node
// may not have heard of a topic yet.
func (f *fetcher) gone(ctx context.Context) bool {
	meta, err := f.r.client.Topic(ctx, f.r.topic)
	if err != nil {
		return errcode.Of(err) == errcode.UnknownTopicOrPartition
	}
	return meta.ID != f.r.topicID
}

// outOfRange applies the range policy. nil means: go on.
func (f *fetcher) outOfRange(ctx context.Context, q fetch, refusal error) error {
	r := f.r
	ctx, cancel := context.WithTimeout(ctx, rangeTimeout)
	defer cancel()
	// Asked again, with a barrier: a replica that lags must not move anybody.
	latest, err := r.client.Offsets(ctx, r.topic, r.partition, protocol.TimestampLatest)
	if err != nil {
		return errors.Join(errRetryRange, err)
	}
	earliest, err := r.client.Offsets(ctx, r.topic, r.partition, protocol.TimestampEarliest)
	if err != nil {
		return errors.Join(errRetryRange, err)
	}
	if q.offset >= earliest.Offset && q.offset <= latest.Offset {
		return errRetryRange
	}
	switch r.options.policy {
	case RangeEarliest:
		r.jump(q, earliest.Offset)
	case RangeLatest:
		r.jump(q, latest.Offset)
	default:
		out := errcode.New(errcode.OffsetOutOfRange, "the log is %d to %d; seek to one of them, or choose WithRange (%v)",
			earliest.Offset, latest.Offset, refusal)
		return out
	}
	return nil
}

// errRetryRange: it is not settled that the position is out of range.
var errRetryRange = errors.New("the position could not be compared with the log")

// jump moves on to offset, unless a seek came between.
func (r *feed) jump(q fetch, offset int64) {
	r.options.logger.Warn("position out of range, moved", "topic", r.topic, "partition", r.partition, "from", q.offset, "to", offset)
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.generation != r.generation {
		return
	}
	if r.position == r.fetchAt {
		r.position = offset
	}
	r.fetchAt = offset
}

// stream carries replies, or pieces of them, from the connection's goroutine to the fetcher.
type stream struct {
	mu      sync.Mutex // guards what follows
	replies [][]byte
	err     error
	news    chan struct{}
}

// put never blocks. What it gathers is bounded by the request's credit.
func (s *stream) put(data []byte, err error) {
	s.mu.Lock()
	if err != nil {
		s.err = err
	} else {
		s.replies = append(s.replies, data)
	}
	s.mu.Unlock()
	// Pieces are of no use before the last of their reply.
	if err != nil || !protocol.FetchReplyGoesOn(data) {
		signal(s.news)
	}
}

// get returns the next reply, or the error behind the last one; neither means
// that there is nothing yet.
func (s *stream) get() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.replies) > 0 {
		data := s.replies[0]
		s.replies[0] = nil
		s.replies = s.replies[1:]
		return data, nil
	}
	return nil, s.err
}

// do sends one request and takes its replies in. some reports whether batches
// were queued.
func (f *fetcher) do(q fetch) (some bool, err error) {
	r := f.r
	req := protocol.FetchRequest{
		TopicID: r.topicID, Epoch: q.leader.Epoch, Offset: q.offset,
		MaxBytes: uint32(q.credit), MaxWaitMs: uint32(f.wait().Milliseconds()), Pieces: true,
	}
	f.partial = partial{}
	s := &stream{news: make(chan struct{}, 1)}
	call, err := r.client.Conn(q.leader.Node).Call(client.Request{
		Subject: r.subject, Payload: req.Append(nil), Stream: true, Timeout: f.wait() + r.options.replyTimeout,
	}, s.put)
	if err != nil {
		return false, err
	}
	defer call.Cancel()
	for {
		data, err := s.get()
		if err != nil {
			return some, err
		}
		if data != nil {
			n, last, err := f.reply(q, data)
			some = some || n > 0
			if last || err != nil {
				return some, err
			}
			continue
		}
		select {
		case <-s.news:
		case <-r.work: // perhaps a seek
		case <-r.stop:
			return some, errClosing
		}
		if r.sought(q) {
			return some, errSeek
		}
	}
}

func (r *feed) sought(q fetch) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.generation != q.generation
}

// reply takes one reply, or a piece of one, in: n batches were queued, last ends the stream.
func (f *fetcher) reply(q fetch, data []byte) (n int, last bool, err error) {
	r := f.r
	m, err := protocol.DecodeFetchReply(data)
	if err != nil {
		f.damaged++
		return 0, true, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if m.Code != errcode.None || m.Epoch != q.leader.Epoch {
		r.client.Learn(r.topic, r.partition, client.Leader{TopicID: m.TopicID, Node: m.Leader, Epoch: m.Epoch})
	}
	if m.Code == errcode.NotLeaderOrFollower && m.Epoch < q.leader.Epoch {
		return 0, false, nil // a replica that has lost its leadership; the leader may still answer
	}
	if m.Code != errcode.None {
		return 0, true, client.Refusal(m.Code, m.Message, m.RetryAfterMs)
	}
	if m.TopicID != r.topicID {
		return 0, true, errcode.New(errcode.UnknownTopicID, "topic %q was created anew", r.topic)
	}
	parts, whole, err := f.join(m)
	if !whole || err != nil {
		return 0, err != nil, err
	}
	n, err = f.queueBatches(q, &m, parts)
	return n, m.Last, err
}

// join takes a piece in; once its reply is whole, parts are its batches.
func (f *fetcher) join(m protocol.FetchReply) (parts [][]byte, whole bool, err error) {
	p := &f.partial
	if len(p.parts) > 0 && !m.Follows(&p.last) || len(p.parts) == 0 && m.Piece != 0 {
		return nil, false, errTorn
	}
	p.last = m
	if len(m.Batches) > 0 {
		p.parts = append(p.parts, m.Batches)
	}
	if m.More {
		return nil, false, nil
	}
	parts, p.parts = p.parts, nil
	return parts, true, nil
}

// queueBatches checks the batches of a reply, which lie in parts, and queues
// those that are due.
func (f *fetcher) queueBatches(q fetch, m *protocol.FetchReply, parts [][]byte) (n int, err error) {
	for rest := parts; len(rest) > 0; {
		var b recordbatch.Pieces
		if b, rest, err = recordbatch.TakePieces(rest); err == nil {
			err = b.CheckCRC()
		}
		if err != nil {
			f.damaged++
			return n, fmt.Errorf("%w: %w", errDamaged, err)
		}
		f.damaged = 0
		queued, err := f.queueBatch(q, b, m.HighWatermark)
		if err != nil {
			return n, err
		}
		if queued {
			n++
		}
	}
	f.r.raise(q, m.HighWatermark)
	return n, nil
}

// queueBatch queues one batch if it continues what was fetched.
func (f *fetcher) queueBatch(q fetch, batch recordbatch.Pieces, highWatermark int64) (bool, error) {
	r, b := f.r, batch.Header()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.generation != q.generation:
		return false, errSeek
	case r.closed:
		return false, errClosing
	case b.NextOffset() <= r.fetchAt:
		return false, nil // known already
	case b.NextOffset() > highWatermark:
		return false, errBeyond
	case b.BaseOffset() > r.fetchAt && !f.believeGap(q, r.fetchAt):
		return false, errGap
	}
	f.gaps = 0
	r.queue = append(r.queue, batch)
	r.queued += batch.Size()
	r.fetchAt = b.NextOffset()
	r.highWatermark = max(r.highWatermark, highWatermark)
	r.tell()
	return true, nil
}

// believeGap reports whether the same gap has shown often enough to be in the
// log (compaction) rather than a lost reply.
func (f *fetcher) believeGap(q fetch, at int64) bool {
	if f.gapAt != at {
		f.gapAt, f.gaps = at, 0
	}
	f.gaps++
	return f.gaps > gapMax && q.credit == creditSole
}

// raise notes the high watermark of a reply.
func (r *feed) raise(q fetch, highWatermark int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.generation == r.generation {
		r.highWatermark = max(r.highWatermark, highWatermark)
	}
}
