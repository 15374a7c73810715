package natsapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// answerWithin says that an answer came at all. That it comes within 50 ms is
// measured by internal/cluster, which takes out the time in which a busy machine
// gave the process no processor.
const answerWithin = time.Second

// codeOf returns the code of an answer on subject; ok is false where the answer
// is none of ours.
func codeOf(subject string, data []byte) (code errcode.Code, ok bool) {
	switch {
	case strings.HasPrefix(subject, protocol.PrefixPublish):
		var ack protocol.PubAck
		if json.Unmarshal(data, &ack) != nil {
			return 0, false
		}
		if ack.Error == nil {
			return errcode.None, true
		}
		return errcode.Code(int16(ack.Error.ErrCode)), ack.Error.Description != ""
	case strings.HasPrefix(subject, protocol.PrefixFetch), strings.HasPrefix(subject, protocol.PrefixFetchFrom):
		r, err := protocol.DecodeFetchReply(data)
		return r.Code, err == nil && r.Last && (r.Message != "" || r.Code == errcode.None)
	case strings.HasPrefix(subject, protocol.PrefixProduce), strings.HasPrefix(subject, protocol.PrefixOffsets):
		r, err := protocol.DecodeProduceReply(data)
		return r.Code, err == nil && r.Message != ""
	}
	var e protocol.Envelope[json.RawMessage]
	if json.Unmarshal(data, &e) != nil || e.Error == nil {
		return errcode.None, e.Version != 0
	}
	return e.Error.Code, e.Error.Message != "" && e.Error.Name == e.Error.Code.String()
}

func TestGarbageOnEverySubjectIsRefusedByCode(t *testing.T) {
	k := newStack(t, 1)
	c := k.client(1)
	topic := k.topic(c, "orders", 1)
	must(t, c.Flush())
	// The partition is led a moment before its subscriptions stand.
	for _, subject := range []string{"lb.p.0.orders", "lb.f.0.orders", "lb.o.0.orders"} {
		eventually(t, "an answer on "+subject, func() bool {
			_, err := c.Request(subject, nil, time.Minute)
			return err == nil
		})
	}

	var builder recordbatch.Builder
	builder.Append(1, nil, []byte("v"), nil)
	batch, err := builder.Build(nil, recordbatch.None)
	must(t, err)
	head := (&protocol.ProduceRequest{TopicID: topic.ID, Epoch: -1}).AppendHeader(nil)
	noise := make([]byte, 4096)
	rng := rand.NewChaCha8([32]byte{7})
	if _, err := rng.Read(noise); err != nil {
		t.Fatal(err)
	}
	payloads := map[string][]byte{
		"empty": nil, "one byte": {1}, "zeros": make([]byte, 100), "ones": bytes.Repeat([]byte{0xff}, 100), "noise": noise,
		"text": []byte("hello"), "JSON": []byte(`{"version":1,"name":[]}`), "deep JSON": bytes.Repeat([]byte("["), 20_000),
		"header only": head, "cut batch": append(bytes.Clone(head), batch[:30]...),
		"length lies":  append(bytes.Clone(head), 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 2),
		"large":        make([]byte, 1<<20),
		"long id":      append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 255}, "short"...),
		"fetch wants":  (&protocol.FetchRequest{TopicID: topic.ID, Epoch: -1, Offset: -5, MaxBytes: 1 << 31, MaxWaitMs: 1 << 31}).Append(nil),
		"other topic":  (&protocol.FetchRequest{TopicID: 1 << 60, Epoch: -1}).Append(nil),
		"future epoch": (&protocol.FetchRequest{TopicID: topic.ID, Epoch: 1 << 30}).Append(nil),
	}
	subjects := []string{
		"lb.p.0.orders", "lb.f.0.orders", "lb.o.0.orders",
		"lb.fr.1.0.orders", "lb.fr.1.x.orders", "lb.fr.1.99.orders", "lb.fr.1.-1.orders", "lb.fr.1.0.nope", "lb.fr.1.0", "lb.fr.1.4294967296.orders",
		"lb.m.metadata", "lb.m.nonsense", "lb.m.a.b.c",
		"lb.a.topic_create", "lb.a.topic_describe", "lb.a.topic_delete", "lb.a.topic_alter", "lb.a.topic_partitions", "lb.a.topic_trim",
		"lb.a.transfer_leader", "lb.a.raft_show", "lb.a.nonsense", "lb.a.$x",
		"lb.g.join.x", "lb.g.nonsense",
		"lb.pub.nope", "lb.pub.$orders", "lb.pub.a-b.é",
	}
	for _, subject := range subjects {
		for name, payload := range payloads {
			refused(t, c, subject, name, payload)
		}
	}
	// Nothing of that was stored, and the node still works.
	if _, err := c.Request("lb.pub.orders", []byte("v"), time.Minute); err != nil {
		t.Fatal(err)
	}
	if got := records(t, c, topic, 0); len(got) != 1 {
		t.Errorf("%d records, want 1", len(got))
	}
}

// refused checks that a message is answered, soon, by something that can be
// decoded. Verbs without a required field may well succeed.
func refused(t *testing.T, c *nats.Conn, subject, name string, payload []byte) {
	t.Helper()
	mayWork := subject == "lb.m.metadata" || subject == "lb.a.raft_show" || subject == "lb.fr.1.0.orders" && name == "future epoch"
	least := time.Duration(math.MaxInt64)
	for n := 0; n < refusedTries && (least > answerWithin || n == 0); n++ {
		start := time.Now()
		m, err := c.Request(subject, payload, time.Minute)
		if err != nil {
			t.Errorf("%s, %s: %v", subject, name, err)
			return
		}
		least = min(least, time.Since(start))
		code, ok := codeOf(subject, m.Data)
		if !ok || code == errcode.None && !mayWork || code == errcode.UnknownServerError {
			t.Errorf("%s, %s: answer %.80q, code %v", subject, name, m.Data, code)
			return
		}
	}
	if least > answerWithin && !raceEnabled {
		t.Errorf("%s, %s: answered after %s at best", subject, name, least)
	}
}

// refusedTries is how often a bad message is sent again where the answer came
// late: a busy machine is late now and then, a slow answer always.
const refusedTries = 10

func TestPartitionSubjectsOfNobodyHaveNoResponders(t *testing.T) {
	k := newStack(t, 1)
	c := k.client(1)
	for _, subject := range []string{"lb.p.1.orders", "lb.p.x.orders", "lb.f.0.nope", "lb.o.0", "lb.fr.9.0.orders"} {
		if _, err := c.Request(subject, nil, time.Second); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("%s: %v", subject, err)
		}
	}
}

func TestWhatABatchHoldsIsWhatIsFetched(t *testing.T) {
	k := newStack(t, 1)
	c := k.client(1)
	topic := k.topic(c, "orders", 1)
	want := 0
	for i := range 20 {
		var b recordbatch.Builder
		for j := range 10 {
			b.Append(int64(1000*i+j), nil, fmt.Append(nil, want+j), nil)
		}
		request, err := b.Build((&protocol.ProduceRequest{TopicID: topic.ID, Epoch: -1}).AppendHeader(nil), recordbatch.Zstd)
		must(t, err)
		m, err := c.Request(protocol.ProduceSubject("orders", 0), request, time.Minute)
		must(t, err)
		if r, err := protocol.DecodeProduceReply(m.Data); err != nil || r.Code != errcode.None || r.BaseOffset != int64(want) {
			t.Fatalf("%+v %v", r, err)
		}
		want += 10
	}
	for i, r := range records(t, c, topic, 0) {
		if string(r.Value) != fmt.Sprint(i) || r.Offset != int64(i) {
			t.Fatalf("record %d: %+v", i, r)
		}
	}
	for ts, offset := range map[int64]int64{protocol.TimestampEarliest: 0, protocol.TimestampLatest: int64(want), 5003: 53} {
		m, err := c.Request(protocol.OffsetsSubject("orders", 0), (&protocol.OffsetsRequest{TopicID: topic.ID, Epoch: -1, TimestampMs: ts}).Append(nil), time.Minute)
		must(t, err)
		if r, err := protocol.DecodeOffsetsReply(m.Data); err != nil || r.Code != errcode.None || r.Offset != offset {
			t.Errorf("timestamp %d: %+v %v", ts, r, err)
		}
	}
}
