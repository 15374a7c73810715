package raftnode

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A peer of which nothing is heard, in the way that needs no root to play: one
// that does not read. The connection to it must be given up long before its
// time-out of 10 s, the leader here must hear of it, and the messages go on by
// another one.
func TestAConnectionOfWhichNothingIsHeardIsReplaced(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	told := make(chan pb.MessageBatch, 1)
	sender := &tcpTransport{
		endpoint: newEndpoint(t, EndpointOptions{}), inbound: map[net.Conn]struct{}{}, silenceMax: silenceFloor,
		messages: func(b pb.MessageBatch) { told <- b },
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer sender.wg.Wait()
	defer cancel()
	c, err := sender.GetConnection(ctx, listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	deaf, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	second := make(chan net.Conn, 1)
	go func() { // ends with the listener
		if conn, err := listener.Accept(); err == nil {
			second <- conn
		}
	}()
	batch := goodBatch()
	batch.Requests = append(batch.Requests, pb.Message{
		Type: pb.Replicate, From: 1, To: 2, ShardID: 3, Term: 4,
		Entries: []pb.Entry{{Index: 1, Cmd: make([]byte, 16<<20)}}, // more than the kernels' buffers hold
	})
	sent := make(chan error, 1)
	go func() { sent <- c.SendMessageBatch(batch) }() // ends with ctx, which closes the connections
	select {
	case conn := <-second:
		defer conn.Close()
		var begin [preambleBytes + frameHeaderBytes]byte
		if _, err := io.ReadFull(conn, begin[:]); err != nil {
			t.Fatal(err)
		}
		if length := binary.LittleEndian.Uint32(begin[preambleBytes:]); length < 16<<20 {
			t.Errorf("the second connection begins with a frame of %d bytes", length)
		}
		news := (<-told).Requests // came before the second connection was asked for
		if len(news) != 1 || news[0].Type != pb.Unreachable || news[0].ShardID != 3 || news[0].From != 2 || news[0].To != 1 {
			t.Errorf("the leader is told %v", news)
		}
		cancel()
		<-sent
	case err := <-sent:
		t.Errorf("given up without another connection: %v", err)
	}
}
