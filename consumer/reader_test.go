package consumer

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"logbroker/internal/client/clienttest"
	"logbroker/internal/errcode"
	"logbroker/internal/recordbatch"
)

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, b *clienttest.Broker, opts ...Option) *Reader {
	t.Helper()
	opts = append([]Option{WithMaxWait(50 * time.Millisecond), func(o *options) { o.replyTimeout = 100 * time.Millisecond }}, opts...)
	r, err := NewReader(within(t), b.URLs()[:1], "orders", 0, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// filled returns a broker whose partition orders/0 holds the values "0" to
// "n-1" in batches of per records.
func filled(t testing.TB, n, per int, codec recordbatch.Codec) *clienttest.Broker {
	t.Helper()
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	fill(t, b, 0, n, per, codec)
	return b
}

func fill(t testing.TB, b *clienttest.Broker, from, n, per int, codec recordbatch.Codec) {
	t.Helper()
	for i := from; i < from+n; i += per {
		var vs []string
		for k := i; k < i+per; k++ {
			vs = append(vs, strconv.Itoa(k))
		}
		b.Append("orders", 0, codec, vs...)
	}
}

// mustRead reads until offset end and checks that every record from offset
// first on comes exactly once, in order, with its value.
func mustRead(t testing.TB, r *Reader, first, end int64) {
	t.Helper()
	ctx := within(t)
	for next := first; next < end; {
		recs, err := r.Poll(ctx, int(min(1+rand.Int64N(7), end-next)))
		if err != nil {
			t.Fatalf("at %d: %v", next, err)
		}
		for _, rec := range recs {
			if rec.Offset != next || string(rec.Value) != strconv.FormatInt(next, 10) {
				t.Fatalf("got offset %d value %s, want %d", rec.Offset, rec.Value, next)
			}
			next++
		}
		if p := r.Position(); p != next {
			t.Fatalf("position %d after offset %d", p, next-1)
		}
	}
}

func TestEveryCodecIsReadFromTheStart(t *testing.T) {
	for codec := recordbatch.None; codec <= recordbatch.Zstd; codec++ {
		t.Run(codec.String(), func(t *testing.T) {
			t.Parallel()
			b := filled(t, 100, 10, codec)
			r := open(t, b)
			mustRead(t, r, 0, 100)
			if hw := r.HighWatermark(); hw != 100 {
				t.Fatal(hw)
			}
		})
	}
}

func TestStartPositions(t *testing.T) {
	b := filled(t, 100, 10, recordbatch.Zstd) // each batch has times 1000 to 1009
	b.Trim("orders", 0, 20)
	cases := []struct {
		name string
		opt  Option
		want int64
	}{
		{"earliest", FromEarliest(), 20},
		{"latest", FromLatest(), 100},
		{"offset inside a batch", FromOffset(47), 47},
		{"time", FromTime(time.UnixMilli(1004)), 24},
		{"time beyond the end", FromTime(time.UnixMilli(5000)), 100},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := open(t, b, c.opt)
			if p := r.Position(); p != c.want {
				t.Fatalf("position %d, want %d", p, c.want)
			}
			if c.want < 100 {
				mustRead(t, r, c.want, 100)
			}
		})
	}
}

func TestWaitingReaderGetsWhatIsAppended(t *testing.T) {
	b := filled(t, 10, 10, recordbatch.Zstd)
	r := open(t, b, FromLatest())
	got := make(chan Record, 1)
	go func() {
		rec, err := r.Next(within(t))
		if err != nil {
			t.Error(err)
		}
		got <- rec
	}()
	fill(t, b, 10, 10, 10, recordbatch.Zstd)
	if rec := <-got; rec.Offset != 10 {
		t.Fatal(rec.Offset)
	}
	mustRead(t, r, 11, 20)
}

func TestFaultsOfTheStreamLoseAndRepeatNothing(t *testing.T) {
	faults := map[string]clienttest.Fault{
		"request lost":           {Drop: true},
		"cut after one reply":    {CutAfter: 1},
		"second reply lost":      {Lose: 2},
		"first reply lost":       {Lose: 1},
		"first piece lost":       {LosePiece: 1},
		"second piece lost":      {LosePiece: 2},
		"replies twice":          {Twice: true},
		"damaged on the way":     {Corrupt: true},
		"beyond high watermark":  {Beyond: true},
		"throttled":              {Refuse: errcode.Throttled},
		"not leader":             {Refuse: errcode.NotLeaderOrFollower},
		"offset not available":   {Refuse: errcode.OffsetNotAvailable},
		"out of range by a lag":  {Refuse: errcode.OffsetOutOfRange},
		"unknown topic by a lag": {Refuse: errcode.UnknownTopicOrPartition},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := filled(t, 20_000, 1000, recordbatch.None)
			b.OnFetch(func(f clienttest.Fetch) clienttest.Fault {
				if f.N%2 == 1 && f.N < 12 {
					return fault
				}
				return clienttest.Fault{}
			})
			r := open(t, b, WithPrefetchBytes(200<<10))
			mustRead(t, r, 0, 20_000)
		})
	}
}

func TestReaderFollowsTheLeader(t *testing.T) {
	b := clienttest.Start(t, 2)
	b.CreateTopic("orders", 1)
	fill(t, b, 0, 10_000, 500, recordbatch.None)
	var once [3]sync.Once
	b.OnFetch(func(f clienttest.Fetch) clienttest.Fault {
		if f.N%3 == 0 && f.N < 10 {
			once[f.N/3-1].Do(func() { go b.MoveLeader("orders", 0, uint64(f.N/3)%2+1) })
		}
		return clienttest.Fault{}
	})
	r := open(t, b, WithPrefetchBytes(64<<10))
	mustRead(t, r, 0, 10_000)
}

func TestServerRestartOnlyDelaysTheReader(t *testing.T) {
	b := filled(t, 2000, 100, recordbatch.None)
	r := open(t, b)
	mustRead(t, r, 0, 1000)
	b.StopNode(1)
	fill(t, b, 2000, 1000, 100, recordbatch.None)
	b.RestartNode(1)
	mustRead(t, r, 1000, 3000)
}

func TestCancelledCallsLoseNothing(t *testing.T) {
	b := filled(t, 500, 50, recordbatch.Zstd)
	r := open(t, b, WithPrefetchBytes(64<<10))
	for want := int64(0); want < 500; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(300))*time.Microsecond)
		rec, err := r.Next(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			continue
		}
		if err != nil || rec.Offset != want {
			t.Fatal(rec.Offset, want, err)
		}
		want++
	}
}

func TestPositionOutOfRange(t *testing.T) {
	b := filled(t, 100, 10, recordbatch.Zstd)
	b.Trim("orders", 0, 50)
	for _, at := range []int64{7, 500} {
		r := open(t, b, FromOffset(at))
		_, err := r.Next(within(t))
		if errcode.Of(err) != errcode.OffsetOutOfRange {
			t.Fatal(err)
		}
		if _, again := r.Next(within(t)); !errors.Is(again, err) {
			t.Fatalf("the error went away by itself: %v", again)
		}
		r.SeekTo(60)
		mustRead(t, r, 60, 100)

		mustRead(t, open(t, b, FromOffset(at), WithRange(RangeEarliest)), 50, 100)

		late := open(t, b, FromOffset(at), WithRange(RangeLatest))
		clienttest.Await(t, "the jump", func() bool { return late.Position() == 100 })
	}
}

func TestTrimUnderAReaderIsSeen(t *testing.T) {
	b := filled(t, 100, 10, recordbatch.Zstd)
	r := open(t, b, FromOffset(100))
	r.SeekTo(3)
	b.Trim("orders", 0, 30)
	r.SeekTo(3)
	if _, err := r.Next(within(t)); errcode.Of(err) != errcode.OffsetOutOfRange {
		t.Fatal(err)
	}
}

func TestSeekGoesAnywhereAtAnyTime(t *testing.T) {
	b := filled(t, 1000, 7, recordbatch.Snappy)
	r := open(t, b, WithPrefetchBytes(64<<10))
	for range 50 {
		at := rand.Int64N(990)
		r.SeekTo(at)
		mustRead(t, r, at, at+5)
	}
}

func TestDamageInTheLogIsAnErrorNotAnEndlessRetry(t *testing.T) {
	b := filled(t, 100, 10, recordbatch.None)
	b.OnFetch(func(clienttest.Fetch) clienttest.Fault { return clienttest.Fault{Corrupt: true} })
	r := open(t, b)
	mustRead(t, r, 0, 90) // the last batch is damaged
	if _, err := r.Next(within(t)); errcode.Of(err) != errcode.CorruptMessage {
		t.Fatal(err)
	}
}

func TestTopicsThatAreGone(t *testing.T) {
	t.Parallel()
	t.Run("made anew", func(t *testing.T) {
		t.Parallel()
		b := filled(t, 10, 10, recordbatch.None)
		r := open(t, b, FromLatest())
		b.CreateTopic("orders", 1)
		if _, err := r.Next(within(t)); errcode.Of(err) != errcode.UnknownTopicID {
			t.Fatal(err)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		t.Parallel()
		b := filled(t, 10, 10, recordbatch.None)
		r := open(t, b, FromLatest())
		b.DeleteTopic("orders")
		if _, err := r.Next(within(t)); errcode.Of(err) != errcode.UnknownTopicID {
			t.Fatal(err)
		}
	})
	t.Run("deleted, as the metadata say before the node does", func(t *testing.T) {
		t.Parallel()
		b := filled(t, 10, 10, recordbatch.None)
		r := open(t, b, FromLatest())
		f := fetcher{r: r.feed}
		unknown := errcode.New(errcode.UnknownTopicOrPartition, "no such topic")
		if end, deleted := f.terminal(within(t), unknown); end || deleted {
			t.Fatalf("a node has not heard of it yet: end %v, deleted %v", end, deleted)
		}
		b.DeleteTopic("orders")
		if _, err := r.client.Metadata(within(t), "orders"); err != nil {
			t.Fatal(err)
		}
		if end, deleted := f.terminal(within(t), unknown); !end || !deleted {
			t.Fatalf("it is deleted: end %v, deleted %v", end, deleted)
		}
	})
	t.Run("never there", func(t *testing.T) {
		t.Parallel()
		b := filled(t, 10, 10, recordbatch.None)
		for _, name := range []string{"nope", "orders"} {
			_, err := NewReader(within(t), b.URLs(), name, 7)
			if errcode.Of(err) != errcode.UnknownTopicOrPartition {
				t.Fatal(err)
			}
		}
	})
}

func TestThePrefetchIsBounded(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	big := string(make([]byte, 50<<10))
	for range 100 {
		b.Append("orders", 0, recordbatch.None, big)
	}
	r := open(t, b, WithPrefetchBytes(256<<10))
	clienttest.Await(t, "the prefetch", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.queued > 128<<10
	})
	for range 100 {
		r.mu.Lock()
		queued := r.queued
		r.mu.Unlock()
		if queued > 256<<10 {
			t.Fatalf("%d bytes are queued", queued)
		}
		if _, err := r.Next(within(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecordsIteratesAndEndsWithTheError(t *testing.T) {
	b := filled(t, 20, 10, recordbatch.Zstd)
	r := open(t, b)
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	var got []int64
	var last error
	for rec, err := range r.Records(ctx) {
		if err != nil {
			last = err
			continue
		}
		if got = append(got, rec.Offset); len(got) == 10 {
			break
		}
	}
	for rec, err := range r.Records(ctx) {
		if err != nil {
			last = err
			break
		}
		if got = append(got, rec.Offset); len(got) == 20 {
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) || len(got) != 20 || !slices.IsSorted(got) || got[19] != 19 {
		t.Fatal(got, last)
	}
}

func TestCloseEndsAWaitingCall(t *testing.T) {
	b := filled(t, 10, 10, recordbatch.Zstd)
	r := open(t, b, FromLatest())
	ended := make(chan error, 1)
	go func() {
		_, err := r.Next(within(t))
		ended <- err
	}()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := r.Poll(within(t), 1); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := NewReader(within(t), nil, "orders", 0, FromOffset(-3), WithPrefetchBytes(1), WithMaxWait(time.Hour))
	for _, want := range []string{"FromOffset", "WithPrefetchBytes", "WithMaxWait"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing in: %v", want, err)
		}
	}
}
