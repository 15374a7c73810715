package producer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"logbroker/internal/client"
	"logbroker/internal/client/clienttest"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// null is a transport that stores nothing and acks everything, in order.
type null struct {
	replies chan func()
	offset  atomic.Int64
	bytes   atomic.Int64
}

func newNull() *null {
	n := &null{replies: make(chan func(), 64)}
	go func() { // ends with the test binary
		for f := range n.replies {
			f()
		}
	}()
	return n
}

func (n *null) Call(r client.Request, h client.Handler) (*client.Call, error) {
	req, err := protocol.DecodeProduceRequest(r.Payload)
	if err != nil {
		return nil, err
	}
	n.bytes.Add(int64(len(r.Payload)))
	count := int64(recordbatch.Batch(r.Payload[req.BatchAt:]).Count())
	reply := protocol.ProduceReply{TopicID: req.TopicID, Epoch: req.Epoch, BaseOffset: n.offset.Add(count) - count}
	data := reply.Append(nil)
	n.replies <- func() { h(data, nil) }
	return nil, nil
}

func benchmark(b *testing.B, p *Producer, vs [][]byte) {
	b.Helper()
	ctx := context.Background()
	var failed atomic.Int64
	done := func(_ Receipt, err error) {
		if err != nil {
			failed.Add(1)
		}
	}
	b.SetBytes(int64(len(vs[0])))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		p.SendAsync(ctx, Record{Topic: "orders", Value: vs[i%len(vs)]}, done)
	}
	if err := p.Flush(ctx); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	if failed.Load() > 0 {
		b.Fatalf("%d records failed", failed.Load())
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// payloads returns different records of so many bytes, 16 MiB in all: a batch of
// one value repeated would measure the codec's best case.
func payloads(kind string, size int) [][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	out := make([][]byte, 16<<20/size)
	for i := range out {
		v := make([]byte, 0, size+64)
		if kind == "json" {
			v = fmt.Appendf(v, `{"order":%d,"customer":"c-%d","state":"paid","lines":[`, rng.Uint32(), rng.Uint32()>>16)
			for len(v) < size-44 {
				v = fmt.Appendf(v, `{"sku":"%08x","count":%d,"price":%d.%02d},`, rng.Uint32(), rng.IntN(9), rng.IntN(1000), rng.IntN(100))
			}
		}
		for len(v) < size {
			v = append(v, byte(rng.Uint32()))
		}
		out[i] = v[:size]
	}
	return out
}

func BenchmarkSendAsyncNullTransport(b *testing.B) {
	for _, c := range []struct {
		kind  string
		codec Compression
	}{{"random", None}, {"random", Zstd}, {"json", Zstd}} {
		for _, size := range []int{128, 1024} {
			b.Run(fmt.Sprintf("%s/%s/%d", c.kind, c.codec, size), func(b *testing.B) {
				fake := clienttest.Start(b, 1)
				fake.CreateTopic("orders", 1)
				p := open(b, fake, WithCompression(c.codec))
				transport := newNull()
				p.conn = func(uint64) conn { return transport }
				benchmark(b, p, payloads(c.kind, size))
			})
		}
	}
}

func BenchmarkSendAsyncFakeBroker(b *testing.B) {
	for _, kind := range []string{"random", "json"} {
		b.Run(kind, func(b *testing.B) {
			fake := clienttest.Start(b, 1)
			fake.CreateTopic("orders", 1)
			fake.Discard()
			benchmark(b, open(b, fake), payloads(kind, 1024))
		})
	}
}

func TestSendAsyncAllocatesAtMostOncePerRecord(t *testing.T) {
	fake := clienttest.Start(t, 1)
	fake.CreateTopic("orders", 1)
	p := open(t, fake)
	transport := newNull()
	p.conn = func(uint64) conn { return transport }
	v := payloads("json", 1024)[0]
	ctx := within(t)
	send := func() {
		for range 2000 {
			p.SendAsync(ctx, Record{Topic: "orders", Value: v}, nil)
		}
		if err := p.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	send()
	if perRecord := testing.AllocsPerRun(3, send) / 2000; perRecord > 1 {
		t.Fatalf("%.2f allocations per record", perRecord)
	}
}
