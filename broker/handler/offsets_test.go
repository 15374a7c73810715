package handler

import (
	"context"
	"testing"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/partitions"
)

func offsetsRequest(topic *metadata.Topic, timestampMs int64) PartitionRequest {
	r := protocol.OffsetsRequest{TopicID: topic.ID, Epoch: protocol.EpochUnknown, TimestampMs: timestampMs}
	return PartitionRequest{Topic: topic.Name, Payload: r.Append(nil)}
}

func (b *bench) offsets(r PartitionRequest) protocol.OffsetsReply {
	b.t.Helper()
	out := make(chan protocol.OffsetsReply, 2)
	b.h.Offsets(r, func(r *protocol.OffsetsReply) { out <- *r })
	return receive(b.t, out)
}

func TestOffsetsByKind(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	for range 3 {
		b.produce(produceRequest(topic, encodeBatch(t, "a", "b")))
	}
	r.start = 2
	for ts, want := range map[int64]protocol.OffsetsReply{
		protocol.TimestampEarliest: {Offset: 2, TimestampMs: -1},
		protocol.TimestampLatest:   {Offset: 6, TimestampMs: -1},
		1001:                       {Offset: 0, TimestampMs: 1001},
		99999:                      {Offset: -1, TimestampMs: -1},
		-3:                         {Code: errcode.InvalidRequest, Offset: -1, TimestampMs: -1},
	} {
		got := b.offsets(offsetsRequest(topic, ts))
		if got.Code != want.Code || got.Offset != want.Offset || got.TimestampMs != want.TimestampMs {
			t.Errorf("timestamp %d: %+v", ts, got)
		}
	}
}

func TestRule0LatestComesFromTheConfirmedLeader(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	r.latest = func(context.Context) (int64, error) {
		return 0, errcode.New(errcode.NotEnoughReplicas, "no majority confirmed the leader")
	}
	if got := b.offsets(offsetsRequest(topic, protocol.TimestampLatest)); got.Code != errcode.NotEnoughReplicas || got.Offset != -1 {
		t.Errorf("%+v", got)
	}
	r.setLeader(partitions.LeaderHint{Node: 2, Epoch: 4})
	for _, ts := range []int64{protocol.TimestampLatest, protocol.TimestampEarliest, 5} {
		if got := b.offsets(offsetsRequest(topic, ts)); got.Code != errcode.NotLeaderOrFollower || got.Leader != 2 || got.Epoch != 4 {
			t.Errorf("%+v", got)
		}
	}
}

func TestRule3ClientThatKnowsANewerEpochIsSentOn(t *testing.T) {
	b := newBench(t)
	topic, _ := b.topic("orders")
	newer := protocol.OffsetsRequest{TopicID: topic.ID, Epoch: 4, TimestampMs: protocol.TimestampEarliest}
	if got := b.offsets(PartitionRequest{Topic: "orders", Payload: newer.Append(nil)}); got.Code != errcode.NotLeaderOrFollower || got.Epoch != 3 {
		t.Errorf("offsets: %+v", got)
	}
	fetch := protocol.FetchRequest{TopicID: topic.ID, Epoch: 4, MaxBytes: 100}
	if got := b.fetch(PartitionRequest{Topic: "orders", Payload: fetch.Append(nil)})[0]; got.Code != errcode.NotLeaderOrFollower || got.Epoch != 3 {
		t.Errorf("fetch: %+v", got)
	}
}

func TestOffsetsThrottleBeyondTheQueue(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	release := make(chan struct{})
	r.latest = func(context.Context) (int64, error) { <-release; return 0, nil }
	const asked = offsetsWorkers + offsetsWaitingMax + 10
	answers := make(chan errcode.Code, asked)
	for range asked {
		b.h.Offsets(offsetsRequest(topic, protocol.TimestampLatest), func(r *protocol.OffsetsReply) { answers <- r.Code })
	}
	for range 10 {
		if got := receive(t, answers); got != errcode.Throttled {
			t.Fatalf("%v", got)
		}
	}
	close(release)
	for range asked - 10 {
		if got := receive(t, answers); got != errcode.None {
			t.Fatalf("%v", got)
		}
	}
}
