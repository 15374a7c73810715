package handler

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/partitions"
)

func TestProduceAnswersWithOffsetAndEpoch(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	for i, want := range []int64{0, 2, 4} {
		got := b.produce(produceRequest(topic, encodeBatch(t, "a", "b")))
		if got.Code != errcode.None || got.BaseOffset != want || got.Epoch != 3 || got.Leader != 1 || got.TopicID != topic.ID || got.AppendTimeMs != 7 {
			t.Errorf("batch %d: %+v", i, got)
		}
	}
	if len(r.batches) != 3 || b.metrics.produced.Load() != 6 {
		t.Errorf("stored %d batches, counted %d records", len(r.batches), b.metrics.produced.Load())
	}
	if used := b.h.produceBudget.used.Load(); used != 0 {
		t.Errorf("%d bytes of the budget are still held", used)
	}
}

// withAttributes sets attribute bits of a batch and repairs its checksum.
func withAttributes(batch []byte, bits uint16) []byte {
	batch = bytes.Clone(batch)
	binary.BigEndian.PutUint16(batch[21:], bits)
	binary.BigEndian.PutUint32(batch[17:], crc32.Checksum(batch[21:], crc32.MakeTable(crc32.Castagnoli)))
	return batch
}

func TestProduceRefusesWhatItMustNotPropose(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	must(t, second(b.store.AlterTopic(t.Context(), "orders", map[string]string{"max_batch_bytes": "1KiB"}, "")))
	elsewhere, err := b.store.CreateTopic(t.Context(), metadata.TopicSpec{Name: "elsewhere"})
	must(t, err)
	good := encodeBatch(t, "v")
	damaged := bytes.Clone(good)
	damaged[len(damaged)-1] ^= 1
	oldMagic := bytes.Clone(good)
	oldMagic[16] = 1
	request := func(batch []byte) PartitionRequest { return produceRequest(topic, batch) }
	wrongID := *topic
	wrongID.ID++
	other := func(name string, partition int32) PartitionRequest {
		r := request(good)
		r.Topic, r.Partition = name, partition
		return r
	}
	futureVersion := request(good)
	futureVersion.Payload[0] = 9
	for name, c := range map[string]struct {
		request PartitionRequest
		want    errcode.Code
	}{
		"empty":           {PartitionRequest{Topic: "orders"}, errcode.InvalidRequest},
		"garbage":         {PartitionRequest{Topic: "orders", Payload: []byte("\x01garbage")}, errcode.InvalidRequest},
		"future version":  {futureVersion, errcode.UnsupportedVersion},
		"unknown topic":   {other("nope", 0), errcode.UnknownTopicOrPartition},
		"bad topic name":  {other("a..b", 0), errcode.UnknownTopicOrPartition},
		"partition":       {other("orders", 1), errcode.UnknownTopicOrPartition},
		"minus one":       {other("orders", -1), errcode.UnknownTopicOrPartition},
		"topic id":        {produceRequest(&wrongID, good), errcode.UnknownTopicID},
		"no replica here": {produceRequest(elsewhere, good), errcode.LeaderNotAvailable},
		"no batch":        {request(nil), errcode.CorruptMessage},
		"two batches":     {request(append(bytes.Clone(good), good...)), errcode.InvalidRequest},
		"trailing byte":   {request(append(bytes.Clone(good), 0)), errcode.InvalidRequest},
		"damaged":         {request(damaged), errcode.CorruptMessage},
		"magic 1":         {request(oldMagic), errcode.UnsupportedMessageFormat},
		"transactional":   {request(withAttributes(good, 1<<4)), errcode.InvalidRecord},
		"control":         {request(withAttributes(good, 1<<5)), errcode.InvalidRecord},
		"unknown codec":   {request(withAttributes(good, 7)), errcode.UnsupportedCompression},
		"too large":       {request(encodeBatch(t, string(make([]byte, 2000)))), errcode.MessageTooLarge},
	} {
		got := b.produce(c.request)
		if got.Code != c.want || got.Message == "" || got.BaseOffset != -1 {
			t.Errorf("%s: %v %q, want %v", name, got.Code, got.Message, c.want)
		}
	}
	if len(r.batches) != 0 {
		t.Errorf("%d batches were stored", len(r.batches))
	}
	if used := b.h.produceBudget.used.Load(); used != 0 {
		t.Errorf("%d bytes of the budget are still held", used)
	}
}

func second[T any](_ T, err error) error { return err }

func TestRule0EveryReplyCarriesTopicIDAndEpoch(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	again := *topic
	again.ID += 7
	p := b.produce(produceRequest(&again, encodeBatch(t, "v")))
	f := b.fetch(fetchRequest(&again, 0, 100, 0))[0]
	o := b.offsets(offsetsRequest(&again, protocol.TimestampLatest))
	for api, got := range map[string]errcode.Code{"produce": p.Code, "fetch": f.Code, "offsets": o.Code} {
		if got != errcode.UnknownTopicID {
			t.Errorf("%s of an older topic of the same name: %v", api, got)
		}
	}
	if p, f, o := b.produce(produceRequest(topic, encodeBatch(t, "v"))), b.fetch(fetchRequest(topic, 0, 100, 0))[0],
		b.offsets(offsetsRequest(topic, protocol.TimestampLatest)); p.Epoch != 3 || f.Epoch != 3 || o.Epoch != 3 ||
		p.TopicID != topic.ID || f.TopicID != topic.ID || o.TopicID != topic.ID {
		t.Errorf("replies without epoch or topic id: %+v %+v %+v", p, f, o)
	}
	// A replica that does not lead must not make a consumer reset.
	r.setLeader(partitions.LeaderHint{Node: 2, Epoch: 4})
	lagging := fetchRequest(topic, 100, 100, 0)
	lagging.AnyReplica = true
	if got := b.fetch(lagging)[0]; got.Code != errcode.OffsetNotAvailable {
		t.Errorf("above the end of a replica that does not lead: %v", got.Code)
	}
}

func TestProduceNamesTheLeader(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	r.setLeader(partitions.LeaderHint{Node: 1, Epoch: 3})
	r.append = func(partitions.AppendRequest, func(partitions.AppendResult)) error {
		return errcode.New(errcode.NotLeaderOrFollower, "not me")
	}
	b.leaders.Set(protocol.LeadersBroadcast{Node: 2, Leaders: []protocol.ShardLeader{{Shard: topic.Partitions[0].Shard, Epoch: 5}}})
	got := b.produce(produceRequest(topic, encodeBatch(t, "v")))
	if got.Code != errcode.NotLeaderOrFollower || got.Leader != 2 || got.Epoch != 5 {
		t.Errorf("%+v", got)
	}
	if used := b.h.produceBudget.used.Load(); used != 0 {
		t.Errorf("%d bytes of the budget are still held", used)
	}
}

func TestDiskReserveRefusesProduceOnly(t *testing.T) {
	low := false
	b := newBench(t, func(o *Options) {
		o.DiskLow = func() []uint64 {
			if low {
				return []uint64{1}
			}
			return nil
		}
	})
	topic, _ := b.topic("orders")
	b.produce(produceRequest(topic, encodeBatch(t, "v")))
	low = true
	if got := b.produce(produceRequest(topic, encodeBatch(t, "v"))); got.Code != errcode.DiskReserve {
		t.Errorf("%+v", got)
	}
	if got := b.fetch(fetchRequest(topic, 0, 100, 0)); got[0].Code != errcode.None {
		t.Errorf("%+v", got)
	}
}

func TestRule4AdmissionByBytesAnswersThrottled(t *testing.T) {
	batch := encodeBatch(t, string(make([]byte, 1000)))
	var held []func(partitions.AppendResult)
	b := newBench(t, func(o *Options) { o.InFlightBytesMax = 3000 })
	topic, r := b.topic("orders")
	r.append = func(_ partitions.AppendRequest, done func(partitions.AppendResult)) error {
		held = append(held, done)
		return nil
	}
	answers := make(chan protocol.ProduceReply, 10)
	send := func() {
		b.h.Produce(produceRequest(topic, bytes.Clone(batch)), func(r *protocol.ProduceReply) { answers <- *r })
	}
	for range 3 {
		send()
	}
	got := receive(t, answers)
	if got.Code != errcode.Throttled || got.RetryAfterMs == 0 || len(held) != 2 {
		t.Fatalf("%+v with %d in flight", got, len(held))
	}
	for _, done := range held {
		done(partitions.AppendResult{})
	}
	receive(t, answers)
	receive(t, answers)
	if used := b.h.produceBudget.used.Load(); used != 0 {
		t.Errorf("%d bytes are still held", used)
	}
	if send(); len(held) != 3 {
		t.Error("the room that was given back is not used")
	}
	held[2](partitions.AppendResult{})
	receive(t, answers)
}

func TestProduceAllocatesNothing(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	r.append = func(_ partitions.AppendRequest, done func(partitions.AppendResult)) error {
		done(partitions.AppendResult{})
		return nil
	}
	request := produceRequest(topic, encodeBatch(t, "v"))
	done := func(r *protocol.ProduceReply) {
		if r.Code != errcode.None {
			t.Error(r.Message)
		}
	}
	// The race detector makes sync.Pool drop things now and then.
	if n := testing.AllocsPerRun(200, func() { b.h.Produce(request, done) }); n >= 2 {
		t.Errorf("%v allocations per request", n)
	}
}

func TestDrainRefusesNewAndWaitsForOld(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	var held func(partitions.AppendResult)
	r.append = func(_ partitions.AppendRequest, done func(partitions.AppendResult)) error {
		held = done
		return nil
	}
	answers := make(chan protocol.ProduceReply, 2)
	b.h.Produce(produceRequest(topic, encodeBatch(t, "v")), func(r *protocol.ProduceReply) { answers <- *r })
	parked := b.startFetch(fetchRequest(topic, 0, 100, 30_000))
	eventually(t, "a parked fetch", func() bool { return r.waiting() == 1 })
	drained := make(chan error, 1)
	go func() { drained <- b.h.Drain(context.Background()) }()
	if got := receive(t, parked); got.Code != errcode.ShuttingDown || !got.Last {
		t.Errorf("parked fetch: %+v", got)
	}
	if got := b.produce(produceRequest(topic, encodeBatch(t, "v"))); got.Code != errcode.ShuttingDown {
		t.Errorf("new request: %+v", got)
	}
	select {
	case <-drained:
		t.Error("drained with a request in work")
	default:
	}
	held(partitions.AppendResult{BaseOffset: 5})
	if got := receive(t, answers); got.BaseOffset != 5 {
		t.Errorf("request in work: %+v", got)
	}
	must(t, receive(t, drained))
}

func TestDrainEndsWithItsContext(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	r.append = func(partitions.AppendRequest, func(partitions.AppendResult)) error { return nil }
	b.h.Produce(produceRequest(topic, encodeBatch(t, "v")), func(*protocol.ProduceReply) {})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.h.Drain(ctx); err == nil {
		t.Error("drained with a request in work")
	}
}
