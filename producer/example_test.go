package producer_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"logbroker/internal/client/clienttest"
	"logbroker/producer"
)

// The servers of the examples that run are those of a broker in memory.
func exampleServers() (servers []string, stop func()) {
	t := new(clienttest.Main)
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	return b.URLs(), t.Stop
}

func ExampleProducer_Send() {
	servers, stop := exampleServers()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	p, err := producer.New(ctx, servers)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close(ctx)

	receipt, err := p.Send(ctx, producer.Record{Topic: "orders", Key: []byte("customer-7"), Value: []byte("one coffee")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("partition %d, offset %d\n", receipt.Partition, receipt.Offset)
	// Output: partition 0, offset 0
}

func ExampleProducer_SendAsync() {
	servers, stop := exampleServers()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	p, err := producer.New(ctx, servers, producer.WithCompression(producer.Lz4))
	if err != nil {
		log.Fatal(err)
	}
	for i := range 3 {
		p.SendAsync(ctx, producer.Record{Topic: "orders", Value: fmt.Append(nil, i)}, func(r producer.Receipt, err error) {
			switch {
			case errors.Is(err, producer.ErrUnknownOutcome):
				log.Print("may be stored: ", err)
			case err != nil:
				log.Print("not stored: ", err)
			default:
				fmt.Println("stored at", r.Offset)
			}
		})
	}
	if err := p.Close(ctx); err != nil { // waits for the callbacks
		log.Fatal(err)
	}
	// Output:
	// stored at 0
	// stored at 1
	// stored at 2
}

func ExampleNew() {
	ctx := context.Background()
	p, err := producer.New(ctx, []string{"nats://10.0.0.1:4222", "nats://10.0.0.2:4222"},
		producer.WithName("billing"),
		producer.WithLinger(2*time.Millisecond),
		producer.WithBufferBytes(128<<20),
		producer.WithDeliveryTimeout(30*time.Second),
	)
	if err != nil {
		log.Fatal(err) // no server at …: is it running?
	}
	defer p.Close(ctx)
}
