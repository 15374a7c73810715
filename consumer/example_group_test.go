package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"logbroker/consumer"
	"logbroker/internal/client/clienttest"
	"logbroker/internal/recordbatch"
)

// exampleOrders is a broker in memory with six records in the two partitions of
// orders.
func exampleOrders() (servers []string, stop func()) {
	t := new(clienttest.Main)
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 2)
	b.Append("orders", 0, recordbatch.Zstd, "one coffee", "two teas", "one cake")
	b.Append("orders", 1, recordbatch.Zstd, "a sandwich", "a juice", "a salad")
	return b.URLs(), t.Stop
}

// At least once, with the handlers of one process side by side, one for each
// partition, and a stop in good order on SIGTERM: the handlers finish the record
// they have, what is done is committed, and the partitions are free at once.
func ExampleConsumer_Run() {
	servers, stop := exampleOrders()
	defer stop()
	// SIGTERM ends ctx, and with it Run.
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()

	c, err := consumer.New(ctx, servers, "kitchen", []string{"orders"}, consumer.FromEarliest())
	if err != nil {
		log.Fatal(err)
	}
	var mu sync.Mutex
	handled := 0
	err = c.Run(ctx, func(_ context.Context, r consumer.Record) error {
		mu.Lock()
		defer mu.Unlock()
		if handled++; handled == 6 {
			// Stands in for the operator.
			return syscall.Kill(syscall.Getpid(), syscall.SIGTERM)
		}
		return nil
	})
	if err != nil {
		log.Print(err) // a handler failed; its record comes again
	}
	// Leaving has a time of its own: ctx has ended.
	leaving, left := context.WithTimeout(context.Background(), 10*time.Second)
	defer left()
	if err := c.Drain(leaving); err != nil {
		log.Print(err)
	}
	fmt.Println(handled, "orders done")
	// Output: 6 orders done
}

// A pool of workers that handles the records of one key one after the other, in
// order, and those of different keys side by side. Records are finished in any
// order; what is committed never passes one that is not.
func ExampleConsumer_Mark() {
	servers, stop := exampleOrders()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := consumer.New(ctx, servers, "pool", []string{"orders"}, consumer.FromEarliest())
	if err != nil {
		log.Fatal(err)
	}

	const workers = 4
	seed := maphash.MakeSeed()
	var queues [workers]chan consumer.Record
	var pool sync.WaitGroup
	for i := range queues {
		queues[i] = make(chan consumer.Record, 16) // the bound of what waits
		pool.Go(func() {
			for r := range queues[i] {
				// … do the work; then:
				c.Mark(r)
			}
		})
	}
	for n := 0; n < 6; { // a service would go on until ctx ends
		records, err := c.Poll(ctx, 100)
		if err != nil {
			log.Print(err)
			break
		}
		for _, r := range records {
			queues[maphash.Bytes(seed, r.Key)%workers] <- r
		}
		n += len(records)
	}
	for _, q := range queues {
		close(q)
	}
	pool.Wait()
	if err := c.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("all orders done and committed")
	// Output: all orders done and committed
}

// Records in batches: gathered until there are enough or some time has passed,
// written together, then marked and committed.
func ExampleConsumer_Poll() {
	servers, stop := exampleOrders()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := consumer.New(ctx, servers, "archive", []string{"orders"}, consumer.FromEarliest(), consumer.WithAutoCommit(0))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	// write stands for one transaction of a database.
	written := 0
	write := func(batch []consumer.Record) error {
		written += len(batch)
		return nil
	}
	const batchMax = 4
	for written < 6 { // a service would go on until ctx ends
		var batch []consumer.Record
		gathering, enough := context.WithTimeout(ctx, 50*time.Millisecond)
		for len(batch) < batchMax {
			records, err := c.Poll(gathering, batchMax-len(batch))
			if errors.Is(err, context.DeadlineExceeded) {
				break // nothing is lost by that
			}
			if err != nil {
				log.Fatal(err)
			}
			batch = append(batch, records...)
		}
		enough()
		if err := write(batch); err != nil {
			log.Fatal(err) // not marked: the records come again
		}
		c.Mark(batch...)
		if err := c.Commit(ctx); err != nil {
			log.Print(err) // the next one takes them along
		}
	}
	fmt.Println(written, "orders written")
	// Output: 6 orders written
}
