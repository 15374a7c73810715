package metadata

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"logbroker/broker/placement"
)

// stage is a cluster of three nodes without Raft: transfers just change the
// leaders table, after a delay.
type stage struct {
	t       *testing.T
	image   *Image
	leaders *Leaders
	b       *Balancer

	mu       sync.Mutex
	dead     map[uint64]bool
	leading  bool          // whether this node's metadata replica leads
	takes    time.Duration // how long a transfer takes
	broken   func(shard uint64) error
	now, max int // transfers under way, the most there were
	calls    int
}

// newStage makes topics of partitions partitions each, led by their preferred
// leaders, and a balancer that is not started.
func newStage(t *testing.T, topics int, partitions int32, o BalancerOptions) *stage {
	r := foundedRig(t, 3)
	for i := range topics {
		r.ok(command{Kind: kindCreateTopic}, create(fmt.Sprint("t", i), partitions, 3))
	}
	s := &stage{t: t, image: r.image, leaders: NewLeaders(), dead: map[uint64]bool{}, leading: true}
	for _, topic := range s.image.Topics() {
		for i := range topic.Partitions {
			p := &topic.Partitions[i]
			s.leaders.Set(says(p.Replicas[0].Node, false, p.Shard, 1))
		}
	}
	o.Image, o.Leaders, o.Transfer = func() *Image { return s.image }, s.leaders, s.transfer
	o.Alive = func(node uint64) bool { s.mu.Lock(); defer s.mu.Unlock(); return !s.dead[node] }
	o.IsLeader = func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.leading }
	s.b = NewBalancer(o)
	return s
}

func (s *stage) transfer(ctx context.Context, shard, from, to uint64) error {
	s.mu.Lock()
	s.now++
	s.calls++
	s.max = max(s.max, s.now)
	takes, broken := s.takes, s.broken
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.now--; s.mu.Unlock() }()
	if broken != nil {
		if err := broken(shard); err != nil {
			return err
		}
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	s.moveTo(shard, to)
	return nil
}

func (s *stage) moveTo(shard, to uint64) {
	_, epoch, _ := s.leaders.Leader(shard)
	s.leaders.Set(says(to, false, shard, uint64(epoch)+1))
}

func (s *stage) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// kill makes node 1 dead and lets its partitions' next replicas lead.
func (s *stage) kill() {
	s.set(func() { s.dead[1] = true })
	s.leaders.LostAll(1)
	for _, a := range s.image.ReplicasOn(1) {
		if a.Partition.Replicas[0].Node == 1 {
			s.moveTo(a.Partition.Shard, a.Partition.Replicas[1].Node)
		}
	}
}

func (s *stage) back() { s.set(func() { delete(s.dead, 1) }) }

// even says whether each topic's leaders differ by at most one over the nodes.
func (s *stage) even() bool {
	for _, topic := range s.image.Topics() {
		count := map[uint64]int{}
		for i := range topic.Partitions {
			node, _, _ := s.leaders.Leader(topic.Partitions[i].Shard)
			count[node]++
		}
		if max(count[1], count[2], count[3])-min(count[1], count[2], count[3]) > 1 {
			return false
		}
	}
	return true
}

func (s *stage) called() int { s.mu.Lock(); defer s.mu.Unlock(); return s.calls }

func (s *stage) most() int { s.mu.Lock(); defer s.mu.Unlock(); return s.max }

func (s *stage) running() int { s.mu.Lock(); defer s.mu.Unlock(); return s.now }

// elapse lets the bubble's clock go on by d.
func elapse(d time.Duration) { <-time.After(d) }

func TestBalancerSpreadsAgainAfterANodeComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 2, 12, BalancerOptions{Interval: 5 * time.Second, MaxMoves: 3})
		s.takes = 100 * time.Millisecond
		s.kill()
		s.b.Start(t.Context())
		defer s.b.Stop()
		elapse(30 * time.Second)
		if n := s.b.Wanted(); n != 0 {
			t.Fatalf("%d moves are wanted among the two that are left: %v", n, s.leaders.Counts())
		}
		s.back()
		elapse(6 * time.Second) // one interval, and what the moves take
		if !s.even() || s.most() != 3 {
			t.Fatalf("leaders %v, at most %d moves at once", s.leaders.Counts(), s.most())
		}
		if n := s.b.Wanted(); n != 0 {
			t.Fatalf("%d moves are wanted still", n)
		}
	})
}

func TestBalancerSpreadsCoordinatorsByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const first, shards = 2, 4
		s := newStage(t, 1, 3, BalancerOptions{Interval: 5 * time.Second, MaxMoves: 2, Coordinators: func() []placement.Partition {
			out := make([]placement.Partition, shards)
			for i := range out {
				nodes := []uint64{1, 2, 3, 1, 2}[i%3:]
				out[i] = placement.Partition{Shard: first + uint64(i), Replicas: nodes[:3]}
			}
			return out
		}})
		s.takes = 100 * time.Millisecond
		led := func() map[uint64]int {
			out := map[uint64]int{}
			for i := range uint64(shards) {
				node, _, _ := s.leaders.Leader(first + i)
				out[node]++
			}
			return out
		}
		for i := range uint64(shards) {
			s.moveTo(first+i, 3)
		}
		s.b.Start(t.Context())
		defer s.b.Stop()
		elapse(6 * time.Second)
		if got := led(); max(got[1], got[2], got[3]) != 2 || min(got[1], got[2], got[3]) != 1 {
			t.Fatalf("coordinators %v, want 2, 1 and 1", got)
		}
		// Node 1 dies, and its coordinators go to node 2.
		s.set(func() { s.dead[1] = true })
		s.leaders.LostAll(1)
		for i := range uint64(shards) {
			if _, _, ok := s.leaders.Leader(first + i); !ok {
				s.moveTo(first+i, 2)
			}
		}
		for i := range s.image.Topics()[0].Partitions {
			if p := &s.image.Topics()[0].Partitions[i]; p.Replicas[0].Node == 1 {
				s.moveTo(p.Shard, 2)
			}
		}
		elapse(30 * time.Second)
		if got := led(); got[2] != 2 || got[3] != 2 {
			t.Fatalf("coordinators of the two that are left: %v", got)
		}
		s.back()
		elapse(6 * time.Second)
		if got := led(); max(got[1], got[2], got[3])-min(got[1], got[2], got[3]) > 1 || !s.even() || s.most() > 2 {
			t.Fatalf("coordinators %v, at most %d moves at once", got, s.most())
		}
		calls := s.called()
		s.leaders.Prune(s.image)
		elapse(time.Minute)
		if s.called() != calls || s.b.Wanted() != 0 {
			t.Fatalf("%d more moves, %d wanted", s.called()-calls, s.b.Wanted())
		}
	})
}

func TestNudgeDoesNotWaitForTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1, 9, BalancerOptions{Interval: time.Hour})
		s.kill()
		s.back()
		s.b.Start(t.Context())
		defer s.b.Stop()
		s.b.Nudge()
		synctest.Wait()
		if !s.even() {
			t.Fatalf("leaders %v", s.leaders.Counts())
		}
	})
}

func TestBalancerRestsWhereItsMetadataReplicaDoesNotLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1, 9, BalancerOptions{})
		s.leading = false
		s.kill()
		s.back()
		s.b.Start(t.Context())
		defer s.b.Stop()
		elapse(time.Minute)
		if s.called() != 0 {
			t.Fatalf("%d transfers", s.called())
		}
		if n := s.b.BalanceNow(); n != 3 {
			t.Fatalf("%d moves were announced, want 3", n)
		}
		synctest.Wait()
		if !s.even() {
			t.Fatalf("leaders %v", s.leaders.Counts())
		}
		s.kill() // the order is carried out: from now on it rests again
		s.back()
		calls := s.called()
		elapse(5 * time.Minute)
		if s.called() != calls {
			t.Fatal("it goes on")
		}
	})
}

func TestManualBalancerMovesOnlyWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1, 9, BalancerOptions{Manual: true})
		s.kill()
		s.back()
		s.b.Start(t.Context())
		defer s.b.Stop()
		s.b.Nudge()
		elapse(time.Minute)
		if s.called() != 0 {
			t.Fatalf("%d transfers", s.called())
		}
		s.b.BalanceNow()
		synctest.Wait()
		if !s.even() || s.b.BalanceNow() != 0 {
			t.Fatalf("leaders %v", s.leaders.Counts())
		}
	})
}

func TestAMoveThatIsNeverSeenTimesOutAndOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1, 9, BalancerOptions{Interval: time.Second, MaxMoves: 1, MoveRounds: 3})
		stuck := uint64(0)
		s.broken = func(shard uint64) error { // the first one says yes and nothing happens
			s.mu.Lock()
			defer s.mu.Unlock()
			if stuck == 0 {
				stuck = shard
			}
			if stuck == shard {
				return errSilent
			}
			return nil
		}
		silent(s)
		s.kill()
		s.back()
		s.b.Start(t.Context())
		defer s.b.Stop()
		elapse(3500 * time.Millisecond)
		if s.called() != 1 {
			t.Fatalf("%d transfers while the first has its time", s.called())
		}
		elapse(2 * time.Second)
		if !s.even() { // another partition of the same topic took its place
			t.Fatalf("leaders %v", s.leaders.Counts())
		}
	})
}

var errSilent = errors.New("nothing happens")

// silent makes transfers that break with errSilent return nil.
func silent(s *stage) {
	inner := s.b.o.Transfer
	s.b.o.Transfer = func(ctx context.Context, shard, from, to uint64) error {
		if err := inner(ctx, shard, from, to); !errors.Is(err, errSilent) {
			return err
		}
		return nil
	}
}

func TestAFailedMoveLeavesItsPartitionAloneForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1, 3, BalancerOptions{Interval: time.Second, MoveRounds: 2})
		s.broken = func(uint64) error { return errors.New("not now") }
		s.kill()
		s.back()
		s.b.Start(t.Context())
		defer s.b.Stop()
		elapse(1500 * time.Millisecond)
		first := s.called()
		if first == 0 || first > 2 {
			t.Fatalf("%d transfers in one interval", first)
		}
		s.set(func() { s.broken = nil })
		elapse(7 * time.Second)
		if !s.even() {
			t.Fatalf("leaders %v", s.leaders.Counts())
		}
	})
}

func TestATopicThatElectsIsLeftAloneAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1, 9, BalancerOptions{Interval: time.Second})
		s.kill()
		s.back()
		lost := s.image.Topics()[0].Partitions[4].Shard
		node, _, _ := s.leaders.Leader(lost)
		s.leaders.Lost(node, lost)
		s.b.Start(t.Context())
		defer s.b.Stop()
		s.b.Nudge()
		elapse(2500 * time.Millisecond)
		if s.called() != 0 {
			t.Fatalf("%d transfers", s.called())
		}
		elapse(2 * time.Second) // it does not seem to come back
		if s.called() == 0 || s.b.Wanted() != 0 {
			t.Fatalf("%d transfers, leaders %v", s.called(), s.leaders.Counts())
		}
	})
}

func TestStopGivesUpMovesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1, 9, BalancerOptions{Interval: time.Second, MoveRounds: 1000})
		s.takes = 24 * time.Hour
		s.kill()
		s.back()
		s.b.Start(t.Context())
		elapse(2 * time.Second)
		start := time.Now()
		s.b.Stop()
		if s.called() == 0 || s.running() != 0 || time.Since(start) != 0 {
			t.Fatalf("%d transfers, %d still run, after %v", s.called(), s.running(), time.Since(start))
		}
	})
}
