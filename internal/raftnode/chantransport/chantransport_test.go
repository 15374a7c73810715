package chantransport_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"
	"github.com/lni/vfs"

	"logbroker/internal/raftnode"
	"logbroker/internal/raftnode/chantransport"
)

const shard = 1001

// register is an in-memory machine that counts commands and keeps the last.
type register struct {
	mu    sync.Mutex
	count uint64
	last  []byte
}

func (r *register) Update(e statemachine.Entry) (statemachine.Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	r.last = bytes.Clone(e.Cmd)
	return statemachine.Result{Value: r.count}, nil
}

func (r *register) Lookup(any) (any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.last), nil
}

func (r *register) SaveSnapshot(w io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := fmt.Fprintf(w, "%d %s", r.count, r.last)
	return err
}

func (r *register) RecoverFromSnapshot(in io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := fmt.Fscanf(in, "%d %s", &r.count, &r.last)
	return err
}

func (r *register) Close() error { return nil }

// cluster is three nodes that live in memory: transport, disk and all.
type cluster struct {
	t       *testing.T
	network *chantransport.Network
	disks   map[uint64]*vfs.MemFS
	nodes   map[uint64]*raftnode.Node
}

func incarnation(id uint64) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", id) }
func address(id uint64) string     { return fmt.Sprint("node-", id) }

func newCluster(t *testing.T) *cluster {
	t.Helper()
	t.Parallel()
	c := &cluster{
		t: t, network: chantransport.New(),
		disks: make(map[uint64]*vfs.MemFS), nodes: make(map[uint64]*raftnode.Node),
	}
	members := map[uint64]string{1: incarnation(1), 2: incarnation(2), 3: incarnation(3)}
	for id := range members {
		c.disks[id] = vfs.NewStrictMem()
		c.open(id, members)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.Close()
		}
	})
	return c
}

func (c *cluster) open(id uint64, members map[uint64]string) {
	c.t.Helper()
	n, err := raftnode.Open(nil, raftnode.Options{
		Dir: "/raft", FS: c.disks[id], NodeID: id, Incarnation: incarnation(id), Advertise: address(id),
		RTT: 5 * time.Millisecond, ElectionRTT: 40, HeartbeatRTT: 2,
		Resolve: func(i string) (string, bool) {
			for id := range c.disks {
				if incarnation(id) == i {
					return address(id), true
				}
			}
			return "", false
		},
		Transport: c.network.Factory(),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[id] = n
	err = n.StartInMemory(raftnode.Shard{ID: shard, Replica: id, Members: members, SnapshotEntries: 50, CompactionOverhead: 5},
		func(uint64, uint64) statemachine.IStateMachine { return new(register) })
	if err != nil {
		c.t.Fatal(err)
	}
}

// crash is a power cut: what the node did not sync is gone.
func (c *cluster) crash(id uint64) {
	c.disks[id].SetIgnoreSyncs(true)
	c.nodes[id].Close()
	delete(c.nodes, id)
	c.disks[id].ResetToSyncedState()
	c.disks[id].SetIgnoreSyncs(false)
}

func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	deadline, tick := time.NewTimer(time.Minute), time.NewTicker(2*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			c.t.Fatalf("no %s within 15 s", what)
		case <-tick.C:
		}
	}
}

// leader waits for a node that leads, other than not.
func (c *cluster) leader(not uint64) (leader uint64) {
	c.t.Helper()
	c.eventually("leader", func() bool {
		for id, n := range c.nodes {
			if l, _, ok := n.Leader(shard); ok && l == id && id != not {
				leader = id
				return true
			}
		}
		return false
	})
	return leader
}

func (c *cluster) propose(id uint64, cmd string, timeout time.Duration) error {
	p, err := c.nodes[id].Propose(shard, []byte(cmd), timeout)
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}

func (c *cluster) must(cmd string) {
	c.t.Helper()
	c.eventually("acknowledgement", func() bool { return c.propose(c.leader(0), cmd, time.Second) == nil })
}

func (c *cluster) applied(id uint64, cmd string) bool {
	v, err := c.nodes[id].Query(shard, nil)
	return err == nil && v == cmd
}

func TestEverythingLivesInMemoryAndSurvivesPowerCuts(t *testing.T) {
	c := newCluster(t)
	for i := range 60 { // past a snapshot
		c.must(fmt.Sprint("c", i))
	}
	for id := range uint64(3) {
		c.crash(id + 1)
		c.must(fmt.Sprint("without-", id+1))
		c.open(id+1, nil)
		c.eventually("catch-up", func() bool { return c.applied(id+1, fmt.Sprint("without-", id+1)) })
	}
	for id := range c.disks {
		c.crash(id)
	}
	for id := range c.disks {
		c.open(id, nil)
	}
	c.eventually("the last command on every node", func() bool {
		return c.applied(1, "without-3") && c.applied(2, "without-3") && c.applied(3, "without-3")
	})
}

func TestDropByContentLosesOneMessageAndRaftSendsItAgain(t *testing.T) {
	c := newCluster(t)
	var seen atomic.Int32
	c.network.Intercept(func(m chantransport.Message) chantransport.Verdict {
		for _, e := range m.Entries {
			if m.Type == "Replicate" && string(e.Command) == "secret" && seen.Add(1) <= 2 {
				return chantransport.Drop
			}
		}
		return chantransport.Deliver
	})
	c.must("secret")
	if seen.Load() < 3 {
		t.Fatalf("%d messages with the command were seen", seen.Load())
	}
}

func TestHoldKeepsMessagesUntilReleased(t *testing.T) {
	c := newCluster(t)
	c.must("before")
	c.network.Intercept(func(m chantransport.Message) chantransport.Verdict {
		if m.Type == "ReplicateResp" {
			return chantransport.Hold
		}
		return chantransport.Deliver
	})
	var p *raftnode.Proposal
	c.eventually("a queued proposal", func() (ok bool) {
		var err error
		p, err = c.nodes[c.leader(0)].Propose(shard, []byte("held"), 10*time.Second)
		return err == nil
	})
	c.eventually("two answers held", func() bool { return len(c.network.Held()) >= 2 })
	if m := c.network.Held()[0]; m.ToAddress != address(m.To) || m.Shard != shard || m.Term == 0 {
		t.Fatalf("held %+v", m)
	}
	c.network.Intercept(nil)
	if n := c.network.Release(); n < 2 {
		t.Fatalf("%d released", n)
	}
	// Unless the leader was lost meanwhile, on a machine that is busy.
	if _, err := p.Wait(); err != nil && !errors.Is(err, raftnode.ErrUnknown) {
		t.Fatal(err)
	}
	c.must("after")
	if c.network.Forget() != 0 || c.network.Release() != 0 {
		t.Fatal("messages are left")
	}
}

func TestCutLeaderIsReplacedAndItsProposalIsUnknown(t *testing.T) {
	c := newCluster(t)
	c.must("before")
	old := c.leader(0)
	c.network.Intercept(func(m chantransport.Message) chantransport.Verdict {
		if m.FromAddress == address(old) || m.ToAddress == address(old) {
			return chantransport.Drop
		}
		return chantransport.Deliver
	})
	if err := c.propose(old, "lost", 300*time.Millisecond); !errors.Is(err, raftnode.ErrUnknown) && !errors.Is(err, raftnode.ErrRefused) {
		t.Fatalf("proposal on a cut leader: %v", err)
	}
	next := c.leader(old)
	c.eventually("acknowledgement by the majority", func() bool {
		if c.propose(next, "after", time.Second) == nil {
			return true
		}
		next = c.leader(old)
		return false
	})
	c.network.Intercept(nil)
	c.eventually("the old leader to follow", func() bool { return c.applied(old, "after") })
}
