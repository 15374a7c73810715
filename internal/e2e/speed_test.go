package e2e

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/producer"
)

const (
	speedPartitions  = 6
	speedRecordBytes = 1 << 10
)

// speedCluster starts dev with three nodes and a topic of six partitions.
func speedCluster(b *testing.B) []string {
	b.Helper()
	d := startDev(b, "--ephemeral", "--any-port")
	d.readyIn(b)
	servers := d.told.Servers
	c := dial(b, servers...)
	createTopic(b, c, "speed", speedPartitions)
	awaitSpread(b, c, "speed", 30*time.Second)
	return servers
}

// randomRecords returns values that no codec shrinks.
func randomRecords(n int) [][]byte {
	random := rand.NewChaCha8([32]byte{1})
	values := make([][]byte, n)
	for i := range values {
		values[i] = make([]byte, speedRecordBytes)
		random.Read(values[i])
	}
	return values
}

// BenchmarkDevProduce1KiB is one producer process (this one) against dev with
// three nodes, six partitions, replicas 3, 1 KiB of random data a record, linger
// 5 ms. An op is a record acked. Run it with -benchtime=300000x, beside
// BenchmarkRawPropose of internal/raftnode; make speed does.
func BenchmarkDevProduce1KiB(b *testing.B) {
	servers := speedCluster(b)
	p, err := producer.New(b.Context(), servers, producer.WithLinger(5*time.Millisecond))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close(context.Background())
	values := randomRecords(4096)
	var failed atomic.Int64
	b.SetBytes(speedRecordBytes)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		p.SendAsync(b.Context(), producer.Record{Topic: "speed", Value: values[i%len(values)]}, func(_ producer.Receipt, err error) {
			if err != nil {
				failed.Add(1)
			}
		})
	}
	if err := p.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	if n := failed.Load(); n > 0 {
		b.Fatalf("%d records were not acked", n)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkSendAlone is one Send after the other with nothing else going on.
func BenchmarkSendAlone(b *testing.B) {
	servers := speedCluster(b)
	p, err := producer.New(b.Context(), servers)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close(context.Background())
	value := randomRecords(1)[0]
	took := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for range b.N {
		start := time.Now()
		if _, err := p.Send(b.Context(), producer.Record{Topic: "speed", Key: []byte("k"), Value: value}); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
