package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
)

// The producers' protocol, all numbers little-endian: a connection belongs to
// one shard, whose number (from 0) is sent first, as uint32. A request is the
// proposal's size as uint32 and, unless the node makes them itself, its bytes. The
// answers come in the order of the requests, one byte each: 0 or 1 for a failure.
const (
	answerDone   = 0
	answerFailed = 1
)

// proposeTimeout is how long a proposal may take.
const proposeTimeout = 20 * time.Second

// raftServer answers producers.
type raftServer struct {
	node   *raftnode.Node
	config raftNodeConfig
	pool   []byte // random bytes of local proposals: MaxBytes and as much again
}

func newRaftServer(node *raftnode.Node, c raftNodeConfig) *raftServer {
	s := &raftServer{node: node, config: c, pool: make([]byte, 2*c.MaxBytes)}
	source := rand.NewChaCha8([32]byte{byte(c.ID)})
	_, _ = source.Read(s.pool) // never fails
	return s
}

func (s *raftServer) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // closed: the process ends
		}
		go s.serve(conn) // ends with its connection
	}
}

// serve proposes what comes on a connection, in order, and answers in order.
func (s *raftServer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	in := bufio.NewReaderSize(conn, 256<<10)
	var shard uint32
	if err := binary.Read(in, binary.LittleEndian, &shard); err != nil || int(shard) >= s.config.Shards {
		return
	}
	queue := make(chan *raftnode.Proposal, 4096)
	answered := make(chan struct{})
	go func() { // ends when the queue is closed
		defer close(answered)
		answer(conn, queue)
	}()
	_ = s.propose(in, shardBase+uint64(shard), queue) // the end of the connection
	close(queue)
	<-answered
}

// propose reads requests until the connection ends.
func (s *raftServer) propose(in *bufio.Reader, shard uint64, queue chan<- *raftnode.Proposal) error {
	var head [4]byte
	command := make([]byte, s.config.MaxBytes)
	for n := 0; ; n++ {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		size := int(binary.LittleEndian.Uint32(head[:]))
		if size > s.config.MaxBytes {
			return fmt.Errorf("a proposal of %d bytes is larger than %d", size, s.config.MaxBytes)
		}
		payload := command[:size]
		if s.config.Local {
			from := n * 512 % s.config.MaxBytes
			payload = s.pool[from : from+size]
		} else if _, err := io.ReadFull(in, payload); err != nil {
			return err
		}
		queue <- s.proposeOne(shard, payload)
	}
}

// proposeOne retries while dragonboat's queue is full; nil is a failure.
func (s *raftServer) proposeOne(shard uint64, command []byte) *raftnode.Proposal {
	for deadline := time.Now().Add(proposeTimeout); time.Now().Before(deadline); {
		p, err := s.node.Propose(shard, command, proposeTimeout)
		if err == nil {
			return p
		}
		var coded *errcode.Error
		if !errors.As(err, &coded) || coded.Code != errcode.Throttled {
			return nil
		}
		time.Sleep(200 * time.Microsecond) // there is no event to wait for
	}
	return nil
}

// answer waits for proposals in order and writes the answers, several at once
// where several are final.
func answer(conn net.Conn, queue <-chan *raftnode.Proposal) {
	out := bufio.NewWriter(conn)
	for p := range queue {
		outcome := byte(answerFailed)
		if p != nil {
			if _, err := p.Wait(); err == nil {
				outcome = answerDone
			}
		}
		_ = out.WriteByte(outcome) // the connection's end is seen by its reader
		_ = out.Flush()
	}
}
