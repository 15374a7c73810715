package raftnode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"reflect"
	"testing"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// batchOf returns a batch of one request per argument, with an entry for each
// size of a command.
func batchOf(requests ...[]int) pb.MessageBatch {
	batch := goodBatch()
	batch.Requests = nil
	index := uint64(0)
	for i, sizes := range requests {
		m := pb.Message{Type: pb.Replicate, From: 1, To: 2, ShardID: uint64(i + 1), Term: 4, Entries: []pb.Entry{}}
		for _, size := range sizes {
			index++
			e := pb.Entry{Term: 4, Index: index, Key: index}
			if size > 0 {
				e.Cmd = bytes.Repeat([]byte{byte(index)}, size)
			}
			m.Entries = append(m.Entries, e)
		}
		batch.Requests = append(batch.Requests, m)
	}
	return batch
}

// written returns the frame of batch, as two writes of one writer send it: the
// second must not depend on the first.
func written(t testing.TB, batch pb.MessageBatch) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	var w batchWriter
	failed := make(chan error, 1)
	go func() {
		_ = w.write(client, batchOf([]int{cutCommandBytesMin, 7}, []int{2 * cutCommandBytesMin}))
		failed <- w.write(client, batch)
		_ = client.Close()
	}()
	var all bytes.Buffer
	_, _ = all.ReadFrom(server)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	first := frameHeaderBytes + int(binary.LittleEndian.Uint32(all.Bytes()))
	return all.Bytes()[first:]
}

// read returns what readBatch makes of data.
func read(data []byte) (pb.MessageBatch, error) {
	client, server := net.Pipe()
	defer server.Close()
	go func() { _, _ = client.Write(data); _ = client.Close() }()
	var batch pb.MessageBatch
	err := newFrameReader(noDeadline{server}, messageFrameBytesMax).readBatch(&batch)
	return batch, err
}

// noDeadline is a pipe that may be closed behind the last byte: a deadline on it
// would then fail.
type noDeadline struct{ net.Conn }

func (noDeadline) SetReadDeadline(time.Time) error { return nil }

func TestMessageBatchesComeAsTheyWere(t *testing.T) {
	const cut = cutCommandBytesMin
	for _, requests := range [][][]int{
		{},
		{{}},
		{{0}},
		{{cut - 1}, {cut}, {cut + 1}},
		{{}, {}, {cut, 0, 5, cut}, {}, {cut}, {}},
		{{0, 300 << 10, 256 << 10}, {1, 2, 3}, {firstCommandBytes - 1, firstCommandBytes, firstCommandBytes + 1}},
		{{5<<20 + 3}, {writeStepBytes, writeStepBytes - cut, cut}},
	} {
		t.Run(fmt.Sprint(requests), func(t *testing.T) {
			sent, want := batchOf(requests...), batchOf(requests...)
			got, err := read(written(t, sent))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(sent, want) {
				t.Error("the batch that was sent has changed")
			}
			if got.SourceAddress != want.SourceAddress || len(got.Requests) != len(want.Requests) {
				t.Fatalf("%d requests of %q", len(got.Requests), got.SourceAddress)
			}
			for i := range want.Requests {
				sameEntries(t, got.Requests[i].Entries, want.Requests[i].Entries)
			}
		})
	}
}

func sameEntries(t *testing.T, got, want []pb.Entry) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i].Index != want[i].Index || got[i].Key != want[i].Key || !bytes.Equal(got[i].Cmd, want[i].Cmd) {
			t.Errorf("entry %d came with index %d and a command of %d bytes", want[i].Index, got[i].Index, len(got[i].Cmd))
		}
	}
}

// Entries live for different times on the receiver: an idle shard keeps its last
// ones for good. None may share memory with another.
func TestReceivedCommandsShareNoMemory(t *testing.T) {
	got, err := read(written(t, batchOf([]int{cutCommandBytesMin, cutCommandBytesMin}, []int{100, 100})))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range got.Requests {
		first, second := m.Entries[0].Cmd, m.Entries[1].Cmd
		want := bytes.Clone(second)
		_ = append(first, bytes.Repeat([]byte{0xff}, cap(first)-len(first))...)
		clear(first)
		if !bytes.Equal(second, want) {
			t.Error("two commands overlap")
		}
	}
}

// One leader sends the same entries on two connections at once.
func TestSendersShareEntries(t *testing.T) {
	batch := batchOf([]int{cutCommandBytesMin, 10, 64 << 10}, []int{cutCommandBytesMin})
	done := make(chan []byte, 2)
	for range cap(done) {
		go func() { done <- written(t, batch) }()
	}
	if !bytes.Equal(<-done, <-done) {
		t.Error("two connections carry different frames of one batch")
	}
}

func TestMalformedMessageBatchesAreRefused(t *testing.T) {
	good := written(t, batchOf([]int{cutCommandBytesMin, 0}, []int{cutCommandBytesMin + 1}))
	if _, err := read(good); err != nil {
		t.Fatal(err)
	}
	const head, table = frameHeaderBytes, frameHeaderBytes + batchHeadBytes
	put := func(at int, v uint32) func([]byte) {
		return func(frame []byte) { binary.LittleEndian.PutUint32(frame[at:], v) }
	}
	for name, change := range map[string]func([]byte){
		"more commands than fit": put(head, 1<<31),
		"fewer commands":         put(head, 1),
		"longer batch":           put(head+4, 1<<30),
		"batch cut short":        put(head+4, 3),
		"same entry twice":       put(table+cutBytes, 0),
		"falling places":         put(table, 2),
		"no such entry":          put(table+cutBytes, 3),
		"long command":           put(table+4, 1<<30),
		"short command":          put(table+4, cutCommandBytesMin-1),
		"flipped bit":            func(frame []byte) { frame[len(frame)-1] ^= 1 },
	} {
		frame := bytes.Clone(good)
		change(frame)
		if name != "flipped bit" { // which the checksum is for
			sealFrame(frame)
		}
		if batch, err := read(frame); err == nil {
			t.Errorf("%s: accepted, %d requests", name, len(batch.Requests))
		}
	}
}

func FuzzMessageBatches(f *testing.F) {
	f.Add(written(f, batchOf([]int{cutCommandBytesMin, 0}, []int{cutCommandBytesMin + 1, 3}))[frameHeaderBytes:])
	f.Add(written(f, batchOf())[frameHeaderBytes:])
	f.Fuzz(func(t *testing.T, body []byte) {
		batch, err := read(frameOf(body))
		if err != nil {
			return
		}
		again, err := read(written(t, batch))
		if err != nil {
			t.Fatal(err)
		}
		for i := range batch.Requests {
			sameEntries(t, again.Requests[i].Entries, batch.Requests[i].Entries)
		}
	})
}

// BenchmarkMessages sends entries of 256 KiB from one end of a TCP connection to
// the other and forgets them there.
func BenchmarkMessages(b *testing.B) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	batch := batchOf([]int{256 << 10, 256 << 10, 256 << 10, 256 << 10})
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	sent := make(chan error, 1)
	go func() {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err == nil {
			defer conn.Close()
			c := &messageConnection{outgoing: &outgoing{conn: conn, gone: make(chan struct{})}, links: make(map[link]struct{})}
			for i := 0; i < b.N && err == nil; i++ {
				err = c.SendMessageBatch(batch)
			}
		}
		sent <- err
	}()
	conn, err := listener.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	frames := newFrameReader(conn, messageFrameBytesMax)
	for range b.N {
		var got pb.MessageBatch
		if err := frames.readBatch(&got); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-sent; err != nil {
		b.Fatal(err)
	}
}
