package groups

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/raftnode"
)

// fakeRaft applies what is proposed at once, or what a test makes of it. It
// stands for one shard with one replica here.
type fakeRaft struct {
	mu      sync.Mutex // guards what follows
	machine *machine
	index   uint64
	entries []entry
	// delay is how long a proposal takes, refuse why none is taken, lose makes
	// them end as unknown. Those proposed under hold wait for land.
	delay  time.Duration
	refuse error
	lose   bool
	hold   bool
	onHold []heldProposal
	// unread makes ReadIndex fail.
	unread error
}

// heldProposal is a command that has not come to a log that counts.
type heldProposal struct {
	cmd     []byte
	outcome chan raftnode.Result // capacity 1
}

func (p heldProposal) wait(timeout time.Duration) WaitOr {
	return func(giveUp <-chan struct{}, grace time.Duration) (raftnode.Result, error) {
		late := time.After(timeout)
		for {
			select {
			case r := <-p.outcome:
				return r, nil
			case <-giveUp:
				giveUp, late = nil, time.After(grace)
			case <-late:
				return raftnode.Result{}, raftnode.ErrGivenUp
			}
		}
	}
}

// land applies what is on hold.
func (r *fakeRaft) land() {
	r.mu.Lock()
	held := r.onHold
	r.onHold = nil
	r.mu.Unlock()
	for _, p := range held {
		p.outcome <- r.apply(p.cmd)
	}
}

func (r *fakeRaft) Propose(_ uint64, cmd []byte, timeout time.Duration) (WaitOr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return nil, r.refuse
	}
	if r.hold {
		p := heldProposal{cmd, make(chan raftnode.Result, 1)}
		r.onHold = append(r.onHold, p)
		return p.wait(timeout), nil
	}
	return func(<-chan struct{}, time.Duration) (raftnode.Result, error) {
		if r.delay > 0 {
			<-time.After(r.delay)
		}
		r.mu.Lock()
		lose := r.lose
		r.mu.Unlock()
		if lose {
			return raftnode.Result{}, raftnode.ErrUnknown
		}
		return r.apply(cmd), nil
	}, nil
}

func (r *fakeRaft) apply(cmd []byte) raftnode.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := decode(cmd)
	if !ok {
		panic("an entry that cannot be read")
	}
	r.entries = append(r.entries, e)
	r.index++
	out, err := r.machine.Update(statemachine.Entry{Index: r.index, Cmd: cmd})
	if err != nil {
		panic(err)
	}
	return raftnode.Result{Value: out.Value, Data: out.Data}
}

func (r *fakeRaft) ReadIndex(context.Context, uint64) error { return r.unread }

func (r *fakeRaft) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// operations returns how many entries with operations there were, and how many
// operations of a kind.
func (r *fakeRaft) operations(kind opKind) (entries, operations int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		if len(e.Ops) > 0 {
			entries++
		}
		for _, op := range e.Ops {
			if op.Kind == kind {
				operations++
			}
		}
	}
	return entries, operations
}

// fakeMetadata is an image that tests replace.
type fakeMetadata struct {
	mu      sync.Mutex // guards what follows
	image   *metadata.Image
	changed chan struct{}
	index   uint64
}

// topics replaces the topics: name → partitions. A topic's id follows from its
// name, so that a topic stays the same one.
func (m *fakeMetadata) topics(t testing.TB, partitions map[string]int) {
	t.Helper()
	type partition struct {
		ID       int32            `json:"id"`
		Shard    uint64           `json:"shard"`
		Replicas []map[string]int `json:"replicas"`
	}
	type topic struct {
		Name       string      `json:"name"`
		ID         uint64      `json:"id"`
		Partitions []partition `json:"partitions"`
	}
	m.mu.Lock()
	m.index++
	snapshot := map[string]any{"version": 1, "index": m.index, "cluster_id": "c", "group_shards": 1, "next_topic": 1000, "next_shard": 100_000}
	var topics []topic
	for _, name := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
		n, ok := partitions[name]
		if !ok {
			continue
		}
		x := topic{Name: name, ID: uint64(name[0])}
		for i := range n {
			x.Partitions = append(x.Partitions, partition{ID: int32(i), Shard: uint64(1001 + i + 100*int(name[0]-'a')), Replicas: []map[string]int{{"node": 1, "replica": 1}}})
		}
		topics = append(topics, x)
	}
	snapshot["topics"] = topics
	m.mu.Unlock()
	data, err := json.Marshal(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	sm := metadata.NewStateMachine(func(i *metadata.Image) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.image = i
		if m.changed != nil {
			close(m.changed)
		}
		m.changed = make(chan struct{})
	})
	if err := sm.RecoverFromSnapshot(strings.NewReader(string(data)), nil, nil); err != nil {
		t.Fatal(err)
	}
}

func (m *fakeMetadata) Image() *metadata.Image {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.image
}

func (m *fakeMetadata) Changed(after uint64) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.image.Index > after {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return m.changed
}

func (m *fakeMetadata) Barrier(context.Context) error { return nil }

// rig is a Host with one coordinator shard, in a bubble with a clock of its own.
type rig struct {
	t     *testing.T
	host  *Host
	raft  *fakeRaft
	meta  *fakeMetadata
	c     *coordinator
	epoch map[string]int32 // of members, from their last answers
	// ahead is by how much this node's clock is wrong, which it may know.
	ahead     atomic.Int64
	untrusted atomic.Bool
}

// inBubble runs test with a rig that leads its shard and knows topic t with 6
// partitions.
func inBubble(t *testing.T, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, raft: &fakeRaft{}, meta: &fakeMetadata{}, epoch: map[string]int32{}}
		r.meta.topics(t, map[string]int{"t": 6})
		r.host = NewHost(Options{
			NodeID: 1, Raft: r.raft, Metadata: r.meta, SessionTimeout: 10 * time.Second, HeartbeatInterval: 3 * time.Second,
			OffsetRetention: time.Hour, ClockTrusted: func() bool { return !r.untrusted.Load() },
			Clock: func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) },
		})
		r.raft.machine = r.host.StateMachine(FirstShard, 1).(*machine)
		r.c = r.host.coordinators[FirstShard]
		defer r.host.Close()
		r.lead(1, 1)
		test(r)
	})
}

// lead tells that a replica leads in term.
func (r *rig) lead(term, leader uint64) {
	r.host.LeaderEvent(raftnode.LeaderEvent{Shard: FirstShard, Replica: 1, Term: term, Leader: leader})
	synctest.Wait()
}

// result is what a heartbeat came to.
type result struct {
	reply *protocol.HeartbeatReply
	err   error
}

// answer takes a result, perhaps late: nil while the heartbeat is held.
type answer struct{ atomic.Pointer[result] }

func (a *answer) done() bool { return a.Load() != nil }

func (a *answer) err() error {
	if r := a.Load(); r != nil {
		return r.err
	}
	return nil
}

func (a *answer) reply() *protocol.HeartbeatReply { return a.Load().reply }

// beat sends a heartbeat; owned lists partitions of t.
func (r *rig) beat(member string, wait time.Duration, owned ...int32) *answer {
	a := &answer{}
	r.host.Heartbeat(protocol.HeartbeatRequest{
		Group: "g", MemberID: member, MemberEpoch: r.epoch[member], Topics: []string{"t"}, WaitMs: wait.Milliseconds(),
		Owned: []protocol.TopicPartitions{{Topic: "t", TopicID: 't', Partitions: owned}},
	}, func(reply *protocol.HeartbeatReply, err error) { a.Store(&result{reply, err}) })
	synctest.Wait()
	r.learn(member, a)
	return a
}

// join has a member join and waits for the answer.
func (r *rig) join(member string) {
	a := r.beat(member, 0)
	r.pass(joinHold + tickInterval)
	r.learn(member, a)
}

// learn takes a member's epoch from an answer.
func (r *rig) learn(member string, a *answer) {
	if a.done() && a.err() == nil {
		r.epoch[member] = a.reply().MemberEpoch
	}
}

// pass lets time go by.
func (r *rig) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *rig) owned(member string) (n int) {
	r.c.machine.read(func(s *state) {
		if g := s.groups["g"]; g != nil && g.members[member] != nil {
			n = len(g.members[member].may())
		}
	})
	return n
}

func (r *rig) wantCode(err error, code errcode.Code) {
	r.t.Helper()
	if errcode.Of(err) != code {
		r.t.Fatalf("%v, want %v", err, code)
	}
}

var errRefusedByFake = errors.Join(errcode.New(errcode.NotLeaderOrFollower, "not the leader"), raftnode.ErrRefused)
