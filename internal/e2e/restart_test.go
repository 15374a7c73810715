package e2e

import (
	"context"
	"flag"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/internal/units"
	"logbroker/producer"
)

// restartSize is what BenchmarkRestart fills a node with: make restart-time.
var restartSize = flag.String("restart.size", "256MiB", "bytes that the node of BenchmarkRestart holds")

// BenchmarkRestart fills one node with random data in twelve partitions, and then
// kills it and starts it again, an op each. ready-s is until the node says that it
// is ready, leading-s until it leads every partition, read-s until the begin of
// each was read besides.
func BenchmarkRestart(b *testing.B) {
	const partitions = 12
	var size units.ByteSize
	if err := size.UnmarshalText([]byte(*restartSize)); err != nil {
		b.Fatal(err)
	}
	n := newNode(b, b.TempDir(), 1)
	n.configure(b, settings{more: "log: {level: warn}"})
	n.start(b)
	n.awaitReady(b)
	c := dial(b, n.url())
	createTopic(b, c, "large", partitions)
	fillRandom(b, n.url(), "large", int64(size))
	var ready, leading, read time.Duration
	for b.Loop() {
		n.kill()
		began := time.Now()
		n.start(b)
		n.awaitReady(b)
		ready += time.Since(began)
		awaitLed(b, n.url(), "large")
		leading += time.Since(began)
		for i := range int32(partitions) {
			readOne(b, n.url(), "large", i)
		}
		read += time.Since(began)
	}
	b.ReportMetric(ready.Seconds()/float64(b.N), "ready-s")
	b.ReportMetric(leading.Seconds()/float64(b.N), "leading-s")
	b.ReportMetric(read.Seconds()/float64(b.N), "read-s")
	b.ReportMetric(0, "ns/op")
}

// fillRandom sends about size bytes to topic.
func fillRandom(b *testing.B, server, topic string, size int64) {
	b.Helper()
	ctx := b.Context()
	p, err := producer.New(ctx, []string{server}, producer.WithCompression(producer.None), producer.WithDeliveryTimeout(10*time.Minute))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close(context.Background())
	values := randomRecords(4096)
	var failed atomic.Int64
	for i := range int(size / speedRecordBytes) {
		p.SendAsync(ctx, producer.Record{Topic: topic, Value: values[i%len(values)]}, func(_ producer.Receipt, err error) {
			if err != nil {
				failed.Add(1)
			}
		})
	}
	if err := p.Flush(ctx); err != nil || failed.Load() > 0 {
		b.Fatalf("%d records were not acked, %v", failed.Load(), err)
	}
}

// awaitLed waits until every partition of topic has a leader.
func awaitLed(b *testing.B, server, topic string) {
	b.Helper()
	c := dial(b, server)
	await(b, patience, "every partition is led", func() (bool, string) {
		d, why := describe(b, c, topic)
		if d == nil {
			return false, why
		}
		for _, p := range d.Partitions {
			if p.Leader == nil {
				return false, fmt.Sprintf("partition %d is not", p.Partition)
			}
		}
		return true, ""
	})
}

// readOne reads the first records of a partition.
func readOne(b *testing.B, server, topic string, partition int32) {
	b.Helper()
	r, err := consumer.NewReader(b.Context(), []string{server}, topic, partition, consumer.FromEarliest())
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	if records, err := r.Poll(b.Context(), 10); err != nil || len(records) == 0 {
		b.Fatalf("%d records of partition %d: %v", len(records), partition, err)
	}
}
