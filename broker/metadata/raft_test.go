package metadata

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
	"logbroker/internal/raftnode/chantransport"
)

// member is one node of a metadata group over real Raft logs and a transport
// inside the process.
type member struct {
	id    uint64
	dir   string
	node  *raftnode.Node
	store *Store
}

type group struct {
	t       *testing.T
	ctx     context.Context
	network *chantransport.Network
	members []*member
}

func incarnation(id uint64) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", id) }

func address(id uint64) string { return fmt.Sprint("node", id) }

// newGroup starts n members, founds the cluster and registers them.
func newGroup(t *testing.T, n int) *group {
	t.Parallel() // they wait for elections and tickers mostly
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	g := &group{t: t, ctx: ctx, network: chantransport.New()}
	first := map[uint64]string{}
	for i := range n {
		m := &member{id: uint64(i + 1), dir: t.TempDir()}
		g.members = append(g.members, m)
		first[m.id] = incarnation(m.id)
	}
	for _, m := range g.members {
		g.open(m, first)
		t.Cleanup(func() { g.close(m) })
	}
	var wg sync.WaitGroup
	for _, m := range g.members {
		wg.Go(func() { // every founder founds, as they do
			g.check(m.store.Found(ctx, Founding{ClusterID: "c", ClusterName: "test", Defaults: testDefaults()}))
			g.check(m.store.RegisterNode(ctx, m.asNode()))
		})
	}
	wg.Wait()
	return g
}

func (m *member) asNode() Node {
	return Node{ID: m.id, Incarnation: incarnation(m.id), RaftAddr: address(m.id)}
}

func (g *group) check(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Error(err)
	}
}

// open starts a member; first is nil at a restart.
func (g *group) open(m *member, first map[uint64]string) {
	g.t.Helper()
	m.store = NewStore(Options{AttemptTimeout: 400 * time.Millisecond, RetryDelay: 5 * time.Millisecond})
	node, err := raftnode.Open(nil, raftnode.Options{
		Dir: m.dir, NodeID: m.id, Incarnation: incarnation(m.id), DeploymentID: 7,
		RTT: 5 * time.Millisecond, ElectionRTT: 20, HeartbeatRTT: 2,
		Advertise: address(m.id), Transport: g.network.Factory(),
		Resolve: func(id string) (string, bool) {
			for _, m := range g.members {
				if id == incarnation(m.id) {
					return address(m.id), true
				}
			}
			return "", false
		},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	m.node = node
	m.store.Attach(node)
	err = node.StartInMemory(raftnode.Shard{ID: ShardID, Replica: m.id, Members: first}, m.store.StateMachine)
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *group) close(m *member) {
	if m.node != nil {
		m.node.Close()
		m.node = nil
	}
}

// leader waits for the member that leads.
func (g *group) leader() *member {
	g.t.Helper()
	for g.ctx.Err() == nil {
		for _, m := range g.members {
			if m.node != nil && m.store.IsLeader() {
				return m
			}
		}
		select { // leadership has no event here
		case <-time.After(5 * time.Millisecond):
		case <-g.ctx.Done():
		}
	}
	g.t.Fatal("there is no leader")
	return nil
}

// follower returns a running member that is not not.
func (g *group) follower(not ...*member) *member {
	for _, m := range g.members {
		other := m.node != nil
		for _, n := range not {
			other = other && m != n
		}
		if other {
			return m
		}
	}
	g.t.Fatal("there is no other member")
	return nil
}

// sees waits until m's image has the topic.
func (g *group) sees(m *member, name string) *Topic {
	g.t.Helper()
	image, err := m.store.WaitFor(g.ctx, func(i *Image) bool { _, ok := i.Topic(name); return ok })
	if err != nil {
		g.t.Fatalf("member %d does not see topic %s: %v", m.id, name, err)
	}
	topic, _ := image.Topic(name)
	return topic
}

func TestASingleNodeKeepsItsMetadataOverRestarts(t *testing.T) {
	g := newGroup(t, 1)
	m := g.members[0]
	topic, err := m.store.CreateTopic(g.ctx, TopicSpec{Name: "a", Partitions: 4, RequestID: "q"})
	if err != nil {
		t.Fatal(err)
	}
	key := ReplicaKey{topic.Partitions[2].Shard, 1}
	g.check(m.store.MarkStarted(g.ctx, 1, []ReplicaKey{key}))
	id, err := m.store.NextProducerID(g.ctx)
	g.check(err)
	g.check(m.node.Snapshot(g.ctx, ShardID, 1))
	if _, err := m.store.CreateTopic(g.ctx, TopicSpec{Name: "b"}); err != nil {
		t.Fatal(err)
	}

	g.close(m)
	g.open(m, nil)
	g.check(m.store.Barrier(g.ctx))
	again := g.sees(m, "a")
	if again.ID != topic.ID || !again.Partitions[2].Replicas[0].Started || again.Partitions[1].Replicas[0].Started {
		t.Fatalf("%+v", again)
	}
	if _, ok := m.store.Image().Topic("b"); !ok {
		t.Fatal("after the barrier the image lacks a topic")
	}
	if retried, err := m.store.CreateTopic(g.ctx, TopicSpec{Name: "a", Partitions: 4, RequestID: "q"}); err != nil || retried.ID != topic.ID {
		t.Fatalf("the retry got %+v, %v", retried, err)
	}
	if next, err := m.store.NextProducerID(g.ctx); err != nil || next <= id {
		t.Fatalf("producer id %d after %d, %v", next, id, err)
	}
}

func TestThreeNodesAgree(t *testing.T) {
	g := newGroup(t, 3)
	leader := g.leader()
	follower := g.follower(leader)
	topic, err := follower.store.CreateTopic(g.ctx, TopicSpec{Name: "a", Partitions: 6})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range g.members {
		if got := g.sees(m, "a"); got.ID != topic.ID || got.Replicas != 3 || len(m.store.Image().ReplicasOn(m.id)) != 6 {
			t.Fatalf("member %d sees %+v", m.id, got)
		}
	}
	thief := follower.asNode()
	thief.Incarnation = incarnation(9)
	if err := leader.store.RegisterNode(g.ctx, thief); errcode.Of(err) != errcode.DuplicateRegistration {
		t.Fatalf("a second node %d: %v", thief.ID, err)
	}
	moved := follower.asNode()
	moved.HTTPAddr = "elsewhere:1"
	g.check(follower.store.RegisterNode(g.ctx, moved))
	_, err = leader.store.WaitFor(g.ctx, func(i *Image) bool { n, _ := i.Node(moved.ID); return n.HTTPAddr == "elsewhere:1" })
	g.check(err)
}

func TestLostForwardsAreTriedAgain(t *testing.T) {
	g := newGroup(t, 3)
	follower := g.follower(g.leader())
	var lost atomic.Int32
	g.network.Intercept(func(m chantransport.Message) chantransport.Verdict {
		if m.Type == "Propose" && lost.Add(1) <= 2 {
			return chantransport.Drop
		}
		return chantransport.Deliver
	})
	if _, err := follower.store.CreateTopic(g.ctx, TopicSpec{Name: "a"}); err != nil || lost.Load() < 3 {
		t.Fatalf("%v with %d forwards", err, lost.Load())
	}
}

func TestChangesGoOnAfterTheLeaderIsGone(t *testing.T) {
	g := newGroup(t, 3)
	leader := g.leader()
	a := g.follower(leader)
	b := g.follower(leader, a)
	started := make(chan struct{})
	made := make(chan *Topic, 10)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 10 {
			name := fmt.Sprint("topic-", i)
			topic, err := a.store.CreateTopic(g.ctx, TopicSpec{Name: name, RequestID: name})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
			if i == 2 {
				close(started)
			}
			made <- topic
		}
		close(made)
	})
	select {
	case <-started:
	case <-g.ctx.Done():
	}
	g.close(leader)
	wg.Wait()
	for topic := range made {
		retried, err := b.store.CreateTopic(g.ctx, TopicSpec{Name: topic.Name, RequestID: topic.Name})
		if err != nil || retried.ID != topic.ID {
			t.Fatalf("the retry of %s on another node got %+v, %v", topic.Name, retried, err)
		}
	}
	g.open(leader, nil)
	g.check(leader.store.Barrier(g.ctx))
	if n := len(leader.store.Image().Topics()); n != 10 {
		t.Fatalf("the old leader has %d topics after it came back", n)
	}
}

func TestAMinorityChangesNothing(t *testing.T) {
	g := newGroup(t, 3)
	leader := g.leader()
	for _, m := range g.members {
		if m != leader {
			g.close(m)
		}
	}
	ctx, cancel := context.WithTimeout(g.ctx, 600*time.Millisecond)
	defer cancel()
	_, err := leader.store.CreateTopic(ctx, TopicSpec{Name: "a"})
	if code := errcode.Of(err); code != errcode.RequestTimedOut && code != errcode.LeaderNotAvailable {
		t.Fatal(err)
	}
	if _, ok := leader.store.Image().Topic("a"); ok {
		t.Fatal("a minority created a topic")
	}
}
