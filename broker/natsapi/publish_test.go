package natsapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// records fetches everything of a partition over the wire.
func records(t *testing.T, c *nats.Conn, topic protocol.TopicDescription, partition int32) []recordbatch.Record {
	t.Helper()
	var out []recordbatch.Record
	for next := int64(0); ; {
		replies := fetchAll(t, c, topic, partition, next)
		for _, r := range replies {
			out = append(out, decodeBatches(t, r.Batches)...)
		}
		if len(out) > 0 {
			next = out[len(out)-1].Offset + 1
		}
		if last := replies[len(replies)-1]; next >= last.HighWatermark {
			return out
		}
	}
}

func fetchAll(t *testing.T, c *nats.Conn, topic protocol.TopicDescription, partition int32, offset int64) []protocol.FetchReply {
	t.Helper()
	inbox := nats.NewInbox()
	sub, err := c.SubscribeSync(inbox)
	must(t, err)
	defer sub.Unsubscribe()
	req := protocol.FetchRequest{TopicID: topic.ID, Epoch: protocol.EpochUnknown, Offset: offset, MaxBytes: 1 << 20}
	must(t, c.PublishRequest(protocol.FetchSubject(topic.Name, partition), inbox, req.Append(nil)))
	var out []protocol.FetchReply
	for {
		m, err := sub.NextMsg(time.Minute)
		must(t, err)
		r, err := protocol.DecodeFetchReply(m.Data)
		must(t, err)
		if r.Code == errcode.NotLeaderOrFollower {
			continue // the old leader's last word; the new one answers too
		}
		if r.Code != errcode.None {
			t.Fatalf("%v: %s", r.Code, r.Message)
		}
		if out = append(out, r); r.Last {
			return out
		}
	}
}

func decodeBatches(t *testing.T, data []byte) (out []recordbatch.Record) {
	t.Helper()
	for len(data) > 0 {
		batch, rest, err := recordbatch.Parse(data)
		must(t, err)
		it, err := batch.Iterate(recordbatch.IterateOptions{})
		must(t, err)
		for it.Next() {
			r := it.Record()
			r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
			out = append(out, r)
		}
		must(t, it.Err())
		data = rest
	}
	return out
}

func TestJetStreamClientsPublishUnchanged(t *testing.T) {
	k := newStack(t, 1)
	c := k.client(1)
	topic := k.topic(c, "orders", 1)
	js, err := jetstream.New(c)
	must(t, err)

	ack, err := js.Publish(t.Context(), "lb.pub.orders", []byte("first"))
	must(t, err)
	if ack.Stream != "orders" || ack.Sequence != 1 || ack.Duplicate {
		t.Errorf("%+v", ack)
	}
	for want := range 2 {
		ack, err := js.Publish(t.Context(), "lb.pub.orders", []byte("second"), jetstream.WithMsgID("id"))
		must(t, err)
		if ack.Sequence != 2 || ack.Duplicate != (want == 1) {
			t.Errorf("attempt %d: %+v", want, ack)
		}
	}
	if _, err := js.Publish(t.Context(), "lb.pub.orders", nil, jetstream.WithExpectLastSequence(1)); err == nil {
		t.Error("an expectation was ignored")
	}
	if _, err := js.Publish(t.Context(), "lb.pub.nope", nil); err == nil {
		t.Error("a topic that does not exist took a message")
	}

	const n = 500
	var futures []jetstream.PubAckFuture
	for i := range n {
		f, err := js.PublishAsync("lb.pub.orders", fmt.Append(nil, i), jetstream.WithMsgID(fmt.Sprint("async-", i)))
		must(t, err)
		futures = append(futures, f)
	}
	for i, f := range futures {
		select {
		case ack := <-f.Ok():
			if ack.Sequence != uint64(i+3) {
				t.Fatalf("message %d: %+v", i, ack)
			}
		case err := <-f.Err():
			t.Fatal(err)
		case <-time.After(time.Minute):
			t.Fatal("no ack")
		}
	}
	got := records(t, c, topic, 0)
	if len(got) != n+2 || string(got[0].Value) != "first" || string(got[n+1].Value) != fmt.Sprint(n-1) {
		t.Errorf("%d records", len(got))
	}
}

func TestPlainNATSClientsPublish(t *testing.T) {
	k := newStack(t, 1)
	c := k.client(1)
	topic := k.topic(c, "or.ders", 1)
	m := nats.NewMsg("lb.pub.or.ders")
	m.Data = []byte("hello")
	m.Header.Set("Lb-Key", "k")
	m.Header.Set("X-Trace", "7")
	answer, err := c.RequestMsg(m, time.Minute)
	must(t, err)
	var ack map[string]any
	must(t, json.Unmarshal(answer.Data, &ack))
	if ack["stream"] != "or.ders" || ack["seq"] != 1.0 || ack["partition"] != 0.0 || ack["offset"] != 0.0 {
		t.Errorf("%s", answer.Data)
	}
	// Fire and forget is stored, too.
	must(t, c.Publish("lb.pub.or.ders", []byte("silent")))
	eventually(t, "the message without a reply subject", func() bool { return len(records(t, c, topic, 0)) == 2 })
	got := records(t, c, topic, 0)
	if string(got[0].Key) != "k" || string(got[0].Value) != "hello" || string(got[1].Value) != "silent" {
		t.Errorf("%+v", got)
	}
}

func TestPublishAcrossLeaderChangesIsStoredOnce(t *testing.T) {
	k := newStack(t, 3)
	c := k.client(1)
	topic := k.topic(c, "orders", 1)
	js, err := jetstream.New(c)
	must(t, err)
	id := func(i int) jetstream.PublishOpt { return jetstream.WithMsgID(fmt.Sprint("m-", i)) }
	first, err := js.Publish(t.Context(), "lb.pub.orders", []byte("m"), id(-1))
	must(t, err)
	acked := map[int]uint64{}
	plain := 0
	for i := range 60 {
		if i%20 == 10 {
			leader := k.leaderOf(c, "orders", 0)
			must(t, k.admin(c, protocol.VerbTransferLeader, protocol.TransferLeaderRequest{Topic: "orders", To: leader%3 + 1}, &protocol.Empty{}))
		}
		ack, err := js.Publish(t.Context(), "lb.pub.orders", fmt.Append(nil, i), id(i))
		must(t, err)
		acked[i] = ack.Sequence
		if _, err := js.Publish(t.Context(), "lb.pub.orders", []byte("plain")); err != nil {
			t.Fatal(err)
		}
		plain++
	}
	again, err := js.Publish(t.Context(), "lb.pub.orders", []byte("m"), id(-1))
	must(t, err)
	if !again.Duplicate || again.Sequence != first.Sequence {
		t.Errorf("first %+v, again %+v", first, again)
	}
	k.leaderOf(c, "orders", 0)
	got := records(t, c, topic, 0)
	if len(got) != 1+len(acked)+plain {
		t.Errorf("%d records, want %d", len(got), 1+len(acked)+plain)
	}
	for i, seq := range acked {
		if v := string(got[seq-1].Value); v != fmt.Sprint(i) {
			t.Errorf("offset %d holds %q, want %d", seq-1, v, i)
		}
	}
}
