package raftnode

import (
	"context"
	"net"
	"testing"
	"time"
)

func TestConnectionsToARestartedPeerAreOpenedAnew(t *testing.T) {
	receiver := newEndpoint(t, EndpointOptions{})
	serveRaft(t, receiver)
	sender := &tcpTransport{endpoint: newEndpoint(t, EndpointOptions{}), inbound: map[net.Conn]struct{}{}}
	ctx, cancel := context.WithCancel(context.Background())
	var conns []*messageConnection
	t.Cleanup(func() {
		cancel()
		for _, c := range conns {
			c.Close()
		}
		sender.wg.Wait()
	})
	for range 4 { // as many as dragonboat has to one peer
		c, err := sender.GetConnection(ctx, receiver.Addr())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c.(*messageConnection))
	}
	receiver.mu.Lock()
	first := receiver.raft
	receiver.mu.Unlock()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		select {
		case <-c.gone:
		case <-time.After(time.Minute):
			t.Fatal("the end of a connection is not noticed")
		}
	}
	again := serveRaft(t, receiver)
	for i, c := range conns {
		if err := c.SendMessageBatch(goodBatch()); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	eventually(t, "every batch arrives", func() bool {
		again.mu.Lock()
		defer again.mu.Unlock()
		return again.batches == len(conns)
	})
	if err := receiver.Close(); err != nil {
		t.Fatal(err)
	}
	<-conns[0].gone
	if err := conns[0].SendMessageBatch(goodBatch()); err == nil {
		t.Error("a send to a peer that is down succeeds")
	}
}
