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
func (s *raftSystem) NewSender(_ context.Context, n int) (load.Sender, error) {
	sender := &raftSender{next: n}
	for i := range s.shards() {
		node := s.nodes[i%raftNodes]
		packer, err := newPacker(node.Listen, i, s)
		if err != nil {
			return nil, errors.Join(err, sender.Close())
		}
		sender.packers = append(sender.packers, packer)
	}
	return sender, nil
}

// raftSender is one producer; its records go to the shards in turn, a proposal
// each. Topics and keys make no difference here. Send is called from one
// goroutine at a time.
type raftSender struct {
	packers []*packer
	next    int
}

// Send implements load.Sender.
func (s *raftSender) Send(_ context.Context, r load.Record, done func(error)) {
	if full := s.packers[s.next%len(s.packers)].add(r.Value, done); full {
		s.next++
	}
}

// Flush implements load.Sender.
func (s *raftSender) Flush(ctx context.Context) error {
	for _, p := range s.packers {
		if err := p.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close implements load.Sender.
func (s *raftSender) Close() error {
	errs := make([]error, 0, len(s.packers))
	for _, p := range s.packers {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// packer packs one producer's records for one shard to proposals. A proposal
// goes out when it is full, or when none is in flight.
type packer struct {
	conn   net.Conn
	limit  int           // bytes of a proposal
	window int           // proposals in flight
	bytes  bool          // the proposal's bytes are sent too
	ended  chan struct{} // closed when run has returned

	// mu guards the fields below. The connection is written under it, so that
	// proposals stay in order; the node always reads.
	mu       sync.Mutex
	room     *sync.Cond // in flight has shrunk, or the connection has failed
	out      []byte     // the next proposal with its header
	size     int        // of the next proposal
	dones    []func(error)
	inFlight [][]func(error) // oldest first
	spare    [][]func(error)
	unsaid   int // records whose done was not called yet
	err      error
}

func newPacker(address string, shard int, s *raftSystem) (*packer, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting to a raft node: %w", err)
	}
	p := &packer{
		conn: conn, limit: s.proposal, window: s.window(), bytes: s.hop == hopTCP,
		ended: make(chan struct{}), out: make([]byte, 4, s.proposal+4),
	}
	p.room = sync.NewCond(&p.mu)
	if _, err := conn.Write(binary.LittleEndian.AppendUint32(nil, uint32(shard))); err != nil {
		return nil, errors.Join(fmt.Errorf("greeting a raft node: %w", err), conn.Close())
	}
	go p.run() // ends with the connection
	return p, nil
}

// add takes a record; it blocks while the window is full. full says that the
// proposal was sent, so that the next record starts another one.
func (p *packer) add(value []byte, done func(error)) (full bool) {
	p.mu.Lock()
	for p.err == nil && len(p.inFlight) >= p.window && p.size+len(value) > p.limit {
		p.room.Wait()
	}
	if err := p.err; err != nil {
		p.mu.Unlock()
		done(err)
		return true
	}
	if p.size > 0 && p.size+len(value) > p.limit {
		p.propose()
	}
	if p.bytes {
		p.out = append(p.out, value...)
	}
	p.size += len(value)
	p.dones = append(p.dones, done)
	p.unsaid++
	if full = p.size+len(value) > p.limit && len(p.inFlight) < p.window; full || len(p.inFlight) == 0 {
		p.propose()
	}
	p.mu.Unlock()
	return full
}

// propose sends what is packed. The caller holds mu.
func (p *packer) propose() {
	binary.LittleEndian.PutUint32(p.out, uint32(p.size))
	p.inFlight = append(p.inFlight, p.dones)
	p.dones = nil
	if n := len(p.spare); n > 0 {
		p.dones, p.spare = p.spare[n-1][:0], p.spare[:n-1]
	}
	// A failure closes the connection; run sees it and ends what is in flight.
	if _, err := p.conn.Write(p.out); err != nil {
		_ = p.conn.Close()
	}
	p.out, p.size = p.out[:4], 0
}

// run reads answers until the connection ends.
func (p *packer) run() {
	defer close(p.ended)
	in := bufio.NewReader(p.conn)
	for {
		outcome, err := in.ReadByte()
		if err != nil {
			p.fail(fmt.Errorf("the connection to the raft node ended: %w", err))
			return
		}
		p.answered(outcome)
	}
}

// errProposal says that a proposal failed or has an unknown outcome.
var errProposal = errors.New("the proposal failed")

func (p *packer) answered(outcome byte) {
	var err error
	if outcome != answerDone {
		err = errProposal
	}
	p.mu.Lock()
	dones := p.inFlight[0]
	p.inFlight = p.inFlight[1:]
	if p.size > 0 && len(p.inFlight) == 0 {
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

// fail ends everything with err, now and later.
func (p *packer) fail(err error) {
	p.mu.Lock()
	left := append(p.inFlight, p.dones)
	p.inFlight, p.dones, p.size, p.err = nil, nil, 0, err
	p.mu.Unlock()
	for _, dones := range left {
		for _, done := range dones {
			done(err)
		}
	}
	p.mu.Lock()
	p.unsaid = 0
	p.room.Broadcast()
	p.mu.Unlock()
}

// flush waits until every record had its final word. What is packed goes out by
// itself when nothing is in flight.
func (p *packer) flush(ctx context.Context) error {
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

func (p *packer) close() error {
	err := p.conn.Close()
	<-p.ended
	return err
}
