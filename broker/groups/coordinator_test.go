package groups

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/raftnode"
)

func TestSilentMemberIsFencedAndAnotherOneIsNot(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join("a")
		r.join("b")
		for range 5 {
			r.pass(2 * time.Second)
			r.beat("a", 0)
		}
		if r.owned("b") != 0 {
			t.Error("b is still a member after its session")
		}
		if a := r.beat("b", 0); errcode.Of(a.err()) != errcode.UnknownMemberID {
			t.Errorf("b's heartbeat: %v", a.err())
		}
		if a := r.beat("a", 0); a.err() != nil || r.owned("a") != 6 {
			t.Errorf("a has %d: %v", r.owned("a"), a.err())
		}
	})
}

func TestNewCoordinatorGivesEveryoneAFullSession(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.beat("a", 0)
		r.pass(9 * time.Second)
		r.lead(2, 2)
		r.pass(30 * time.Second) // whoever leads meanwhile decides
		r.lead(3, 1)
		r.pass(9 * time.Second)
		if a := r.beat("a", 0); a.err() != nil {
			t.Fatalf("a was fenced: %v", a.err())
		}
		if epoch, _ := r.c.machine.current(); epoch != 2 {
			t.Errorf("epoch %d", epoch)
		}
		if _, n := r.raft.operations(opTarget); n != 1 {
			t.Errorf("%d assignments: the new coordinator changed one that stands", n)
		}
	})
}

func TestStoppedProcessFencesNobodyWhenItWakesUp(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.beat("a", 0)
		r.c.mu.Lock()
		r.c.lastTick = time.Now().Add(-time.Minute) // what a stop looks like
		r.c.mu.Unlock()
		r.wantCode(r.beat("a", 0).err(), errcode.CoordinatorNotAvailable)
		r.pass(time.Second)
		if a := r.beat("a", 0); a.err() != nil || r.owned("a") != 6 {
			t.Errorf("after the pause: %v", a.err())
		}
		if epoch, _ := r.c.machine.current(); epoch != 2 {
			t.Errorf("epoch %d: it must open a new one to know that it still leads", epoch)
		}
	})
}

func TestHeldHeartbeatIsAnsweredWithTheNews(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.beat("a", 0)
		r.beat("a", 0)
		began := time.Now()
		held := r.beat("a", 2*time.Second)
		if held.done() {
			t.Fatalf("answered at once: %+v", held.reply())
		}
		r.pass(time.Second)
		b := r.beat("b", 0)
		if !held.done() || len(held.reply().Assignment[0].Partitions) != 3 || time.Since(began) > 1100*time.Millisecond {
			t.Fatalf("a was not told that it must give up: %+v", held)
		}
		r.learn("a", held)
		// b's join has its answer when the hold is over; then a gives up.
		r.pass(joinHold)
		r.learn("b", b)
		news := r.beat("b", 2*time.Second)
		r.beat("a", 0, held.reply().Assignment[0].Partitions...)
		if !news.done() || len(news.reply().Assignment) != 1 || len(news.reply().Assignment[0].Partitions) != 3 {
			t.Fatalf("b was not told what it got: %+v", news)
		}
		// Without news the answer comes when the wait is over, or at the next one.
		quiet := r.beat("a", 2*time.Second)
		r.pass(2200 * time.Millisecond)
		if !quiet.done() || quiet.err() != nil {
			t.Fatal("held beyond the wait")
		}
		first := r.beat("a", 2*time.Second)
		r.beat("a", 2*time.Second)
		if !first.done() {
			t.Error("two heartbeats of one member are held")
		}
		r.host.Release()
		if again := r.beat("a", 2*time.Second); !again.done() {
			t.Error("held after Release")
		}
	})
}

func TestMemberThatDoesNotGiveUpIsFencedAfterItsRebalanceTimeout(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join("a")
		r.join("b")
		for range 12 { // it lives, and keeps everything
			r.beat("a", 0, 0, 1, 2, 3, 4, 5)
			r.beat("b", 0)
			r.pass(time.Second)
		}
		if r.owned("a") != 0 || r.owned("b") != 6 {
			t.Errorf("a has %d, b has %d", r.owned("a"), r.owned("b"))
		}
	})
}

func TestTopicsThatGrowAreAssignedAtOnce(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.beat("a", 0)
		held := r.beat("a", 2*time.Second)
		r.meta.topics(t, map[string]int{"t": 8, "u": 3})
		synctest.Wait()
		if r.owned("a") != 8 || !held.done() {
			t.Fatalf("a has %d", r.owned("a"))
		}
		_, before := r.raft.operations(opTarget)
		r.meta.topics(t, map[string]int{"t": 8, "u": 5})
		synctest.Wait()
		if _, n := r.raft.operations(opTarget); n != before {
			t.Error("a topic that nobody subscribes to made an assignment")
		}
		r.meta.topics(t, map[string]int{"u": 5})
		synctest.Wait()
		if r.owned("a") != 0 {
			t.Error("a keeps the partitions of a topic that is gone")
		}
	})
}

func TestCommitsTravelTogether(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.beat("a", 0)
		before, _ := r.raft.operations(opCommit)
		r.raft.set(func() { r.raft.delay = 10 * time.Millisecond })
		done := 0
		for i := range 500 {
			r.host.Commit(r.t.Context(), protocol.CommitRequest{
				Group: "g", MemberID: "a", MemberEpoch: r.epoch["a"], Sequence: int64(i + 1),
				Offsets: []protocol.CommittedOffset{{Topic: "t", Partition: int32(i % 6), Offset: int64(i)}},
			}, func(reply *protocol.CommitReply, err error) {
				if err != nil || reply.Results[0].Error != nil {
					t.Errorf("%v %+v", err, reply)
				}
				done++
			})
		}
		r.pass(100 * time.Millisecond)
		after, n := r.raft.operations(opCommit)
		if done != 500 || n != 500 || after-before > 4 {
			t.Errorf("%d commits answered, %d applied in %d entries", done, n, after-before)
		}
	})
}

func TestFailedProposalsSayWhatIsKnown(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.beat("a", 0)
		commit := func() (code errcode.Code) {
			r.host.Commit(r.t.Context(), protocol.CommitRequest{
				Group: "g", MemberID: "a", MemberEpoch: r.epoch["a"], Sequence: 1,
				Offsets: []protocol.CommittedOffset{{Topic: "t", Offset: 1}},
			}, func(_ *protocol.CommitReply, err error) { code = errcode.Of(err) })
			synctest.Wait()
			return code
		}
		r.raft.set(func() { r.raft.lose = true })
		if code := commit(); code != errcode.RequestTimedOut {
			t.Errorf("an unknown outcome is %v", code)
		}
		r.raft.set(func() { r.raft.lose, r.raft.refuse = false, errRefusedByFake })
		if code := commit(); code != errcode.CoordinatorNotAvailable {
			t.Errorf("a refused proposal is %v", code)
		}
		r.raft.set(func() { r.raft.refuse = nil })
		if code := commit(); code != errcode.None {
			t.Errorf("then %v", code)
		}
		// Another replica's epoch is applied behind this one's back.
		r.raft.apply(encode(entry{Epoch: 9, Replica: 2}))
		if code := commit(); code != errcode.NotCoordinator && code != errcode.CoordinatorNotAvailable {
			t.Errorf("behind a foreign epoch: %v", code)
		}
		r.pass(time.Second)
		if code := commit(); code != errcode.None {
			t.Errorf("after an epoch of its own again: %v", code)
		}
		if epoch, replica := r.c.machine.current(); epoch != 10 || replica != 1 {
			t.Errorf("epoch %d of replica %d", epoch, replica)
		}
	})
}

func TestOnlyTheCoordinatorAndItsPredecessorAnswer(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.beat("a", 0)
		held := r.beat("a", 2*time.Second)
		r.lead(2, 0)
		r.wantCode(held.err(), errcode.NotCoordinator)
		r.wantCode(r.beat("a", 0).err(), errcode.CoordinatorNotAvailable)
		r.lead(2, 2)
		r.wantCode(r.beat("a", 0).err(), errcode.NotCoordinator)
		r.pass(2 * time.Second)
		if a := r.beat("a", 0); !errors.Is(a.err(), ErrElsewhere) {
			t.Errorf("long after: %v", a.err())
		}
		r.lead(3, 0)
		r.pass(5 * time.Second)
		if a := r.beat("a", 0); !errors.Is(a.err(), ErrElsewhere) {
			t.Errorf("a node that knows no leader for long may be cut off, and answered %v", a.err())
		}
		if _, err := r.host.Describe(r.t.Context(), "g"); !errors.Is(err, ErrElsewhere) {
			t.Errorf("describe: %v", err)
		}
		r.lead(4, 1)
		r.raft.set(func() { r.raft.unread = raftnode.ErrUnknown })
		_, err := r.host.FetchOffsets(r.t.Context(), protocol.FetchOffsetsRequest{Group: "g"})
		r.wantCode(err, errcode.CoordinatorNotAvailable)
	})
}

func TestBadHeartbeatsAreRefusedByName(t *testing.T) {
	inBubble(t, func(r *rig) {
		many := make([]string, 10_000)
		for i := range many {
			many[i] = fmt.Sprint("topic-", i)
		}
		long := string(make([]byte, 300))
		for name, test := range map[string]struct {
			req  protocol.HeartbeatRequest
			want errcode.Code
		}{
			"no group":         {protocol.HeartbeatRequest{Topics: []string{"t"}}, errcode.InvalidGroupID},
			"bad group":        {protocol.HeartbeatRequest{Group: "a b", Topics: []string{"t"}}, errcode.InvalidGroupID},
			"no subscription":  {protocol.HeartbeatRequest{Group: "g", MemberID: "m"}, errcode.InvalidRequest},
			"10,000 topics":    {protocol.HeartbeatRequest{Group: "g", MemberID: "m", Topics: many}, errcode.InvalidRequest},
			"bad topic":        {protocol.HeartbeatRequest{Group: "g", MemberID: "m", Topics: []string{"a b"}}, errcode.InvalidTopic},
			"long member id":   {protocol.HeartbeatRequest{Group: "g", MemberID: long, Topics: []string{"t"}}, errcode.InvalidRequest},
			"large metadata":   {protocol.HeartbeatRequest{Group: "g", MemberID: "m", Topics: []string{"t"}, Metadata: make([]byte, 1<<20)}, errcode.InvalidRequest},
			"epoch of nothing": {protocol.HeartbeatRequest{Group: "g", MemberID: "m", MemberEpoch: -3}, errcode.InvalidRequest},
			"never joined":     {protocol.HeartbeatRequest{Group: "g", MemberID: "m", MemberEpoch: 4}, errcode.UnknownMemberID},
			"leaves unjoined":  {protocol.HeartbeatRequest{Group: "g", MemberID: "m", MemberEpoch: -1}, errcode.UnknownMemberID},
		} {
			var code errcode.Code
			r.host.Heartbeat(test.req, func(_ *protocol.HeartbeatReply, err error) { code = errcode.Of(err) })
			synctest.Wait()
			if code != test.want {
				t.Errorf("%s: %v, want %v", name, code, test.want)
			}
		}
		r.beat("a", 0)
		r.epoch["a"] += 7
		r.wantCode(r.beat("a", 0).err(), errcode.FencedMemberEpoch)
	})
}

func TestUnusedGroupsAndOffsetsOfDeletedTopicsGo(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.meta.topics(t, map[string]int{"t": 6, "u": 1})
		var err error
		for _, topic := range []string{"t", "u"} {
			r.host.Commit(r.t.Context(), protocol.CommitRequest{
				Group: "g", MemberEpoch: protocol.MemberEpochNone, Offsets: []protocol.CommittedOffset{{Topic: topic, Offset: 1}},
			}, func(_ *protocol.CommitReply, e error) { err = e })
			synctest.Wait()
		}
		if err != nil {
			t.Fatal(err)
		}
		offsets := func() int {
			reply, err := r.host.FetchOffsets(r.t.Context(), protocol.FetchOffsetsRequest{Group: "g"})
			if err != nil {
				t.Fatal(err)
			}
			return len(reply.Offsets)
		}
		if offsets() != 2 {
			t.Fatal("two were committed")
		}
		r.meta.topics(t, map[string]int{"t": 6})
		r.pass(11 * time.Second)
		if _, n := r.raft.operations(opPurge); n != 1 || offsets() != 1 {
			t.Errorf("%d purges, %d offsets", n, offsets())
		}
		r.pass(time.Hour)
		if got := r.host.List().Groups; len(got) != 0 {
			t.Errorf("after its retention: %+v", got)
		}
	})
}

func TestACoordinatorWhoseClockIsWrongExpiresNoGroup(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.host.Commit(r.t.Context(), protocol.CommitRequest{
			Group: "g", MemberEpoch: protocol.MemberEpochNone, Offsets: []protocol.CommittedOffset{{Topic: "t", Offset: 1}},
		}, func(_ *protocol.CommitReply, err error) {
			if err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		r.ahead.Store(int64(24 * time.Hour))
		r.untrusted.Store(true)
		r.pass(2 * time.Minute)
		if got := r.host.List().Groups; len(got) != 1 {
			t.Fatal("a clock a day ahead took a group that was empty for two minutes")
		}
		r.ahead.Store(0)
		r.untrusted.Store(false)
		r.pass(30 * time.Minute)
		if got := r.host.List().Groups; len(got) != 1 {
			t.Fatal("the group went before its time")
		}
		r.pass(time.Hour)
		if got := r.host.List().Groups; len(got) != 0 {
			t.Errorf("with a trusted clock a group outlives its retention: %+v", got)
		}
	})
}
