package partitions

import (
	"sync"
	"testing"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
	"logbroker/partitions/fsm"
)

// outcomes collects results in the order in which done was called.
type outcomes struct {
	mu  sync.Mutex
	all []AppendResult
}

func (o *outcomes) add(r AppendResult) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, r)
}

func (o *outcomes) list() []AppendResult {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]AppendResult(nil), o.all...)
}

func (o *outcomes) wait(t *testing.T, n int) []AppendResult {
	t.Helper()
	until(t, "all appends answered", func() bool { return len(o.list()) >= n })
	return o.list()
}

func TestAppendsCompleteInQueueOrderWithDenseOffsets(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	var got outcomes
	const n = 100
	for i := range n {
		if err := r.Append(numbered(1, 0, int32(3*i), 3), got.add); err != nil {
			t.Fatal(err)
		}
	}
	for i, a := range got.wait(t, n) {
		if a.Err != nil || a.BaseOffset != int64(3*i) || a.Duplicate || a.Epoch != 1 {
			t.Fatalf("append %d: %+v", i, a)
		}
	}
	if again := appended(r.Partition, numbered(1, 0, 3*(n-1), 3)); again.BaseOffset != 3*(n-1) || !again.Duplicate {
		t.Fatalf("repeat: %+v", again)
	}
}

func TestAfterAFailedAppendEverythingBehindItOfTheSameProducerFails(t *testing.T) {
	for name, f := range map[string]fate{"dropped": drop, "lost": lose, "declined": decline} {
		t.Run(name, func(t *testing.T) { failOneInTheMiddle(t, f) })
	}
}

func failOneInTheMiddle(t *testing.T, f fate) {
	r := newRig(t, nil)
	r.leadIn(5)
	victim := 3
	sent := 0
	r.raft.setFate(func(cmd []byte) fate {
		if sent == victim {
			return f
		}
		return commit
	})
	var mine, other outcomes
	for i := range 8 {
		sent = i
		if err := r.Append(numbered(1, 0, int32(i), 1), mine.add); err != nil {
			mine.add(AppendResult{Err: err})
		}
		sent = -1
		if err := r.Append(numbered(2, 0, int32(i), 1), other.add); err != nil {
			t.Fatal(err)
		}
	}
	other.wait(t, 8)
	failed := 0
	for _, a := range mine.wait(t, 8) {
		if a.Err != nil {
			failed++
		}
	}
	if failed != 8-victim {
		t.Fatalf("%d appends failed, want %d: %+v", failed, 8-victim, mine.list())
	}
	for i, a := range other.list() {
		if a.Err != nil {
			t.Fatalf("the other producer's append %d: %v", i, a.Err)
		}
	}
	r.raft.setFate(nil)
	for i := victim; i < 8; i++ { // resent in order
		if a := appended(r.Partition, numbered(1, 0, int32(i), 1)); a.Err != nil || a.Duplicate {
			t.Fatalf("resent %d: %+v", i, a)
		}
	}
}

func TestOnlyAnUnknownOutcomeIsATimeOut(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	for _, c := range []struct {
		fate fate
		want errcode.Code
	}{
		{lose, errcode.RequestTimedOut},
		{delay, errcode.RequestTimedOut},
		{drop, errcode.NotLeaderOrFollower},
		{decline, errcode.NotLeaderOrFollower},
	} {
		r.raft.setFate(func([]byte) fate { return c.fate })
		if a := appended(r.Partition, numbered(-1, 0, 0, 1)); errcode.Of(a.Err) != c.want {
			t.Errorf("fate %d: %v, want %v", c.fate, a.Err, c.want)
		}
	}
}

func TestAppendRefusesAnOlderAndANewerEpoch(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	r.follow(6, 2)
	r.leadIn(7)
	if e := r.Leader().Epoch; e != 2 {
		t.Fatalf("epoch %d, want 2", e)
	}
	for epoch, want := range map[int32]errcode.Code{
		-1: errcode.None, 1: errcode.FencedLeaderEpoch, 2: errcode.None, 3: errcode.UnknownLeaderEpoch,
	} {
		req := numbered(-1, 0, 0, 1)
		req.Epoch = epoch
		a := appended(r.Partition, req)
		if errcode.Of(a.Err) != want {
			t.Errorf("epoch %d: %v, want %v", epoch, a.Err, want)
		}
		if want != errcode.None && !want.Retriable() {
			t.Errorf("%v must be retriable", want)
		}
	}
}

func TestAppendIsThrottledAtItsBounds(t *testing.T) {
	size := int64(len(numbered(-1, 0, 0, 1).Buf) - room)
	for name, change := range map[string]func(*Options){
		"requests": func(o *Options) { o.InFlightMax = 4 },
		"bytes":    func(o *Options) { o.InFlightBytesMax = 4*size + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change)
			r.leadIn(5)
			hold := make(chan struct{})
			first := make(chan struct{})
			var got outcomes
			held := func(AppendResult) { close(first); <-hold }
			if err := r.Append(numbered(-1, 0, 0, 1), held); err != nil {
				t.Fatal(err)
			}
			<-first // out of the queue; the completion goroutine is held
			for range 4 {
				if err := r.Append(numbered(-1, 0, 0, 1), got.add); err != nil {
					t.Fatal(err)
				}
			}
			err := r.Append(numbered(-1, 0, 0, 1), got.add)
			if e := errcode.From(err); e == nil || e.Code != errcode.Throttled || e.RetryAfter == 0 {
				t.Fatalf("over the bound: %v", err)
			}
			close(hold)
			got.wait(t, 4)
			if a := appended(r.Partition, numbered(-1, 0, 0, 1)); a.Err != nil {
				t.Fatalf("after room was made: %v", a.Err)
			}
		})
	}
}

func TestOneBatchAboveTheByteBoundIsTakenAlone(t *testing.T) {
	r := newRig(t, func(o *Options) { o.InFlightBytesMax = 1 })
	r.leadIn(5)
	if a := appended(r.Partition, numbered(-1, 0, 0, 1)); a.Err != nil {
		t.Fatal(a.Err)
	}
}

func TestAppendTimeNeverGoesBack(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	first := appended(r.Partition, numbered(-1, 0, 0, 1)).AppendTimeMs
	if first != r.clock.Now().UnixMilli() {
		t.Fatalf("append time %d is not the clock's", first)
	}
	r.clock.advance(-time.Hour)
	if second := appended(r.Partition, numbered(-1, 0, 0, 1)).AppendTimeMs; second != first {
		t.Fatalf("append time went from %d to %d", first, second)
	}
}

func TestPlainPublishIsStoredOnceByItsID(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	publish := func() AppendResult {
		req := numbered(-1, 0, 0, 1)
		req.MsgID = "order-4711"
		return appended(r.Partition, req)
	}
	first, second := publish(), publish()
	if first.Err != nil || first.Duplicate || second.Err != nil || !second.Duplicate || second.BaseOffset != first.BaseOffset {
		t.Fatalf("%+v, then %+v", first, second)
	}
}

// What a leader that was cut off had in flight is told to nobody until its
// time-out; a replica that leads again must not make its new appends wait for that.
func TestWhatAnEarlierEpochLeftInFlightHoldsUpNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.leadIn(5)
	r.raft.setFate(func(cmd []byte) fate { return hang })
	var old, fresh outcomes
	for i := range 3 {
		if err := r.Append(numbered(1, 0, int32(i), 1), old.add); err != nil {
			t.Fatal(err)
		}
	}
	r.raft.setFate(nil)
	r.follow(6, 2)
	r.leadIn(7)
	if err := r.Append(numbered(2, 0, 0, 1), fresh.add); err != nil {
		t.Fatal(err)
	}
	if a := fresh.wait(t, 1)[0]; a.Err != nil || a.Epoch != 2 || a.BaseOffset != 0 {
		t.Errorf("the append of the new epoch: %+v", a)
	}
	for _, a := range old.wait(t, 3) {
		if errcode.Of(a.Err) != errcode.RequestTimedOut || a.Epoch != 1 {
			t.Errorf("an append of the old epoch must end as unknown: %+v", a)
		}
	}
	if a := appended(r.Partition, numbered(1, 0, 0, 1)); a.Err != nil || a.Duplicate {
		t.Errorf("sent again: %+v", a)
	}
}

// A batch that was taken in one epoch and comes to the log in the next.
func TestABatchBehindAnotherLeadersEpochIsRefusedForSure(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	var got outcomes
	hold := make(chan struct{})
	if err := r.Append(numbered(-1, 0, 0, 1), func(AppendResult) { <-hold }); err != nil {
		t.Fatal(err)
	}
	r.until("first append applied", func() bool { return r.machine.HighWatermark() == 1 })
	if err := r.Append(numbered(-1, 0, 0, 1), got.add); err != nil {
		t.Fatal(err)
	}
	r.raft.applyForeign(fsm.EncodeEpoch(fsm.Epoch{Epoch: 9, Replica: 2}))
	close(hold)
	if a := got.wait(t, 1)[0]; errcode.Of(a.Err) != errcode.NotLeaderOrFollower {
		t.Fatalf("%+v", a)
	}
	if hw := r.machine.HighWatermark(); hw != 1 {
		t.Fatalf("high watermark %d: the fenced batch was stored", hw)
	}
}

func TestWhoDoesNotServeSaysWhy(t *testing.T) {
	r := newRig(t, nil)
	refusal := func() errcode.Code { return errcode.Of(appended(r.Partition, numbered(-1, 0, 0, 1)).Err) }
	if c := refusal(); c != errcode.NotEnoughReplicas {
		t.Errorf("no leader: %v", c)
	}
	r.follow(3, 2)
	if c := refusal(); c != errcode.NotLeaderOrFollower {
		t.Errorf("another leads: %v", c)
	}
	if h := r.Leader(); h.Node != 102 || h.Serving {
		t.Errorf("hint %+v", h)
	}
	r.raft.setFate(func([]byte) fate { return drop })
	r.leaderEvent(raftnode.LeaderEvent{Shard: 1001, Replica: 1, Term: 4, Leader: 1})
	if c := refusal(); c != errcode.LeaderNotAvailable {
		t.Errorf("leader without an epoch: %v", c)
	}
}

// instantRaft takes every proposal and answers it at once.
type instantRaft struct{ fakeRaft }

type instantProposal struct{}

func (instantProposal) Wait() (raftnode.Result, error) {
	return raftnode.Result{Value: fsm.EncodeResult(fsm.Appended, 1)}, nil
}

func (p instantProposal) WaitOr(<-chan struct{}, time.Duration) (raftnode.Result, error) {
	return p.Wait()
}

func (*instantRaft) Propose(uint64, []byte, time.Duration) (proposal, error) {
	return instantProposal{}, nil
}

func BenchmarkAppend(b *testing.B) {
	t := new(testing.T)
	r := newRig(t, nil)
	defer r.stop()
	r.leadIn(5)
	r.Partition.mu.Lock()
	r.Partition.raft = &instantRaft{}
	r.Partition.mu.Unlock()
	req := numbered(-1, 0, 0, 1)
	places := make(chan struct{}, 64)
	done := func(AppendResult) { <-places }
	b.ReportAllocs()
	for b.Loop() {
		places <- struct{}{}
		if err := r.Append(req, done); err != nil {
			b.Fatal(err)
		}
	}
}
