package partitions

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"
	"github.com/lni/vfs"

	"logbroker/internal/raftnode"
	"logbroker/internal/recordbatch"
	"logbroker/partitions/fsm"
)

// fate is what becomes of a proposal.
type fate int

const (
	commit  fate = iota // applied in order
	drop                // not placed: definite
	lose                // outcome unknown, never applied
	delay               // outcome unknown, applied when the test says so
	decline             // not even taken
	hang                // no outcome until nobody waits for it any more
)

// fakeRaft stands for Raft: what is proposed is applied to a real state machine
// in proposal order, when somebody waits for it, or meets the fate the test
// gives it.
type fakeRaft struct {
	machine *fsm.FSM

	mu        sync.Mutex
	fate      func(cmd []byte) fate // nil = commit
	queue     []*fakeProposal       // to be applied
	delayed   [][]byte
	index     uint64
	epochs    int // epoch entries proposed
	readIndex error
	transfers []uint64
	snapshots int
}

type fakeProposal struct {
	raft   *fakeRaft
	cmd    []byte
	fate   fate
	done   bool
	result raftnode.Result
}

const kindEpochForTest = 2

func isEpoch(cmd []byte) bool { return cmd[1] == kindEpochForTest }

func (r *fakeRaft) Propose(_ uint64, cmd []byte, _ time.Duration) (proposal, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	what := commit
	if r.fate != nil {
		what = r.fate(cmd)
	}
	if isEpoch(cmd) {
		r.epochs++
	}
	p := &fakeProposal{raft: r, cmd: append([]byte(nil), cmd...), fate: what}
	switch what {
	case decline:
		return nil, fmt.Errorf("declined: %w", raftnode.ErrRefused)
	case commit:
		r.queue = append(r.queue, p)
	case delay:
		r.delayed = append(r.delayed, p.cmd)
	}
	return p, nil
}

func (p *fakeProposal) Wait() (raftnode.Result, error) {
	switch p.fate {
	case hang:
		select {} // as if the time-out were an hour
	case drop:
		return raftnode.Result{}, fmt.Errorf("dropped: %w", raftnode.ErrRefused)
	case lose, delay:
		return raftnode.Result{}, fmt.Errorf("timed out: %w", raftnode.ErrUnknown)
	}
	p.raft.mu.Lock()
	defer p.raft.mu.Unlock()
	for !p.done {
		head := p.raft.queue[0]
		p.raft.queue = p.raft.queue[1:]
		head.result, head.done = p.raft.apply(head.cmd), true
	}
	return p.result, nil
}

func (p *fakeProposal) WaitOr(giveUp <-chan struct{}, _ time.Duration) (raftnode.Result, error) {
	if p.fate == hang {
		<-giveUp
		return raftnode.Result{}, raftnode.ErrGivenUp
	}
	return p.Wait()
}

// apply gives cmd to the state machine. r.mu is held.
func (r *fakeRaft) apply(cmd []byte) raftnode.Result {
	r.index++
	out, err := r.machine.Update([]statemachine.Entry{{Index: r.index, Cmd: cmd}})
	if err != nil {
		panic(err)
	}
	return raftnode.Result{Value: out[0].Result.Value}
}

// applyForeign applies a command that another replica proposed.
func (r *fakeRaft) applyForeign(cmd []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.apply(cmd)
}

func (r *fakeRaft) setFate(f func(cmd []byte) fate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fate = f
}

func (r *fakeRaft) setReadIndex(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readIndex = err
}

func (r *fakeRaft) ReadIndex(context.Context, uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.readIndex
}

func (r *fakeRaft) Transfer(_, to uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.transfers = append(r.transfers, to)
	return nil
}

func (r *fakeRaft) Snapshot(context.Context, uint64, uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshots++
	return r.machine.Sync()
}

func (r *fakeRaft) Status(uint64) (raftnode.ReplicaState, bool) {
	return raftnode.ReplicaState{}, false
}

// rig is one partition over a fakeRaft: replica 1 of 1, 2, 3 on nodes 101…103.
type rig struct {
	t *testing.T
	*Partition
	raft       *fakeRaft
	fs         *vfs.MemFS
	attendants *attendants
	clock      *fakeClock

	mu     sync.Mutex
	events []Leadership
}

// fakeClock is a wall clock that moves when told.
type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, raft: &fakeRaft{}, fs: vfs.NewMem(), clock: &fakeClock{now: time.UnixMilli(1_700_000_000_000)}}
	o := Options{
		FS: r.fs, Dir: "partitions", Clock: r.clock.Now, RetentionInterval: time.Hour,
		OnLeadership: func(l Leadership) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, l)
		},
	}
	if change != nil {
		change(&o)
	}
	o = o.withDefaults()
	r.attendants = newAttendants(&o, func() []*Partition { return nil }, func(*Partition, error) bool { return true })
	spec := Spec{
		Shard: 1001, Replica: 1, Topic: "orders", TopicID: 7, Partition: 2,
		Nodes:  map[uint64]uint64{1: 101, 2: 102, 3: 103},
		Config: TopicConfig{SegmentBytes: 1 << 20, SegmentAge: time.Hour},
	}
	r.Partition = newPartition(spec, &o, r.raft, r.attendants)
	if err := r.fs.MkdirAll("partitions", 0o755); err != nil {
		t.Fatal(err)
	}
	r.machine = fsm.New(fsm.Options{FS: r.fs, Dir: "partitions/1001-1", ShardID: 1001, ReplicaID: 1, Observer: r.Partition})
	r.raft.machine = r.machine
	if _, err := r.machine.Open(nil); err != nil {
		t.Fatal(err)
	}
	r.run()
	t.Cleanup(r.stop)
	return r
}

func (r *rig) stop() {
	r.refuse(StateStopped, nil)
	r.finish()
	r.attendants.endBackground()
	r.attendants.wait() // a snapshot too: Raft would not close the machine beside it
	if err := r.machine.Close(); err != nil {
		r.t.Error(err)
	}
}

// lead makes the replica Raft leader in term and waits until it serves.
func (r *rig) leadIn(term uint64) {
	r.t.Helper()
	r.leaderEvent(raftnode.LeaderEvent{Shard: 1001, Replica: 1, Term: term, Leader: 1})
	r.until("serving", func() bool { return r.Leader().Serving })
}

func (r *rig) follow(term, leader uint64) {
	r.leaderEvent(raftnode.LeaderEvent{Shard: 1001, Replica: 1, Term: term, Leader: leader})
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	until(r.t, what, ok)
}

func (r *rig) told() []Leadership {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Leadership(nil), r.events...)
}

// until polls ok until it holds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	const limit = time.Minute // where a test hangs, also on a machine that stands still for seconds
	deadline := time.Now().Add(limit)
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-poll.C
	}
}

// room is space in front of a batch for the header of a command.
const room = fsm.ProduceHeaderSize + 255

// numbered is an encoded batch of count records, with room in front.
func numbered(producer int64, epoch int16, sequence int32, count int) AppendRequest {
	return batchOf(producer, epoch, sequence, count, 0)
}

func batchOf(producer int64, epoch int16, sequence int32, count, valueBytes int) AppendRequest {
	b := recordbatch.NewBuilder()
	for i := range count {
		value := append(fmt.Appendf(nil, "p%d e%d s%d", producer, epoch, int(sequence)+i), make([]byte, valueBytes)...)
		b.Append(1_600_000_000_000+int64(sequence)+int64(i), nil, value, nil)
	}
	buf, err := b.Build(make([]byte, room), recordbatch.None)
	if err != nil {
		panic(err)
	}
	if producer >= 0 {
		recordbatch.Batch(buf[room:]).SetProducer(producer, epoch, sequence)
	}
	return AppendRequest{Buf: buf, BatchAt: room, Epoch: epochUnknown}
}

// appended appends and waits for the outcome; a refusal is an outcome too.
func appended(p *Partition, r AppendRequest) AppendResult {
	out := make(chan AppendResult, 1)
	if err := p.Append(r, func(a AppendResult) { out <- a }); err != nil {
		return AppendResult{Err: err, BaseOffset: -1}
	}
	return <-out
}

// offsets returns the base offsets and batches of what Read returned.
func batchesIn(t *testing.T, data []byte) (batches []recordbatch.Batch) {
	t.Helper()
	for len(data) > 0 {
		b, rest, err := recordbatch.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		batches, data = append(batches, b), rest
	}
	return batches
}

var errNoQuorum = errors.New("no quorum")

// valuesOf returns the records of b as "offset value".
func valuesOf(t *testing.T, b recordbatch.Batch) (values []string) {
	t.Helper()
	records, err := b.Iterate(recordbatch.IterateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for records.Next() {
		r := records.Record()
		values = append(values, fmt.Sprintf("%d %s", r.Offset, r.Value))
	}
	if err := records.Err(); err != nil {
		t.Fatal(err)
	}
	return values
}
