// scratch
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"sync/atomic"
	"sync"
	"time"
	"sort"
	"strconv"

	"logbroker/consumer"
	"logbroker/internal/client"
	"logbroker/internal/protocol"
	"logbroker/producer"
)

func main() {
	raw, err := os.ReadFile(os.Args[1])
	check(err)
	n, _ := strconv.Atoi(os.Args[2])
	var ready struct{ Servers []string }
	check(json.Unmarshal(raw, &ready))
	ctx := context.Background()
	c, err := client.Dial(ctx, ready.Servers, client.Options{})
	check(err)
	topic := fmt.Sprintf("t%d", time.Now().UnixNano())
	t0 := time.Now()
	_, err = c.Admin().CreateTopic(ctx, protocol.TopicCreateRequest{Version: 1, Name: topic, Partitions: 6, Replicas: 3})
	check(err)
	fmt.Println("create", time.Since(t0))
	p, err := producer.New(ctx, ready.Servers, producer.WithLinger(5*time.Millisecond))
	check(err)
	val := make([]byte, 1024*64)
	rand.New(rand.NewSource(1)).Read(val)
	var lat []float64
	for i := 0; i < 200; i++ {
		s := time.Now()
		_, err := p.Send(ctx, producer.Record{Topic: topic, Key: []byte("k"), Value: val[:1024]})
		check(err)
		lat = append(lat, time.Since(s).Seconds()*1000)
	}
	sort.Float64s(lat)
	fmt.Printf("send linger5 p50 %.2f ms p99 %.2f\n", lat[100], lat[198])
	p2, err := producer.New(ctx, ready.Servers)
	check(err)
	lat = lat[:0]
	for i := 0; i < 200; i++ {
		s := time.Now()
		_, err := p2.Send(ctx, producer.Record{Topic: topic, Key: []byte("k"), Value: val[:1024]})
		check(err)
		lat = append(lat, time.Since(s).Seconds()*1000)
	}
	sort.Float64s(lat)
	fmt.Printf("send adaptive p50 %.2f ms p99 %.2f\n", lat[100], lat[198])
	var acked, failed atomic.Int64
	s := time.Now()
	for i := 0; i < n; i++ {
		off := (i * 37) % (len(val) - 1024)
		v := make([]byte, 1024)
		copy(v, val[off:])
		rand.Read(v[:512])
		p.SendAsync(ctx, producer.Record{Topic: topic, Value: v}, func(_ producer.Receipt, err error) {
			if err != nil {
				failed.Add(1)
				fmt.Println(err)
			} else {
				acked.Add(1)
			}
		})
	}
	check(p.Flush(ctx))
	d := time.Since(s)
	fmt.Printf("produced %d failed %d in %v = %.0f rec/s\n", acked.Load(), failed.Load(), d, float64(n)/d.Seconds())
	s = time.Now()
	var total atomic.Int64
	var wg sync.WaitGroup
	desc, err := c.Admin().DescribeTopic(ctx, topic)
	check(err)
	for _, pt := range desc.Partitions {
		wg.Go(func() {
			r, err := consumer.NewReader(ctx, ready.Servers, topic, pt.Partition, consumer.FromEarliest())
			check(err)
			defer r.Close()
			for r.Position() < pt.HighWatermark {
				rec, err := r.Poll(ctx, 10000)
				check(err)
				total.Add(int64(len(rec)))
			}
		})
	}
	wg.Wait()
	d = time.Since(s)
	fmt.Printf("consumed %d in %v = %.0f rec/s\n", total.Load(), d, float64(total.Load())/d.Seconds())
	p.Close(ctx)
	p2.Close(ctx)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
