package handler

import (
	"sync"
	"sync/atomic"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
	"logbroker/partitions"
)

// fetch is one fetch request from its arrival to its last reply. It is either
// queued or running in the fetch pool, or parked: waiting for records, for its
// time, for the partition to change, holding no goroutine.
type fetch struct {
	h      *Handler
	req    protocol.FetchRequest
	target target
	any    bool // a replica that does not lead may answer
	send   func(msg []byte)
	start  time.Time
	// expired is set when the wait is over: the next run answers what there is.
	expired atomic.Bool
	// begun is set once a reply was sent: the request's offset and credit are what
	// is left of them. Only the goroutine that runs the request looks at it.
	begun bool
	// queued is set once the request has asked for its first turn, crowded where it
	// got none. They are begun's goroutine's.
	queued, crowded bool

	// mu guards what parking sets and the next run undoes. A wake may come
	// before park is done; the run it causes waits here.
	mu     sync.Mutex
	cancel func()
	timer  *time.Timer
}

// Fetch answers r by one or more calls of send, each with one encoded reply, or
// a piece of one, that is send's only until it returns. The batches together stay within the
// request's credit, but there is at least one batch; the last reply is flagged.
// Where there is nothing to read it waits as long as the request allows. Fetch
// itself never blocks; send is called from the pool's goroutines, for one
// request by one at a time.
func (h *Handler) Fetch(r PartitionRequest, send func(msg []byte)) {
	f := &fetch{h: h, any: r.AnyReplica, send: send, start: h.options.Clock()}
	if !h.gate.enter() {
		f.fail(errShuttingDown())
		return
	}
	if err := f.begin(r); err != nil {
		f.fail(err)
		h.gate.exit()
	}
}

// begin decodes and queues the request. After nil, run ends it.
func (f *fetch) begin(r PartitionRequest) error {
	h := f.h
	var err error
	if f.req, err = protocol.DecodeFetchRequest(r.Payload); err != nil {
		return err
	}
	if err := exactly(r.Payload, protocol.FetchRequestSize); err != nil {
		return err
	}
	if f.target, err = h.resolve(r.Topic, f.req.TopicID, r.Partition); err != nil {
		return err
	}
	if f.target.replica == nil {
		return h.notLeader(f.target)
	}
	if f.req.Offset < 0 {
		return errcode.New(errcode.InvalidRequest, "offset %d is negative; look earliest or latest up first", f.req.Offset)
	}
	f.req.MaxBytes = min(max(f.req.MaxBytes, 1), fetchBytesMax)
	f.req.MaxWaitMs = min(f.req.MaxWaitMs, uint32(fetchWaitMax/time.Millisecond))
	// Pool queue and parked ones together are bounded by this one count.
	if h.fetches.Add(1) > int64(h.options.FetchesMax) || !h.fetchPool.submit(f.run) {
		h.fetches.Add(-1)
		return throttled("node %d has %d fetches waiting; retry", h.options.NodeID, h.options.FetchesMax)
	}
	return nil
}

// run serves, parks or ends the request. It runs in the fetch pool.
func (f *fetch) run() {
	f.unpark()
	parked, err := f.serve()
	if parked {
		return
	}
	if err != nil {
		f.fail(err)
	} else {
		f.h.metrics.Request("fetch", errcode.None, f.h.options.Clock().Sub(f.start))
	}
	f.h.fetches.Add(-1)
	f.h.gate.exit()
}

// serve sends what there is, or parks where there is nothing and time is left.
func (f *fetch) serve() (parked bool, err error) {
	if err := f.check(); err != nil {
		return false, err
	}
	if f.queueUp() {
		return true, nil
	}
	buf := f.h.buffer(f.req.Offset < f.target.replica.HighWatermark())
	defer f.h.recycle(buf)
	offset, left := f.req.Offset, int(f.req.MaxBytes)
	for first := !f.begun; ; first = false {
		start := f.h.options.Clock()
		result, err := f.read(buf, offset, min(left, f.replyBytes()))
		if err != nil {
			return false, err
		}
		data := result.Data[protocol.FetchReplyHeaderSize:]
		switch {
		case len(data) == 0 && first && f.park():
			return true, nil
		case len(data) == 0, !first && len(data) > left:
			f.reply(result, 0, true) // the batch that was read does not fit into the credit
			return false, nil
		}
		seen := scan(data)
		left -= len(data)
		// Where the next batch would hardly fit, the rest of the credit is
		// given back instead of a read in vain.
		last := f.crowded || seen.next >= result.HighWatermark || left < seen.lastSize
		f.h.metrics.Fetched(seen.records, len(data))
		f.reply(result, len(data), last)
		if last {
			return false, nil
		}
		offset = seen.next
		f.begun, f.req.Offset, f.req.MaxBytes = true, offset, uint32(left)
		if next := f.giveWay(f.h.options.Clock().Sub(start)); next != runs {
			if next == ends {
				f.reply(result, 0, true)
			}
			return next == waits, nil // where it waits, f is its next run's
		}
	}
}

// check says why the request may not be served here just now.
func (f *fetch) check() error {
	switch {
	case f.h.gate.closing.Load():
		return errShuttingDown()
	case f.any:
		return nil
	}
	return f.h.checkLeader(f.target, f.req.Epoch)
}

// read reads into buf behind room for a reply header. The replica itself knows
// what an offset outside its log means: only below the log start, or on a leader
// that has just made sure that it leads, is it OFFSET_OUT_OF_RANGE. A replica
// that may only lag says OFFSET_NOT_AVAILABLE, so that no consumer resets.
func (f *fetch) read(buf *[]byte, offset int64, maxBytes int) (partitions.ReadResult, error) {
	result, err := f.target.replica.Read((*buf)[:protocol.FetchReplyHeaderSize], offset, maxBytes)
	if err == nil {
		*buf = result.Data
	}
	return result, err
}

// reply sends the n bytes of batches that result.Data holds behind the header's
// room, without copying them: as one message, or in pieces where the client takes
// those. The header of each further piece is written over the end of the one
// before, which is sent by then.
func (f *fetch) reply(result partitions.ReadResult, n int, last bool) {
	r := protocol.FetchReply{
		TopicID:       f.target.topicID,
		HighWatermark: result.HighWatermark, LogStart: result.LogStart,
	}
	r.Leader, r.Epoch = f.h.hint(f.target)
	most := n
	if f.req.Pieces {
		most = f.h.options.PieceBytes - protocol.FetchReplyHeaderSize
	}
	for msg := result.Data; ; r.Piece++ {
		now := min(n, most)
		r.More, r.Last = now < n, last && now == n
		r.AppendHeader(msg[:0], now)
		f.send(msg[:protocol.FetchReplyHeaderSize+now])
		if !r.More {
			return
		}
		msg, n = msg[now:], n-now
	}
}

// fail sends the one and last reply of a request that ends in an error.
func (f *fetch) fail(err error) {
	e := errcode.From(err)
	r := protocol.FetchReply{
		Code: e.Code, Last: true, RetryAfterMs: uint32(e.RetryAfter.Milliseconds()),
		TopicID: f.req.TopicID, HighWatermark: -1, LogStart: -1,
	}
	r.Leader, r.Epoch = f.h.hint(f.target)
	f.h.metrics.Request("fetch", e.Code, f.h.options.Clock().Sub(f.start))
	f.send(append(r.AppendHeader(nil, len(e.Message)), e.Message...))
}

// park makes the request wait until there are records at its offset, its time is
// over or the partition changes hands; then it goes back to the pool. It
// reports false where no time is left.
func (f *fetch) park() bool {
	left := time.Duration(f.req.MaxWaitMs)*time.Millisecond - f.h.options.Clock().Sub(f.start)
	if left <= 0 || f.expired.Load() {
		return false
	}
	wait := func(wake func()) (cancel func()) { return f.target.replica.WaitFor(f.req.Offset, wake) }
	return f.sleep(left, func() { f.expired.Store(true) }, wait)
}

// farBehind is how many records a reader is behind that catches up: whoever keeps
// up with producers hardly ever is.
const farBehind = 10_000

// queueUp lets a request that is far behind wait for its turn before its first
// reply, and reports whether it waits. Where there is no turn soon it waits
// turnWaitMax, and gets little.
func (f *fetch) queueUp() (parked bool) {
	if f.begun || f.queued || !f.h.producing() || f.target.replica.HighWatermark()-f.req.Offset < farBehind {
		return false
	}
	f.queued = true
	wait, ok := f.h.turns.book(f.h.options.Clock())
	f.crowded = !ok
	return wait > 0 && f.pause(wait)
}

// replyBytes bounds the batches of the next reply.
func (f *fetch) replyBytes() int {
	if f.crowded {
		return max(f.h.options.ReplyBytes/crowdedShare, 1)
	}
	return f.h.options.ReplyBytes
}

// onward is how a request goes on after a reply that is not its last.
type onward int

const (
	runs  onward = iota // at once
	waits               // when its turn comes; it is parked
	ends                // not at all
)

// giveWay makes a request that has more to read wait for its turn after a reply
// that took d, where producers have something in work: whoever reads from far
// behind takes all that a machine has to give, and the producers come last, whose
// batches wait for other nodes besides. Whoever reads at the end of the log is not
// held up, nor anybody where nobody produces; and where there is processor time to
// spare, replies take so little that the pauses are no loss.
func (f *fetch) giveWay(d time.Duration) onward {
	pause := f.h.turns.took(d)
	if !f.h.producing() {
		return runs
	}
	wait, ok := f.h.turns.book(f.h.options.Clock())
	switch {
	case !ok:
		return ends
	case f.pause(max(wait, pause)):
		return waits
	}
	return runs
}

// pause is sleep for d and for nothing else.
func (f *fetch) pause(d time.Duration) bool {
	nothing := func(func()) (cancel func()) { return func() {} }
	return f.sleep(d, func() {}, nothing)
}

// sleep takes the request out of the pool until d is over, which expire is told,
// until wake is called, which wait is given, or the partition changes hands. It
// reports false, and nothing is changed, where nobody may wait any more.
func (f *fetch) sleep(d time.Duration, expire func(), wait func(wake func()) (cancel func())) bool {
	// Several may wake at once; the first one counts. The pool has room for
	// every fetch that was let in, so the submit cannot fail.
	var woken atomic.Bool
	wake := func() {
		if woken.CompareAndSwap(false, true) {
			f.h.fetchPool.submit(f.run)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.h.parked.add(f.target.shard, f, wake) {
		return false
	}
	f.cancel = wait(wake)
	f.timer = time.AfterFunc(d, func() { expire(); wake() })
	return true
}

// unpark undoes park; before the first park it does nothing.
func (f *fetch) unpark() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer == nil {
		return
	}
	f.timer.Stop()
	f.cancel()
	f.h.parked.remove(f.target.shard, f)
	f.timer, f.cancel = nil, nil
}

// scanned is what the headers of some whole batches say.
type scanned struct {
	next     int64 // offset after the last record
	lastSize int   // bytes of the last batch
	records  int
}

func scan(data []byte) scanned {
	var s scanned
	for len(data) > 0 {
		batch, rest, err := recordbatch.Parse(data)
		if err != nil {
			panic("handler: the log returned a broken batch: " + err.Error()) // Read checks every batch
		}
		s.next, s.lastSize, s.records = batch.NextOffset(), batch.Size(), s.records+int(batch.Count())
		data = rest
	}
	return s
}
