package partitions

import (
	"errors"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
	"logbroker/partitions/fsm"
)

// epochUnknown is the epoch of a client that knows none.
const epochUnknown = -1

// decidedGrace is for the outcomes of what was applied in the same round as the
// epoch entry that ended their epoch: Raft tells them a moment later.
const decidedGrace = 20 * time.Millisecond

// throttleRetryAfter is about the time in which a full queue gets a free place:
// a commit round trip.
const throttleRetryAfter = 5 * time.Millisecond

// Append queues a batch behind all earlier ones. When it returns nil the
// batch's place is fixed, and done is called exactly once when the outcome is
// known, after at most about Options.ProposeTimeout: from one goroutine per
// partition, in queue order, with no lock held. done must not block, and may
// call Append. When Append returns an error the batch was not proposed, never
// will be, and done is not called:
//
//   - NOT_LEADER_OR_FOLLOWER, LEADER_NOT_AVAILABLE, NOT_ENOUGH_REPLICAS: this
//     replica does not serve; Leader has a hint;
//   - FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH: the client's epoch is older or
//     newer than this leader's;
//   - THROTTLED: too much is in flight.
//
// The header of a command is written into r.Buf in front of the batch. Raft
// copies the command: r.Buf is the caller's again on return.
//
// When an append fails, later ones of the same producer fail too, though they
// are proposed already: they do not continue the producer's sequence, and the
// state machine refuses them with OUT_OF_ORDER_SEQUENCE_NUMBER. The producer
// resends in order.
func (p *Partition) Append(r AppendRequest, done func(AppendResult)) error {
	size := int64(len(r.Buf) - r.BatchAt)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.admit(r.Epoch, size); err != nil {
		return err
	}
	header := fsm.ProduceHeader{LeaderEpoch: p.epoch, AppendTimeMs: p.stampMs(), MsgID: r.MsgID}
	proposed, err := p.raft.Propose(p.spec.Shard, fsm.EncodeProduce(r.Buf, r.BatchAt, header), p.options.ProposeTimeout)
	if err != nil {
		return p.refused(err)
	}
	// From here on the outcome is open: the only way out is the queue.
	p.queue.push(inFlight{proposal: proposed, done: done, bytes: size, epoch: p.epoch, appendMs: header.AppendTimeMs, over: p.epochOver})
	p.queued.Signal()
	return nil
}

// admit says why a batch of size bytes may not be queued. p.mu is held.
func (p *Partition) admit(clientEpoch int32, size int64) error {
	switch {
	case !p.serving:
		return p.notServing()
	case p.drains > 0:
		err := errcode.New(errcode.LeaderNotAvailable, "%s/%d is being handed to another leader; retry", p.spec.Topic, p.spec.Partition)
		err.RetryAfter = throttleRetryAfter
		return err
	case clientEpoch != epochUnknown && clientEpoch < p.epoch:
		return errcode.New(errcode.FencedLeaderEpoch, "the client knows epoch %d, the leader is in %d; refresh the metadata",
			clientEpoch, p.epoch)
	case clientEpoch > p.epoch:
		return errcode.New(errcode.UnknownLeaderEpoch, "the client knows epoch %d, this leader is only in %d; retry",
			clientEpoch, p.epoch)
	case p.queue.n == p.options.InFlightMax,
		p.queue.n > 0 && p.queue.bytes+size > p.options.InFlightBytesMax:
		err := errcode.New(errcode.Throttled, "%s/%d has %d requests with %d bytes in flight; retry",
			p.spec.Topic, p.spec.Partition, p.queue.n, p.queue.bytes)
		err.RetryAfter = throttleRetryAfter
		return err
	}
	return nil
}

// stampMs returns the append time for the next batch. p.mu is held. It never
// goes back within the partition, whatever the clocks of its leaders say.
func (p *Partition) stampMs() int64 {
	p.appendMs = max(p.options.Clock().UnixMilli(), p.machine.LastAppendMs(), p.appendMs)
	return p.appendMs
}

// refused gives a proposal that Raft did not take its code. p.mu is held.
func (p *Partition) refused(err error) error {
	code := errcode.Of(err)
	if p.leader == 0 || code == errcode.UnknownServerError {
		return p.dropped(err)
	}
	if code == errcode.Throttled {
		throttled := errcode.New(code, "%s/%d: %v", p.spec.Topic, p.spec.Partition, err)
		throttled.RetryAfter = throttleRetryAfter
		return throttled
	}
	return err
}

// dropped is the definite failure of a proposal that was not refused for load:
// the leader could not place it, because it is none any more or hands over.
func (p *Partition) dropped(err error) error {
	if p.leader == 0 {
		return errcode.New(errcode.NotEnoughReplicas, "%s/%d has no leader; retry: %v", p.spec.Topic, p.spec.Partition, err)
	}
	return errcode.New(errcode.NotLeaderOrFollower, "%s/%d is changing its leader; retry: %v", p.spec.Topic, p.spec.Partition, err)
}

// complete is the completion goroutine: it waits for the proposals in queue
// order and tells their outcome. It is started when the replica first serves
// and ends at the stop, when the queue is empty. It blocks on Raft (bounded by
// the proposal's time-out) and in done.
//
// What a leader that was cut off had in flight may be in no log that counts, and
// Raft tells that only when the time-out is over. By then the replica may lead
// again, with new appends behind the old ones. So the wait ends when a later epoch
// is applied here, which decides on all of them.
func (p *Partition) complete() {
	defer p.goroutines.Done()
	var decided <-chan struct{} // the over of those in flight that got their grace
	for {
		head, ok := p.head()
		if !ok {
			return
		}
		grace := decidedGrace
		if head.over == decided {
			grace = 0
		}
		result, err := head.proposal.WaitOr(head.over, grace)
		if errors.Is(err, raftnode.ErrGivenUp) {
			decided = head.over
		}
		p.mu.Lock()
		p.queue.pop()
		p.checkDrained()
		out := p.outcome(head, result, err)
		p.mu.Unlock()
		head.done(out)
	}
}

// head waits for the oldest proposal in flight; ok is false at the stop.
func (p *Partition) head() (head inFlight, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.queue.n == 0 {
		if p.stopped() {
			return inFlight{}, false
		}
		p.queued.Wait()
	}
	return p.queue.head(), true
}

func (p *Partition) stopped() bool {
	select {
	case <-p.stopping:
		return true
	default:
		return false
	}
}

// outcome turns what Raft and the state machine said into what the client is
// told. p.mu is held.
func (p *Partition) outcome(f inFlight, r raftnode.Result, err error) AppendResult {
	out := AppendResult{BaseOffset: -1, Epoch: f.epoch}
	if err != nil {
		out.Err = p.failure(err)
		return out
	}
	verdict, offset := fsm.DecodeResult(r.Value)
	switch verdict {
	case fsm.Appended:
		out.BaseOffset, out.AppendTimeMs = offset, f.appendMs
	case fsm.Duplicate:
		out.BaseOffset, out.Duplicate = offset, true
	case fsm.Fenced:
		out.Err = errcode.New(errcode.NotLeaderOrFollower, "%s/%d got a new leader (epoch %d) before the batch; nothing was stored",
			p.spec.Topic, p.spec.Partition, offset)
	default:
		out.Err = errcode.New(verdict.Code(), "%s/%d: the batch was not stored", p.spec.Topic, p.spec.Partition)
	}
	return out
}

// failure maps the two ways in which a queued proposal can fail. A refusal is
// definite; everything else means that the outcome is unknown, and only that is
// called a time-out. p.mu is held.
func (p *Partition) failure(err error) error {
	if errors.Is(err, raftnode.ErrRefused) {
		return p.dropped(err)
	}
	return errcode.New(errcode.RequestTimedOut, "%s/%d: the outcome is unknown; an idempotent producer resends: %v",
		p.spec.Topic, p.spec.Partition, err)
}
