package testbed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"logbroker/consumer"
	"logbroker/internal/client"
	"logbroker/internal/history"
	"logbroker/internal/protocol"
)

const (
	// readAtOnce is how many records a reader takes in a row.
	readAtOnce = 500
	// latestEvery is the time between two questions for a partition's high
	// watermark.
	latestEvery = 100 * time.Millisecond
)

// readers read every partition of a topic from its beginning while the cluster is
// harmed, ask for the high watermarks beside, and keep all they were told.
type readers struct {
	asking  *client.Client
	end     context.CancelFunc
	working sync.WaitGroup
	of      []*reading // by partition
}

// reading is one partition's reader.
type reading struct {
	topic     string
	partition int32
	reader    *consumer.Reader

	mu     sync.Mutex // guards what follows
	reads  []read
	marks  []watermark
	failed error // ended the reading
}

// read is a record as it was given out.
type read struct {
	at, offset, high int64
	message          uint64
}

// watermark is an answer to the question for the high watermark.
type watermark struct{ asked, at, high int64 }

// startReaders begins to read; finish ends it. ctx bounds the beginning only.
func startReaders(ctx context.Context, servers []string, topic string, partitions int32) (*readers, error) {
	asking, err := client.Dial(ctx, servers, client.Options{Name: "watermarks"})
	if err != nil {
		return nil, err
	}
	working, end := context.WithCancel(context.WithoutCancel(ctx))
	r := &readers{asking: asking, end: end}
	for p := range partitions {
		reader, err := consumer.NewReader(ctx, servers, topic, p, consumer.FromEarliest())
		if err != nil {
			r.close()
			return nil, fmt.Errorf("a reader of partition %d: %w", p, err)
		}
		g := &reading{topic: topic, partition: p, reader: reader}
		r.of = append(r.of, g)
		r.working.Go(func() { g.read(working) })        // ends with close
		r.working.Go(func() { g.ask(working, asking) }) // ends with close
	}
	return r, nil
}

// close ends all reading.
func (r *readers) close() {
	r.end()
	r.working.Wait()
	for _, g := range r.of {
		_ = g.reader.Close() // it only read
	}
	r.asking.Close()
}

// read keeps what the reader is given until ctx ends or an error does.
func (g *reading) read(ctx context.Context) {
	for {
		records, err := g.reader.Poll(ctx, readAtOnce)
		at, high := history.Now(), g.reader.HighWatermark()
		g.mu.Lock()
		for i := range records {
			g.reads = append(g.reads, read{at: at, offset: records[i].Offset, high: high, message: messageIn(records[i].Value)})
		}
		if err != nil && ctx.Err() == nil {
			g.failed = err
		}
		g.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// ask keeps what it is told until ctx ends. Nobody can answer while a partition has
// no leader.
func (g *reading) ask(ctx context.Context, c *client.Client) {
	tick := time.NewTicker(latestEvery)
	defer tick.Stop()
	for {
		asked := history.Now()
		asking, cancel := context.WithTimeout(ctx, askMax)
		latest, err := c.Offsets(asking, g.topic, g.partition, protocol.TimestampLatest)
		cancel()
		if err == nil {
			g.mu.Lock()
			g.marks = append(g.marks, watermark{asked: asked, at: history.Now(), high: latest.Offset})
			g.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// next is the offset that is due, and what ended the reading.
func (g *reading) next() (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.reads) == 0 {
		return 0, g.failed
	}
	return g.reads[len(g.reads)-1].offset + 1, g.failed
}

// finish waits until each partition was read up to what its leader says is its end
// now, and ends the reading. Errors: a reader that was refused what it asked for, or
// does not come to the end.
func (r *readers) finish(ctx context.Context) error {
	var errs []error
	for _, g := range r.of {
		latest, err := r.asking.Offsets(ctx, g.topic, g.partition, protocol.TimestampLatest)
		if err == nil {
			err = g.awaitEnd(ctx, latest.Offset)
		}
		errs = append(errs, err)
	}
	r.close()
	return errors.Join(errs...)
}

func (g *reading) awaitEnd(ctx context.Context, end int64) error {
	var failed error
	err := await(ctx, fmt.Sprintf("the reader of partition %d is at its end, %d", g.partition, end), func() (bool, string) {
		var next int64
		next, failed = g.next()
		return next >= end || failed != nil, fmt.Sprintf("offset %d is due", next)
	})
	if failed != nil {
		return fmt.Errorf("the reader of partition %d was refused: %w", g.partition, failed)
	}
	return err
}

// events are what a partition's reader was given and told; they may be called for
// after close only.
func (r *readers) events(partition int32) []history.Event {
	if r == nil {
		return nil
	}
	g := r.of[partition]
	events := make([]history.Event, 0, len(g.reads)+len(g.marks))
	for _, e := range g.reads {
		events = append(events, history.Event{Kind: history.Read, At: e.at, Member: "reader", Partition: partition, Offset: e.offset, High: e.high, Message: e.message, Epoch: 1})
	}
	for _, m := range g.marks {
		events = append(events, history.Event{Kind: history.Watermark, Began: m.asked, At: m.at, Partition: partition, High: m.high})
	}
	return events
}
