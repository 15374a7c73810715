package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"logbroker/bench/load"
)

// pullRecords is how many records one pull asks for: enough that the pulls do
// not show, and no more than the client should hold.
func pullRecords(recordSize int) int { return min(max(64<<20/recordSize, 100), 10_000) }

// NewReceiver implements load.System. Reading in a group is not measured here.
func (s *jetStreamSystem) NewReceiver(_ context.Context, n int, group bool) (load.Receiver, error) {
	if group {
		return nil, errors.New("jetstream: reading in a group is not built; leave phase e2e out")
	}
	r := &jetStreamReceiver{pull: pullRecords(s.spec.RecordSize)}
	for i := n; i < len(s.streams); i += s.spec.Consumers {
		conn, err := nats.Connect(s.streams[i].server)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("connecting to %s: %w", s.streams[i].server, err), r.Close())
		}
		r.conns, r.streams = append(r.conns, conn), append(r.streams, s.streams[i])
	}
	return r, nil
}

// jetStreamReceiver reads its streams with an ordered consumer and a connection
// each.
type jetStreamReceiver struct {
	conns   []*nats.Conn
	streams []natsStream
	pull    int
}

// Receive implements load.Receiver.
func (r *jetStreamReceiver) Receive(ctx context.Context, visit func([][]byte)) error {
	var wg sync.WaitGroup
	errs := make([]error, len(r.streams))
	for i, stream := range r.streams {
		wg.Go(func() { errs[i] = r.read(ctx, r.conns[i], stream.name, visit) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// read hands over one stream until ctx ends.
func (r *jetStreamReceiver) read(ctx context.Context, conn *nats.Conn, stream string, visit func([][]byte)) error {
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("making a JetStream client: %w", err)
	}
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return fmt.Errorf("making an ordered consumer of %s: %w", stream, err)
	}
	// Its callback is called from one goroutine.
	one := make([][]byte, 1)
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		one[0] = m.Data()
		visit(one)
	}, jetstream.PullMaxMessages(r.pull))
	if err != nil {
		return fmt.Errorf("reading %s: %w", stream, err)
	}
	<-ctx.Done()
	consuming.Stop()
	<-consuming.Closed()
	return nil
}

// Close implements load.Receiver.
func (r *jetStreamReceiver) Close() error {
	for _, conn := range r.conns {
		conn.Close()
	}
	return nil
}
