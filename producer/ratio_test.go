package producer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"logbroker/internal/client/clienttest"
	"logbroker/internal/recordbatch"
)

func TestRatioBelievesWorseAtOnceAndBetterByAndBy(t *testing.T) {
	var r ratio
	if got := r.uncompressed(1000); got != 1000 {
		t.Fatalf("nothing seen: %d", got)
	}
	last := 1000
	for i := range 40 {
		r.learn(6000, 1000)
		got := r.uncompressed(1000)
		if got < last || (i == 0 && got > 1500) {
			t.Fatalf("lesson %d: %d after %d", i, got, last)
		}
		last = got
	}
	if last < 5900 || last > 6100 {
		t.Fatalf("six to one is taken for %d", last)
	}
	r.learn(6000, 3000)
	if got := r.uncompressed(1000); got != 2000 {
		t.Fatalf("two to one is taken for %d", got)
	}
	for range 100 {
		r.learn(1<<30, 1)
	}
	if got := r.uncompressed(1 << 20); got < 1<<20 || got > savedUnit<<20 {
		t.Fatalf("nothing left of a batch: %d", got)
	}
	for _, after := range []int{6000, 7000} { // a header more than before
		r.learn(6000, after)
		if got := r.uncompressed(1000); got != 1000 {
			t.Fatalf("no gain is taken for %d", got)
		}
	}
}

func TestBatchLimit(t *testing.T) {
	cases := []struct {
		name  string
		opts  []Option
		saved int32
		topic int64
		open  int32
		want  int
	}{
		{"nothing learnt", nil, 0, 1 << 20, 0, 512 << 10},
		{"four to three", nil, 256, 1 << 20, 0, (512 << 10) * 4 / 3},
		{"six to one: what the topic takes uncompressed", nil, 853, 1 << 20, 0, 1 << 20},
		{"a topic of small batches", nil, 853, 300 << 10, 0, 300 << 10},
		{"a topic of very small batches", nil, 853, 1 << 10, 0, 1 << 10},
		{"no codec", []Option{WithCompression(None)}, 853, 1 << 20, 0, 512 << 10},
		{"a small buffer", []Option{WithBufferBytes(3 << 20)}, 853, 1 << 20, 0, 768 << 10},
		{"a buffer of one batch", []Option{WithBufferBytes(512 << 10)}, 853, 1 << 20, 0, 256 << 10},
		{"many open batches", nil, 853, 1 << 20, 15, 512 << 10},
		{"very many open batches", nil, 853, 1 << 20, 999, 256 << 10},
		{"very many open batches, no codec", []Option{WithCompression(None)}, 0, 1 << 20, 999, 256 << 10},
	}
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	for _, c := range cases {
		p := open(t, b, c.opts...)
		q := manual(t, p)
		q.ratio.saved.Store(c.saved)
		q.bytesMax.Store(c.topic)
		p.open.Store(c.open)
		if got := q.batchLimit(); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// seen are the batches a broker was sent.
type seen struct {
	mu      sync.Mutex
	batches []recordbatch.Batch
}

func watch(b *clienttest.Broker) *seen {
	s := new(seen)
	b.OnProduce(func(r clienttest.Produce) clienttest.Fault {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.batches = append(s.batches, bytes.Clone(r.Batch))
		return clienttest.Fault{}
	})
	return s
}

// take returns the batches sent since, with the size each decompresses to,
// which must not be over limit.
func (s *seen) take(t *testing.T, limit int) (sent, whole []int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.batches {
		it, err := b.Iterate(recordbatch.IterateOptions{MaxDecompressedBytes: limit})
		if err != nil {
			t.Fatal(err)
		}
		size := recordbatch.HeaderSize
		for it.Next() {
			size += len(it.Record().Value)
		}
		if it.Err() != nil {
			t.Fatal(it.Err())
		}
		sent, whole = append(sent, len(b)), append(whole, size)
	}
	s.batches = nil
	return sent, whole
}

// fill sends total bytes in records of 1 KiB and flushes. Compressible ones
// shrink to about an eighth.
func fill(t *testing.T, p *Producer, total int, compressible bool) {
	t.Helper()
	rng := rand.NewChaCha8([32]byte{7})
	raw := make([]byte, 64)
	for range total >> 10 {
		_, _ = rng.Read(raw)
		v := bytes.Repeat(hex.AppendEncode(nil, raw), 8)
		if !compressible {
			_, _ = rng.Read(v)
		}
		p.SendAsync(within(t), Record{Topic: "orders", Value: v}, func(_ Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := p.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
}

func largest(of []int) int {
	most := 0
	for _, n := range of {
		most = max(most, n)
	}
	return most
}

func TestABatchIsClosedByWhatItShrinksTo(t *testing.T) {
	for _, topicLimit := range []int{1 << 20, 300 << 10} {
		b := clienttest.Start(t, 1)
		b.CreateTopic("orders", 1)
		b.SetMaxBatchBytes("orders", int64(topicLimit))
		s := watch(b)
		// The linger leaves closing to the sizes.
		p := open(t, b, WithBatchBytes(64<<10), WithLinger(time.Minute))

		for range 16 { // at least a lesson each
			fill(t, p, 128<<10, true)
		}
		fill(t, p, 2<<20, true)
		sent, whole := s.take(t, topicLimit)
		if want := min(400<<10, topicLimit*9/10); largest(whole) < want {
			t.Errorf("limit %d: no batch holds %d bytes: %v", topicLimit, want, whole)
		}
		if largest(sent) > 80<<10 {
			t.Errorf("limit %d: batches as sent: %v", topicLimit, sent)
		}

		fill(t, p, 2<<20, false) // what was learnt is wrong all at once
		if sent, _ = s.take(t, topicLimit); largest(sent) > topicLimit {
			t.Errorf("a batch of %d bytes, the topic takes %d", largest(sent), topicLimit)
		}
		fill(t, p, 256<<10, false)
		if _, whole = s.take(t, topicLimit); largest(whole) > 64<<10 {
			t.Errorf("limit %d: batches of data known not to shrink: %v", topicLimit, whole)
		}
	}
}

func TestALoweredTopicLimitClosesTheOpenBatch(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	p := open(t, b)
	q := manual(t, p)
	q.ratio.saved.Store(900)
	r := Record{Value: make([]byte, 1000)}
	for range 3 {
		q.append(&r, time.Now(), recordSize(&r), nil)
	}
	q.bytesMax.Store(4000)
	q.append(&r, time.Now(), recordSize(&r), nil)
	if len(q.queue) != 1 || len(q.queue[0].records) != 3 || q.open == nil || p.open.Load() != 1 {
		t.Errorf("%d batches closed, %d open", len(q.queue), p.open.Load())
	}
	q.launch()
}

// What a batch shrinks to does not count: its records are held as they are.
func TestTheBufferBoundsUncompressedBytes(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	const buffer = 1 << 20
	p := open(t, b, WithBufferBytes(buffer), WithBatchBytes(64<<10))
	q := manual(t, p) // nothing is sent
	q.ratio.saved.Store(1000)
	v, held := make([]byte, 1000), 0
	for {
		err := p.TrySend(Record{Topic: "orders", Value: v}, nil)
		if errors.Is(err, ErrBufferFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if held += len(v); held > buffer {
			t.Fatalf("%d bytes are held", held)
		}
	}
	if len(q.queue) < openShare-1 {
		t.Errorf("%d batches are on their way: the open one has the buffer", len(q.queue))
	}
	q.launch()
}
