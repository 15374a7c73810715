package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"logbroker/bench/load"
)

// windowBytes bounds what one producer has unacked on one stream.
const windowBytes = 16 << 20

// asyncWindow is how many single publishes are unacked per stream and producer.
func asyncWindow(recordSize int) int { return min(max(windowBytes/recordSize, 16), 8192) }

// fastOutstanding acks of fast ingest may be missing, fastFlow records per ack.
const fastOutstanding = 8

// fastFlow is the number of records per ack that is asked for; the server gives
// no more than 500.
func fastFlow(recordSize int) int { return min(max(windowBytes/recordSize/fastOutstanding, 2), 500) }

// NewSender implements load.System.
func (s *jetStreamSystem) NewSender(_ context.Context, _ int) (load.Sender, error) {
	return s.newSender(s.streams, s.path)
}

func (s *jetStreamSystem) newSender(streams []natsStream, path string) (*jetStreamSender, error) {
	sender := &jetStreamSender{conns: make(map[string]*nats.Conn), topics: s.spec.Topics}
	for _, stream := range streams {
		conn, err := sender.connect(stream.server)
		if err == nil {
			err = sender.addLane(conn, stream.name, path, s.spec.RecordSize)
		}
		if err != nil {
			return nil, errors.Join(err, sender.Close())
		}
	}
	return sender, nil
}

// jetStreamSender is one producer. Send is called from one goroutine at a time.
type jetStreamSender struct {
	conns  map[string]*nats.Conn // by server
	lanes  []*lane               // by stream
	topics int
	next   int // running number of the records without a key
}

func (s *jetStreamSender) connect(server string) (*nats.Conn, error) {
	if conn := s.conns[server]; conn != nil {
		return conn, nil
	}
	conn, err := nats.Connect(server)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", server, err)
	}
	s.conns[server] = conn
	return conn, nil
}

func (s *jetStreamSender) addLane(conn *nats.Conn, subject, path string, recordSize int) error {
	l, err := newLane(conn, subject, recordSize)
	if err != nil {
		return err
	}
	if path == pathFast {
		l.queue = make(chan laneRecord, asyncWindow(recordSize))
		go l.run() // ends when Close closes the queue
	}
	s.lanes = append(s.lanes, l)
	return nil
}

// Send implements load.Sender.
func (s *jetStreamSender) Send(ctx context.Context, r load.Record, done func(error)) {
	l := s.lanes[s.choose(r)]
	l.outstanding.Add(1)
	l.send(ctx, r.Value, done)
}

// choose returns the stream of a record: by its key, or in turn.
func (s *jetStreamSender) choose(r load.Record) int {
	perTopic := len(s.lanes) / s.topics
	n := s.next
	if r.Key == nil {
		s.next++
	} else {
		h := fnv.New32a()
		_, _ = h.Write(r.Key) // never fails
		n = int(h.Sum32() & 0x7fffffff)
	}
	return r.Topic*perTopic + n%perTopic
}

// Flush implements load.Sender.
func (s *jetStreamSender) Flush(ctx context.Context) error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		left := int64(0)
		for _, l := range s.lanes {
			left += l.outstanding.Load()
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d records have no ack: %w", left, ctx.Err())
		case <-ticker.C:
		}
	}
}

// Close implements load.Sender.
func (s *jetStreamSender) Close() error {
	for _, l := range s.lanes {
		l.close()
	}
	for _, conn := range s.conns {
		conn.Close()
	}
	for _, l := range s.lanes {
		l.abandon()
	}
	return nil
}

// jetStreamOf makes a client whose single publishes end in l.
func jetStreamOf(conn *nats.Conn, l *lane, window int) (jetstream.JetStream, error) {
	js, err := jetstream.New(conn,
		// One more than the lane's own bound, so that it never stalls inside.
		jetstream.WithPublishAsyncMaxPending(window+1),
		jetstream.WithPublishAsyncAckHandler(func(_ jetstream.JetStream, m *nats.Msg, _ *jetstream.PubAck) { l.acked(m, nil) }),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) { l.acked(m, err) }))
	if err != nil {
		return nil, fmt.Errorf("making a JetStream client: %w", err)
	}
	return js, nil
}
