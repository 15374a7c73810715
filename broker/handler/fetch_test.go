package handler

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
	"logbroker/partitions"
)

// offsetsOf returns the base offsets of all batches in replies.
func offsetsOf(t *testing.T, replies []protocol.FetchReply) []int64 {
	t.Helper()
	var out []int64
	for _, r := range replies {
		for rest := r.Batches; len(rest) > 0; {
			batch, next, err := recordbatch.Parse(rest)
			must(t, err)
			out = append(out, batch.BaseOffset())
			rest = next
		}
	}
	return out
}

func TestRule4FetchStaysWithinItsCredit(t *testing.T) {
	b := newBench(t, func(o *Options) { o.ReplyBytes = 4096 })
	topic, r := b.topic("orders")
	size := 0
	for range 50 {
		batch := encodeBatch(t, string(make([]byte, 1000)))
		size = len(batch)
		b.produce(produceRequest(topic, batch))
	}
	for _, c := range []struct {
		credit  int
		batches int
	}{{1, 1}, {size, 1}, {size + 1, 1}, {3 * size, 3}, {10*size + 5, 10}, {1000 * size, 50}} {
		replies := b.fetch(fetchRequest(topic, 0, uint32(c.credit), 0))
		if got := offsetsOf(t, replies); len(got) != c.batches {
			t.Errorf("credit %d: %d batches, want %d", c.credit, len(got), c.batches)
		}
		for i, reply := range replies {
			if reply.Last != (i == len(replies)-1) || reply.Code != errcode.None || reply.HighWatermark != 50 || len(reply.Batches) > 4096 {
				t.Errorf("credit %d, reply %d: last %v, %v, %d bytes", c.credit, i, reply.Last, reply.Code, len(reply.Batches))
			}
		}
	}
	if r.waiting() != 0 {
		t.Error("a fetch that found records waits")
	}
}

// What a client that takes pieces gets is, put together, what any other gets.
func TestFetchCutsRepliesForClientsThatTakePieces(t *testing.T) {
	const most = 300
	b := newBench(t, func(o *Options) { o.ReplyBytes, o.PieceBytes = 4096, most })
	topic, _ := b.topic("orders")
	for n := range 12 {
		b.produce(produceRequest(topic, encodeBatch(t, string(make([]byte, 100*n)))))
	}
	whole := b.fetch(fetchRequest(topic, 0, 1<<20, 0))
	request := protocol.FetchRequest{TopicID: topic.ID, Epoch: protocol.EpochUnknown, MaxBytes: 1 << 20, Pieces: true}
	pieces := b.fetch(PartitionRequest{Topic: topic.Name, Payload: request.Append(nil)})
	for _, want := range whole {
		var got []byte
		for number := 0; ; number++ {
			piece := pieces[0]
			got, pieces = append(got, piece.Batches...), pieces[1:]
			if len(piece.Batches) > most-protocol.FetchReplyHeaderSize || int(piece.Piece) != number || piece.Last != (len(pieces) == 0) {
				t.Fatalf("piece %d: number %d, %d bytes, last %v", number, piece.Piece, len(piece.Batches), piece.Last)
			}
			if !piece.More {
				break
			}
			if !pieces[0].Follows(&piece) {
				t.Fatalf("%+v does not follow %+v", pieces[0], piece)
			}
		}
		if !bytes.Equal(got, want.Batches) {
			t.Fatalf("%d bytes in pieces, %d in one", len(got), len(want.Batches))
		}
	}
	if len(pieces) != 0 {
		t.Fatalf("%d pieces too many", len(pieces))
	}
}

// A clock that leaps makes every reply take an hour, so that a catch-up read
// pauses for as long as it may.
func leapingClock() func() time.Time {
	var mu sync.Mutex
	now := time.Now()
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Hour)
		return now
	}
}

func TestACatchUpReadGivesWayToProducersAndLosesNothing(t *testing.T) {
	for name, producing := range map[string]int64{"producing": 1, "idle": 0} {
		pause := time.Millisecond
		if producing == 0 {
			pause = time.Hour // nobody to give way to
		}
		b := newBench(t, func(o *Options) { o.ReplyBytes, o.Clock, o.GiveWayMax = 100, leapingClock(), pause })
		topic, _ := b.topic("orders")
		for range 20 {
			b.produce(produceRequest(topic, encodeBatch(t, string(make([]byte, 50)))))
		}
		b.h.produceBudget.used.Add(producing)
		got := offsetsOf(t, b.fetch(fetchRequest(topic, 0, 1<<20, 0)))
		b.h.produceBudget.used.Add(-producing)
		for i, offset := range got {
			if offset != int64(i) {
				t.Errorf("%s: batch %d has offset %d", name, i, offset)
			}
		}
		if len(got) != 20 {
			t.Errorf("%s: %d batches", name, len(got))
		}
	}
}

func TestACatchUpReadThatPausesLearnsOfALostLeadership(t *testing.T) {
	b := newBench(t, func(o *Options) { o.ReplyBytes, o.Clock, o.GiveWayMax = 1, leapingClock(), time.Hour })
	topic, r := b.topic("orders")
	for range 3 {
		b.produce(produceRequest(topic, encodeBatch(t, "v")))
	}
	b.h.produceBudget.used.Add(1)
	defer b.h.produceBudget.used.Add(-1)
	replies := b.startFetch(fetchRequest(topic, 0, 1<<20, 0))
	if got := receive(t, replies); got.Code != errcode.None || got.Last {
		t.Fatalf("%+v", got)
	}
	r.setLeader(partitions.LeaderHint{Node: 2, Epoch: 4})
	eventually(t, "the pause", func() bool { return len(b.h.parked.of(topic.Partitions[0].Shard)) == 1 })
	b.h.LeadershipChanged(topic.Partitions[0].Shard)
	if got := receive(t, replies); got.Code != errcode.NotLeaderOrFollower || !got.Last {
		t.Errorf("%+v", got)
	}
}

func TestFetchGivesBackCreditThatFitsNoBatch(t *testing.T) {
	b := newBench(t, func(o *Options) { o.ReplyBytes = 1 })
	topic, _ := b.topic("orders")
	small, large := encodeBatch(t, "s"), encodeBatch(t, string(make([]byte, 5000)))
	b.produce(produceRequest(topic, small))
	b.produce(produceRequest(topic, large))
	replies := b.fetch(fetchRequest(topic, 0, uint32(3*len(small)), 0))
	if got := offsetsOf(t, replies); len(got) != 1 || !replies[len(replies)-1].Last {
		t.Errorf("batches %v in %d replies", got, len(replies))
	}
}

func TestFetchWaitsForRecords(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	replies := b.startFetch(fetchRequest(topic, 0, 1<<20, 30_000))
	eventually(t, "a parked fetch", func() bool { return r.waiting() == 1 })
	b.produce(produceRequest(topic, encodeBatch(t, "v")))
	if got := receive(t, replies); got.Code != errcode.None || len(got.Batches) == 0 || !got.Last {
		t.Errorf("%+v", got)
	}
	eventually(t, "nothing held", func() bool { return b.h.fetches.Load() == 0 && len(b.h.parked.shards) == 0 })
}

func TestFetchEndsEmptyWhenItsTimeIsOver(t *testing.T) {
	b := newBench(t)
	topic, _ := b.topic("orders")
	for _, wait := range []uint32{0, 1, 20} {
		got := b.fetch(fetchRequest(topic, 0, 100, wait))
		if len(got) != 1 || got[0].Code != errcode.None || len(got[0].Batches) != 0 || got[0].HighWatermark != 0 {
			t.Errorf("wait %d: %+v", wait, got)
		}
	}
}

func TestParkedFetchLearnsOfALostLeadership(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	replies := b.startFetch(fetchRequest(topic, 0, 100, 30_000))
	eventually(t, "a parked fetch", func() bool { return r.waiting() == 1 })
	r.setLeader(partitions.LeaderHint{Node: 2, Epoch: 4})
	b.h.LeadershipChanged(topic.Partitions[0].Shard)
	if got := receive(t, replies); got.Code != errcode.NotLeaderOrFollower || got.Leader != 2 || got.Epoch != 4 || !got.Last {
		t.Errorf("%+v", got)
	}
}

func TestFetchRefusals(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	elsewhere, err := b.store.CreateTopic(t.Context(), metadata.TopicSpec{Name: "elsewhere"})
	must(t, err)
	for range 3 {
		b.produce(produceRequest(topic, encodeBatch(t, "v")))
	}
	r.start = 2
	for name, c := range map[string]struct {
		request PartitionRequest
		want    errcode.Code
	}{
		"garbage":       {PartitionRequest{Topic: "orders", Payload: []byte("garbage")}, errcode.InvalidRequest},
		"version":       {PartitionRequest{Topic: "orders", Payload: make([]byte, 34)}, errcode.UnsupportedVersion},
		"topic":         {PartitionRequest{Topic: "nope", Payload: fetchRequest(topic, 0, 1, 0).Payload}, errcode.UnknownTopicOrPartition},
		"no replica":    {fetchRequest(elsewhere, 0, 1, 0), errcode.LeaderNotAvailable},
		"negative":      {fetchRequest(topic, -1, 1, 0), errcode.InvalidRequest},
		"below start":   {fetchRequest(topic, 1, 1, 0), errcode.OffsetOutOfRange},
		"above the end": {fetchRequest(topic, 4, 1, 0), errcode.OffsetOutOfRange},
	} {
		got := b.fetch(c.request)
		if len(got) != 1 || got[0].Code != c.want || got[0].Message == "" || !got[0].Last {
			t.Errorf("%s: %+v, want %v", name, got, c.want)
		}
	}
}

func TestAnyReplicaAnswersFetchFrom(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	b.produce(produceRequest(topic, encodeBatch(t, "v")))
	r.setLeader(partitions.LeaderHint{Node: 2, Epoch: 4})
	request := fetchRequest(topic, 0, 100, 0)
	if got := b.fetch(request)[0]; got.Code != errcode.NotLeaderOrFollower {
		t.Errorf("without leave: %+v", got)
	}
	request.AnyReplica = true
	if got := b.fetch(request)[0]; got.Code != errcode.None || len(got.Batches) == 0 {
		t.Errorf("with leave: %+v", got)
	}
}

func TestParkedFetchesAreBounded(t *testing.T) {
	b := newBench(t, func(o *Options) { o.FetchesMax = 5 })
	topic, r := b.topic("orders")
	var waiting []<-chan protocol.FetchReply
	for range 5 {
		waiting = append(waiting, b.startFetch(fetchRequest(topic, 0, 100, 30_000)))
	}
	eventually(t, "five parked fetches", func() bool { return r.waiting() == 5 })
	if got := b.fetch(fetchRequest(topic, 0, 100, 30_000))[0]; got.Code != errcode.Throttled || got.RetryAfterMs == 0 {
		t.Errorf("%+v", got)
	}
	b.produce(produceRequest(topic, encodeBatch(t, "v")))
	for _, w := range waiting {
		if got := receive(t, w); got.Code != errcode.None {
			t.Errorf("%+v", got)
		}
	}
}

func TestCloseEndsParkedFetches(t *testing.T) {
	b := newBench(t)
	topic, r := b.topic("orders")
	replies := b.startFetch(fetchRequest(topic, 0, 100, 30_000))
	eventually(t, "a parked fetch", func() bool { return r.waiting() == 1 })
	b.h.Close()
	if got := receive(t, replies); got.Code != errcode.ShuttingDown {
		t.Errorf("%+v", got)
	}
}
