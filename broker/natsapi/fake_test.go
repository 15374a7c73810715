package natsapi

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/broker/handler"
	"logbroker/internal/protocol"
)

// fakeCore answers by the functions that a test sets; what is not set is
// answered with an empty success.
type fakeCore struct {
	produce func(handler.PartitionRequest, func(*protocol.ProduceReply))
	fetch   func(handler.PartitionRequest, func([]byte))
	offsets func(handler.PartitionRequest, func(*protocol.OffsetsReply))
	publish func(handler.PublishRequest, func(*protocol.PubAck))
	control func(handler.Plane, string, []byte, func([]byte))

	requests atomic.Int64
	drained  atomic.Bool

	mu         sync.Mutex // guards what follows
	broadcasts []protocol.LeadersBroadcast
}

func (f *fakeCore) Produce(r handler.PartitionRequest, done func(*protocol.ProduceReply)) {
	f.requests.Add(1)
	if f.produce != nil {
		f.produce(r, done)
		return
	}
	done(&protocol.ProduceReply{})
}

func (f *fakeCore) Fetch(r handler.PartitionRequest, send func([]byte)) {
	f.requests.Add(1)
	if f.fetch != nil {
		f.fetch(r, send)
		return
	}
	reply := protocol.FetchReply{Last: true}
	send(reply.AppendHeader(nil, 0))
}

func (f *fakeCore) Offsets(r handler.PartitionRequest, done func(*protocol.OffsetsReply)) {
	f.requests.Add(1)
	if f.offsets != nil {
		f.offsets(r, done)
		return
	}
	done(&protocol.OffsetsReply{})
}

func (f *fakeCore) Publish(r handler.PublishRequest, done func(*protocol.PubAck)) {
	f.requests.Add(1)
	if f.publish != nil {
		f.publish(r, done)
		return
	}
	done(&protocol.PubAck{Stream: r.Topic, Sequence: 1})
}

func (f *fakeCore) Control(p handler.Plane, verb string, body []byte, done func([]byte)) {
	f.requests.Add(1)
	if f.control != nil {
		f.control(p, verb, body, done)
		return
	}
	done([]byte(`{"version":1}`))
}

func (f *fakeCore) Group(_, _ string, _ []byte, done func([]byte)) { done(nil) }

func (f *fakeCore) LeadershipChanged(uint64) {}

func (f *fakeCore) PeerLeaders(b protocol.LeadersBroadcast) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broadcasts = append(f.broadcasts, b)
}

func (f *fakeCore) Drain(context.Context) error {
	f.drained.Store(true)
	return nil
}

// leads reports whether the newest word of node about shard is that it leads.
func (f *fakeCore) leads(node, shard uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	led := false
	for _, b := range f.broadcasts {
		if b.Node != node {
			continue
		}
		led = led && !b.Full
		for _, s := range b.Leaders {
			led = led || s.Shard == shard
		}
	}
	return led
}

// startServer starts a server on free loopback ports.
func startServer(t *testing.T, core Core, change ...func(*Options)) *Server {
	t.Helper()
	o := Options{
		NodeID: 1, ClusterName: "test", ClientListen: "127.0.0.1:0", RouteListen: "127.0.0.1:0",
		Linger: 100 * time.Millisecond, FullBroadcastInterval: 50 * time.Millisecond, Logger: testLogger(t),
	}
	for _, f := range change {
		f(&o)
	}
	s := New(o)
	if err := s.Start(core); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// testLogger shows the log of a test that failed.
func testLogger(t *testing.T) *slog.Logger {
	out := &lockedBuffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out.String())
		}
	})
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// connect returns a client without credentials.
func connect(t *testing.T, s *Server, options ...nats.Option) *nats.Conn {
	t.Helper()
	c, err := nats.Connect(s.ClientURL(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// eventually polls cond until it holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not seen in time: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// lead makes s lead a partition and waits until a client can reach it.
func lead(t *testing.T, s *Server, topic string, partition int32) Leadership {
	t.Helper()
	l := Leadership{Shard: 1001 + uint64(partition), Topic: topic, Partition: partition, Epoch: 1, Leading: true}
	s.Leadership(l)
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	return l
}

// serveCluster starts n servers with routes between them and one core each,
// which change may prepare.
func serveCluster(t *testing.T, n int, change ...func([]*fakeCore)) ([]*Server, []*fakeCore) {
	t.Helper()
	servers, cores := make([]*Server, n), make([]*fakeCore, n)
	var routes []string
	for i := range n {
		cores[i] = &fakeCore{}
	}
	for _, f := range change {
		f(cores)
	}
	for i := range n {
		servers[i] = startServer(t, cores[i], func(o *Options) { o.NodeID, o.Routes = uint64(i+1), routes })
		routes = append(routes, servers[i].RouteAddr())
	}
	eventually(t, "all routes", func() bool {
		for _, s := range servers {
			if s.Routes() != n-1 {
				return false
			}
		}
		return true
	})
	return servers, cores
}

func produceSubject(partition int) string { return fmt.Sprintf("lb.p.%d.orders", partition) }
