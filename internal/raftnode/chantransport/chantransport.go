// Package chantransport is a Raft transport inside one process, for
// deterministic tests and for the seven leader failures that logbrokerd demo
// plays: whoever owns it sees every message between the nodes and may drop it or
// hold it back, chosen by sender, addressee, type and content.
//
// It is not for production and knows no network: an absent node is silence, as
// behind a cut cable. (dragonboat's own plugin/chan would report a failed
// connection, which trips a circuit breaker for up to a second, and can deadlock
// when two nodes connect to one that is closing; so it is not used.)
//
// Start at New; give Network.Factory to raftnode.Options.Transport and the
// node's address to Options.Advertise.
package chantransport

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// Verdict says what becomes of a message.
type Verdict int

// The verdicts. Deliver is the zero value.
const (
	Deliver Verdict = iota
	// Drop loses the message.
	Drop
	// Hold keeps it until Release or Forget.
	Hold
)

// TypeSnapshotChunk is the Message.Type of a piece of a snapshot stream. Such a
// message carries no entries; Hold counts as Drop, and a dropped chunk breaks its
// stream.
const TypeSnapshotChunk = "SnapshotChunk"

// Message is a Raft message as an interceptor sees it.
type Message struct {
	FromAddress, ToAddress string
	// Shard, and the replica ids of sender and addressee.
	Shard, From, To uint64
	// Type is dragonboat's name: "Replicate", "ReplicateResp", "Heartbeat",
	// "HeartbeatResp", "RequestVote", "RequestVoteResp", "RequestPreVote",
	// "RequestPreVoteResp", "Propose", "ReadIndex", "TimeoutNow" …, or
	// TypeSnapshotChunk.
	Type string
	// Term, LogIndex, LogTerm, Commit and Reject are the message's fields; what
	// they mean depends on the type.
	Term, LogIndex, LogTerm, Commit uint64
	Reject                          bool
	Entries                         []Entry
}

// Entry is a log entry within a message. Command is nil for what is no command
// (a new leader's empty entry, membership changes).
type Entry struct {
	Index, Term uint64
	Command     []byte
}

// Network connects the nodes that are made with its Factory. Its methods may be
// called from any goroutine.
type Network struct {
	intercept atomic.Pointer[func(Message) Verdict]

	// mu guards the fields below.
	mu    sync.Mutex
	nodes map[string]*transport // running, by address
	held  []held                // in the order they were sent
}

type held struct {
	seen Message
	to   string
	data []byte // a marshalled pb.MessageBatch
}

// New returns a network that delivers everything.
func New() *Network { return &Network{nodes: make(map[string]*transport)} }

// Intercept sets the function that decides about every message; nil delivers
// all. It is called from the senders' goroutines, concurrently, without a lock
// held. Messages of one shard from one node to another come in order.
func (n *Network) Intercept(f func(Message) Verdict) {
	if f == nil {
		n.intercept.Store(nil)
		return
	}
	n.intercept.Store(&f)
}

// Held returns the messages held back, oldest first.
func (n *Network) Held() []Message {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Message, len(n.held))
	for i := range n.held {
		out[i] = n.held[i].seen
	}
	return out
}

// Release delivers the messages held back, oldest first, without asking the
// interceptor again, and returns how many there were. What is addressed to a
// node that does not run is lost.
func (n *Network) Release() int {
	messages := n.take()
	for _, m := range messages {
		n.deliver(m.to, m.data)
	}
	return len(messages)
}

// Forget loses the messages held back and returns how many there were.
func (n *Network) Forget() int { return len(n.take()) }

func (n *Network) take() []held {
	n.mu.Lock()
	defer n.mu.Unlock()
	messages := n.held
	n.held = nil
	return messages
}

func (n *Network) judge(m Message) Verdict {
	if f := n.intercept.Load(); f != nil {
		return (*f)(m)
	}
	return Deliver
}

func (n *Network) node(address string) *transport {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.nodes[address]
}

func (n *Network) deliver(address string, data []byte) {
	if t := n.node(address); t != nil {
		t.receive(data)
	}
}

// Factory returns the factory for raftnode.Options.Transport. One serves all
// nodes: a node is known by its Options.Advertise.
func (n *Network) Factory() config.TransportFactory { return factory{n} }

type factory struct{ network *Network }

// Validate implements config.TransportFactory: any name is an address here.
func (factory) Validate(address string) bool { return address != "" }

// Create implements config.TransportFactory.
func (f factory) Create(c config.NodeHostConfig, messages raftio.MessageHandler, chunks raftio.ChunkHandler) raftio.ITransport {
	return &transport{network: f.network, address: c.RaftAddress, messages: messages, chunks: chunks}
}

// transport is one running node's end of the network. Messages are handled in
// the sender's goroutine: dragonboat's handler only queues them.
type transport struct {
	network  *Network
	address  string
	messages raftio.MessageHandler
	chunks   raftio.ChunkHandler

	// open is held for reading while a handler runs, for writing by Close.
	open   sync.RWMutex
	closed bool
}

// Name implements raftio.ITransport.
func (t *transport) Name() string { return "chantransport" }

// Start implements raftio.ITransport.
func (t *transport) Start() error {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	if t.network.nodes[t.address] != nil {
		return errors.New("chantransport: address " + t.address + " is taken")
	}
	t.network.nodes[t.address] = t
	return nil
}

// Close implements raftio.ITransport.
func (t *transport) Close() error {
	t.network.mu.Lock()
	if t.network.nodes[t.address] == t {
		delete(t.network.nodes, t.address)
	}
	t.network.mu.Unlock()
	t.open.Lock()
	defer t.open.Unlock()
	t.closed = true
	return nil
}

// GetConnection implements raftio.ITransport. It never fails.
func (t *transport) GetConnection(_ context.Context, target string) (raftio.IConnection, error) {
	return &connection{from: t, to: target}, nil
}

// GetSnapshotConnection implements raftio.ITransport. It never fails.
func (t *transport) GetSnapshotConnection(_ context.Context, target string) (raftio.ISnapshotConnection, error) {
	return &connection{from: t, to: target}, nil
}

func (t *transport) receive(data []byte) {
	t.open.RLock()
	defer t.open.RUnlock()
	if t.closed {
		return
	}
	var batch pb.MessageBatch
	pb.MustUnmarshal(&batch, data)
	t.messages(batch)
}

func (t *transport) receiveChunk(chunk pb.Chunk) bool {
	t.open.RLock()
	defer t.open.RUnlock()
	return !t.closed && t.chunks(chunk)
}

// connection is one direction between two nodes.
type connection struct {
	from *transport
	to   string
}

// Close implements raftio.IConnection.
func (c *connection) Close() {}

// SendMessageBatch implements raftio.IConnection.
func (c *connection) SendMessageBatch(batch pb.MessageBatch) error {
	n := c.from.network
	passed := make([]pb.Message, 0, len(batch.Requests))
	for _, m := range batch.Requests {
		seen := c.see(m)
		switch n.judge(seen) {
		case Deliver:
			passed = append(passed, m)
		case Hold:
			one := batch
			one.Requests = []pb.Message{m}
			n.mu.Lock()
			n.held = append(n.held, held{seen: seen, to: c.to, data: marshal(&one)})
			n.mu.Unlock()
		}
	}
	if len(passed) > 0 {
		batch.Requests = passed
		// Marshalled, so that the nodes share no memory.
		n.deliver(c.to, marshal(&batch))
	}
	return nil
}

func marshal(batch *pb.MessageBatch) []byte {
	return pb.MustMarshalTo(batch, make([]byte, batch.SizeUpperLimit()))
}

// SendChunk implements raftio.ISnapshotConnection.
func (c *connection) SendChunk(chunk pb.Chunk) error {
	seen := Message{
		FromAddress: c.from.address, ToAddress: c.to,
		Shard: chunk.ShardID, From: chunk.From, To: chunk.ReplicaID,
		Type: TypeSnapshotChunk, Term: chunk.Term, LogIndex: chunk.Index,
	}
	if c.from.network.judge(seen) != Deliver {
		return errors.New("chantransport: snapshot chunk dropped")
	}
	to := c.from.network.node(c.to)
	if to == nil {
		return errors.New("chantransport: no node at " + c.to)
	}
	var received pb.Chunk
	pb.MustUnmarshal(&received, pb.MustMarshal(&chunk))
	if !to.receiveChunk(received) {
		return errors.New("chantransport: snapshot chunk not accepted")
	}
	return nil
}

func (c *connection) see(m pb.Message) Message {
	seen := Message{
		FromAddress: c.from.address, ToAddress: c.to,
		Shard: m.ShardID, From: m.From, To: m.To, Type: m.Type.String(),
		Term: m.Term, LogIndex: m.LogIndex, LogTerm: m.LogTerm, Commit: m.Commit, Reject: m.Reject,
	}
	for _, e := range m.Entries {
		seen.Entries = append(seen.Entries, Entry{Index: e.Index, Term: e.Term, Command: command(e)})
	}
	return seen
}

// command returns what was proposed. dragonboat puts one byte (version, codec
// "none", no session) in front of a command it has not compressed; raftnode never
// lets it compress.
func command(e pb.Entry) []byte {
	switch {
	case e.Type == pb.EncodedEntry && len(e.Cmd) > 0:
		return e.Cmd[1:]
	case e.Type == pb.ApplicationEntry:
		return e.Cmd
	}
	return nil
}
