package main

import (
	"context"
	"encoding/binary"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/bench/load"
)

// fakeShard is the other end of a producer's connection: it says how large the
// proposals are, and answers when told.
type fakeShard struct {
	conn  net.Conn
	sizes chan int
}

// startFakeShards returns a sender to so many shards, which answer nothing by
// themselves.
func startFakeShards(t *testing.T, shards int) (load.Sender, []*fakeShard) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	accepted := make(chan net.Conn, shards)
	go func() { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	sys := &raftSystem{hop: hopNone, proposal: 1000, spec: load.Spec{Topics: 1, Partitions: shards, Producers: 1}}
	for range raftNodes {
		sys.nodes = append(sys.nodes, raftNodeConfig{Listen: listener.Addr().String()})
	}
	sender, err := sys.NewSender(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sender.Close() })
	all := make([]*fakeShard, shards)
	for range shards {
		conn := <-accepted
		t.Cleanup(func() { _ = conn.Close() })
		var shard uint32
		if err := binary.Read(conn, binary.LittleEndian, &shard); err != nil {
			t.Fatal(err)
		}
		f := &fakeShard{conn: conn, sizes: make(chan int, 4096)}
		go f.read() // ends with the connection
		all[shard] = f
	}
	return sender, all
}

func (f *fakeShard) read() {
	for {
		var size uint32
		if err := binary.Read(f.conn, binary.LittleEndian, &size); err != nil {
			return
		}
		f.sizes <- int(size)
	}
}

func (f *fakeShard) answer(t *testing.T) {
	t.Helper()
	if _, err := f.conn.Write([]byte{answerDone}); err != nil {
		t.Fatal(err)
	}
}

// expect fails unless the next proposal is of size bytes.
func (f *fakeShard) expect(t *testing.T, size int) {
	t.Helper()
	select {
	case got := <-f.sizes:
		if got != size {
			t.Errorf("a proposal of %d bytes, want %d", got, size)
		}
	case <-time.After(time.Minute):
		t.Fatalf("no proposal of %d bytes", size)
	}
}

// TestRawProducerAtLowRateSendsFullProposalsOrTheOnlyOne: a record of a busy
// producer does not become a proposal of its own on every idle shard, and none
// is left behind.
func TestRawProducerAtLowRateSendsFullProposalsOrTheOnlyOne(t *testing.T) {
	sender, shards := startFakeShards(t, 3)
	var acked atomic.Int64
	send := func(records int) {
		for range records {
			sender.Send(t.Context(), load.Record{Value: make([]byte, 100)}, func(err error) {
				if err != nil {
					t.Error(err)
				}
				acked.Add(1)
			})
		}
	}
	send(1) // nothing in flight: at once
	shards[0].expect(t, 100)
	send(9) // shards 1 and 2 are idle, but the producer is not
	send(1)
	shards[1].expect(t, 1000)
	send(5)
	shards[0].answer(t)
	shards[1].answer(t) // the last in flight: what is packed goes out
	shards[2].expect(t, 500)
	shards[2].answer(t)
	flushing, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := sender.Flush(flushing); err != nil || acked.Load() != 16 {
		t.Errorf("%d of 16 records acked, %v", acked.Load(), err)
	}
}

// TestRawProducerGoesRoundASlowShard: a shard whose window is full holds up
// nobody while others have room.
func TestRawProducerGoesRoundASlowShard(t *testing.T) {
	sender, shards := startFakeShards(t, 2)
	window := (&raftSystem{proposal: 1000, spec: load.Spec{Topics: 1, Partitions: 2, Producers: 1}}).window()
	go func() { // ends with the connection: shard 1 answers, shard 0 never does
		for range shards[1].sizes {
			if _, err := shards[1].conn.Write([]byte{answerDone}); err != nil {
				return
			}
		}
	}()
	var acked atomic.Int64
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 4 * window {
			sender.Send(t.Context(), load.Record{Value: make([]byte, 1000)}, func(err error) {
				if err == nil {
					acked.Add(1)
				}
			})
		}
	}()
	select {
	case <-sent:
	case <-time.After(time.Minute):
		t.Fatalf("Send waits for shard 0, whose window of %d is full", window)
	}
	if _, err := shards[0].conn.Write(make([]byte, window)); err != nil {
		t.Fatal(err)
	}
	if err := sender.Flush(t.Context()); err != nil || acked.Load() != int64(4*window) {
		t.Errorf("%d of %d records acked, %v", acked.Load(), 4*window, err)
	}
}

func TestRawProducerFailsWhatIsInFlightWhenANodeIsGone(t *testing.T) {
	sender, shards := startFakeShards(t, 2)
	failed := make(chan error, 3)
	for range 3 {
		sender.Send(t.Context(), load.Record{Value: make([]byte, 1000)}, func(err error) { failed <- err })
	}
	if err := shards[1].conn.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := <-failed; err == nil {
			t.Error("a record was acked by nobody")
		}
	}
	if err := sender.Flush(t.Context()); err == nil {
		t.Error("Flush says nothing of the lost connection")
	}
}
