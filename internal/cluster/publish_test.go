package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"logbroker/consumer"
	"logbroker/internal/protocol"
)

// publish publishes one plain message and returns the acknowledgement.
func publish(t *testing.T, nc *nats.Conn, topic, value string, header nats.Header) protocol.PubAck {
	t.Helper()
	m, err := nc.RequestMsg(&nats.Msg{Subject: protocol.PrefixPublish + topic, Data: []byte(value), Header: header}, 10*time.Second)
	if err != nil {
		t.Fatalf("publish %q: %v", value, err)
	}
	var ack protocol.PubAck
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		t.Fatalf("acknowledgement %q: %v", m.Data, err)
	}
	return ack
}

func TestPlainNATSMessagesBecomeRecordsThroughAnyNode(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	c.CreateTopic("plain.events", 1, 3, nil)
	leader := c.WaitLeader("plain.events", 0)
	for i, id := range c.IDs() { // the leader itself, and two by the route
		value := fmt.Sprintf("from a client of node %d", id)
		ack := publish(t, c.dial(id), "plain.events", value, nats.Header{"Lb-Key": {"k"}, "Trace": {"t1", "t2"}})
		if ack.Error != nil || ack.Stream != "plain.events" || ack.Offset != int64(i) || ack.Sequence != uint64(i+1) || ack.Duplicate {
			t.Errorf("node %d (the leader is %d): %+v", id, leader, ack)
		}
	}
	r := c.read("plain.events", 0, consumer.FromEarliest())
	for _, id := range c.IDs() {
		rec, err := r.Next(within(t, waitTimeout))
		if err != nil {
			t.Fatal(err)
		}
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
	ctx := within(t, waitTimeout)
	ack, err := js.Publish(ctx, "lb.pub.js", []byte("one"), jetstream.WithMsgID("id-1"))
	if err != nil || ack.Stream != "js" || ack.Duplicate {
		t.Fatalf("Publish: %+v, %v", ack, err)
	}
	again, err := js.Publish(ctx, "lb.pub.js", []byte("one"), jetstream.WithMsgID("id-1"))
	if err != nil || !again.Duplicate || again.Sequence != ack.Sequence {
		t.Fatalf("Publish with the same id: %+v, %v; the first was %+v", again, err, ack)
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
		case err := <-f.Err():
			t.Fatalf("message %d: %v", i, err)
		case <-ctx.Done():
			t.Fatalf("message %d was not acknowledged", i)
		}
	}
	_, err = js.Publish(ctx, "lb.pub.js", []byte("x"), jetstream.WithExpectLastSequence(7))
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
	publish(t, c.dial(leader), "once", "before", nil)
	first := publish(t, c.dial(leader), "once", "pay", header)
	if first.Error != nil || first.Offset != 1 || first.Duplicate {
		t.Fatalf("%+v", first)
	}
	expectDuplicate := func(when string, id uint64) {
		t.Helper()
		ack := publish(t, c.dial(id), "once", "pay", header)
		if ack.Error != nil || !ack.Duplicate || ack.Offset != first.Offset || ack.Sequence != first.Sequence {
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
	if got := c.readAll("once", 0); len(got) != 2 {
		t.Errorf("the log holds %q", got)
	}
}
