package cluster

import (
	"context"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/producer"
)

// within returns a context that ends soon enough to tell where a test hangs.
func within(tb testing.TB, d time.Duration) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	tb.Cleanup(cancel)
	return ctx
}

// produce opens a producer on the cluster; the test's end closes it.
func (c *Cluster) produce(opts ...producer.Option) *producer.Producer {
	c.tb.Helper()
	p, err := producer.New(within(c.tb, waitTimeout), c.URLs(), opts...)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() {
		if err := p.Close(within(c.tb, waitTimeout)); err != nil {
			c.tb.Errorf("close of the producer: %v", err)
		}
	})
	return p
}

// read opens a reader on a partition; the test's end closes it.
func (c *Cluster) read(topic string, partition int32, opts ...consumer.Option) *consumer.Reader {
	c.tb.Helper()
	r, err := consumer.NewReader(within(c.tb, waitTimeout), c.URLs(), topic, partition, opts...)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			c.tb.Errorf("close of the reader: %v", err)
		}
	})
	return r
}

func TestStartDebug(t *testing.T) {
	t0 := time.Now()
	c := Start(t, Options{})
	t.Log("start", time.Since(t0))
	t0 = time.Now()
	c.CreateTopic("t", 6, 3, nil)
	t.Log("create", time.Since(t0))
	p := c.produce()
	for i := 0; i < 3000; i++ {
		t0 = time.Now()
		if _, err := p.Send(within(t, waitTimeout), producer.Record{Topic: "t", Key: []byte("k"), Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(t0); d > 15*time.Millisecond {
			t.Log(i, d)
		}
	}
	t0 = time.Now()
	c.StopAll()
	t.Log("stop", time.Since(t0))
}
