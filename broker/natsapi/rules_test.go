package natsapi

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/broker/handler"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// The tests here are named after the rules of the native wire's design; each
// rule comes from a failure that was measured. Rules 0, 3 and 4 have tests in
// package handler too, where they are decided.

func TestRule0TopicIDAndEpochTravelBothWays(t *testing.T) {
	core := &fakeCore{produce: func(r handler.PartitionRequest, done func(*protocol.ProduceReply)) {
		req, err := protocol.DecodeProduceRequest(r.Payload)
		if err != nil {
			t.Error(err)
		}
		done(&protocol.ProduceReply{TopicID: req.TopicID, Epoch: req.Epoch + 1, Leader: 1})
	}}
	s := startServer(t, core)
	lead(t, s, "orders", 0)
	req := protocol.ProduceRequest{TopicID: 7, Epoch: 4}
	m, err := connect(t, s).Request(produceSubject(0), req.AppendHeader(nil), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := protocol.DecodeProduceReply(m.Data); err != nil || got.TopicID != 7 || got.Epoch != 5 || got.Leader != 1 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestRule1PlainSubscriptionsForPartitionSubjects(t *testing.T) {
	servers, cores := serveCluster(t, 2)
	lead(t, servers[0], "orders", 0)
	lead(t, servers[1], "orders", 0)
	c := connect(t, servers[0])
	waitReached(t, c, cores)
	before := []int64{cores[0].requests.Load(), cores[1].requests.Load()}
	const n = 20
	for _, subject := range []string{produceSubject(0), "lb.f.0.orders", "lb.o.0.orders"} {
		for range n {
			if err := c.PublishRequest(subject, nats.NewInbox(), []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range cores {
		eventually(t, "both nodes take every request", func() bool { return cores[i].requests.Load() == before[i]+3*n })
	}
}

// waitReached waits until requests of c reach all cores.
func waitReached(t *testing.T, c *nats.Conn, cores []*fakeCore) {
	t.Helper()
	eventually(t, "interest on all routes", func() bool {
		before := make([]int64, len(cores))
		for i, core := range cores {
			before[i] = core.requests.Load()
		}
		for _, subject := range []string{produceSubject(0), "lb.f.0.orders", "lb.o.0.orders"} {
			if _, err := c.Request(subject, []byte("x"), time.Minute); err != nil {
				return false
			}
		}
		deadline := time.Now().Add(50 * time.Millisecond)
		for time.Now().Before(deadline) {
			reached := true
			for i, core := range cores {
				reached = reached && core.requests.Load() >= before[i]+3
			}
			if reached {
				return true
			}
			<-time.After(time.Millisecond)
		}
		return false
	})
}

func TestRule1ControlSubjectsAreAnsweredByOneNode(t *testing.T) {
	servers, cores := serveCluster(t, 3)
	c := connect(t, servers[1])
	const n = 30
	for i := range n {
		subject := []string{"lb.m.metadata", "lb.a.topic_list", "lb.pub.orders"}[i%3]
		if _, err := c.Request(subject, []byte("x"), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	total := func() (sum int64) {
		for _, core := range cores {
			sum += core.requests.Load()
		}
		return sum
	}
	if got := total(); got != n {
		t.Errorf("%d requests were taken %d times", n, got)
	}
}

func TestRule2SubscriptionOutlivesTheLeadership(t *testing.T) {
	core := &fakeCore{produce: func(_ handler.PartitionRequest, done func(*protocol.ProduceReply)) {
		done(&protocol.ProduceReply{Code: errcode.NotLeaderOrFollower, Epoch: 2, Leader: 2, Message: "ask node 2"})
	}}
	s := startServer(t, core)
	c := connect(t, s)
	l := lead(t, s, "orders", 0)
	l.Leading = false
	lost := time.Now()
	s.Leadership(l)
	refusals := 0
	for {
		m, err := c.Request(produceSubject(0), []byte("x"), time.Minute)
		if errors.Is(err, nats.ErrNoResponders) {
			break
		}
		if err != nil {
			t.Fatalf("a request was lost: %v", err)
		}
		got, err := protocol.DecodeProduceReply(m.Data)
		if err != nil || got.Code != errcode.NotLeaderOrFollower || got.Leader != 2 || got.Epoch != 2 {
			t.Fatalf("%+v %v", got, err)
		}
		refusals++
	}
	if lasted := time.Since(lost); refusals == 0 || lasted < s.options.Linger || lasted > 20*s.options.Linger {
		t.Errorf("the subscription stayed for %s and refused %d times", lasted, refusals)
	}
}

func TestRule2SubscriptionStaysWhileNobodyLeads(t *testing.T) {
	core := &fakeCore{produce: func(_ handler.PartitionRequest, done func(*protocol.ProduceReply)) {
		done(&protocol.ProduceReply{Code: errcode.NotEnoughReplicas, Epoch: 2, Message: "no majority"})
	}}
	var asked atomic.Int32
	var led atomic.Bool
	s := startServer(t, core, func(o *Options) {
		o.Linger = 10 * time.Millisecond
		o.Leaderless = func(uint64) bool { asked.Add(1); return !led.Load() }
	})
	c := connect(t, s)
	l := lead(t, s, "orders", 0)
	l.Leading = false
	s.Leadership(l)
	for asked.Load() < 5 {
		m, err := c.Request(produceSubject(0), []byte("x"), time.Minute)
		if err != nil {
			t.Fatalf("nobody says that the majority is missing: %v", err)
		}
		if got, err := protocol.DecodeProduceReply(m.Data); err != nil || got.Code != errcode.NotEnoughReplicas {
			t.Fatalf("%+v %v", got, err)
		}
	}
	led.Store(true) // another node leads
	eventually(t, "the subscription ends", func() bool {
		_, err := c.Request(produceSubject(0), []byte("x"), time.Minute)
		return errors.Is(err, nats.ErrNoResponders)
	})
}

func TestRule2RegainedLeadershipKeepsItsSubscription(t *testing.T) {
	s := startServer(t, &fakeCore{}, func(o *Options) { o.Linger = 30 * time.Millisecond })
	c := connect(t, s)
	l := lead(t, s, "orders", 0)
	for range 5 {
		l.Leading = false
		s.Leadership(l)
		l.Leading, l.Epoch = true, l.Epoch+1
		s.Leadership(l)
	}
	until := time.Now().Add(4 * s.options.Linger)
	for n := 0; time.Now().Before(until); n++ {
		if _, err := c.Request(produceSubject(0), []byte("x"), time.Minute); err != nil {
			t.Fatalf("request %d: %v", n, err)
		}
	}
	s.partitions.mu.Lock()
	defer s.partitions.mu.Unlock()
	if e := s.partitions.entries[l.Shard]; e == nil || len(e.subs) != 3 {
		t.Errorf("%+v", e)
	}
}

func TestRule3NoRespondersIsAnAnswer(t *testing.T) {
	s := startServer(t, &fakeCore{})
	if _, err := connect(t, s).Request(produceSubject(0), []byte("x"), time.Minute); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("%v", err)
	}
	answers := make(chan error, 2)
	s.SendProduce("orders", 0, []byte("x"), time.Minute, func(_ []byte, err error) bool { answers <- err; return false })
	if err := <-answers; errcode.Of(err) != errcode.LeaderNotAvailable {
		t.Errorf("%v", err)
	}
}

func TestRule3SenderTakesSeveralReplies(t *testing.T) {
	core := &fakeCore{produce: func(r handler.PartitionRequest, done func(*protocol.ProduceReply)) {
		done(&protocol.ProduceReply{Code: errcode.NotLeaderOrFollower})
		done(&protocol.ProduceReply{BaseOffset: 5})
		done(&protocol.ProduceReply{BaseOffset: 6})
	}}
	s := startServer(t, core)
	lead(t, s, "orders", 0)
	replies := make(chan protocol.ProduceReply, 3)
	s.SendProduce("orders", 0, []byte("x"), time.Minute, func(b []byte, err error) bool {
		r, derr := protocol.DecodeProduceReply(b)
		if err != nil || derr != nil {
			t.Error(err, derr)
		}
		replies <- r
		return r.Code != errcode.None
	})
	if r := <-replies; r.Code != errcode.NotLeaderOrFollower {
		t.Errorf("%+v", r)
	}
	if r := <-replies; r.BaseOffset != 5 {
		t.Errorf("%+v", r)
	}
	if err := s.gateway.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(replies) != 0 {
		t.Error("a reply came after the end")
	}
}

func TestRule3SenderTimesOut(t *testing.T) {
	s := startServer(t, &fakeCore{produce: func(handler.PartitionRequest, func(*protocol.ProduceReply)) {}})
	lead(t, s, "orders", 0)
	answers := make(chan error, 2)
	s.SendProduce("orders", 0, []byte("x"), 20*time.Millisecond, func(_ []byte, err error) bool { answers <- err; return true })
	if err := <-answers; errcode.Of(err) != errcode.RequestTimedOut {
		t.Errorf("%v", err)
	}
	s.sender.mu.Lock()
	defer s.sender.mu.Unlock()
	if len(s.sender.open) != 0 {
		t.Error("the request is still held")
	}
}

func TestRule4CallbacksNeverBlockAndQueuesAreBounded(t *testing.T) {
	var held []func(*protocol.ProduceReply)
	var mu sync.Mutex // guards held
	core := &fakeCore{produce: func(_ handler.PartitionRequest, done func(*protocol.ProduceReply)) {
		mu.Lock()
		defer mu.Unlock()
		held = append(held, done)
	}}
	s := startServer(t, core)
	lead(t, s, "orders", 0)
	c := connect(t, s)
	inbox := nats.NewInbox()
	answers, err := c.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	const n = 5000 // far more than any answer given
	for range n {
		if err := c.PublishRequest(produceSubject(0), inbox, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all requests reach the core unanswered", func() bool { return core.requests.Load() == n })
	mu.Lock()
	for _, done := range held {
		done(&protocol.ProduceReply{Code: errcode.Throttled, RetryAfterMs: 20})
	}
	mu.Unlock()
	for range n {
		m, err := answers.NextMsg(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := protocol.DecodeProduceReply(m.Data); err != nil || r.Code != errcode.Throttled || r.RetryAfterMs == 0 {
			t.Fatalf("%+v %v", r, err)
		}
	}
	for _, e := range s.partitions.entries {
		for _, sub := range e.subs {
			if messages, bytes, err := sub.PendingLimits(); err != nil || messages <= 0 || bytes <= 0 {
				t.Errorf("%s is not bounded: %d %d %v", sub.Subject, messages, bytes, err)
			}
		}
	}
	if o := s.natsOptions; o.NoFastProducerStall || o.MaxPending < 64<<20 || o.WriteDeadline == 0 || o.PingInterval > time.Minute || o.Cluster.PingInterval > time.Minute {
		t.Errorf("options %+v", o)
	}
}

func TestRule5PartitionKeepsItsConnectionAndOrder(t *testing.T) {
	const n, partitionCount = 2000, 4
	var mu sync.Mutex // guards got
	got := map[int32][]uint64{}
	core := &fakeCore{produce: func(r handler.PartitionRequest, done func(*protocol.ProduceReply)) {
		mu.Lock()
		got[r.Partition] = append(got[r.Partition], binary.BigEndian.Uint64(r.Payload))
		mu.Unlock()
		done(&protocol.ProduceReply{})
	}}
	s := startServer(t, core)
	if len(s.produce) < 2 {
		t.Fatal("one connection for all partitions")
	}
	for p := range partitionCount {
		lead(t, s, "orders", int32(p))
	}
	c := connect(t, s)
	for i := range uint64(n) {
		for p := range partitionCount {
			if err := c.PublishRequest(produceSubject(p), nats.NewInbox(), binary.BigEndian.AppendUint64(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "all requests", func() bool { return core.requests.Load() == n*partitionCount })
	mu.Lock()
	defer mu.Unlock()
	for p, order := range got {
		for i, v := range order {
			if v != uint64(i) {
				t.Fatalf("partition %d: request %d came as number %d", p, v, i)
			}
		}
	}
	for _, own := range s.conns() {
		if own.Opts.ReconnectBufSize != -1 {
			t.Error("requests are buffered while a connection is down")
		}
	}
}

func TestRule6ReplySubjectsOutsideInboxesAreRefused(t *testing.T) {
	core := &fakeCore{}
	s := startServer(t, core)
	lead(t, s, "orders", 0)
	c := connect(t, s)
	// What the broker may publish itself, and a client may not.
	spy, err := s.control.SubscribeSync("lb.n.9.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	subjects := []string{produceSubject(0), "lb.f.0.orders", "lb.o.0.orders", "lb.fr.1.0.orders", "lb.pub.orders", "lb.m.metadata", "lb.a.topic_list"}
	replies := []string{"lb.n.9.transfer", "lb.i.leaders", "$SYS.REQ", "orders", "_INBOX", "_INBOX.>"}
	for _, subject := range subjects {
		for _, reply := range replies {
			if err := c.PublishRequest(subject, reply, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "all refusals", func() bool { return s.RefusedReplies() == uint64(len(subjects)*len(replies)) })
	if n := core.requests.Load(); n != 0 {
		t.Errorf("%d requests were carried out", n)
	}
	if m, err := spy.NextMsg(time.Millisecond); err == nil {
		t.Errorf("the broker wrote to %s", m.Subject)
	}
}

func TestRule6ClientsMayNotSpeakAsBrokers(t *testing.T) {
	core := &fakeCore{}
	s := startServer(t, core)
	denied := make(chan error, 100)
	c := connect(t, s, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
	subscribed := []string{"lb.p.0.orders", "lb.>", "lb.pub.>", "_LB.>", "$SYS.>"}
	for _, subject := range subscribed {
		if _, err := c.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
	}
	published := []string{"lb.n.1.transfer", "lb.i.leaders", "$SYS.REQ.SERVER.PING", "_LB.x"}
	for _, subject := range published {
		if err := c.Publish(subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	for range len(subscribed) + len(published) {
		select {
		case err := <-denied:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("something was allowed")
		}
	}
	if _, err := nats.Connect(s.ClientURL(), nats.UserInfo(userBroker, "guess")); err == nil {
		t.Error("a stranger became the broker")
	}
	if n := core.requests.Load(); n != 0 {
		t.Errorf("%d requests were carried out", n)
	}
	// A wildcard that the server lets through still shows nothing of the broker's.
	all, err := c.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	lead(t, s, "orders", 0)
	if _, err := c.Request(produceSubject(0), []byte("x"), time.Minute); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := all.NextMsg(20 * time.Millisecond)
		if err != nil {
			break
		}
		if len(m.Subject) > 3 && (m.Subject[:3] == "lb." || m.Subject[:3] == "_LB") {
			t.Errorf("the client sees %s", m.Subject)
		}
	}
}

func TestRule7ControlRepliesAreJSONWithAVersion(t *testing.T) {
	core := &fakeCore{}
	s := startServer(t, core)
	m, err := connect(t, s).Request("lb.m.metadata", []byte(`{"version":1}`), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var e protocol.Envelope[json.RawMessage]
	if err := json.Unmarshal(m.Data, &e); err != nil || e.Version != protocol.ControlVersion {
		t.Errorf("%s", m.Data)
	}
}

func TestRule8DrainAnswersWhatIsInWorkAndThenCloses(t *testing.T) {
	var finish atomic.Pointer[func(*protocol.ProduceReply)]
	core := &drainingCore{release: make(chan struct{})}
	core.produce = func(_ handler.PartitionRequest, done func(*protocol.ProduceReply)) {
		if core.drained.Load() {
			done(&protocol.ProduceReply{Code: errcode.ShuttingDown})
			return
		}
		finish.Store(&done)
	}
	s := startServer(t, core, func(o *Options) { o.LameDuck = 200 * time.Millisecond })
	lead(t, s, "orders", 0)
	closed := make(chan struct{})
	c := connect(t, s, nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	answers := make(chan error, 1)
	go func() {
		_, err := c.Request(produceSubject(0), []byte("x"), time.Minute)
		answers <- err
	}()
	eventually(t, "a request in work", func() bool { return finish.Load() != nil })
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(context.Background()) }()
	eventually(t, "the core drains", core.drained.Load)
	m, err := c.Request(produceSubject(0), []byte("x"), time.Minute)
	if err != nil {
		t.Fatalf("a request during the drain got no answer: %v", err)
	}
	if r, err := protocol.DecodeProduceReply(m.Data); err != nil || r.Code != errcode.ShuttingDown {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := c.Request("lb.m.metadata", nil, time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("another node should be asked: %v", err)
	}
	(*finish.Load())(&protocol.ProduceReply{})
	close(core.release)
	if err := <-answers; err != nil {
		t.Errorf("the request in work: %v", err)
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	if !c.IsConnected() {
		t.Error("the client was cut before the broker's own connections were drained")
	}
	for _, own := range s.conns() {
		if !own.IsClosed() {
			t.Error("an own connection is still open")
		}
	}
	s.Close()
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Error("the client's connection is still open")
	}
}

// drainingCore drains when it is released.
type drainingCore struct {
	fakeCore
	release chan struct{}
}

func (c *drainingCore) Drain(ctx context.Context) error {
	c.drained.Store(true)
	<-c.release
	return nil
}

func TestRule9ProduceNeedsNoMetadata(t *testing.T) {
	servers, cores := serveCluster(t, 2, func(cores []*fakeCore) {
		cores[0].control = func(handler.Plane, string, []byte, func([]byte)) { t.Error("metadata was asked") }
	})
	lead(t, servers[1], "orders", 3)
	c := connect(t, servers[0]) // the wrong node
	eventually(t, "the leader answers through the route", func() bool {
		_, err := c.Request(fmt.Sprintf("lb.p.%d.orders", 3), []byte("x"), time.Minute)
		return err == nil
	})
	if cores[0].requests.Load() != 0 || cores[1].requests.Load() == 0 {
		t.Error("the wrong node took the request")
	}
}
