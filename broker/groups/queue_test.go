package groups

import (
	"context"
	"errors"
	"testing"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

func TestFullQueueSaysWhenToRetry(t *testing.T) {
	for name, filler := range map[string]int{"operations": 1, "bytes": queueBytesMax/100 + 1} {
		q, n := newQueue(), 0
		var err error
		for ; err == nil && n <= queueOpsMax; n++ {
			err = q.put(&call{op: make([]byte, filler)})
		}
		var coded *errcode.Error
		if !errors.As(err, &coded) || coded.Code != errcode.Throttled || coded.RetryAfter <= 0 {
			t.Errorf("%s: after %d operations: %v", name, n, err)
		}
		q.waiting[0].finished.Store(true)
		if got := len(q.take()); got == 0 || got > entryOpsMax {
			t.Errorf("%s: an entry of %d operations", name, got)
		}
		if err := q.put(&call{op: make([]byte, filler)}); err != nil {
			t.Errorf("%s: there is room again, and then: %v", name, err)
		}
	}
}

func TestCommitWaitsNoLongerThanItsContext(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.beat("a", 0)
		commit := func(ctx context.Context, sequence int64) *answered {
			a := &answered{}
			r.host.Commit(ctx, protocol.CommitRequest{
				Group: "g", MemberID: "a", MemberEpoch: r.epoch["a"], Sequence: sequence,
				Offsets: []protocol.CommittedOffset{{Topic: "t", Offset: sequence}},
			}, func(_ *protocol.CommitReply, err error) { a.times, a.err = a.times+1, err })
			return a
		}
		r.raft.set(func() { r.raft.delay = 2 * time.Second })
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
		defer cancel()
		proposed := commit(ctx, 1)
		r.pass(0)
		waiting := commit(ctx, 2)
		patient := commit(r.t.Context(), 3)
		r.pass(time.Second)
		for name, a := range map[string]*answered{"proposed": proposed, "waiting": waiting} {
			if a.times != 1 || errcode.Of(a.err) != errcode.RequestTimedOut {
				t.Errorf("%s: answered %d times with %v", name, a.times, a.err)
			}
		}
		r.pass(4 * time.Second)
		if proposed.times != 1 || waiting.times != 1 || patient.times != 1 || patient.err != nil {
			t.Errorf("answered %d, %d and %d times, the last with %v", proposed.times, waiting.times, patient.times, patient.err)
		}
		if _, n := r.raft.operations(opCommit); n != 2 {
			t.Errorf("%d commits were proposed, want 2: nobody waited for the third", n)
		}
	})
}

// answered is what a commit came to. The bubble's goroutines take turns.
type answered struct {
	times int
	err   error
}
