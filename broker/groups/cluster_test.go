package groups

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/vfs"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/raftnode"
	"logbroker/internal/raftnode/chantransport"
)

// trio is three nodes with one coordinator shard and real Raft between them,
// whose messages a test can lose.
type trio struct {
	t       *testing.T
	network *chantransport.Network
	meta    *fakeMetadata
	rafts   map[uint64]*raftnode.Node
	hosts   map[uint64]*Host
}

func nodeAddress(id uint64) string { return fmt.Sprint("node-", id) }

func newTrio(t *testing.T) *trio {
	t.Helper()
	c := &trio{t: t, network: chantransport.New(), meta: &fakeMetadata{}, rafts: map[uint64]*raftnode.Node{}, hosts: map[uint64]*Host{}}
	c.meta.topics(t, map[string]int{"t": 6})
	members := map[uint64]string{}
	for id := uint64(1); id <= 3; id++ {
		members[id] = fmt.Sprintf("00000000-0000-4000-8000-%012d", id)
	}
	for id := range members {
		c.open(id, members)
	}
	t.Cleanup(func() {
		for id := range c.rafts { // first: it ends what is under way
			c.rafts[id].Close()
		}
		for id := range c.hosts {
			c.hosts[id].Close()
		}
	})
	return c
}

func (c *trio) open(id uint64, members map[uint64]string) {
	c.t.Helper()
	raft := &lateRaft{}
	h := NewHost(Options{NodeID: id, Raft: raft, Metadata: c.meta, ProposeTimeout: time.Minute}) // no test waits for it
	n, err := raftnode.Open(nil, raftnode.Options{
		Dir: "/raft", FS: vfs.NewMem(), NodeID: id, Incarnation: members[id], Advertise: nodeAddress(id),
		RTT: 5 * time.Millisecond, ElectionRTT: 40, HeartbeatRTT: 2, Transport: c.network.Factory(), OnLeader: h.LeaderEvent,
		Resolve: func(incarnation string) (string, bool) {
			for id, i := range members {
				if i == incarnation {
					return nodeAddress(id), true
				}
			}
			return "", false
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	raft.Store(n)
	c.rafts[id], c.hosts[id] = n, h
	if err := n.StartInMemory(raftnode.Shard{ID: FirstShard, Replica: id, Members: members, SnapshotEntries: 50, CompactionOverhead: 5}, h.StateMachine); err != nil {
		c.t.Fatal(err)
	}
}

// lateRaft is the Raft of a node that is opened after its Host.
type lateRaft struct{ atomic.Pointer[raftnode.Node] }

func (r *lateRaft) Propose(shard uint64, cmd []byte, timeout time.Duration) (WaitOr, error) {
	return NodeRaft{r.Load()}.Propose(shard, cmd, timeout)
}

func (r *lateRaft) ReadIndex(ctx context.Context, shard uint64) error {
	return NodeRaft{r.Load()}.ReadIndex(ctx, shard)
}

func (c *trio) eventually(what string, ok func() bool) {
	c.t.Helper()
	deadline, tick := time.NewTimer(15*time.Second), time.NewTicker(5*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			c.t.Fatalf("in vain: %s", what)
		case <-tick.C:
		}
	}
}

// coordinator waits for a node that coordinates, other than not.
func (c *trio) coordinator(not uint64) (id uint64) {
	c.t.Helper()
	c.eventually("a coordinator", func() bool {
		for i, h := range c.hosts {
			if i != not && h.Route("g") == nil {
				id = i
				return true
			}
		}
		return false
	})
	return id
}

// cut separates a node from the others; 0 heals.
func (c *trio) cut(id uint64) {
	c.network.Intercept(func(m chantransport.Message) chantransport.Verdict {
		if m.FromAddress == nodeAddress(id) || m.ToAddress == nodeAddress(id) {
			return chantransport.Drop
		}
		return chantransport.Deliver
	})
}

// beat sends a heartbeat to one node and waits for the answer.
func (c *trio) beat(node uint64, member string, epoch int32) (*protocol.HeartbeatReply, error) {
	done := make(chan result, 1)
	c.hosts[node].Heartbeat(protocol.HeartbeatRequest{
		Group: "g", MemberID: member, MemberEpoch: epoch, Topics: []string{"t"}, SessionTimeoutMs: 3000,
	}, func(r *protocol.HeartbeatReply, err error) { done <- result{r, err} })
	got := <-done
	return got.reply, got.err
}

// commit sends a commit of partition 0 to one node.
func (c *trio) commit(node uint64, member string, epoch int32, offset int64) <-chan error {
	done := make(chan error, 1)
	c.hosts[node].Commit(c.t.Context(), protocol.CommitRequest{
		Group: "g", MemberID: member, MemberEpoch: epoch, Sequence: 1, Offsets: []protocol.CommittedOffset{{Topic: "t", Offset: offset}},
	}, func(r *protocol.CommitReply, err error) {
		if err == nil {
			err = r.Results[0].Error.Err()
		}
		done <- err
	})
	return done
}

func (c *trio) snapshot(id uint64) []byte {
	return (&bench{t: c.t, m: c.hosts[id].coordinators[FirstShard].machine}).snapshot()
}

func TestCutOffCoordinatorChangesNothingThatItsSuccessorDecided(t *testing.T) {
	c := newTrio(t)
	old := c.coordinator(0)
	a, err := c.beat(old, "a", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-c.commit(old, "a", a.MemberEpoch, 10); err != nil {
		t.Fatal(err)
	}
	epoch, _ := c.hosts[old].coordinators[FirstShard].machine.current()

	c.cut(old)
	late := c.commit(old, "a", a.MemberEpoch, 50)
	next := c.coordinator(old)
	var b *protocol.HeartbeatReply
	c.eventually("b owns everything after a's session", func() bool {
		known := int32(0)
		if b != nil {
			known = b.MemberEpoch
		}
		reply, err := c.beat(next, "b", known)
		if err == nil {
			b = reply
		}
		return err == nil && len(b.Assignment) == 1 && len(b.Assignment[0].Partitions) == 6
	})
	if err := <-c.commit(next, "b", b.MemberEpoch, 100); err != nil {
		t.Fatal(err)
	}

	// While it is cut off the old one must have noticed: it tells nobody anything.
	if _, err := c.beat(old, "a", a.MemberEpoch); err == nil {
		t.Error("the old coordinator still tells a that it owns partitions")
	}
	if _, err := c.hosts[old].FetchOffsets(t.Context(), protocol.FetchOffsetsRequest{Group: "g"}); err == nil {
		t.Error("the old coordinator still tells offsets")
	}
	c.network.Intercept(nil)
	// Its successor's epoch ends what it had under way, long before the time-out.
	c.eventually("an answer to the commit without a majority", func() bool {
		select {
		case err = <-late:
			return true
		default:
			return false
		}
	})
	if err == nil {
		t.Fatal("a coordinator without a majority acknowledged a commit")
	}

	// What a deposed leader still has queued is forwarded to its successor.
	forwarded := encode(entry{Epoch: epoch, TimeMs: 1, Ops: []operation{
		{Kind: opCommit, Group: "g", Member: "a", Epoch: a.MemberEpoch, Sequence: 2, Offsets: []commit{{Partition: Partition{'t', 0}, Offset: 60}}},
		{Kind: opRemove, Group: "g", Member: "b", Epoch: -1},
	}})
	c.eventually("the late entry is applied", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r, err := c.rafts[old].ProposeWait(ctx, FirstShard, forwarded)
		if err == nil && r.Value != verdictFenced {
			t.Fatalf("verdict %d", r.Value)
		}
		return err == nil
	})
	c.eventually("the replicas are the same again", func() bool {
		first := c.snapshot(1)
		return bytes.Equal(first, c.snapshot(2)) && bytes.Equal(first, c.snapshot(3))
	})
	now := c.coordinator(0)
	var offsets *protocol.FetchOffsetsReply
	c.eventually("the offsets", func() bool {
		offsets, err = c.hosts[now].FetchOffsets(t.Context(), protocol.FetchOffsetsRequest{Group: "g"})
		return err == nil
	})
	if at := slices.IndexFunc(offsets.Offsets, func(o protocol.CommittedOffset) bool { return o.Partition == 0 }); at < 0 || offsets.Offsets[at].Offset != 100 {
		t.Errorf("%+v, want 100 for partition 0", offsets.Offsets)
	}
	if _, err := c.beat(now, "a", a.MemberEpoch); errcode.Of(err) != errcode.UnknownMemberID {
		t.Errorf("a was fenced by the successor, and then: %v", err)
	}
}
