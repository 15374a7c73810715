package consumer_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"logbroker/consumer"
	"logbroker/internal/client/clienttest"
	"logbroker/internal/recordbatch"
)

// The servers of the examples that run are those of a broker in memory, with
// two records in orders/0.
func exampleServers() (servers []string, stop func()) {
	t := new(clienttest.Main)
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	b.Append("orders", 0, recordbatch.Zstd, "one coffee", "two teas")
	return b.URLs(), t.Stop
}

func ExampleReader_Next() {
	servers, stop := exampleServers()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	r, err := consumer.NewReader(ctx, servers, "orders", 0, consumer.FromEarliest())
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	for r.Position() < r.HighWatermark() {
		rec, err := r.Next(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d: %s\n", rec.Offset, rec.Value)
	}
	// Output:
	// 0: one coffee
	// 1: two teas
}

func ExampleReader_Records() {
	ctx := context.Background()
	r, err := consumer.NewReader(ctx, []string{"nats://127.0.0.1:4222"}, "orders", 0,
		consumer.FromTime(time.Now().Add(-time.Hour)), consumer.WithRange(consumer.RangeEarliest))
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	for rec, err := range r.Records(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(rec.Offset, string(rec.Value))
	}
}
