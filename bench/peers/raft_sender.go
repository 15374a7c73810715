package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"logbroker/bench/load"
)

// NewSender implements load.System.
func (s *raftSystem) NewSender(context.Context, int) (load.Sender, error) {
	p := &packer{limit: s.proposal, window: s.window(), bytes: s.hop == hopTCP, out: make([]byte, 4, s.proposal+4)}
	p.room = sync.NewCond(&p.mu)
	for i := range s.shards() {
		if err := p.connect(s.nodes[i%raftNodes].Listen, i); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}

// packer is one producer: it packs its records to proposals, which go to the
// shards in turn. A proposal goes out when it is full, or when none of the
// producer's is in flight on any shard: a record that is sent while the cluster
// is at work costs no proposal, and so no syncs, of its own. Topics and keys
// make no difference here. Send is called from one goroutine at a time.
type packer struct {
	limit  int  // bytes of a proposal
	window int  // proposals in flight per shard
	bytes  bool // the proposal's bytes are sent too

	// mu guards the fields below and those of the conns. Connections are written
	// under it, so that answers come in the order of inFlight; the nodes always
	// read.
	mu       sync.Mutex
	room     *sync.Cond // in flight has shrunk, or a connection has failed
	conns    []*shardConn
	next     int    // the shard that has its turn
	out      []byte // the next proposal with its header
	size     int    // of the next proposal
	dones    []func(error)
	spare    [][]func(error)
	inFlight int // proposals: sum of len(shardConn.inFlight)
	unsaid   int // records whose done was not called yet
	err      error
}

// shardConn is the way to one shard.
type shardConn struct {
	conn     net.Conn
	ended    chan struct{}   // closed when packer.run has returned
	inFlight [][]func(error) // oldest first; guarded by packer.mu
}

func (p *packer) connect(address string, shard int) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return fmt.Errorf("connecting to a raft node: %w", err)
	}
	if _, err := conn.Write(binary.LittleEndian.AppendUint32(nil, uint32(shard))); err != nil {
		return errors.Join(fmt.Errorf("greeting a raft node: %w", err), conn.Close())
	}
	l := &shardConn{conn: conn, ended: make(chan struct{})}
	p.conns = append(p.conns, l)
	go p.run(l) // ends with the connection
	return nil
}

// Send implements load.Sender. It blocks while the windows of all shards are
// full.
func (p *packer) Send(_ context.Context, r load.Record, done func(error)) {
	n := len(r.Value)
	p.mu.Lock()
	for p.err == nil && p.size+n > p.limit && !p.hasRoom() {
		p.room.Wait()
	}
	if err := p.err; err != nil {
		p.mu.Unlock()
		done(err)
		return
	}
	if p.size > 0 && p.size+n > p.limit {
		p.propose()
	}
	if p.bytes {
		p.out = append(p.out, r.Value...)
	}
	p.size += n
	p.dones = append(p.dones, done)
	p.unsaid++
	if p.inFlight == 0 || p.size+n > p.limit && p.hasRoom() {
		p.propose()
	}
	p.mu.Unlock()
}

// hasRoom moves next on to a shard whose window is not full: a slow shard must
// not hold up the others. The caller holds mu.
func (p *packer) hasRoom() bool {
	for range p.conns {
		if len(p.conns[p.next].inFlight) < p.window {
			return true
		}
		p.next = (p.next + 1) % len(p.conns)
	}
	return false
}

// propose sends what is packed. The caller holds mu, and there is room.
func (p *packer) propose() {
	p.hasRoom()
	l := p.conns[p.next]
	p.next = (p.next + 1) % len(p.conns)
	binary.LittleEndian.PutUint32(p.out, uint32(p.size))
	l.inFlight = append(l.inFlight, p.dones)
	p.inFlight++
	p.dones = nil
	if n := len(p.spare); n > 0 {
		p.dones, p.spare = p.spare[n-1][:0], p.spare[:n-1]
	}
	// A failure closes the connection; run sees it and ends what is in flight.
	if _, err := l.conn.Write(p.out); err != nil {
		_ = l.conn.Close()
	}
	p.out, p.size = p.out[:4], 0
}

// run reads a shard's answers until its connection ends.
func (p *packer) run(l *shardConn) {
	defer close(l.ended)
	in := bufio.NewReader(l.conn)
	for {
		outcome, err := in.ReadByte()
		if err != nil {
			p.fail(fmt.Errorf("the connection to the raft node ended: %w", err))
			return
		}
		p.answered(l, outcome)
	}
}

// errProposal says that a proposal failed or has an unknown outcome.
var errProposal = errors.New("the proposal failed")

func (p *packer) answered(l *shardConn, outcome byte) {
	var err error
	if outcome != answerDone {
		err = errProposal
	}
	p.mu.Lock()
	if p.err != nil { // another connection has ended, and all that was in flight with it
		p.mu.Unlock()
		return
	}
	dones := l.inFlight[0]
	l.inFlight = l.inFlight[1:]
	p.inFlight--
	if p.size > 0 && p.inFlight == 0 {
		p.propose()
	}
	p.mu.Unlock()
	for _, done := range dones {
		done(err)
	}
	p.mu.Lock()
	p.unsaid -= len(dones)
	p.spare = append(p.spare, dones)
	p.room.Broadcast()
	p.mu.Unlock()
}

// fail ends everything with err, now and later: one shard less is another load.
func (p *packer) fail(err error) {
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return
	}
	left := [][]func(error){p.dones}
	for _, l := range p.conns {
		left = append(left, l.inFlight...)
		l.inFlight = nil
	}
	p.dones, p.size, p.inFlight, p.err = nil, 0, 0, err
	p.mu.Unlock()
	said := 0
	for _, dones := range left {
		for _, done := range dones {
			done(err)
		}
		said += len(dones)
	}
	p.mu.Lock()
	p.unsaid -= said
	p.room.Broadcast()
	p.mu.Unlock()
}

// Flush implements load.Sender: it waits until every record had its final word.
// What is packed goes out by itself when nothing is in flight.
func (p *packer) Flush(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.room.Broadcast()
	})
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for ctx.Err() == nil && p.unsaid > 0 {
		p.room.Wait()
	}
	return errors.Join(p.err, ctx.Err())
}

// Close implements load.Sender.
func (p *packer) Close() error {
	errs := make([]error, 0, len(p.conns))
	for _, l := range p.conns {
		errs = append(errs, l.conn.Close())
	}
	for _, l := range p.conns {
		<-l.ended
	}
	return errors.Join(errs...)
}
