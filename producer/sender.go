package producer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// Times of attempts and retries.
const (
	attemptMost = 10 * time.Second
	// A leader that moves by plan is away for some 20 ms, and the space between
	// two rounds is about as long as the whole time before: so that costs some
	// 40 ms, and an election not more than half a second on top.
	retrySpaceMin = 5 * time.Millisecond
	retrySpaceMax = 500 * time.Millisecond
	// The metadata may take this share of a first attempt after one without an
	// answer.
	silenceShare = 16
	// A broker's own hints set the pace for so many rounds in a row.
	hintedRounds = 20
	renewAttempt = 3 * time.Second
	idleWake     = time.Hour
)

// run is the partition's goroutine. Started by the first append, ended by
// Close, or when the partition is retired and has nothing left. It may block
// on a connection's socket, and on the cluster for a new producer id.
func (q *partition) run() {
	defer q.p.goroutines.Done()
	timer := time.NewTimer(idleWake)
	defer timer.Stop()
	for {
		now := time.Now()
		wakeAt := q.step(now)
		if q.finished() {
			return
		}
		timer.Reset(max(time.Until(wakeAt), 0))
		select {
		case <-q.wake:
		case <-timer.C:
		case <-q.p.stop:
			q.abandon()
			return
		}
	}
}

// step does all that can be done now and returns when to come back unless
// something happens.
func (q *partition) step(now time.Time) time.Time {
	q.hear(now)
	q.finishStored()
	q.expire(now)
	if q.w.round && q.w.settled() {
		q.endRound(now)
	}
	q.fill(now)
	q.finishStored()
	if !q.w.round {
		q.judged = false
	}
	return q.wakeAt(now)
}

// hear takes in the ends of attempts.
func (q *partition) hear(now time.Time) {
	events := q.takeEvents()
	for i := range events {
		e := &events[i]
		if !q.w.report(e.uid, e.serial, e.outcome) {
			continue
		}
		if e.outcome.kind == kindStored {
			q.failures, q.used, q.lastErr = 0, now, nil
			continue
		}
		q.noteFailure(now, e.outcome.err, e.moved)
	}
	clear(events)
}

// noteFailure sets the pace of the next round.
func (q *partition) noteFailure(now time.Time, err error, moved bool) {
	q.lastErr = err
	q.sticky.leave(q.index)              // others may have no trouble
	trusted := q.failures < hintedRounds // not for ever
	if moved && trusted {
		return // the reply named a newer leader
	}
	if rerouted(err) {
		q.p.client.Stale(q.topic)
	}
	space := client.Backoff(q.failures+1, retrySpaceMin, retrySpaceMax)
	if errors.Is(err, client.ErrTimeout) {
		// What the node did not say the metadata will, if it is waited for: else the
		// batch goes to the same silent node again, for twice as long.
		space = max(space, q.p.options.attemptFirst/silenceShare)
	}
	var coded *errcode.Error
	if errors.As(err, &coded) && coded.RetryAfter > 0 {
		switch {
		case !trusted:
			space = max(space, coded.RetryAfter)
		case rerouted(err):
			space = min(space, coded.RetryAfter) // the new leader may be there any moment
		default:
			space = coded.RetryAfter + rand.N(coded.RetryAfter/2+1)
		}
	}
	q.pauseUntil(now.Add(space))
}

func (q *partition) pauseUntil(t time.Time) {
	if t.After(q.notBefore) {
		q.notBefore = t
	}
}

// finishStored completes the stored batches in order.
func (q *partition) finishStored() {
	for {
		e, ok := q.w.pop()
		if !ok {
			return
		}
		x := completion{b: e.b, offset: e.last.offset, duplicate: e.last.duplicate}
		if e.last.kind != kindStored {
			x.err = e.last.err // see completeLater
		}
		q.complete(x)
		if len(q.w.entries) == 0 {
			q.notBefore = time.Time{}
		}
	}
}

// complete hands a batch to the callback goroutine.
func (q *partition) complete(x completion) {
	x.q = q
	x.b.cancel()
	q.p.budget.give(x.b.bytes)
	q.p.completer.push(x)
}

// expired reports whether b's delivery time-out has passed. The wall clock is
// asked too: the monotonic one stands still while a machine sleeps, and the
// broker forgets producers meanwhile.
func (q *partition) expired(b *batch, now time.Time) bool {
	return now.Sub(b.created) >= q.p.deliveryTimeout ||
		now.Round(0).Sub(b.created.Round(0)) >= q.p.deliveryTimeout+q.p.renewAfter
}

// expire fails what is over its delivery time-out, in order.
func (q *partition) expire(now time.Time) {
	for len(q.w.entries) > 0 && q.expired(q.w.entries[0].b, now) {
		e, unknown, rest := q.w.expire()
		q.requeue(rest)
		last := e.last.err
		if last == nil {
			last = q.lastErr
		}
		q.complete(completion{b: e.b, err: q.timeoutError(unknown, last)})
		q.finishStored()
	}
	if len(q.w.entries) > 0 {
		return // callbacks keep the order
	}
	for _, b := range q.takeExpired(now) {
		q.complete(completion{b: b, err: q.timeoutError(false, q.lastErr)})
	}
}

func (q *partition) takeExpired(now time.Time) []*batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open != nil && q.expired(q.open, now) {
		q.closeBatch()
	}
	n := 0
	for n < len(q.queue) && q.expired(q.queue[n], now) {
		n++
	}
	if n == 0 {
		return nil
	}
	out := append([]*batch(nil), q.queue[:n]...)
	q.queue = append(q.queue[:0], q.queue[n:]...)
	return out
}

func (q *partition) timeoutError(unknown bool, last error) error {
	sentinel := ErrDeliveryTimeout
	if unknown {
		sentinel = ErrUnknownOutcome
	}
	if last == nil {
		last = client.ErrTimeout
	}
	return fmt.Errorf("%s/%d: %w (after %s; last: %w)", q.topic, q.index, sentinel, q.p.deliveryTimeout, last)
}

// endRound judges a settled round and, after a pause, sends again.
func (q *partition) endRound(now time.Time) {
	if !q.judged {
		q.failures++
		if q.w.draining {
			q.requeue(q.w.cut(q.w.firstDefinite()))
		}
		if len(q.w.entries) == 0 || !q.judge() {
			return
		}
		q.judged = true
	}
	if now.Before(q.notBefore) {
		return
	}
	q.judged = false
	q.w.round = false
	for i := range q.w.entries {
		e := &q.w.entries[i]
		if e.done {
			continue
		}
		e.alone = i == 0
		if !q.send(e, now) {
			return
		}
	}
}

// judge applies the window's verdict and reports whether to send again.
func (q *partition) judge() bool {
	switch q.w.settle(q.gone()) {
	case verdictRequeue:
		q.p.options.logger.Warn("numbering batches anew", "topic", q.topic, "partition", q.index, "producer", q.w.id, "epoch", q.w.epoch, "err", q.lastErr)
		q.requeue(q.w.cut(0))
		return false
	case verdictFail:
		e, rest := q.w.drop()
		q.requeue(rest)
		q.complete(completion{b: e.b, err: q.refusedError(&e)})
		q.notBefore = time.Time{} // what follows is not to blame
		return false
	default:
		return true
	}
}

func (q *partition) refusedError(e *entry) error {
	if !topicGone(e.last.err) {
		return fmt.Errorf("%s/%d: %w", q.topic, q.index, e.last.err)
	}
	gone := errcode.New(errcode.UnknownTopicID, "topic %q was deleted, or deleted and created anew, while the record was on its way: %v", q.topic, e.last.err)
	if e.ambiguous {
		return fmt.Errorf("%w (it may have been stored in what was deleted: %w)", gone, ErrUnknownOutcome)
	}
	return gone
}

// fill numbers and sends what is ready, as far as the window allows.
func (q *partition) fill(now time.Time) {
	if !q.waiting() || now.Before(q.notBefore) {
		return
	}
	if len(q.w.entries) == 0 && q.w.next > 0 && now.Sub(q.used) > q.p.renewAfter {
		q.w.bump = true // the broker may forget this producer soon
	}
	if q.w.mustRenew() && !q.renew(now) {
		return
	}
	for q.w.canNumber() && q.steady() {
		b := q.next(now, len(q.w.entries) == 0)
		if b == nil {
			return
		}
		if err := q.encode(b); err != nil {
			q.completeLater(b, err)
			continue
		}
		if len(q.w.entries) == 0 {
			q.used = now
		}
		e := q.w.number(b)
		e.alone = len(q.w.entries) == 1
		if !q.send(e, now) {
			return
		}
	}
}

// encode builds b's request and learns from it how far records shrink.
func (q *partition) encode(b *batch) error {
	if b.builder == nil {
		return nil // it has been sent before
	}
	o, before := &q.p.options, b.builder.Size()
	if err := b.encode(o.compression, &q.p.pools); err != nil {
		return err
	}
	// A batch of a few records shrinks less than a full one.
	if before >= min(o.batchBytes, q.recordLimit())/4 {
		q.ratio.learn(before, len(b.request)-batchAt)
	}
	return nil
}

// steady reports whether the next batch may go out beside those under way. It
// may not when it would travel another connection: it could overtake them.
func (q *partition) steady() bool {
	conn := q.p.conn(q.route().Node)
	if q.w.settled() {
		q.conn = conn
	}
	return conn == q.conn
}

// completeLater fails a batch that cannot be encoded. It has no number, so it
// leaves no hole; only its callback must not overtake others.
func (q *partition) completeLater(b *batch, err error) {
	q.w.entries = append(q.w.entries, entry{b: b, done: true, last: outcome{kind: kindFatal, err: err}})
}

// waiting reports whether anything waits for a number.
func (q *partition) waiting() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.open != nil || len(q.queue) > 0
}

// renew takes the next epoch, or a new producer id where there is none.
func (q *partition) renew(now time.Time) bool {
	if !q.w.needsID() {
		q.w.rise()
		q.used = now
		return true
	}
	ctx, cancel := context.WithTimeout(q.p.ctx, renewAttempt)
	defer cancel()
	reply, err := q.p.client.NewProducerID(ctx)
	if err != nil {
		q.failures++
		q.lastErr = err
		q.pauseUntil(time.Now().Add(client.Backoff(q.failures, retrySpaceMin, retrySpaceMax)))
		return false
	}
	q.w.identify(reply.ProducerID, reply.Epoch)
	q.used = now
	return true
}

// send starts an attempt and reports whether it is under way.
func (q *partition) send(e *entry, now time.Time) bool {
	leader := q.route()
	if q.w.settled() { // else it stays on the connection of what is under way
		q.conn = q.p.conn(leader.Node)
	}
	e.serial++
	e.flying = true
	uid, serial := e.uid, e.serial
	call, err := q.conn.Call(client.Request{
		Subject: q.subject,
		Payload: e.b.message(leader),
		Timeout: min(q.p.options.attemptFirst<<min(e.silences, 8), attemptMost),
	}, func(data []byte, err error) { q.onReply(uid, serial, leader, data, err) })
	if err != nil {
		o := failed(err)
		q.w.report(uid, serial, o)
		q.noteFailure(now, o.err, false)
		return false
	}
	e.b.calls = append(e.b.calls, call)
	return true
}

// onReply runs on a connection's or a timer's goroutine.
func (q *partition) onReply(uid, serial uint64, sent client.Leader, data []byte, err error) {
	if err != nil {
		q.post(event{uid: uid, serial: serial, outcome: failed(err)})
		return
	}
	r, err := protocol.DecodeProduceReply(data)
	if err != nil {
		q.post(event{uid: uid, serial: serial, outcome: outcome{kind: kindRetry, ambiguous: true, err: err}})
		return
	}
	if r.Code != errcode.None || r.Epoch != sent.Epoch {
		q.p.client.Learn(q.topic, q.index, client.Leader{TopicID: r.TopicID, Node: r.Leader, Epoch: r.Epoch})
	}
	if r.Code == errcode.NotLeaderOrFollower && r.Epoch < sent.Epoch {
		return // a replica that has lost its leadership; the leader may still answer
	}
	q.post(event{uid: uid, serial: serial, outcome: classify(r, sent.Epoch), moved: r.Epoch > sent.Epoch && r.Leader != 0})
}

// wakeAt returns when time alone makes something due.
func (q *partition) wakeAt(now time.Time) time.Time {
	at := now.Add(idleWake)
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	if len(q.w.entries) > 0 {
		sooner(q.w.entries[0].b.created.Add(q.p.deliveryTimeout))
	}
	if q.w.round && q.w.settled() {
		sooner(q.notBefore)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.w.entries) == 0 && len(q.queue) > 0 {
		sooner(q.queue[0].created.Add(q.p.deliveryTimeout))
		sooner(later(q.notBefore, now))
	}
	if q.open != nil {
		sooner(q.open.created.Add(q.p.deliveryTimeout))
		if q.w.canNumber() || q.w.mustRenew() {
			sooner(later(q.notBefore, q.dueAt(len(q.w.entries) == 0)))
		}
	}
	return at
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// finished reports whether a retired partition has nothing left.
func (q *partition) finished() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.retired && q.open == nil && len(q.queue) == 0 && len(q.w.entries) == 0
}

// abandon fails all that is left, at Close.
func (q *partition) abandon() {
	q.hear(time.Now())
	q.finishStored()
	for i := range q.w.entries {
		e := &q.w.entries[i]
		x := completion{b: e.b, offset: e.last.offset, duplicate: e.last.duplicate}
		switch {
		case e.done && e.last.kind == kindStored:
		case e.open():
			x.err = fmt.Errorf("%s/%d: %w (%w)", q.topic, q.index, ErrUnknownOutcome, ErrClosed)
		default:
			x.err = fmt.Errorf("%s/%d: %w", q.topic, q.index, ErrClosed)
		}
		q.complete(x)
	}
	q.w.entries = nil
	for _, b := range q.takeAll() {
		q.complete(completion{b: b, err: fmt.Errorf("%s/%d: %w", q.topic, q.index, ErrClosed)})
	}
}
