package metadata

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
)

// outcome is what one attempt of fakeRaft does.
type outcome int

const (
	works     outcome = iota
	refuses           // never applied, said so
	loses             // never applied, outcome unknown
	swallows          // applied, outcome unknown
	hangs             // never applied, no answer until the context ends
	shutsDown         // refused for good
)

// fakeRaft applies commands to the store's own state machine, unless the plan
// says otherwise for an attempt.
type fakeRaft struct {
	mu       sync.Mutex
	sm       statemachine.IStateMachine
	index    uint64
	plan     []outcome // of the next attempts
	attempts int
	down     bool // no leader
}

func newFakeStore(t *testing.T, nodes int) (*Store, *fakeRaft) {
	s := NewStore(Options{})
	f := &fakeRaft{sm: s.StateMachine(ShardID, 1)}
	s.Attach(f)
	if err := s.Found(t.Context(), Founding{ClusterID: "c", ClusterName: "test", Defaults: testDefaults()}); err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		if err := s.RegisterNode(t.Context(), testNode(uint64(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	return s, f
}

// classed is an error like raftnode's.
type classed struct {
	class error
	coded *errcode.Error
}

func (e classed) Error() string   { return e.coded.Error() }
func (e classed) Unwrap() []error { return []error{e.class, e.coded} }

func refusedErr(c errcode.Code) error { return classed{raftnode.ErrRefused, errcode.New(c, "fake")} }

func unknownErr() error {
	return classed{raftnode.ErrUnknown, errcode.New(errcode.RequestTimedOut, "fake")}
}

func (f *fakeRaft) ProposeWait(ctx context.Context, _ uint64, cmd []byte) (raftnode.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attempts++
	what := works
	if len(f.plan) > 0 {
		what, f.plan = f.plan[0], f.plan[1:]
	}
	if f.down {
		what = refuses
	}
	switch what {
	case refuses:
		return raftnode.Result{}, refusedErr(errcode.NotEnoughReplicas)
	case shutsDown:
		return raftnode.Result{}, refusedErr(errcode.ShuttingDown)
	case loses:
		return raftnode.Result{}, unknownErr()
	case hangs:
		<-ctx.Done()
		return raftnode.Result{}, unknownErr()
	}
	f.index++
	r, err := f.sm.Update(statemachine.Entry{Index: f.index, Cmd: cmd})
	if err != nil {
		return raftnode.Result{}, err
	}
	if what == swallows {
		return raftnode.Result{}, unknownErr()
	}
	return raftnode.Result{Value: r.Value, Data: r.Data}, nil
}

func (f *fakeRaft) ReadIndex(context.Context, uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return refusedErr(errcode.NotEnoughReplicas)
	}
	return nil
}

func (f *fakeRaft) Leader(uint64) (replica, term uint64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return 1, 1, !f.down
}

func (f *fakeRaft) will(plan ...outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan, f.attempts = plan, 0
}

func TestCreateTopicIsDoneOnceWhateverTheAttemptsDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := newFakeStore(t, 3)
		f.will(refuses, loses, swallows, hangs, swallows)
		topic, err := s.CreateTopic(t.Context(), TopicSpec{Name: "a", RequestID: "q"})
		if err != nil || len(topic.Partitions) != 3 || topic.Replicas != 3 {
			t.Fatalf("%+v, %v", topic, err)
		}
		if f.attempts != 6 || len(s.Image().Topics()) != 1 {
			t.Fatalf("%d attempts, %d topics", f.attempts, len(s.Image().Topics()))
		}
		again, err := s.CreateTopic(t.Context(), TopicSpec{Name: "a", RequestID: "q"})
		if err != nil || again.ID != topic.ID {
			t.Fatalf("the retry got %+v, %v", again, err)
		}
		if _, err := s.CreateTopic(t.Context(), TopicSpec{Name: "a", RequestID: "other"}); errcode.Of(err) != errcode.TopicAlreadyExists {
			t.Fatal(err)
		}
	})
}

func TestDeleteTopicIsDoneOnceWhateverTheAttemptsDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := newFakeStore(t, 1)
		if _, err := s.CreateTopic(t.Context(), TopicSpec{Name: "a"}); err != nil {
			t.Fatal(err)
		}
		f.will(swallows, loses)
		if err := s.DeleteTopic(t.Context(), "a", "q"); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteTopic(t.Context(), "a", "q"); err != nil {
			t.Fatalf("the client's retry: %v", err)
		}
		if err := s.DeleteTopic(t.Context(), "a", ""); errcode.Of(err) != errcode.UnknownTopicOrPartition {
			t.Fatal(err)
		}
	})
}

func TestGivingUpTellsUnknownFromNotDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := newFakeStore(t, 1)
		for _, c := range []struct {
			plan []outcome
			code errcode.Code
			says string
		}{
			{[]outcome{refuses, refuses}, errcode.LeaderNotAvailable, "nothing was changed"},
			{[]outcome{refuses, loses, refuses}, errcode.RequestTimedOut, "same request id"},
			{[]outcome{hangs}, errcode.RequestTimedOut, "same request id"},
			{[]outcome{shutsDown}, errcode.ShuttingDown, ""},
		} {
			f.will(c.plan...)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(len(c.plan))*50*time.Millisecond-time.Millisecond)
			_, err := s.CreateTopic(ctx, TopicSpec{Name: "a"})
			cancel()
			if errcode.Of(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v: %v", c.plan, err)
			}
		}
		if n := len(s.Image().Topics()); n != 0 {
			t.Errorf("%d topics", n)
		}
	})
}

func TestAnAttemptIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := newFakeStore(t, 1)
		f.will(hangs, hangs)
		start := time.Now()
		if _, err := s.CreateTopic(t.Context(), TopicSpec{Name: "a"}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 2*(2*time.Second+50*time.Millisecond) {
			t.Fatalf("two hanging attempts took %v", took)
		}
	})
}

func TestWithoutALeaderNothingIsProposed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := newFakeStore(t, 1)
		f.will()
		f.down = true
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := s.DeleteTopic(ctx, "a", "")
		if errcode.Of(err) != errcode.LeaderNotAvailable || f.attempts != 0 {
			t.Fatalf("%v after %d attempts", err, f.attempts)
		}
		if s.IsLeader() {
			t.Fatal("the store says that it leads")
		}
	})
}

func TestAStoreThatIsNotAttachedRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.RegisterNode(ctx, testNode(1)); errcode.Of(err) != errcode.LeaderNotAvailable {
			t.Fatal(err)
		}
		if err := s.Barrier(ctx); errcode.Of(err) != errcode.LeaderNotAvailable {
			t.Fatal(err)
		}
		if s.IsLeader() {
			t.Fatal("it says that it leads")
		}
	})
}

func TestPlanTopicCreatesNothing(t *testing.T) {
	s, f := newFakeStore(t, 3)
	f.will()
	topic, err := s.PlanTopic(t.Context(), TopicSpec{Name: "a", Partitions: 6, Replicas: 2, Config: map[string]string{"segment_bytes": "1MiB"}})
	if err != nil || len(topic.Partitions) != 6 || topic.Replicas != 2 || topic.Config.SegmentBytes != 1<<20 {
		t.Fatalf("%+v, %v", topic, err)
	}
	if f.attempts != 0 || len(s.Image().Topics()) != 0 {
		t.Fatal("something was proposed")
	}
	if _, err := s.PlanTopic(t.Context(), TopicSpec{Name: "a", Replicas: 4}); errcode.Of(err) != errcode.InvalidReplicationFactor {
		t.Fatal(err)
	}
}

func TestTopicSpecTakesTheCreatorsDefaultsFirst(t *testing.T) {
	s, _ := newFakeStore(t, 3)
	d := testDefaults()
	d.Partitions, d.Replicas, d.Config.RetentionAge = 5, 2, time.Hour
	topic, err := s.CreateTopic(t.Context(), TopicSpec{Name: "a", Defaults: &d})
	if err != nil || len(topic.Partitions) != 5 || topic.Replicas != 2 || topic.Config.RetentionAge != time.Hour {
		t.Fatalf("%+v, %v", topic, err)
	}
}

func TestAlterAndAddPartitionsThroughTheStore(t *testing.T) {
	s, _ := newFakeStore(t, 2)
	if _, err := s.CreateTopic(t.Context(), TopicSpec{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	topic, err := s.AlterTopic(t.Context(), "a", map[string]string{"retention_age": "2h"}, "")
	if err != nil || topic.Config.RetentionAge != 2*time.Hour || topic.Config.SegmentBytes != testConfig().SegmentBytes {
		t.Fatalf("%+v, %v", topic, err)
	}
	if topic, err = s.AddPartitions(t.Context(), "a", 8, ""); err != nil || len(topic.Partitions) != 8 {
		t.Fatalf("%+v, %v", topic, err)
	}
	if _, err = s.AddPartitions(t.Context(), "b", 8, ""); errcode.Of(err) != errcode.UnknownTopicOrPartition {
		t.Fatal(err)
	}
	if _, err = s.AlterTopic(t.Context(), "a", map[string]string{"x": "2h"}, ""); errcode.Of(err) != errcode.InvalidConfig {
		t.Fatal(err)
	}
}

func TestFoundRefusesBadDefaults(t *testing.T) {
	s := NewStore(Options{})
	for _, change := range []func(*Defaults){
		func(d *Defaults) { d.Partitions = 0 },
		func(d *Defaults) { d.Replicas = -1 },
		func(d *Defaults) { d.Config.Cleanup = "" },
	} {
		d := testDefaults()
		change(&d)
		if err := s.Found(t.Context(), Founding{ClusterID: "c", Defaults: d}); errcode.Of(err) != errcode.InvalidConfig {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

func TestMarkStartedSplitsLongLists(t *testing.T) {
	s, f := newFakeStore(t, 1)
	if _, err := s.CreateTopic(t.Context(), TopicSpec{Name: "a", Partitions: 2500}); err != nil {
		t.Fatal(err)
	}
	var keys []ReplicaKey
	for _, a := range s.Image().ReplicasOn(1) {
		keys = append(keys, ReplicaKey{a.Partition.Shard, a.Replica.Replica})
	}
	f.will()
	if err := s.MarkStarted(t.Context(), 1, keys); err != nil || f.attempts != 3 {
		t.Fatalf("%v after %d attempts", err, f.attempts)
	}
	for _, a := range s.Image().ReplicasOn(1) {
		if !a.Replica.Started {
			t.Fatalf("%+v", a.Replica)
		}
	}
}

func TestNextProducerIDReservesABlockAtATime(t *testing.T) {
	s, f := newFakeStore(t, 1)
	f.will()
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int64]bool{}
	for range 8 {
		wg.Go(func() {
			for range 300 {
				id, err := s.NextProducerID(t.Context())
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 2400 || f.attempts != 3 {
		t.Fatalf("%d different ids of 2400 after %d proposals", len(seen), f.attempts)
	}
}

func TestNextProducerIDWaitsNoLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := newFakeStore(t, 1)
		f.will(hangs, hangs)
		done := make(chan struct{})
		go func() { // holds the block while its proposals hang
			defer close(done)
			if id, err := s.NextProducerID(t.Context()); err != nil || id != 1 {
				t.Errorf("%d, %v", id, err)
			}
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.NextProducerID(ctx); errcode.Of(err) != errcode.LeaderNotAvailable {
			t.Error(err)
		}
		<-done
	})
}

func TestWaitForSeesEveryImageItNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newFakeStore(t, 1)
		got := make(chan *Image, 1)
		go func() {
			m, err := s.WaitFor(t.Context(), func(m *Image) bool { _, ok := m.Topic("b"); return ok })
			if err != nil {
				t.Error(err)
			}
			got <- m
		}()
		synctest.Wait()
		before := s.Changed(s.Image().Index)
		for _, name := range []string{"a", "b"} {
			if _, err := s.CreateTopic(t.Context(), TopicSpec{Name: name}); err != nil {
				t.Fatal(err)
			}
		}
		<-before
		<-s.Changed(0)
		if m := <-got; len(m.Topics()) != 2 {
			t.Fatalf("%d topics", len(m.Topics()))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.WaitFor(ctx, func(*Image) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}
