package handler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/murmur2"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// sentProduce is a produce request as the publisher sent it.
type sentProduce struct {
	partition int32
	request   protocol.ProduceRequest
	records   []recordbatch.Record
	on        func([]byte, error) bool
}

// reply answers the request and reports whether more replies are taken.
func (s sentProduce) reply(r protocol.ProduceReply) bool { return s.on(r.Append(nil), nil) }

func (s sentProduce) fail(c errcode.Code) { s.on(nil, errcode.New(c, "failed")) }

// fakeSender hands every request to the test.
type fakeSender struct {
	t    *testing.T
	sent chan sentProduce
}

func newFakeSender(t *testing.T) *fakeSender {
	return &fakeSender{t: t, sent: make(chan sentProduce, 1000)}
}

func (f *fakeSender) SendProduce(_ string, partition int32, payload []byte, _ time.Duration, on func([]byte, error) bool) {
	payload = slices.Clone(payload)
	request, err := protocol.DecodeProduceRequest(payload)
	if err != nil {
		f.t.Error(err)
	}
	batch := recordbatch.Batch(payload[request.BatchAt:])
	if err := batch.Validate(1 << 20); err != nil {
		f.t.Error(err)
	}
	s := sentProduce{partition: partition, request: request, on: on}
	it, err := batch.Iterate(recordbatch.IterateOptions{})
	if err != nil {
		f.t.Error(err)
		return
	}
	for it.Next() {
		r := it.Record()
		r.Key, r.Value, r.Headers = slices.Clone(r.Key), slices.Clone(r.Value), slices.Clone(r.Headers)
		s.records = append(s.records, r)
	}
	f.sent <- s
}

func (f *fakeSender) next() sentProduce {
	f.t.Helper()
	return receive(f.t, f.sent)
}

// none checks that nothing is sent now.
func (f *fakeSender) none() {
	f.t.Helper()
	select {
	case s := <-f.sent:
		f.t.Errorf("sent %+v", s.records)
	default:
	}
}

func publishBench(t *testing.T, change ...func(*Options)) (*bench, *fakeSender) {
	sender := newFakeSender(t)
	change = append(change, func(o *Options) { o.Producer = sender })
	return newBench(t, change...), sender
}

func (b *bench) publish(topic, value string, header ...string) <-chan protocol.PubAck {
	out := make(chan protocol.PubAck, 2)
	h := map[string][]string{}
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = append(h[header[i]], header[i+1])
	}
	b.h.Publish(PublishRequest{Topic: topic, Header: h, Value: []byte(value)}, func(a *protocol.PubAck) { out <- *a })
	return out
}

func TestPublishBecomesARecord(t *testing.T) {
	b, sender := publishBench(t)
	topic, _ := b.topic("orders")
	ack := b.publish("orders", "hello", "Lb-Key", "k", "nats-msg-id", "id-1", "X-Trace", "1", "X-Trace", "2", "A", "b")
	s := sender.next()
	r := s.records[0]
	headers := []recordbatch.Header{{Key: "A", Value: []byte("b")}, {Key: "X-Trace", Value: []byte("1")}, {Key: "X-Trace", Value: []byte("2")}}
	if string(r.Value) != "hello" || string(r.Key) != "k" || fmt.Sprint(r.Headers) != fmt.Sprint(headers) {
		t.Errorf("record %+v", r)
	}
	if s.request.MsgID != "id-1" || s.request.TopicID != topic.ID || s.request.Epoch != 3 {
		t.Errorf("request %+v", s.request)
	}
	s.reply(protocol.ProduceReply{BaseOffset: 41, Duplicate: true})
	want := protocol.PubAck{Stream: "orders", Sequence: 42, Offset: 41, Duplicate: true}
	if got := receive(t, ack); got != want {
		t.Errorf("ack %+v", got)
	}
	if used := b.h.publisher.budget.used.Load(); used != 0 || len(b.h.publisher.lanes) != 0 {
		t.Errorf("held: %d bytes, %d lanes", used, len(b.h.publisher.lanes))
	}
}

func TestEmptyMessageIsNotANullValue(t *testing.T) {
	b, sender := publishBench(t)
	b.topic("orders")
	b.h.Publish(PublishRequest{Topic: "orders"}, func(*protocol.PubAck) {})
	if r := sender.next().records[0]; r.Value == nil || r.Key != nil {
		t.Errorf("key %v value %v", r.Key, r.Value)
	}
}

func TestPublishRefusals(t *testing.T) {
	b, sender := publishBench(t)
	b.topic("orders")
	for name, c := range map[string]struct {
		ack  <-chan protocol.PubAck
		want errcode.Code
		http int
	}{
		"unknown topic": {b.publish("nope", "v"), errcode.UnknownTopicOrPartition, 404},
		"bad topic":     {b.publish("a..b", "v"), errcode.InvalidTopic, 400},
		"empty topic":   {b.publish("", "v"), errcode.InvalidTopic, 400},
		"expectation":   {b.publish("orders", "v", "Nats-Expected-Last-Sequence", "4"), errcode.InvalidRequest, 400},
		"expected id":   {b.publish("orders", "v", "nats-expected-last-msg-id", "x"), errcode.InvalidRequest, 400},
		"long id":       {b.publish("orders", "v", "Nats-Msg-Id", strings.Repeat("x", 256)), errcode.InvalidRequest, 400},
		"our own id":    {b.publish("orders", "v", "Nats-Msg-Id", "\x00x"), errcode.InvalidRequest, 400},
		"too large":     {b.publish("orders", string(make([]byte, 1<<20))), errcode.MessageTooLarge, 413},
	} {
		got := receive(t, c.ack)
		if got.Error == nil || errcode.Code(got.Error.ErrCode) != c.want || got.Error.Code != c.http || got.Error.Description == "" {
			t.Errorf("%s: %+v", name, got.Error)
		}
	}
	sender.none()
	expectation := receive(t, b.publish("orders", "v", "Nats-Expected-Stream", "orders"))
	if !strings.Contains(expectation.Error.Description, "Nats-Expected-Stream") {
		t.Errorf("the header is not named: %q", expectation.Error.Description)
	}
}

func TestPublishToATopicThisNodeHasNotHeardOf(t *testing.T) {
	b, sender := publishBench(t)
	late := &lateMetadata{Metadata: b.store, old: b.store.Image()}
	b.h.options.Metadata = late
	b.topic("orders")
	ack := b.publish("orders", "v")
	sender.next().reply(protocol.ProduceReply{})
	if got := receive(t, ack); got.Error != nil {
		t.Errorf("%+v", got.Error)
	}
}

// lateMetadata shows an old image until a barrier.
type lateMetadata struct {
	Metadata
	mu  sync.Mutex // guards old
	old *metadata.Image
}

func (l *lateMetadata) Image() *metadata.Image {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.old != nil {
		return l.old
	}
	return l.Metadata.Image()
}

func (l *lateMetadata) Barrier(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.old = nil
	return nil
}

func TestRule3FirstSuccessCountsAndOlderRefusalsDoNot(t *testing.T) {
	b, sender := publishBench(t)
	b.topic("orders")
	ack := b.publish("orders", "v", "Nats-Msg-Id", "1")
	first := sender.next()
	if !first.reply(protocol.ProduceReply{Code: errcode.NotLeaderOrFollower, Epoch: 2}) {
		t.Fatal("a deposed leader's refusal ended the attempt")
	}
	sender.none()
	first.reply(protocol.ProduceReply{BaseOffset: 8})
	if got := receive(t, ack); got.Offset != 8 || got.Error != nil {
		t.Errorf("%+v", got)
	}
	if first.reply(protocol.ProduceReply{BaseOffset: 9}) {
		t.Error("a second success is still waited for")
	}
}

func TestRule3NoRespondersIsTriedAgain(t *testing.T) {
	b, sender := publishBench(t)
	b.topic("orders")
	for _, id := range []string{"1", ""} {
		ack := b.publish("orders", "v", "Nats-Msg-Id", id)
		first := sender.next()
		first.fail(errcode.LeaderNotAvailable)
		again := sender.next()
		if again.request.MsgID != first.request.MsgID || again.request.MsgID == "" {
			t.Errorf("message ids %q, %q", first.request.MsgID, again.request.MsgID)
		}
		again.reply(protocol.ProduceReply{Code: errcode.Throttled, RetryAfterMs: 1})
		sender.next().fail(errcode.RequestTimedOut)
		sender.next().reply(protocol.ProduceReply{BaseOffset: 1, Duplicate: true})
		// The publisher of a message without an id has not sent it twice.
		if got := receive(t, ack); got.Error != nil || got.Duplicate != (id != "") {
			t.Errorf("%+v", got)
		}
	}
}

func TestPublishGivesUpWithTheRightCode(t *testing.T) {
	for name, c := range map[string]struct {
		fail []errcode.Code
		want errcode.Code
	}{
		"never proposed":   {[]errcode.Code{errcode.LeaderNotAvailable}, errcode.LeaderNotAvailable},
		"unknown once":     {[]errcode.Code{errcode.RequestTimedOut, errcode.LeaderNotAvailable}, errcode.RequestTimedOut},
		"topic re-created": {[]errcode.Code{errcode.UnknownTopicID}, errcode.UnknownTopicID},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait for that time-out, in which an answer must fit on a busy machine
			b, sender := publishBench(t, func(o *Options) { o.PublishTimeout = time.Second })
			b.topic("orders")
			ack := b.publish("orders", "v", "Nats-Msg-Id", "1")
			for i := 0; ; i++ {
				select {
				case s := <-sender.sent:
					s.fail(c.fail[min(i, len(c.fail)-1)])
					continue
				case got := <-ack:
					if got.Error == nil || errcode.Code(got.Error.ErrCode) != c.want {
						t.Errorf("%+v", got.Error)
					}
				case <-time.After(time.Minute):
					t.Error("no answer")
				}
				return
			}
		})
	}
}

// A refusal by one node is not definite while another may have stored the batch.
func TestPublishIsRefusedByNameOnlyWhereNothingCanBeStored(t *testing.T) {
	const named = 3 // the epoch that the attempts name
	for name, c := range map[string]struct {
		replies []protocol.ProduceReply
		want    errcode.Code
	}{
		"by the leader itself":    {[]protocol.ProduceReply{{Code: errcode.NotEnoughReplicas, Epoch: named}}, errcode.NotEnoughReplicas},
		"by somebody else":        {[]protocol.ProduceReply{{Code: errcode.NotEnoughReplicas}}, errcode.RequestTimedOut},
		"not the leader any more": {[]protocol.ProduceReply{{Code: errcode.NotLeaderOrFollower, Epoch: named}}, errcode.RequestTimedOut},
		"final after a doubt": {[]protocol.ProduceReply{
			{Code: errcode.RequestTimedOut, Epoch: named}, {Code: errcode.MessageTooLarge, Epoch: named},
		}, errcode.RequestTimedOut},
		"final at once": {[]protocol.ProduceReply{{Code: errcode.MessageTooLarge, Epoch: named}}, errcode.MessageTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait for that time-out, in which an answer must fit on a busy machine
			b, sender := publishBench(t, func(o *Options) { o.PublishTimeout = time.Second })
			topic, _ := b.topic("orders")
			b.leaders.Set(protocol.LeadersBroadcast{Node: 1, Leaders: []protocol.ShardLeader{{Shard: topic.Partitions[0].Shard, Epoch: named}}})
			ack := b.publish("orders", "v", "Nats-Msg-Id", "1")
			for i := 0; ; i++ {
				select {
				case s := <-sender.sent:
					s.reply(c.replies[min(i, len(c.replies)-1)])
					continue
				case got := <-ack:
					if got.Error == nil || errcode.Code(got.Error.ErrCode) != c.want {
						t.Errorf("%+v, want %v", got.Error, c.want)
					}
				case <-time.After(time.Minute):
					t.Error("no answer")
				}
				return
			}
		})
	}
}

func TestWaitingMessagesShareABatchInOrder(t *testing.T) {
	b, sender := publishBench(t)
	b.topic("orders")
	var acks []<-chan protocol.PubAck
	for i := range 100 {
		acks = append(acks, b.publish("orders", fmt.Sprint(i), "Lb-Key", "k"))
	}
	first := sender.next()
	sender.none() // it travels alone
	first.reply(protocol.ProduceReply{BaseOffset: 0})
	rest := sender.next()
	if len(first.records) != 1 || len(rest.records) != 99 {
		t.Fatalf("batches of %d and %d", len(first.records), len(rest.records))
	}
	rest.reply(protocol.ProduceReply{BaseOffset: 1})
	for i, ack := range acks {
		if got := receive(t, ack); got.Offset != int64(i) {
			t.Errorf("message %d: %+v", i, got)
		}
	}
}

func TestMessagesWithIDsArePipelinedUntilOneFails(t *testing.T) {
	b, sender := publishBench(t)
	b.topic("orders")
	for i := range laneWindow + 5 {
		b.publish("orders", "v", "Nats-Msg-Id", fmt.Sprint(i), "Lb-Key", "k")
	}
	var flying []sentProduce
	for i := range laneWindow {
		s := sender.next()
		if s.request.MsgID != fmt.Sprint(i) {
			t.Fatalf("%q was sent as number %d", s.request.MsgID, i)
		}
		flying = append(flying, s)
	}
	sender.none() // the window is full
	flying[0].fail(errcode.LeaderNotAvailable)
	flying[1].reply(protocol.ProduceReply{})
	again := sender.next() // the one that failed, before any new one
	if again.request.MsgID != "0" {
		t.Fatalf("%q was sent", again.request.MsgID)
	}
	sender.none()
	again.reply(protocol.ProduceReply{})
	for i := range 2 {
		if s := sender.next(); s.request.MsgID != fmt.Sprint(laneWindow+i) {
			t.Errorf("%q was sent", s.request.MsgID)
		}
	}
}

func TestPublishPicksThePartition(t *testing.T) {
	b, sender := publishBench(t)
	_, err := b.store.CreateTopic(t.Context(), metadata.TopicSpec{Name: "wide", Partitions: 4})
	must(t, err)
	keyed := func(header ...string) int32 {
		b.publish("wide", "v", header...)
		s := sender.next()
		s.reply(protocol.ProduceReply{})
		return s.partition
	}
	for key, want := range map[string]int32{"a": murmur2.Partition([]byte("a"), 4), "": murmur2.Partition(nil, 4)} {
		if got := keyed("Lb-Key", key, "Nats-Msg-Id", "other"); got != want {
			t.Errorf("key %q: partition %d, want %d", key, got, want)
		}
	}
	if got, want := keyed("Nats-Msg-Id", "m-17"), murmur2.Partition([]byte("m-17"), 4); got != want {
		t.Errorf("message id: partition %d, want %d", got, want)
	}
	seen := map[int32]bool{}
	for range 4 {
		seen[keyed()] = true
	}
	if len(seen) != 4 {
		t.Errorf("messages without key went to %v", seen)
	}
}

func TestPublishThrottlesByBytes(t *testing.T) {
	b, sender := publishBench(t, func(o *Options) { o.PublishBytesMax = 2500 })
	b.topic("orders")
	first := b.publish("orders", string(make([]byte, 1000)))
	b.publish("orders", string(make([]byte, 1000)))
	if got := receive(t, b.publish("orders", string(make([]byte, 1000)))); got.Error == nil || got.Error.Code != 429 {
		t.Errorf("%+v", got)
	}
	sender.next().reply(protocol.ProduceReply{})
	receive(t, first)
	again := b.publish("orders", string(make([]byte, 1000)))
	sender.next().reply(protocol.ProduceReply{BaseOffset: 1})
	sender.next().reply(protocol.ProduceReply{BaseOffset: 2})
	if got := receive(t, again); got.Error != nil || got.Offset != 2 {
		t.Errorf("the room that was given back is not used: %+v", got)
	}
}

func TestCloseAnswersWaitingMessages(t *testing.T) {
	b, sender := publishBench(t)
	b.topic("orders")
	ack := b.publish("orders", "v")
	queued := b.publish("orders", "v")
	sender.next()
	b.h.Close()
	for _, a := range []<-chan protocol.PubAck{ack, queued} {
		if got := receive(t, a); got.Error == nil || errcode.Code(got.Error.ErrCode) != errcode.ShuttingDown {
			t.Errorf("%+v", got)
		}
	}
	if got := receive(t, b.publish("orders", "v")); got.Error == nil || errcode.Code(got.Error.ErrCode) != errcode.ShuttingDown {
		t.Errorf("%+v", got)
	}
}
