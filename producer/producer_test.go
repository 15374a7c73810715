package producer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/client/clienttest"
	"logbroker/internal/errcode"
)

// fast makes attempts time out soon enough for tests that lose replies.
func fast(o *options) { o.attemptFirst = 60 * time.Millisecond }

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, b *clienttest.Broker, opts ...Option) *Producer {
	t.Helper()
	p, err := New(within(t), b.URLs()[:1], append([]Option{fast}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Close(ctx) // tests that leave records behind expect the error
	})
	return p
}

func value(topic, v string) Record { return Record{Topic: topic, Value: []byte(v)} }

func to(r Record, partition int32) Record {
	r.Partition = &partition
	return r
}

// journal collects results in callback order, by partition.
type journal struct {
	mu     sync.Mutex
	values map[int32][]string
	offs   map[int32][]int64
	errs   []error
	calls  int
}

func (j *journal) done(v string) func(Receipt, error) {
	return func(r Receipt, err error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.calls++
		if err != nil {
			j.errs = append(j.errs, err)
			return
		}
		if j.values == nil {
			j.values, j.offs = make(map[int32][]string), make(map[int32][]int64)
		}
		j.values[r.Partition] = append(j.values[r.Partition], v)
		j.offs[r.Partition] = append(j.offs[r.Partition], r.Offset)
	}
}

// sendMany sends n records, in small batches, and flushes.
func sendMany(t *testing.T, p *Producer, topic string, n int) *journal {
	t.Helper()
	j := new(journal)
	ctx := within(t)
	for i := range n {
		v := strconv.Itoa(i)
		r := value(topic, v)
		r.Key = []byte(v)
		p.SendAsync(ctx, r, j.done(v))
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	return j
}

// mustMatch compares what was acked with what is stored: nothing lost, nothing
// twice, nothing out of order.
func (j *journal) mustMatch(t *testing.T, b *clienttest.Broker, topic string, partitions, n int) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.errs) > 0 {
		t.Fatalf("%d records failed, first: %v", len(j.errs), j.errs[0])
	}
	if j.calls != n {
		t.Fatalf("%d callbacks for %d records", j.calls, n)
	}
	total := 0
	for i := range int32(partitions) {
		stored := b.Values(topic, i)
		total += len(stored)
		if !slices.Equal(stored, j.values[i]) {
			t.Fatalf("partition %d stores %d records, %d were acked in this order; first difference: %s",
				i, len(stored), len(j.values[i]), difference(stored, j.values[i]))
		}
		for k, o := range j.offs[i] {
			if o != int64(k) {
				t.Fatalf("partition %d: receipt %d has offset %d", i, k, o)
			}
		}
		if !slices.IsSortedFunc(stored, func(x, y string) int { return atoi(x) - atoi(y) }) {
			t.Fatalf("partition %d is out of order", i)
		}
	}
	if total != n {
		t.Fatalf("%d records stored, %d sent", total, n)
	}
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func difference(a, b []string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("at %d: %s stored, %s acked", i, a[i], b[i])
		}
	}
	return "the length"
}

func TestSendStoresTheRecordAndReturnsItsOffset(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	p := open(t, b)
	for i := range 3 {
		at := time.UnixMilli(int64(5000 + i))
		r := value("orders", "v"+strconv.Itoa(i))
		r.Timestamp = at
		got, err := p.Send(within(t), r)
		if err != nil {
			t.Fatal(err)
		}
		want := Receipt{Topic: "orders", Offset: int64(i), Timestamp: at}
		if got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	}
	if got := b.Values("orders", 0); !slices.Equal(got, []string{"v0", "v1", "v2"}) {
		t.Fatal(got)
	}
}

func TestNothingIsLostDoubledOrReorderedUnderFaults(t *testing.T) {
	faults := map[string]clienttest.Fault{
		"request lost":          {Drop: true},
		"reply lost":            {DropReply: true},
		"reply twice":           {Twice: true},
		"not enough replicas":   {Refuse: errcode.NotEnoughReplicas},
		"throttled":             {Refuse: errcode.Throttled, RetryAfter: 3 * time.Millisecond},
		"leader says no":        {Refuse: errcode.NotLeaderOrFollower},
		"fenced":                {Refuse: errcode.FencedLeaderEpoch},
		"stored but timed out":  {Answer: errcode.RequestTimedOut},
		"timed out":             {Refuse: errcode.RequestTimedOut},
		"stored but not leader": {Answer: errcode.NotLeaderOrFollower},
		"unheard-of code":       {Answer: 7777},
		"damaged on the way":    {Refuse: errcode.CorruptMessage},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := clienttest.Start(t, 1)
			b.CreateTopic("orders", 2)
			b.OnProduce(func(r clienttest.Produce) clienttest.Fault {
				if r.N%5 == 2 {
					return fault
				}
				return clienttest.Fault{}
			})
			p := open(t, b, WithBatchBytes(1024), WithCompression(None))
			sendMany(t, p, "orders", 400).mustMatch(t, b, "orders", 2, 400)
		})
	}
}

func TestNothingIsLostDoubledOrReorderedUnderRandomFaults(t *testing.T) {
	kinds := []clienttest.Fault{
		{Drop: true},
		{DropReply: true},
		{Twice: true},
		{Refuse: errcode.Throttled, RetryAfter: time.Millisecond},
		{Refuse: errcode.NotLeaderOrFollower},
		{Answer: errcode.RequestTimedOut},
		{Refuse: errcode.LeaderNotAvailable},
	}
	for seed := range uint64(4) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			b := clienttest.Start(t, 1)
			b.CreateTopic("orders", 3)
			var mu sync.Mutex
			rng := rand.New(rand.NewPCG(seed, 1))
			b.OnProduce(func(clienttest.Produce) clienttest.Fault {
				mu.Lock()
				defer mu.Unlock()
				if rng.IntN(4) > 0 {
					return clienttest.Fault{}
				}
				return kinds[rng.IntN(len(kinds))]
			})
			p := open(t, b, WithBatchBytes(1024), WithMaxInFlight(1+int(seed)*4))
			sendMany(t, p, "orders", 1500).mustMatch(t, b, "orders", 3, 1500)
		})
	}
}

func TestLeaderChangesKeepOrder(t *testing.T) {
	b := clienttest.Start(t, 2)
	b.CreateTopic("orders", 1)
	var once [4]sync.Once
	b.OnProduce(func(r clienttest.Produce) clienttest.Fault {
		for i, at := range []int{3, 8, 14, 19} {
			if r.N == at {
				once[i].Do(func() { go b.MoveLeader("orders", 0, uint64(i%2+1)%2+1) })
			}
		}
		return clienttest.Fault{}
	})
	p := open(t, b, WithBatchBytes(1024), WithCompression(None))
	sendMany(t, p, "orders", 1000).mustMatch(t, b, "orders", 1, 1000)
}

func TestNoLeaderForAWhileOnlyDelays(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	p := open(t, b)
	b.Unlinger("orders", 0, false)
	j := new(journal)
	p.SendAsync(within(t), value("orders", "0"), j.done("0"))
	// Refreshes of the metadata show that no responders was met.
	before := b.Count("lb.m.metadata")
	clienttest.Await(t, "a metadata refresh", func() bool { return b.Count("lb.m.metadata") > before })
	b.Relead("orders", 0)
	if err := p.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	j.mustMatch(t, b, "orders", 1, 1)
}

func TestServerRestartOnlyDelays(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	p := open(t, b, WithBatchBytes(1024))
	j := new(journal)
	for i := range 300 {
		if i == 100 {
			b.StopNode(1)
		}
		if i == 200 {
			b.RestartNode(1)
		}
		v := strconv.Itoa(i)
		p.SendAsync(within(t), value("orders", v), j.done(v))
	}
	if err := p.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	j.mustMatch(t, b, "orders", 1, 300)
}

func TestDuplicateIsASuccessWithTheFirstOffset(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	b.OnProduce(func(r clienttest.Produce) clienttest.Fault { return clienttest.Fault{DropReply: r.N == 2} })
	p := open(t, b)
	for i := range 2 {
		got, err := p.Send(within(t), value("orders", "x"))
		if err != nil || got.Offset != int64(i) || got.Duplicate != (i == 1) {
			t.Fatal(got, err)
		}
	}
}

func TestALateReplyOfTheFirstAttemptCounts(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	release := make(chan struct{})
	b.OnProduce(func(r clienttest.Produce) clienttest.Fault {
		if r.N == 1 {
			return clienttest.Fault{Hold: release}
		}
		if r.N == 2 {
			close(release)
		}
		return clienttest.Fault{Drop: true}
	})
	p := open(t, b)
	got, err := p.Send(within(t), value("orders", "x"))
	if err != nil || got.Offset != 0 || got.Duplicate {
		t.Fatal(got, err)
	}
}

// A leader that stands still answers nothing, and the metadata knows its successor:
// a batch that is sent again at once goes to the silent one again.
func TestAfterAnAttemptWithoutAnAnswerTheMetadataIsWaitedFor(t *testing.T) {
	p := open(t, clienttest.Start(t, 1))
	q, now := &partition{p: p, topic: "orders", sticky: new(sticky)}, time.Now()
	q.noteFailure(now, client.ErrTimeout, false)
	if space, want := q.notBefore.Sub(now), p.options.attemptFirst/silenceShare; space < want {
		t.Errorf("sent again after %v, not %v", space, want)
	}
}

func TestDeliveryTimeoutOfWhatWasNeverProposedIsAPlainError(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	b.OnProduce(func(clienttest.Produce) clienttest.Fault {
		return clienttest.Fault{Refuse: errcode.NotEnoughReplicas}
	})
	p := open(t, b, WithDeliveryTimeout(time.Second))
	_, err := p.Send(within(t), value("orders", "x"))
	if !errors.Is(err, ErrDeliveryTimeout) || errors.Is(err, ErrUnknownOutcome) || errcode.Of(err) != errcode.NotEnoughReplicas {
		t.Fatal(err)
	}
	b.OnProduce(nil)
	if r, err := p.Send(within(t), value("orders", "y")); err != nil || r.Offset != 0 {
		t.Fatal(r, err)
	}
}

func TestDeliveryTimeoutOfWhatMayBeStoredIsUnknownAndTheEpochRises(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	var mu sync.Mutex
	epochs := map[int16]bool{}
	lose := true
	b.OnProduce(func(r clienttest.Produce) clienttest.Fault {
		mu.Lock()
		defer mu.Unlock()
		epochs[r.Batch.ProducerEpoch()] = true
		return clienttest.Fault{DropReply: lose}
	})
	p := open(t, b, WithDeliveryTimeout(200*time.Millisecond))
	_, err := p.Send(within(t), value("orders", "x"))
	if !errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrDeliveryTimeout) {
		t.Fatal(err)
	}
	mu.Lock()
	lose = false
	mu.Unlock()
	if r, err := p.Send(within(t), value("orders", "y")); err != nil || r.Offset != 1 {
		t.Fatal(r, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if !epochs[0] || !epochs[1] || len(epochs) != 2 {
		t.Fatalf("epochs seen: %v, want 0 and 1", epochs)
	}
}

func TestUnknownOutcomeNeverComesBeforeTheDeliveryTimeout(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	b.OnProduce(func(clienttest.Produce) clienttest.Fault { return clienttest.Fault{Drop: true} })
	timeout := 250 * time.Millisecond
	p := open(t, b, WithDeliveryTimeout(timeout), WithBatchBytes(1024), WithCompression(None))
	var mu sync.Mutex
	var wrong []time.Duration
	calls := 0
	for i := range 100 {
		sent := time.Now()
		r := value("orders", strconv.Itoa(i)+string(make([]byte, 100)))
		p.SendAsync(within(t), r, func(_ Receipt, err error) {
			mu.Lock()
			defer mu.Unlock()
			calls++
			// A record may join a batch that is a little older.
			if took := time.Since(sent); err == nil || took < timeout-50*time.Millisecond {
				wrong = append(wrong, took)
			}
		})
	}
	if err := p.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if calls != 100 || len(wrong) > 0 {
		t.Fatalf("%d callbacks, too early: %v", calls, wrong)
	}
}

func TestABatchTheBrokerCallsTooLargeFailsAlone(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	b.OnProduce(func(r clienttest.Produce) clienttest.Fault {
		if r.N == 3 {
			return clienttest.Fault{Refuse: errcode.MessageTooLarge}
		}
		return clienttest.Fault{}
	})
	p := open(t, b, WithBatchBytes(1024), WithCompression(None), WithLinger(time.Millisecond))
	j := sendMany(t, p, "orders", 300)
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.errs) == 0 || errcode.Of(j.errs[0]) != errcode.MessageTooLarge {
		t.Fatal(j.errs)
	}
	stored := b.Values("orders", 0)
	if !slices.Equal(stored, j.values[0]) || len(stored)+len(j.errs) != 300 {
		t.Fatalf("%d stored, %d acked, %d failed", len(stored), len(j.values[0]), len(j.errs))
	}
}

func TestAForgottenProducerGoesOnUnderANewID(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	p := open(t, b)
	for i := range 3 {
		if r, err := p.Send(within(t), value("orders", "x")); err != nil || r.Offset != int64(i) {
			t.Fatal(r, err)
		}
		b.ForgetProducers("orders", 0)
	}
}

func TestATopicMadeAnewIsAnotherTopic(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	p := open(t, b)
	if _, err := p.Send(within(t), value("orders", "old")); err != nil {
		t.Fatal(err)
	}
	b.CreateTopic("orders", 1)
	if _, err := p.Send(within(t), value("orders", "lost")); errcode.Of(err) != errcode.UnknownTopicID {
		t.Fatal(err)
	}
	clienttest.Await(t, "the new topic to be used", func() bool {
		_, err := p.Send(within(t), value("orders", "new"))
		return err == nil
	})
	if got := b.Values("orders", 0); !slices.Equal(got, []string{"new"}) {
		t.Fatal(got)
	}
}

func TestRefusalsBeforeSending(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 2)
	b.SetMaxBatchBytes("orders", 4096)
	p := open(t, b)
	cases := []struct {
		name string
		r    Record
		want error
	}{
		{"too large", Record{Topic: "orders", Value: make([]byte, 5000)}, ErrRecordTooLarge},
		{"larger than the buffer", Record{Topic: "orders", Value: make([]byte, 33<<20)}, ErrRecordTooLarge},
		{"partition", to(value("orders", "x"), 2), ErrNoSuchPartition},
		{"negative partition", to(value("orders", "x"), -1), ErrNoSuchPartition},
		{"unknown topic", value("nope", "x"), errcode.New(errcode.UnknownTopicOrPartition, "")},
		{"bad name", value("a..b", "x"), errcode.New(errcode.InvalidTopic, "")},
	}
	for _, c := range cases {
		if _, err := p.Send(within(t), c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if r, err := p.Send(within(t), to(value("orders", "x"), 1)); err != nil || r.Partition != 1 {
		t.Fatal(r, err)
	}
}

func TestTheBufferBoundsWhatIsUnacked(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	release := make(chan struct{})
	b.OnProduce(func(clienttest.Produce) clienttest.Fault { return clienttest.Fault{Hold: release} })
	p := open(t, b, WithBatchBytes(1024), WithBufferBytes(4096), func(o *options) { o.attemptFirst = 10 * time.Second })
	first, err := p.client.Topic(within(t), "orders") // TrySend does not wait for it
	if err != nil || first.Name != "orders" {
		t.Fatal(err)
	}
	j := new(journal)
	n := 0
	for ; ; n++ {
		err := p.TrySend(Record{Topic: "orders", Value: make([]byte, 200)}, j.done("x"))
		if errors.Is(err, ErrBufferFull) {
			break
		}
		if err != nil || n > 100 {
			t.Fatal(n, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Send(ctx, Record{Topic: "orders", Value: make([]byte, 500)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	close(release)
	if err := p.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	if got := len(b.Values("orders", 0)); got != n {
		t.Fatalf("%d stored, %d accepted", got, n)
	}
	if p.budget.free != p.budget.size {
		t.Fatalf("%d of %d bytes were not given back", p.budget.size-p.budget.free, p.budget.size)
	}
}

func TestTrySendSaysWhenATopicIsNotKnownYet(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	p := open(t, b)
	if err := p.TrySend(value("orders", "x"), nil); !errors.Is(err, ErrNotReady) {
		t.Fatal(err)
	}
	clienttest.Await(t, "the metadata", func() bool { return p.TrySend(value("orders", "x"), nil) == nil })
}

func TestCloseFailsWhatIsLeftAndRefusesTheRest(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	b.OnProduce(func(clienttest.Produce) clienttest.Fault { return clienttest.Fault{Drop: true} })
	p := open(t, b, WithBatchBytes(1024), WithCompression(None), WithMaxInFlight(2))
	j := new(journal)
	for range 100 {
		p.SendAsync(within(t), Record{Topic: "orders", Value: make([]byte, 100)}, j.done("x"))
	}
	clienttest.Await(t, "a request", func() bool { return b.Count("produce") > 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	unknown, closed := 0, 0
	for _, err := range j.errs {
		switch {
		case errors.Is(err, ErrUnknownOutcome):
			unknown++
		case errors.Is(err, ErrClosed):
			closed++
		}
	}
	if j.calls != 100 || unknown == 0 || closed == 0 || unknown+closed != 100 {
		t.Fatalf("%d callbacks, %d unknown, %d closed", j.calls, unknown, closed)
	}
	if _, err := p.Send(within(t), value("orders", "x")); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := p.Close(within(t)); err != nil {
		t.Fatal(err)
	}
}

func TestCallbacksMaySendMore(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	p := open(t, b, WithBufferBytes(4096), WithBatchBytes(1024))
	ctx := within(t)
	finished := make(chan struct{})
	n := 0
	var next func(Receipt, error)
	next = func(_ Receipt, err error) {
		if n++; err != nil || n == 200 {
			close(finished)
			return
		}
		p.SendAsync(ctx, Record{Topic: "orders", Value: make([]byte, 700)}, next)
	}
	p.SendAsync(ctx, value("orders", "x"), next)
	select {
	case <-finished:
	case <-ctx.Done():
		t.Fatal("stuck")
	}
	if n != 200 {
		t.Fatal(n)
	}
}

func TestKeylessRecordsSpreadByBatch(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 4)
	p := open(t, b, WithBatchBytes(1024), WithCompression(None))
	for range 400 {
		p.SendAsync(within(t), Record{Topic: "orders", Value: make([]byte, 100)}, nil)
	}
	if err := p.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	for i := range int32(4) {
		if len(b.Values("orders", i)) == 0 {
			t.Fatalf("partition %d got nothing", i)
		}
	}
}

func TestAddedPartitionsAreUsed(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	p := open(t, b)
	if _, err := p.Send(within(t), value("orders", "x")); err != nil {
		t.Fatal(err)
	}
	b.AddPartitions("orders", 3)
	p.client.Stale("orders")
	clienttest.Await(t, "partition 2", func() bool {
		_, err := p.Send(within(t), to(value("orders", "y"), 2))
		return err == nil
	})
}
