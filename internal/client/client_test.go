package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/client"
	"logbroker/internal/client/clienttest"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func dial(t testing.TB, b *clienttest.Broker) *client.Client {
	t.Helper()
	c, err := client.Dial(within(t), b.URLs()[:1], client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestDialSaysHowToStartAServer(t *testing.T) {
	_, err := client.Dial(within(t), []string{"nats://127.0.0.1:1"}, client.Options{})
	if err == nil || !strings.Contains(err.Error(), "no server at nats://127.0.0.1:1: is it running? start one with: logbrokerd dev") {
		t.Fatal(err)
	}
}

func TestControlErrorsKeepCodeMessageAndRetryAfter(t *testing.T) {
	b := clienttest.Start(t, 1)
	refusal := errcode.New(errcode.TopicAlreadyExists, "topic %q is there", "orders")
	refusal.RetryAfter = 3 * time.Second
	b.OnControl("lb.a.topic_create", func([]byte) (any, error) { return nil, refusal })
	_, err := dial(t, b).Admin().CreateTopic(within(t), protocol.TopicCreateRequest{Name: "orders"})
	var e *errcode.Error
	if !errors.As(err, &e) || *e != *refusal {
		t.Fatalf("%+v", err)
	}
	if n := b.Count("lb.a.topic_create"); n != 1 {
		t.Fatalf("asked %d times", n)
	}
}

func TestControlRepeatsRetriableRefusals(t *testing.T) {
	b := clienttest.Start(t, 1)
	var n atomic.Int32
	var ids sync.Map
	b.OnControl("lb.a.topic_create", func(body []byte) (any, error) {
		var r protocol.TopicCreateRequest
		if err := json.Unmarshal(body, &r); err != nil {
			t.Error(err)
		}
		ids.Store(r.RequestID, true)
		if n.Add(1) < 3 {
			return nil, errcode.New(errcode.LeaderNotAvailable, "wait")
		}
		return protocol.TopicDescription{Name: r.Name, Replicas: 3}, nil
	})
	d, err := dial(t, b).Admin().CreateTopic(within(t), protocol.TopicCreateRequest{Name: "orders"})
	if err != nil || d.Name != "orders" || d.Replicas != 3 {
		t.Fatal(d, err)
	}
	distinct := 0
	ids.Range(func(id, _ any) bool {
		if distinct++; id == "" {
			t.Error("no request id: a retry is not recognisable")
		}
		return true
	})
	if distinct != 1 {
		t.Fatalf("%d request ids for one request", distinct)
	}
}

// adminCalls returns a call per admin verb, with arguments with which it may be
// repeated.
func adminCalls(ctx context.Context, a client.Admin) map[string]func() error {
	return map[string]func() error{
		protocol.VerbTopicCreate: func() error {
			_, err := a.CreateTopic(ctx, protocol.TopicCreateRequest{Name: "x"})
			return err
		},
		protocol.VerbTopicList:       func() error { _, err := a.ListTopics(ctx); return err },
		protocol.VerbTopicDescribe:   func() error { _, err := a.DescribeTopic(ctx, "x"); return err },
		protocol.VerbTopicDelete:     func() error { return a.DeleteTopic(ctx, "x") },
		protocol.VerbTopicAlter:      func() error { _, err := a.AlterTopic(ctx, "x", nil); return err },
		protocol.VerbTopicPartitions: func() error { _, err := a.AddPartitions(ctx, "x", 3); return err },
		protocol.VerbTopicTrim:       func() error { _, err := a.TrimTopic(ctx, "x", 0, 5); return err },
		protocol.VerbClusterInfo:     func() error { _, err := a.ClusterInfo(ctx); return err },
		protocol.VerbClusterHealth:   func() error { _, err := a.ClusterHealth(ctx); return err },
		protocol.VerbPartitions:      func() error { _, err := a.Partitions(ctx); return err },
		protocol.VerbTransferLeader:  func() error { return a.TransferLeader(ctx, "x", 0, 2) },
		protocol.VerbBalanceLeaders:  func() error { _, err := a.BalanceLeaders(ctx); return err },
		protocol.VerbRaftShow:        func() error { _, err := a.ShowRaft(ctx, protocol.RaftShowRequest{Topic: "x"}); return err },
		protocol.VerbGroupList:       func() error { _, err := a.ListGroups(ctx); return err },
	}
}

func TestEveryAdminVerbAsksItsOwnSubject(t *testing.T) {
	b := clienttest.Start(t, 1)
	for verb, call := range adminCalls(within(t), dial(t, b).Admin()) {
		subject := protocol.PrefixAdmin + verb
		b.OnControl(subject, func(body []byte) (any, error) {
			if !json.Valid(body) {
				t.Errorf("%s: the request is not JSON: %q", verb, body)
			}
			return protocol.Empty{}, nil
		})
		if err := call(); err != nil || b.Count(subject) != 1 {
			t.Errorf("%s: %v, asked %d times", verb, err, b.Count(subject))
		}
	}
}

func timedOut() error { return errcode.New(errcode.RequestTimedOut, "no outcome in time") }

func TestAdminRepeatsAfterAnUnknownOutcome(t *testing.T) {
	b := clienttest.Start(t, 1)
	for verb, call := range adminCalls(within(t), dial(t, b).Admin()) {
		subject := protocol.PrefixAdmin + verb
		var bodies []string // only the broker's one goroutine appends
		b.OnControl(subject, func(body []byte) (any, error) {
			if bodies = append(bodies, string(body)); len(bodies) < 3 {
				return nil, timedOut()
			}
			return protocol.Empty{}, nil
		})
		if err := call(); err != nil || b.Count(subject) != 3 {
			t.Errorf("%s: %v, asked %d times", verb, err, b.Count(subject))
			continue
		}
		if bodies[1] != bodies[0] || bodies[2] != bodies[0] {
			t.Errorf("%s: the repeats are other requests: %q", verb, bodies)
		}
	}
}

func TestChangesOfTopicsCarryARequestIDOfTheirOwn(t *testing.T) {
	b := clienttest.Start(t, 1)
	calls := adminCalls(within(t), dial(t, b).Admin())
	seen := map[string]bool{}
	for _, verb := range []string{protocol.VerbTopicCreate, protocol.VerbTopicDelete, protocol.VerbTopicAlter, protocol.VerbTopicPartitions} {
		ids := make(chan string, 1)
		b.OnControl(protocol.PrefixAdmin+verb, func(body []byte) (any, error) {
			var r struct {
				RequestID string `json:"request_id"`
			}
			err := json.Unmarshal(body, &r)
			ids <- r.RequestID
			return protocol.Empty{}, err
		})
		for range 2 {
			if err := calls[verb](); err != nil {
				t.Fatal(err)
			}
			if id := <-ids; id == "" || seen[id] {
				t.Errorf("%s: request id %q", verb, id)
			} else {
				seen[id] = true
			}
		}
	}
}

func TestAdminDoesNotRepeatWhatMayHaveBeenDone(t *testing.T) {
	b := clienttest.Start(t, 1)
	c, err := client.Dial(within(t), b.URLs()[:1], client.Options{AdminAttempt: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for verb, call := range map[string]func(context.Context) error{
		protocol.VerbTransferLeader: func(ctx context.Context) error { return c.Admin().TransferLeader(ctx, "x", 0, 0) },
		protocol.VerbTopicTrim:      func(ctx context.Context) error { _, err := c.Admin().TrimTopic(ctx, "x", 0, -1); return err },
	} {
		subject := protocol.PrefixAdmin + verb
		b.OnControl(subject, func([]byte) (any, error) { return nil, timedOut() })
		if err := call(within(t)); errcode.Of(err) != errcode.RequestTimedOut || b.Count(subject) != 1 {
			t.Errorf("%s, told that it timed out: %v, sent %d times", verb, err, b.Count(subject))
		}
		b.OnControl(subject, func([]byte) (any, error) { return nil, nil })
		ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
		defer cancel()
		if err := call(ctx); err == nil || b.Count(subject) != 2 {
			t.Errorf("%s, not answered: %v, sent %d times", verb, err, b.Count(subject)-1)
		}
	}
}

func TestTheReplyToAnEarlierAttemptCounts(t *testing.T) {
	b := clienttest.Start(t, 1)
	c, err := client.Dial(within(t), b.URLs()[:1], client.Options{AdminAttempt: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	const subject = protocol.PrefixAdmin + protocol.VerbTopicDescribe
	sent := make(chan struct{}, 1000)
	overhear(t, b, subject, func() { sent <- struct{}{} })
	first := true // only the broker's one goroutine looks
	b.OnControl(subject, func([]byte) (any, error) {
		if !first {
			return nil, nil // lost
		}
		first = false
		<-sent
		<-sent // the second attempt
		return protocol.TopicDescription{Name: "first"}, nil
	})
	d, err := c.Admin().DescribeTopic(within(t), "x")
	if err != nil || d.Name != "first" {
		t.Fatal(d, err)
	}
}

// overhear calls on for each message on a subject.
func overhear(t *testing.T, b *clienttest.Broker, subject string, on func()) {
	t.Helper()
	nc, err := nats.Connect(b.URLs()[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if _, err := nc.Subscribe(subject, func(*nats.Msg) { on() }); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestAdminEndsWithItsContextAndSaysWhy(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.OnControl(protocol.PrefixAdmin+protocol.VerbTransferLeader, func([]byte) (any, error) { return nil, timedOut() })
	ctx, cancel := context.WithTimeout(within(t), 200*time.Millisecond)
	defer cancel()
	if err := dial(t, b).Admin().TransferLeader(ctx, "x", 0, 2); errcode.Of(err) != errcode.RequestTimedOut {
		t.Fatal(err)
	}
}

func TestMetadataIsCachedAndRefreshedOnDemand(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 2)
	c := dial(t, b)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if m, err := c.Topic(within(t), "orders"); err != nil || len(m.Partitions) != 2 {
				t.Error(m, err)
			}
		})
	}
	wg.Wait()
	if n := b.Count("lb.m.metadata"); n > 3 {
		t.Fatalf("%d requests for one topic", n)
	}
	b.AddPartitions("orders", 5)
	for range 100 {
		c.Stale("orders")
	}
	clienttest.Await(t, "the refresh", func() bool {
		m, ok := c.Cached("orders")
		return ok && len(m.Partitions) == 5
	})
	if n := b.Count("lb.m.metadata"); n > 8 {
		t.Fatalf("%d requests: the refresh is not limited", n)
	}
}

func TestUnknownTopicSaysHowToCreateIt(t *testing.T) {
	b := clienttest.Start(t, 1)
	_, err := dial(t, b).Topic(within(t), "orders")
	if errcode.Of(err) != errcode.UnknownTopicOrPartition || !strings.Contains(err.Error(), "logbroker topic create orders") {
		t.Fatal(err)
	}
}

func TestTheHigherLeaderEpochWins(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	c := dial(t, b)
	m, err := c.Topic(within(t), "orders")
	if err != nil {
		t.Fatal(err)
	}
	hint := func(node uint64, epoch int32) client.Leader {
		return client.Leader{TopicID: m.ID, Node: node, Epoch: epoch}
	}
	steps := []struct{ learn, want client.Leader }{
		{hint(9, 5), hint(9, 5)},
		{hint(8, 4), hint(9, 5)},                                    // older
		{hint(0, 5), hint(9, 5)},                                    // knows less
		{client.Leader{TopicID: 1, Node: 3, Epoch: 50}, hint(9, 5)}, // another topic
		{hint(0, 6), hint(0, 6)},
		{hint(7, 6), hint(7, 6)},
	}
	for i, s := range steps {
		c.Learn("orders", 0, s.learn)
		if got := c.Leader("orders", 0); got != s.want {
			t.Fatalf("step %d: %+v, want %+v", i, got, s.want)
		}
	}
	if _, err := c.Metadata(within(t), "orders"); err != nil {
		t.Fatal(err)
	}
	if got := c.Leader("orders", 0); got != hint(7, 6) {
		t.Fatalf("older metadata took over: %+v", got)
	}
}

func TestNoRespondersComesAtOnceAndIsDefinite(t *testing.T) {
	b := clienttest.Start(t, 1)
	heard := make(chan error, 2)
	begun := time.Now()
	_, err := dial(t, b).Conn(0).Call(client.Request{Subject: "lb.p.0.nobody", Timeout: 5 * time.Minute},
		func(_ []byte, err error) { heard <- err })
	if err != nil {
		t.Fatal(err)
	}
	if err := <-heard; !client.Definite(err) || time.Since(begun) > time.Minute {
		t.Fatal(err)
	}
}

func TestABrokenConnectionEndsItsCalls(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	b.OnFetch(func(clienttest.Fetch) clienttest.Fault { return clienttest.Fault{Drop: true} })
	c := dial(t, b)
	heard := make(chan error, 2)
	req := protocol.FetchRequest{Epoch: protocol.EpochUnknown}
	_, err := c.Conn(0).Call(client.Request{Subject: protocol.FetchSubject("orders", 0), Payload: req.Append(nil), Timeout: time.Minute},
		func(_ []byte, err error) { heard <- err })
	if err != nil {
		t.Fatal(err)
	}
	clienttest.Await(t, "the request", func() bool { return b.Count("fetch") == 1 })
	b.StopNode(1)
	if err := <-heard; !errors.Is(err, client.ErrDisconnected) {
		t.Fatal(err)
	}
	clienttest.Await(t, "the client to notice", func() bool {
		_, err := c.Conn(0).Call(client.Request{Subject: "x", Timeout: time.Second}, func([]byte, error) {})
		return errors.Is(err, client.ErrNotSent)
	})
	b.RestartNode(1)
	if _, err := c.Metadata(within(t)); err != nil {
		t.Fatal(err)
	}
}

func TestOversizedRequestsAreRefusedWithACode(t *testing.T) {
	b := clienttest.Start(t, 1)
	_, err := dial(t, b).Conn(0).Call(client.Request{Subject: "x", Payload: make([]byte, 2<<20), Timeout: time.Second}, func([]byte, error) {})
	if errcode.Of(err) != errcode.MessageTooLarge {
		t.Fatal(err)
	}
}

func TestLateRepliesStillReachTheHandler(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	release := make(chan struct{})
	b.OnFetch(func(clienttest.Fetch) clienttest.Fault { return clienttest.Fault{Hold: release} })
	heard := make(chan error, 4)
	req := protocol.FetchRequest{Epoch: protocol.EpochUnknown}
	_, err := dial(t, b).Conn(0).Call(client.Request{Subject: protocol.FetchSubject("orders", 0), Payload: req.Append(nil), Timeout: 20 * time.Millisecond},
		func(_ []byte, err error) { heard <- err })
	if err != nil {
		t.Fatal(err)
	}
	if err := <-heard; !errors.Is(err, client.ErrTimeout) {
		t.Fatal(err)
	}
	close(release)
	if err := <-heard; err != nil {
		t.Fatal(err)
	}
}

func TestOffsetsFollowTheLeader(t *testing.T) {
	b := clienttest.Start(t, 2)
	b.CreateTopic("orders", 1)
	b.Append("orders", 0, 0, "a", "b", "c")
	c := dial(t, b)
	for i, want := range map[int64]int64{protocol.TimestampLatest: 3, protocol.TimestampEarliest: 0, 1001: 1, 9999: -1} {
		b.MoveLeader("orders", 0, uint64(i&1)+1)
		r, err := c.Offsets(within(t), "orders", 0, i)
		if err != nil || r.Offset != want {
			t.Fatal(i, r.Offset, err)
		}
	}
}

func TestRequestsGoToTheLeadersOwnNode(t *testing.T) {
	b := clienttest.Start(t, 2)
	b.CreateTopic("orders", 2)
	c := dial(t, b)
	if _, err := c.Topic(within(t), "orders"); err != nil {
		t.Fatal(err)
	}
	seed := c.Conn(0) // stands with node 1, which needs no second connection
	clienttest.Await(t, "a connection to the other node", func() bool { return c.Conn(2) != seed })
	if c.Conn(1) != seed {
		t.Fatal("the node that the seed stands with got a connection of its own")
	}
	b.StopNode(2)
	clienttest.Await(t, "the fallback", func() bool { return c.Conn(2) == seed })
}

func TestTheSeedServesTheNodeThatItStandsWith(t *testing.T) {
	b := clienttest.Start(t, 2)
	b.CreateTopic("orders", 2)
	c := dial(t, b)
	if _, err := c.Topic(within(t), "orders"); err != nil {
		t.Fatal(err)
	}
	seed := c.Conn(0) // stands with node 1
	b.StopNode(1)
	b.RestartNode(1)
	// The seed comes back to node 1, or moves to node 2 and stays there.
	clienttest.Await(t, "each node's requests go to it alone", func() bool {
		return c.Conn(1) != c.Conn(2) && (c.Conn(1) == seed || c.Conn(2) == seed)
	})
}

func TestMetadataThatNobodyAnswersSaysWhyAndNotThatItMayHaveBeenDone(t *testing.T) {
	b := clienttest.Start(t, 1)
	c := dial(t, b)
	b.StopNode(1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Metadata(ctx, "orders")
	if err == nil || strings.Contains(err.Error(), "may have been done") {
		t.Fatal(err)
	}
	if unsent := errors.Is(err, client.ErrNotSent); unsent && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the error does not say that the time was over: %v", err)
	}
}
