package raftnode

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/stall"
)

const testShard = 1001

func TestProposalsOfOneGoroutineAreAppliedInCallOrder(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.found(testShard)
	const writers, each = 8, 150
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			queue := make([]*Proposal, 0, each)
			for i := range each {
				p, err := leader.node.Propose(testShard, fmt.Appendf(nil, "%d-%d", w, i), 5*time.Second)
				if err != nil {
					t.Error(err)
					return
				}
				queue = append(queue, p)
			}
			for _, p := range queue {
				if r, err := p.Wait(); err != nil || r.Value == 0 {
					t.Errorf("result %+v, error %v", r, err)
				}
			}
		})
	}
	wg.Wait()
	checkOrder(t, c.settled(testShard, writers*each), writers, each)
}

func checkOrder(t *testing.T, applied []string, writers, each int) {
	t.Helper()
	if len(applied) != writers*each {
		t.Fatalf("%d commands applied, want %d", len(applied), writers*each)
	}
	next := make([]int, writers)
	for _, cmd := range applied {
		var w, i int
		if _, err := fmt.Sscanf(cmd, "%d-%d", &w, &i); err != nil {
			t.Fatal(err)
		}
		if i != next[w] {
			t.Fatalf("writer %d: command %d applied where %d was due", w, i, next[w])
		}
		next[w]++
	}
}

// outcomes records what proposers were told.
type outcomes struct {
	mu                      sync.Mutex
	acked, refused, unknown []string
}

func (o *outcomes) note(t *testing.T, cmd string, err error) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err == nil:
		o.acked = append(o.acked, cmd)
	case checkClass(t, err):
		o.refused = append(o.refused, cmd)
	default:
		o.unknown = append(o.unknown, cmd)
	}
}

func TestLeaderTransferLosesNothingAcknowledgedAndRefusalsAreDefinite(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.found(testShard)
	var o outcomes
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w, n := range c.nodes { // on every node, leader or not
		wg.Go(func() { proposeUntil(t, n, w, stop, &o) })
	}
	for range 8 {
		before := len(c.nodes[0].list(t, testShard))
		eventually(t, "progress between transfers", func() bool {
			return len(c.nodes[0].list(t, testShard)) > before+20
		})
		moveLeader(t, c)
	}
	close(stop)
	wg.Wait()
	c.must(testShard, "end")
	applied := c.settled(testShard, len(o.acked)+1)
	t.Logf("acked %d, refused %d, unknown %d, applied %d", len(o.acked), len(o.refused), len(o.unknown), len(applied))
	count := make(map[string]int)
	for _, cmd := range applied {
		if count[cmd]++; count[cmd] > 1 && cmd != "end" {
			t.Errorf("%s applied %d times", cmd, count[cmd])
		}
	}
	for _, cmd := range o.acked {
		if count[cmd] != 1 {
			t.Errorf("%s was acknowledged and is lost", cmd)
		}
	}
	for _, cmd := range o.refused {
		if count[cmd] != 0 {
			t.Errorf("%s was refused and is applied", cmd)
		}
	}
	if len(o.refused) == 0 {
		t.Error("no proposal was refused: the test did not test")
	}
}

// The election time-out is 1.5 s here: a transfer that waits for it is seen.
func TestLeaderTransferUnderLoadDoesNotWaitForAnElectionTimeout(t *testing.T) {
	c := newCluster(t, 3, func(n *testNode, _ *EndpointOptions) { n.options.ElectionRTT = 300 })
	var o outcomes
	for _, n := range c.nodes {
		c.start(n, Shard{ID: testShard, Members: c.members()})
	}
	from := c.leader(testShard)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		for _, n := range c.nodes {
			wg.Go(func() { proposeUntil(t, n, w*10+int(n.id), stop, &o) })
		}
	}
	stalls := stall.Start(t)
	for range 6 {
		before := len(from.list(t, testShard))
		eventually(t, "load", func() bool { return len(from.list(t, testShard)) > before+50 })
		to := c.followers(from)[0]
		begin := stalls.Mark()
		if err := from.node.Transfer(testShard, to.id); err != nil {
			t.Fatal(err)
		}
		eventually(t, "leader transfer", func() bool { id, _, ok := to.node.Leader(testShard); return ok && id == to.id })
		if took := stalls.Since(begin); took > 750*time.Millisecond {
			t.Errorf("transfer took %v", took)
		}
		from = to
	}
	close(stop)
	wg.Wait()
}

func proposeUntil(t *testing.T, n *testNode, writer int, stop <-chan struct{}, o *outcomes) {
	const window = 16
	type sent struct {
		cmd string
		p   *Proposal
	}
	var queue []sent
	drain := func(keep int) {
		for len(queue) > keep {
			_, err := queue[0].p.Wait()
			o.note(t, queue[0].cmd, err)
			queue = queue[1:]
			if err != nil {
				waitTick() // thousands are dropped in a row: do not spin
			}
		}
	}
	defer drain(0)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		cmd := fmt.Sprintf("%d-%d", writer, i)
		p, err := n.node.Propose(testShard, []byte(cmd), 200*time.Millisecond)
		if err != nil {
			o.note(t, cmd, err)
			if !errors.Is(err, ErrRefused) {
				t.Errorf("Propose: %v is not a refusal", err)
			}
			drain(0)
			waitTick() // a follower refuses at once: do not spin
			continue
		}
		queue = append(queue, sent{cmd, p})
		drain(window)
	}
}

func waitTick() { <-time.After(time.Millisecond) }

func moveLeader(t *testing.T, c *testCluster) {
	t.Helper()
	from := c.leader(testShard)
	to := c.followers(from)[0]
	eventually(t, "leader transfer", func() bool {
		if id, _, ok := from.node.Leader(testShard); ok && id == from.id {
			_ = from.node.Transfer(testShard, to.id)
		}
		id, _, ok := to.node.Leader(testShard)
		return ok && id != from.id
	})
}

func TestRestartedNodeCatchesUp(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.found(testShard)
	for i := range 20 {
		c.must(testShard, fmt.Sprint("before-", i))
	}
	down := c.followers(leader)[0]
	down.node.Close()
	down.node = nil
	for i := range 20 {
		c.must(testShard, fmt.Sprint("while-", i))
	}
	c.open(down)
	if !down.node.HasReplica(testShard, down.id) || down.node.HasReplica(testShard, 99) {
		t.Fatal("HasReplica does not tell what the Raft log knows")
	}
	if known, err := down.node.Replicas(); err != nil || !slices.Equal(known, []ReplicaID{{testShard, down.id}}) {
		t.Fatalf("Replicas: %v, %v", known, err)
	}
	c.start(down, Shard{ID: testShard})
	c.settled(testShard, 40)
	status, ok := down.node.Status(testShard)
	if !ok || status.Term == 0 || status.Commit == 0 || status.Last < 40 || status.Role != RoleFollower {
		t.Fatalf("status after restart: %+v, %t", status, ok)
	}
}

func TestStoppedReplicaStartsAgainAtOnce(t *testing.T) {
	c := newCluster(t, 3, nil)
	follower := c.followers(c.found(testShard))[0]
	for i := range 5 {
		if err := follower.node.Stop(testShard); err != nil {
			t.Fatal(err)
		}
		if _, ok := follower.node.Status(testShard); ok {
			t.Fatal("a stopped replica has a status")
		}
		c.start(follower, Shard{ID: testShard})
		c.must(testShard, fmt.Sprint(i))
	}
	c.settled(testShard, 5)
}

func TestWholeClusterRestartKeepsEverything(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.found(testShard)
	for i := range 30 {
		c.must(testShard, fmt.Sprint("c-", i))
	}
	want := c.settled(testShard, 30)
	for _, n := range c.nodes {
		n.node.Close()
	}
	for _, n := range c.nodes {
		c.open(n)
		c.start(n, Shard{ID: testShard})
	}
	c.must(testShard, "after")
	got := c.settled(testShard, len(want)+1)
	if !slices.Equal(got[:len(want)], want) {
		t.Fatalf("after restart %d commands differ from %d before", len(got), len(want))
	}
}

func TestFollowerBehindTheCompactedLogCatchesUpByStream(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.found(testShard)
	down := c.followers(leader)[0]
	c.must(testShard, "first")
	down.node.Close()
	down.node = nil
	filler := strings.Repeat("x", 1<<10)
	for i := range 50 {
		c.must(testShard, fmt.Sprint(i, filler))
	}
	for _, n := range c.nodes {
		if n.node != nil {
			if err := n.node.Snapshot(background(t), testShard, 5); err != nil {
				t.Fatal(err)
			}
			if err := n.node.Snapshot(background(t), testShard, 5); err != nil {
				t.Fatalf("a second snapshot at the same index: %v", err)
			}
		}
	}
	c.open(down)
	c.start(down, Shard{ID: testShard})
	c.settled(testShard, 51)
	down.node.Close() // what it received is whole to a start
	c.open(down)
	if _, err := down.node.CheckLog(testShard, down.id); err != nil {
		t.Fatal(err)
	}
	c.start(down, Shard{ID: testShard})
	c.must(testShard, "last")
	c.settled(testShard, 52)
}

func TestMembershipChangeReplacesAReplica(t *testing.T) {
	c := newCluster(t, 4, nil)
	spare := c.nodes[3]
	c.nodes = c.nodes[:3]
	leader := c.found(testShard)
	c.must(testShard, "a")
	ctx := background(t)
	gone := c.followers(leader)[0]
	if err := leader.node.RemoveReplica(ctx, testShard, gone.id); err != nil {
		t.Fatal(err)
	}
	if err := leader.node.AddNonVoting(ctx, testShard, spare.id, spare.incarnation); err != nil {
		t.Fatal(err)
	}
	c.start(spare, Shard{ID: testShard, Join: true, NonVoting: true})
	if err := leader.node.AddReplica(ctx, testShard, spare.id, spare.incarnation); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again: already in effect
		if err := leader.node.AddReplica(ctx, testShard, spare.id, spare.incarnation); err != nil {
			t.Fatal(err)
		}
	}
	m, err := leader.node.Membership(ctx, testShard)
	if err != nil {
		t.Fatal(err)
	}
	if _, removed := m.Removed[gone.id]; !removed || len(m.Voters) != 3 || m.Voters[spare.id] != spare.incarnation {
		t.Fatalf("membership %+v", m)
	}
	if err := leader.node.AddReplica(ctx, testShard, gone.id, gone.incarnation); err == nil {
		t.Fatal("a removed replica came back")
	}
	eventually(t, "the new replica to catch up", func() bool { return len(spare.list(t, testShard)) == 1 })
	// The removed replica stops by itself or by Stop.
	_ = gone.node.Stop(testShard)
	eventually(t, "removal of the data", func() bool { return gone.node.RemoveData(ctx, testShard, gone.id) == nil })
	if gone.node.HasReplica(testShard, gone.id) {
		t.Fatal("replica is still known after RemoveData")
	}
	c.nodes = append(c.nodes, spare)
}

func TestAReplicaIsReplacedOnItsOwnNodeAndVotesAfterARestart(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.found(testShard)
	c.must(testShard, "a")
	ctx := background(t)
	node := c.followers(leader)[0]
	other := c.followers(leader)[1]
	old, replacement := node.id, uint64(4)
	if err := node.node.Stop(testShard); err != nil {
		t.Fatal(err)
	}
	joining := Shard{ID: testShard, Replica: replacement, Join: true, NonVoting: true}
	node.id, node.disks = replacement, map[uint64]*listDisk{}
	if err := node.node.BootstrapOnDisk(joining); err != nil {
		t.Fatal(err)
	}
	c.start(node, joining) // before it is a member
	if err := leader.node.RemoveReplica(ctx, testShard, old); err != nil {
		t.Fatal(err)
	}
	if err := leader.node.AddNonVoting(ctx, testShard, replacement, node.incarnation); err != nil {
		t.Fatal(err)
	}
	if err := node.node.RemoveData(ctx, testShard, old); err != nil || node.node.HasReplica(testShard, old) {
		t.Fatalf("the old replica's data beside the running new one: %v", err)
	}
	c.settled(testShard, 1)
	restart := func() {
		node.node.Close()
		c.open(node)
		c.start(node, joining)
	}
	restart() // still a non-voter
	if err := leader.node.AddReplica(ctx, testShard, replacement, node.incarnation); err != nil {
		t.Fatal(err)
	}
	c.must(testShard, "b")
	c.settled(testShard, 2)
	// From its log, which has both changes, and then from a snapshot.
	restart()
	if err := node.node.Snapshot(ctx, testShard, 1); err != nil {
		eventually(t, "a snapshot", func() bool { return node.node.Snapshot(ctx, testShard, 1) == nil })
	}
	restart()
	if err := other.node.Stop(testShard); err != nil {
		t.Fatal(err)
	}
	c.nodes = []*testNode{leader, node}
	c.must(testShard, "c") // needs its vote
	c.settled(testShard, 3)
	eventually(t, "the new replica to lead", func() bool {
		if at, _, ok := leader.node.Leader(testShard); ok && at == leader.id {
			_ = leader.node.Transfer(testShard, replacement) // may be refused while another one is under way
		}
		at, _, ok := node.node.Leader(testShard)
		return ok && at == replacement
	})
}

func TestReadIndexSeesWhatWasAcknowledgedElsewhere(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.found(testShard)
	for i := range 10 {
		c.must(testShard, fmt.Sprint(i))
		for _, n := range c.followers(leader) {
			if err := n.node.ReadIndex(background(t), testShard); err != nil {
				t.Fatal(err)
			}
			if got := len(n.list(t, testShard)); got <= i {
				t.Fatalf("node %d sees %d commands after %d were acknowledged", n.id, got, i+1)
			}
		}
	}
	if err := leader.node.ReadIndex(background(t), 4711); errcode.Of(err) != errcode.NotLeaderOrFollower {
		t.Fatalf("read index of a shard that is not here: %v", err)
	}
}

func TestFollowerRefusesProposeAndForwardsProposeWait(t *testing.T) {
	c := newCluster(t, 3, nil)
	follower := c.followers(c.found(testShard))[0]
	eventually(t, "the follower to know its leader", func() bool { _, _, ok := follower.node.Leader(testShard); return ok })
	if _, err := follower.node.Propose(testShard, []byte("x"), time.Second); !checkClass(t, err) || errcode.Of(err) != errcode.NotLeaderOrFollower {
		t.Fatalf("Propose on a follower: %v", err)
	}
	if _, err := follower.node.Propose(4711, []byte("x"), time.Second); !checkClass(t, err) {
		t.Fatalf("Propose to a shard that is not here: %v", err)
	}
	if _, err := follower.node.ProposeWait(background(t), testShard, []byte("forwarded")); err != nil {
		t.Fatal(err)
	}
	c.settled(testShard, 1)
}

func TestProposalIsUnknownWithoutAMajority(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.found(testShard)
	for _, n := range c.followers(leader) {
		n.node.Close()
		n.node = nil
	}
	p, err := leader.node.Propose(testShard, []byte("x"), 100*time.Millisecond)
	if err != nil {
		if !checkClass(t, err) {
			t.Fatal("an error of Propose must be a refusal")
		}
		return // stepped down already
	}
	if _, err := p.Wait(); err == nil || checkClass(t, err) {
		t.Fatalf("proposal without a majority: %v, want unknown", err)
	}
}

// With a time-out of an hour only the caller's own word can end the wait.
func TestAProposalThatIsGivenUpIsUnknown(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.found(testShard)
	given := make(chan struct{})
	close(given)
	eventually(t, "an outcome within the grace", func() bool {
		p, err := c.leader(testShard).node.Propose(testShard, []byte("stored"), time.Hour)
		if err != nil {
			return false
		}
		_, err = p.WaitOr(given, time.Minute)
		return err == nil
	})
	leader := c.leader(testShard)
	for _, n := range c.followers(leader) {
		n.node.Close()
		n.node = nil
	}
	p, err := leader.node.Propose(testShard, []byte("alone"), time.Hour)
	if err == nil {
		_, err = p.WaitOr(given, 0)
	}
	if err == nil || !checkClass(t, err) && !errors.Is(err, ErrGivenUp) { // refused: it has stepped down already
		t.Fatalf("a proposal that nobody waits for: %v", err)
	}
}

func TestCloseEndsProposalsAsUnknownAndLaterCallsAsRefused(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.found(testShard)
	for _, n := range c.followers(leader) {
		n.node.Close()
		n.node = nil
	}
	p, err := leader.node.Propose(testShard, []byte("x"), 10*time.Second)
	leader.node.Close()
	if err == nil {
		if _, err := p.Wait(); err == nil || checkClass(t, err) {
			t.Fatalf("proposal in flight at Close: %v, want unknown", err)
		}
	}
	if _, err := leader.node.Propose(testShard, []byte("x"), time.Second); !checkClass(t, err) {
		t.Fatalf("proposal after Close: %v, want refused", err)
	}
	if err := leader.node.ReadIndex(background(t), testShard); errcode.Of(err) != errcode.ShuttingDown {
		t.Fatalf("read after Close: %v", err)
	}
	if _, _, ok := leader.node.Leader(testShard); ok {
		t.Fatal("a leader is known after Close")
	}
	leader.node.Close() // again: nothing
}

func TestCommandAboveTheInFlightLimitIsRefused(t *testing.T) {
	c := newCluster(t, 1, func(n *testNode, _ *EndpointOptions) { n.options.MaxInFlightBytes = 1 << 20 })
	leader := c.found(testShard)
	_, err := leader.node.Propose(testShard, make([]byte, 2<<20), time.Second)
	if !checkClass(t, err) || errcode.Of(err) != errcode.MessageTooLarge {
		t.Fatalf("got %v", err)
	}
}

func TestLeaderEventsTellEveryNodeTheFinalLeader(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.found(testShard)
	moveLeader(t, c)
	c.must(testShard, "x")
	eventually(t, "events that agree", func() bool {
		leader, term, ok := c.leader(testShard).node.Leader(testShard)
		for _, n := range c.nodes {
			n.mu.Lock()
			last := n.events[len(n.events)-1]
			n.mu.Unlock()
			ok = ok && last == LeaderEvent{Shard: testShard, Replica: n.id, Term: term, Leader: leader}
		}
		return ok
	})
}

func TestOpenNamesWhatIsWrongWithTheDirectory(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	other, err := Listen(EndpointOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	n.node.Close()
	for name, wrong := range map[string]func(*Options){
		"another node":    func(o *Options) { o.Incarnation = testIncarnation(9) },
		"another cluster": func(o *Options) { o.DeploymentID = 78 },
		"not a UUID":      func(o *Options) { o.Incarnation = "n1" },
		"election_rtt":    func(o *Options) { o.ElectionRTT = 4 },
	} {
		o := n.options
		wrong(&o)
		node, err := Open(other, o)
		if err == nil {
			node.Close()
			t.Fatalf("%s: opened", name)
		}
		if !strings.Contains(err.Error(), name) {
			t.Errorf("error %q does not say %q", err, name)
		}
	}
	c.open(n)
	if _, err := Open(n.endpoint, n.options); err == nil {
		t.Fatal("two nodes on one endpoint")
	}
}
