package cluster

import (
	"context"
	"testing"
	"time"

	"logbroker/config"
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

// quietLeaders leaves every leadership where an election put it.
func quietLeaders(f *config.Config) { f.Leaders.Balance = false }

// readAll returns the values of a partition from its log start to its high
// watermark.
func (c *Cluster) readAll(topic string, partition int32) []string {
	c.tb.Helper()
	r := c.read(topic, partition, consumer.FromEarliest())
	ctx := within(c.tb, waitTimeout)
	var values []string
	for end := r.HighWatermark(); r.Position() < end; {
		records, err := r.Poll(ctx, 1000)
		if err != nil {
			c.tb.Fatal(err)
		}
		for i := range records {
			values = append(values, string(records[i].Value))
		}
	}
	return values
}
