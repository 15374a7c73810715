package groups

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
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
		r.raft.set(func() { r.raft.delay = 2 * time.Second })
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
		defer cancel()
		proposed := r.commit(ctx, 1)
		waiting := r.commit(ctx, 2)
		patient := r.commit(r.t.Context(), 3)
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

// commit sends a commit of member a.
func (r *rig) commit(ctx context.Context, sequence int64) *answered {
	a := &answered{}
	r.host.Commit(ctx, protocol.CommitRequest{
		Group: "g", MemberID: "a", MemberEpoch: r.epoch["a"], Sequence: sequence, Offsets: []protocol.CommittedOffset{{Topic: "t", Offset: sequence}},
	}, func(_ *protocol.CommitReply, err error) { a.times, a.err = a.times+1, err })
	synctest.Wait()
	return a
}

// cutOff is a commit of member a, who joins, that is under way when another replica
// comes to lead.
func (r *rig) cutOff() *answered {
	r.join("a")
	r.raft.set(func() { r.raft.hold = true })
	underWay := r.commit(r.t.Context(), 1)
	r.raft.set(func() { r.raft.hold = false })
	r.lead(2, 2)
	return underWay
}

// What a coordinator that was cut off had under way is told to nobody until its
// time-out; one that coordinates again must not make what is new wait for that.
func TestWhatAnEarlierEpochLeftUnderWayHoldsUpNothing(t *testing.T) {
	inBubble(t, func(r *rig) {
		old := r.cutOff()
		if r.pass(time.Second); old.times != 0 {
			r.t.Fatalf("its fate was open until the next epoch, and it was answered with %v", old.err)
		}
		r.lead(3, 1)
		fresh := r.commit(r.t.Context(), 2)
		r.pass(fencedGrace)
		if old.times != 1 || errcode.Of(old.err) != errcode.RequestTimedOut {
			r.t.Errorf("the commit of the old epoch: answered %d times with %v", old.times, old.err)
		}
		if fresh.times != 1 || fresh.err != nil {
			r.t.Errorf("the commit of the new epoch: answered %d times with %v", fresh.times, fresh.err)
		}
		r.raft.land() // late, and refused
		if _, replica := r.c.machine.current(); replica != 1 || r.host.Route("g") != nil {
			r.t.Errorf("a late entry of the old epoch made %d coordinator: %v", replica, r.host.Route("g"))
		}
		if again := r.commit(r.t.Context(), 3); again.times != 1 || again.err != nil {
			r.t.Errorf("after it: answered %d times with %v", again.times, again.err)
		}
	})
}

// What Raft tells within the grace is told to the client.
func TestWhatIsKnownOfAnEntryOfAnEarlierEpochIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		before bool // it is applied before the next epoch, else behind it
		want   errcode.Code
	}{
		"applied": {true, errcode.None},
		"fenced":  {false, errcode.NotCoordinator},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(r *rig) {
				old := r.cutOff()
				if test.before {
					r.raft.land()
				}
				r.raft.apply(encode(entry{Epoch: 2, Replica: 2}))
				if !test.before {
					r.raft.land()
				}
				if r.pass(0); old.times != 1 || errcode.Of(old.err) != test.want {
					r.t.Errorf("answered %d times with %v", old.times, old.err)
				}
			})
		})
	}
}

func TestAnEpochOfALeadershipThatIsOverHoldsUpNothing(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.lead(2, 2)
		r.raft.set(func() { r.raft.hold = true })
		r.lead(3, 1) // it proposes an epoch that comes to nothing
		r.lead(4, 2)
		r.raft.set(func() { r.raft.hold = false })
		r.lead(5, 1)
		if r.pass(leadRetryAfter); r.host.Route("g") != nil {
			r.t.Fatalf("it leads again and does not coordinate: %v", r.host.Route("g"))
		}
		r.raft.land() // the lost entry after all: its epoch is open, by the entry of term 5
		if r.pass(0); r.host.Route("g") != nil {
			r.t.Errorf("a late epoch entry of its own: %v", r.host.Route("g"))
		}
		if epoch, replica := r.c.machine.current(); epoch != 2 || replica != 1 {
			r.t.Errorf("epoch %d of replica %d", epoch, replica)
		}
	})
}
