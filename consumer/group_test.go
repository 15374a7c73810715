package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"logbroker/internal/client/clienttest"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// quick makes waiting short.
func quick(o *options) {
	o.maxWait, o.replyTimeout = 50*time.Millisecond, 100*time.Millisecond
	o.retrySpaceMin, o.retrySpaceMax = time.Millisecond, 20*time.Millisecond
	o.attempt = 300 * time.Millisecond
	o.unreleasedTimeout = 50 * time.Millisecond
}

func member(t testing.TB, b *clienttest.Broker, opts ...Option) *Consumer {
	t.Helper()
	opts = append([]Option{quick, FromEarliest(), WithAutoCommit(20 * time.Millisecond)}, opts...)
	c, err := New(within(t), b.URLs()[:1], "g", []string{"orders"}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// shared returns a broker with records 0 to n-1 in each partition of orders.
func shared(t testing.TB, nodes, partitions, n int) *clienttest.Broker {
	t.Helper()
	b := clienttest.Start(t, nodes)
	b.CreateTopic("orders", partitions)
	for p := range partitions {
		addTo(b, p, 0, n)
	}
	return b
}

// addTo appends records from to from+n-1 to a partition.
func addTo(b *clienttest.Broker, partition, from, n int) {
	const per = 10
	for i := from; i < from+n; i += per {
		var values []string
		for k := i; k < min(i+per, from+n); k++ {
			values = append(values, fmt.Sprint(k))
		}
		b.Append("orders", int32(partition), recordbatch.None, values...)
	}
}

// seen gathers what members were handed.
type seen struct {
	mu    sync.Mutex
	times map[TopicPartition]map[int64]int
	total int
}

func newSeen() *seen { return &seen{times: map[TopicPartition]map[int64]int{}} }

func (s *seen) note(r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := TopicPartition{r.Topic, r.Partition}
	if s.times[p] == nil {
		s.times[p] = map[int64]int{}
	}
	if s.times[p][r.Offset]++; s.times[p][r.Offset] == 1 {
		s.total++
	}
}

// repeated counts how many records came more than once.
func (s *seen) repeated() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, offsets := range s.times {
		for _, times := range offsets {
			if times > 1 {
				n++
			}
		}
	}
	return n
}

func (s *seen) distinct() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// tail runs a member that marks everything it gets, and checks the order, until
// the consumer is closed.
func (s *seen) tail(t testing.TB, c *Consumer, wg *sync.WaitGroup) {
	wg.Go(func() {
		last := map[*marks]int64{}
		for {
			recs, err := c.Poll(context.Background(), 1+rand.IntN(20))
			if err != nil {
				if !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
				return
			}
			for _, r := range recs {
				if at, some := last[r.marks]; some && r.Offset != at+1 {
					t.Errorf("%s/%d: %d after %d", r.Topic, r.Partition, r.Offset, at)
				}
				last[r.marks] = r.Offset
				s.note(r)
			}
			c.Mark(recs...)
		}
	})
}

func awaitCommitted(t testing.TB, b *clienttest.Broker, partitions int, want int64) {
	t.Helper()
	clienttest.Await(t, "the commits", func() bool {
		for p := range partitions {
			if b.Committed("g", "orders", int32(p)) != want {
				return false
			}
		}
		return true
	})
}

// awaitShares waits until the members own so many partitions each.
func awaitShares(t testing.TB, b *clienttest.Broker, want ...int) {
	t.Helper()
	clienttest.Await(t, fmt.Sprintf("shares of %v", want), func() bool {
		load := map[string]int{}
		for _, id := range b.Owners("g") {
			load[id]++
		}
		var got []int
		for _, n := range load {
			got = append(got, n)
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

func TestAMemberReadsEverythingAndCommitsWhatIsMarked(t *testing.T) {
	b := shared(t, 1, 3, 50)
	c := member(t, b)
	var unmarked []Record
	for n := 0; n < 150; {
		recs, err := c.Poll(within(t), 7)
		if err != nil {
			t.Fatal(err)
		}
		n += len(recs)
		for _, r := range recs {
			if r.Partition == 1 && r.Offset >= 20 {
				unmarked = append(unmarked, r)
			} else {
				c.Mark(r)
			}
		}
	}
	if err := c.Commit(within(t)); err != nil {
		t.Fatal(err)
	}
	for p, want := range []int64{50, 20, 50} {
		if got := b.Committed("g", "orders", int32(p)); got != want {
			t.Errorf("committed %d of partition %d, want %d", got, p, want)
		}
	}
	slices.Reverse(unmarked)
	c.Mark(unmarked...)
	if err := c.Drain(within(t)); err != nil {
		t.Fatal(err)
	}
	awaitCommitted(t, b, 3, 50)
	if m := b.Members("g"); len(m) != 0 {
		t.Fatalf("a member that drained is still in the group: %v", m)
	}
	if _, err := c.Poll(within(t), 1); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestMembersShareAndTakeOverWithoutLossOrRepetition(t *testing.T) {
	t.Parallel()
	b := shared(t, 2, 12, 40)
	var all sync.WaitGroup
	s := newSeen()
	one := member(t, b)
	s.tail(t, one, &all)
	awaitShares(t, b, 12)
	two, three := member(t, b), member(t, b)
	s.tail(t, two, &all)
	s.tail(t, three, &all)
	awaitShares(t, b, 4, 4, 4)
	for p := range 12 {
		addTo(b, p, 40, 40)
	}
	awaitCommitted(t, b, 12, 80)
	if err := two.Drain(within(t)); err != nil {
		t.Fatal(err)
	}
	awaitShares(t, b, 6, 6)
	for p := range 12 {
		addTo(b, p, 80, 40)
	}
	awaitCommitted(t, b, 12, 120)
	if s.distinct() != 12*120 || s.repeated() != 0 {
		t.Fatalf("%d records seen, %d more than once", s.distinct(), s.repeated())
	}
	if err := errors.Join(one.Drain(within(t)), three.Drain(within(t))); err != nil {
		t.Fatal(err)
	}
	all.Wait()
}

func TestAPartitionIsGivenUpOnlyWhenItsRecordsAreFinished(t *testing.T) {
	b := shared(t, 1, 2, 30)
	var revoked []TopicPartition
	called := make(chan struct{})
	one := member(t, b, WithAutoCommit(0), WithOnRevoked(func(_ context.Context, _ *Consumer, p []TopicPartition) {
		revoked = p
		close(called)
	}))
	var held []Record
	for len(held) < 60 {
		recs, err := one.Poll(within(t), 10)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, recs...)
	}
	one.Mark(held[0])
	two := member(t, b)
	<-called
	if len(revoked) != 1 || len(one.Positions()) != 1 {
		t.Fatalf("revoked %v, left %v", revoked, one.Positions())
	}
	beats := b.Count("lb.g.heartbeat")
	clienttest.Await(t, "more heartbeats", func() bool { return b.Count("lb.g.heartbeat") > beats+10 })
	if id := b.Owners("g")[clienttest.Slot{Topic: "orders", Partition: revoked[0].Partition}]; id != one.MemberID() {
		t.Fatal("the partition moved before its records were finished")
	}
	one.Mark(held...)
	awaitShares(t, b, 1, 1)
	if got := b.Committed("g", "orders", revoked[0].Partition); got != 30 {
		t.Fatalf("committed %d on the way out", got)
	}
	addTo(b, int(revoked[0].Partition), 30, 1)
	recs, err := two.Poll(within(t), 100)
	if err != nil || len(recs) != 1 || recs[0].Offset != 30 {
		t.Fatal(recs, err)
	}
}

func TestUnfinishedRecordsHoldAPartitionForTheRebalanceTimeOutOnly(t *testing.T) {
	t.Parallel()
	b := shared(t, 1, 2, 30)
	one := member(t, b, WithRebalanceTimeout(time.Second))
	var unfinished []Record
	for n := 0; n < 60; {
		recs, err := one.Poll(within(t), 100)
		if err != nil {
			t.Fatal(err)
		}
		n += len(recs)
		for _, r := range recs {
			if r.Offset < 10 {
				one.Mark(r)
			} else {
				unfinished = append(unfinished, r)
			}
		}
	}
	two := member(t, b)
	awaitShares(t, b, 1, 1)
	recs, err := two.Poll(within(t), 1)
	if err != nil || recs[0].Offset != 10 {
		t.Fatal(recs, err)
	}
	one.Mark(unfinished...)
	wantLossOnce(t, one, errcode.PartitionNotOwned)
}

func TestASilentMemberLosesEverythingAndJoinsAgain(t *testing.T) {
	b := shared(t, 1, 2, 20)
	lost := make(chan []TopicPartition, 1)
	c := member(t, b, WithAutoCommit(0), WithOnLost(func(_ context.Context, _ *Consumer, p []TopicPartition) { lost <- p }))
	var old []Record
	for len(old) < 40 {
		recs, err := c.Poll(within(t), 100)
		if err != nil {
			t.Fatal(err)
		}
		old = append(old, recs...)
	}
	for _, r := range old {
		if r.Offset < 5 {
			c.Mark(r)
		}
	}
	if err := c.Commit(within(t)); err != nil {
		t.Fatal(err)
	}
	b.EndSession("g", c.MemberID())
	if p := <-lost; len(p) != 2 {
		t.Fatal(p)
	}
	c.Mark(old...) // not ours any more
	again := 0
	for again < 30 {
		recs, err := c.Poll(within(t), 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			if r.Offset < 5 {
				t.Fatalf("offset %d was committed and comes again", r.Offset)
			}
		}
		again += len(recs)
	}
	for _, want := range []errcode.Code{errcode.UnknownMemberID, errcode.None} {
		if err := c.Commit(within(t)); errcode.Of(err) != want {
			t.Fatalf("%v, want %v", err, want)
		}
	}
	if got := b.Committed("g", "orders", 0); got != 5 {
		t.Fatalf("%d is committed by marks of a lost ownership", got)
	}
}

func TestACommitOfASilentMemberIsRefused(t *testing.T) {
	b := shared(t, 1, 1, 20)
	b.SetHeartbeatInterval(60_000)
	c := member(t, b, WithAutoCommit(0))
	recs, err := c.Poll(within(t), 10)
	if err != nil {
		t.Fatal(err)
	}
	c.Mark(recs...)
	b.EndSession("g", c.MemberID())
	if err := c.Commit(within(t)); errcode.Of(err) != errcode.UnknownMemberID {
		t.Fatal(err)
	}
	clienttest.Await(t, "the new membership", func() bool { return len(b.Owners("g")) == 1 })
	if got := b.Committed("g", "orders", 0); got != -1 {
		t.Fatal(got)
	}
}

func TestTheCoordinatorMovesUnderItsMembers(t *testing.T) {
	t.Parallel()
	b := shared(t, 2, 4, 100)
	var all sync.WaitGroup
	s := newSeen()
	lost := WithOnLost(func(context.Context, *Consumer, []TopicPartition) { t.Error("the membership was lost") })
	one, two := member(t, b, lost), member(t, b, lost)
	s.tail(t, one, &all)
	s.tail(t, two, &all)
	clienttest.Await(t, "both members", func() bool { return len(one.Positions()) == 2 && len(two.Positions()) == 2 })
	for i := range 6 {
		b.MoveCoordinator(uint64(i)%3 + 1 - uint64(i)%3/2*3) // 1, 2, nobody
		if i%2 == 0 {
			b.UnlingerCoordinator()
		}
		for p := range 4 {
			addTo(b, p, 100+10*i, 10)
		}
		before := s.distinct()
		clienttest.Await(t, "fetching goes on", func() bool { return s.distinct() >= 4*(110+10*i) || s.distinct() > before+5 })
	}
	b.MoveCoordinator(2)
	awaitCommitted(t, b, 4, 160)
	if s.repeated() != 0 {
		t.Fatalf("%d records came again", s.repeated())
	}
	if err := errors.Join(one.Drain(within(t)), two.Drain(within(t))); err != nil {
		t.Fatal(err)
	}
	all.Wait()
}

func TestFaultsOfTheCoordinatorLoseNothing(t *testing.T) {
	t.Parallel()
	faults := map[string]clienttest.Fault{
		"refused for a while":     {Refuse: errcode.CoordinatorNotAvailable},
		"not the coordinator":     {Refuse: errcode.NotCoordinator},
		"throttled":               {Refuse: errcode.Throttled},
		"timed out on the inside": {Refuse: errcode.RequestTimedOut},
		"replies twice":           {Twice: true},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := shared(t, 1, 4, 100)
			b.OnGroup(func(c clienttest.GroupCall) clienttest.Fault {
				if c.N%3 != 0 && c.N < 30 {
					return fault
				}
				return clienttest.Fault{}
			})
			var all sync.WaitGroup
			s := newSeen()
			one, two := member(t, b), member(t, b)
			s.tail(t, one, &all)
			s.tail(t, two, &all)
			awaitCommitted(t, b, 4, 100)
			if s.repeated() != 0 {
				t.Fatalf("%d records came again", s.repeated())
			}
			if err := errors.Join(one.Drain(within(t)), two.Drain(within(t))); err != nil {
				t.Fatal(err)
			}
			all.Wait()
		})
	}
}

func TestLostRepliesOfTheCoordinatorLoseNothing(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{protocol.VerbGroupHeartbeat, protocol.VerbGroupCommit, protocol.VerbGroupFetchOffsets} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			b := shared(t, 1, 2, 100)
			var once sync.Once
			b.OnGroup(func(c clienttest.GroupCall) (f clienttest.Fault) {
				if c.Verb == verb {
					once.Do(func() { f.DropReply = true })
				}
				return f
			})
			var all sync.WaitGroup
			s := newSeen()
			one := member(t, b)
			s.tail(t, one, &all)
			awaitCommitted(t, b, 2, 100)
			if s.repeated() != 0 {
				t.Fatalf("%d records came again", s.repeated())
			}
			if err := one.Drain(within(t)); err != nil {
				t.Fatal(err)
			}
			all.Wait()
		})
	}
}

func TestOptionsOfAGroupAreChecked(t *testing.T) {
	t.Parallel()
	if every := defaultOptions().autoCommit; every != 5*time.Second {
		t.Errorf("automatic commits every %s", every)
	}
	many := make([]string, protocol.GroupTopicsMax+1)
	for i := range many {
		many[i] = fmt.Sprint("t", i)
	}
	for _, x := range []struct {
		group  string
		topics []string
		code   errcode.Code
	}{{"", []string{"t"}, errcode.InvalidGroupID}, {strings.Repeat("g", 250), []string{"t"}, errcode.InvalidGroupID}, {"g", []string{"a b"}, errcode.InvalidTopic}, {"g", many, errcode.InvalidRequest}} {
		if _, err := New(within(t), nil, x.group, x.topics); errcode.Of(err) != x.code {
			t.Errorf("%v", err)
		}
	}
	_, err := New(within(t), nil, "g", nil, FromOffset(3), WithMaxPrefetchBytes(1), WithAutoCommit(-1), WithSessionTimeout(1), WithRebalanceTimeout(1))
	for _, want := range []string{"topic", "FromOffset", "WithMaxPrefetchBytes", "WithAutoCommit", "WithSessionTimeout", "WithRebalanceTimeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing in: %v", want, err)
		}
	}
	if _, err := NewReader(within(t), nil, "t", 0, WithInstanceID("x")); err == nil || !strings.Contains(err.Error(), "WithInstanceID") {
		t.Error(err)
	}
	b := clienttest.Start(t, 1)
	if _, err := New(within(t), b.URLs(), "g", []string{"nope"}); errcode.Of(err) != errcode.UnknownTopicOrPartition {
		t.Error(err)
	}
}

func TestTwoMembersCannotHaveOneInstanceID(t *testing.T) {
	t.Parallel()
	b := shared(t, 1, 2, 10)
	one := member(t, b, WithInstanceID("a"))
	awaitShares(t, b, 2)
	if _, err := New(within(t), b.URLs(), "g", []string{"orders"}, quick, WithInstanceID("a")); errcode.Of(err) != errcode.UnreleasedInstanceID {
		t.Fatal(err)
	}
	if err := one.Drain(within(t)); err != nil {
		t.Fatal(err)
	}
	awaitShares(t, b, 2) // they wait
	two := member(t, b, WithInstanceID("a"))
	awaitShares(t, b, 2)
	if b.Members("g")[0] != two.MemberID() {
		t.Fatal(b.Members("g"))
	}
}

func TestAJoinCutShortSaysWhyTheCoordinatorRefusedIt(t *testing.T) {
	t.Parallel()
	b := shared(t, 1, 1, 0)
	ctx, cancel := context.WithCancel(within(t))
	b.OnGroup(func(c clienttest.GroupCall) clienttest.Fault {
		if c.N == 1 {
			return clienttest.Fault{Refuse: errcode.UnreleasedInstanceID}
		}
		cancel()
		return clienttest.Fault{Drop: true}
	})
	_, err := New(ctx, b.URLs(), "g", []string{"orders"}, quick, func(o *options) { o.unreleasedTimeout = time.Hour })
	if errcode.Of(err) != errcode.UnreleasedInstanceID || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestATopicThatIsMadeAnewIsReadFromItsStart(t *testing.T) {
	b := shared(t, 1, 1, 30)
	var all sync.WaitGroup
	s := newSeen()
	c := member(t, b)
	s.tail(t, c, &all)
	awaitCommitted(t, b, 1, 30)
	b.CreateTopic("orders", 1)
	addTo(b, 0, 0, 7)
	awaitCommitted(t, b, 1, 7)
	if err := c.Drain(within(t)); err != nil {
		t.Fatal(err)
	}
	all.Wait()
}

func TestAMemberHearsOfAChangeBeforeItsNextHeartbeatIsDue(t *testing.T) {
	b := shared(t, 1, 4, 20)
	b.SetHeartbeatInterval(60_000)
	var all sync.WaitGroup
	s := newSeen()
	one := member(t, b)
	s.tail(t, one, &all)
	awaitShares(t, b, 4)
	two := member(t, b)
	s.tail(t, two, &all)
	awaitShares(t, b, 2, 2)
	b.AddPartitions("orders", 6)
	awaitShares(t, b, 3, 3)
	if err := two.Drain(within(t)); err != nil {
		t.Fatal(err)
	}
	awaitShares(t, b, 6)
	if err := one.Drain(within(t)); err != nil {
		t.Fatal(err)
	}
	all.Wait()
}

func TestAMemberThatIsCutOffTakesItselfForFenced(t *testing.T) {
	b := shared(t, 1, 1, 20)
	b.SetSessionTimeout(100)
	lost := make(chan struct{}, 1)
	c := member(t, b, WithAutoCommit(0), WithOnLost(func(context.Context, *Consumer, []TopicPartition) { signal(lost) }))
	if _, err := c.Poll(within(t), 5); err != nil {
		t.Fatal(err)
	}
	b.MoveCoordinator(0)
	<-lost
	if p := c.Positions(); len(p) != 0 {
		t.Fatal(p)
	}
	b.MoveCoordinator(1)
	recs, err := c.Poll(within(t), 5)
	if err != nil || recs[0].Offset != 0 {
		t.Fatal(recs, err)
	}
}

func TestNothingIsHandedOutOnceTheSessionIsOver(t *testing.T) {
	b := shared(t, 1, 1, 20)
	c := member(t, b)
	if _, err := c.Poll(within(t), 5); err != nil {
		t.Fatal(err)
	}
	b.MoveCoordinator(0)
	beats := b.Count("lb.g.heartbeat") // the answer to the one under way may still come
	clienttest.Await(t, "refused heartbeats", func() bool { return b.Count("lb.g.heartbeat") > beats+2 })
	c.validUntil.Store(1) // as after a long stop of the process
	if recs, err := c.pollReady(5); err != nil || len(recs) > 0 {
		t.Fatal(recs, err)
	}
	b.MoveCoordinator(1)
	if recs, err := c.Poll(within(t), 5); err != nil || len(recs) == 0 {
		t.Fatal(recs, err)
	}
}

func TestACommitWithAnOldEpochIsRepeatedWithTheNewOne(t *testing.T) {
	b := shared(t, 1, 2, 20)
	c := member(t, b, WithAutoCommit(0))
	var recs []Record
	for len(recs) < 40 {
		more, err := c.Poll(within(t), 100)
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, more...)
	}
	var refused sync.Once
	b.OnGroup(func(call clienttest.GroupCall) (f clienttest.Fault) {
		if call.Verb == protocol.VerbGroupCommit {
			refused.Do(func() { f.Refuse = errcode.StaleMemberEpoch })
		}
		return f
	})
	c.Mark(recs...)
	if err := c.Commit(within(t)); err != nil {
		t.Fatal(err)
	}
	awaitCommitted(t, b, 2, 20)
}

func TestAMembershipThatIsRefusedForGoodEndsEveryCall(t *testing.T) {
	b := shared(t, 1, 1, 20)
	c := member(t, b)
	b.OnGroup(func(clienttest.GroupCall) clienttest.Fault {
		return clienttest.Fault{Refuse: errcode.FencedInstanceID}
	})
	var err error
	for err == nil {
		_, err = c.Poll(within(t), 5)
	}
	if errcode.Of(err) != errcode.FencedInstanceID {
		t.Fatal(err)
	}
	if err := c.Run(within(t), nil); errcode.Of(err) != errcode.FencedInstanceID {
		t.Fatal(err)
	}
}
