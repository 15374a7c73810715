package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"logbroker/consumer"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// publish publishes one plain message, again while it is refused for the moment
// or its outcome is unknown, and returns the acknowledgement. unsure says that an
// earlier attempt may have stored it too.
func publish(t *testing.T, nc *nats.Conn, topic, value string, header nats.Header) (ack protocol.PubAck, unsure bool) {
	t.Helper()
	for ctx := within(t, waitTimeout); ; {
		m, err := nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: protocol.PrefixPublish + topic, Data: []byte(value), Header: header})
		if err != nil {
			t.Fatalf("publish %q: %v", value, err)
		}
		ack = protocol.PubAck{}
		if err := json.Unmarshal(m.Data, &ack); err != nil {
			t.Fatalf("acknowledgement %q: %v", m.Data, err)
		}
		if ack.Error == nil {
			return ack, unsure
		}
		code := errcode.Code(int16(ack.Error.ErrCode))
		if !code.Retriable() {
			t.Fatalf("publish %q: %+v", value, ack.Error)
		}
		unsure = unsure || code == errcode.RequestTimedOut
	}
}

func TestPlainNATSMessagesBecomeRecordsThroughAnyNode(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	c.CreateTopic("plain.events", 1, 3, nil)
	leader := c.WaitLeader("plain.events", 0)
	twice := map[string]bool{}   // may be stored twice
	for i, id := range c.IDs() { // the leader itself, and two by the route
		value := fmt.Sprintf("from a client of node %d", id)
		ack, unsure := publish(t, c.dial(id), "plain.events", value, nats.Header{"Lb-Key": {"k"}, "Trace": {"t1", "t2"}})
		if unsure {
			twice[value] = true
		}
		if ack.Stream != "plain.events" || ack.Offset != int64(i) && len(twice) == 0 || ack.Sequence != uint64(ack.Offset+1) || ack.Duplicate {
			t.Errorf("node %d (the leader is %d): %+v", id, leader, ack)
		}
	}
	r := c.read("plain.events", 0, consumer.FromEarliest())
	before := ""
	for _, id := range c.IDs() {
		rec, err := r.Next(within(t, waitTimeout))
		for err == nil && twice[before] && string(rec.Value) == before {
			rec, err = r.Next(within(t, waitTimeout))
		}
		if err != nil {
			t.Fatal(err)
		}
		before = string(rec.Value)
		if string(rec.Key) != "k" || string(rec.Value) != fmt.Sprintf("from a client of node %d", id) || len(rec.Headers) != 2 || rec.Headers[1].Key != "Trace" || string(rec.Headers[1].Value) != "t2" {
			t.Errorf("read back %+v", rec)
		}
	}
}

func TestJetStreamOfNATSGoPublishesUnchanged(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	c.CreateTopic("js", 3, 3, nil)
	js, err := jetstream.New(c.dial(c.WaitLeader("js", 0)%3 + 1)) // not that partition's leader
	if err != nil {
		t.Fatal(err)
	}
	// publish does as its errors say: it publishes the same again, with the id and
	// the key, which picks the partition.
	publish := func(m *nats.Msg, id string) (ack *jetstream.PubAck, repeated bool) {
		t.Helper()
		for ctx := within(t, waitTimeout); ; {
			ack, err := js.PublishMsg(ctx, m, jetstream.WithMsgID(id))
			var refused *jetstream.APIError
			switch {
			case err == nil:
				return ack, repeated
			case !errors.As(err, &refused) || !errcode.Code(int16(refused.ErrorCode)).Retriable():
				t.Fatalf("Publish %q: %v", m.Data, err)
			}
			repeated = true
		}
	}
	one := func() *nats.Msg { return &nats.Msg{Subject: "lb.pub.js", Data: []byte("one")} }
	ack, repeated := publish(one(), "id-1")
	if ack.Stream != "js" || ack.Duplicate && !repeated {
		t.Fatalf("Publish: %+v", ack)
	}
	again, _ := publish(one(), "id-1")
	if !again.Duplicate || again.Sequence != ack.Sequence {
		t.Fatalf("Publish with the same id: %+v; the first was %+v", again, ack)
	}
	const many = 500
	futures := make([]jetstream.PubAckFuture, many)
	for i := range futures {
		m := &nats.Msg{Subject: "lb.pub.js", Data: fmt.Append(nil, "async ", i), Header: nats.Header{"Lb-Key": {fmt.Sprint(i % 7)}}}
		if futures[i], err = js.PublishMsgAsync(m, jetstream.WithMsgID(fmt.Sprint("async-", i))); err != nil {
			t.Fatal(err)
		}
	}
	for i, f := range futures {
		select {
		case <-f.Ok():
		case <-f.Err():
			publish(&nats.Msg{Subject: "lb.pub.js", Data: f.Msg().Data, Header: nats.Header{"Lb-Key": f.Msg().Header["Lb-Key"]}}, fmt.Sprint("async-", i))
		case <-time.After(waitTimeout):
			t.Fatalf("message %d was not acknowledged", i)
		}
	}
	_, err = js.Publish(within(t, waitTimeout), "lb.pub.js", []byte("x"), jetstream.WithExpectLastSequence(7))
	var refused *jetstream.APIError
	if err == nil || !errors.As(err, &refused) || refused.Code != 400 {
		t.Errorf("a publish with an expectation: %v, want it refused", err)
	}
	seen := map[string]int{}
	for partition := range int32(3) {
		for _, v := range c.readAll("js", partition) {
			seen[v]++
		}
	}
	if len(seen) != many+1 || seen["one"] != 1 {
		t.Errorf("%d different messages are stored, want %d; the one sent twice is there %d times", len(seen), many+1, seen["one"])
	}
	for v, n := range seen {
		if n != 1 {
			t.Errorf("%q is stored %d times", v, n)
		}
	}
}

func TestSameMessageIDIsStoredOnceAcrossLeaderChanges(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	c.CreateTopic("once", 1, 3, nil)
	leader := c.WaitLeader("once", 0)
	header := nats.Header{"Nats-Msg-Id": {"order-17"}}
	_, twice := publish(t, c.dial(leader), "once", "before", nil)
	first, unsure := publish(t, c.dial(leader), "once", "pay", header)
	if first.Offset != 1 && !twice || first.Duplicate && !unsure {
		t.Fatalf("%+v", first)
	}
	expectDuplicate := func(when string, id uint64) {
		t.Helper()
		ack, _ := publish(t, c.dial(id), "once", "pay", header)
		if !ack.Duplicate || ack.Offset != first.Offset || ack.Sequence != first.Sequence {
			t.Errorf("%s, by node %d: %+v, want a duplicate at offset %d", when, id, ack, first.Offset)
		}
	}
	expectDuplicate("again", leader)
	to := leader%3 + 1
	c.Transfer("once", 0, to)
	for _, id := range c.IDs() {
		expectDuplicate("after a transfer", id)
	}
	c.Stop(to)
	left := c.Running()
	for _, id := range left {
		expectDuplicate("after the leader's node stopped", id)
	}
	c.Restart(to)
	expectDuplicate("at the node that came back", to)
	c.StopAll()
	c.Restart(c.IDs()...)
	c.WaitLeader("once", 0)
	expectDuplicate("after all nodes were stopped", leader)
	if got := c.readAll("once", 0); int64(len(got)) != first.Offset+1 || got[first.Offset] != "pay" || slices.Index(got, "pay") != int(first.Offset) {
		t.Errorf("the log holds %q", got)
	}
}
