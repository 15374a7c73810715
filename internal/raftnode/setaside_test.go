package raftnode

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lni/vfs"
)

// A replica that joined without a vote and was made a voter may lead after a
// restart, whether its promotion is in its log or in its snapshot.
func TestAPromotedReplicaLeadsAfterARestart(t *testing.T) {
	c := newCluster(t, 3, nil)
	late := c.nodes[2]
	members := c.members()
	delete(members, late.id)
	for _, n := range c.nodes[:2] {
		c.start(n, Shard{ID: testShard, Members: members})
	}
	c.must(testShard, "a")
	leader := c.leader(testShard)
	if err := leader.node.AddNonVoting(background(t), testShard, late.id, late.incarnation); err != nil {
		t.Fatal(err)
	}
	c.start(late, Shard{ID: testShard, Join: true, NonVoting: true})
	if err := leader.node.AddReplica(background(t), testShard, late.id, late.incarnation); err != nil {
		t.Fatal(err)
	}
	for _, snapshot := range []bool{false, true} {
		eventually(t, "the late replica to catch up", func() bool { return len(late.list(t, testShard)) >= 1 })
		if snapshot {
			if err := late.node.Snapshot(background(t), testShard, 0); err != nil {
				t.Fatal(err)
			}
		}
		late.node.Close()
		c.open(late)
		c.start(late, Shard{ID: testShard, NonVoting: true})
		eventually(t, "the late replica leads", func() bool {
			leader := c.leader(testShard)
			_ = leader.node.Transfer(testShard, late.id) // refused while another one is on its way
			return leader == late
		})
		c.must(testShard, "b")
	}
}

func TestWhatIsSetAsideIsKeptAndGoneFromTheLog(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	for _, shard := range []uint64{testShard, testShard + 1} {
		c.found(shard)
		c.must(shard, "a")
		if err := n.node.Snapshot(background(t), shard, 0); err != nil {
			t.Fatal(err)
		}
	}
	n.node.Close()
	for range 2 { // the second finds nothing to do
		if err := SetAside(vfs.Default, n.options.Dir, []ReplicaID{{testShard, n.id}, {testShard + 7, n.id}}); err != nil {
			t.Fatal(err)
		}
	}
	c.open(n)
	if n.node.HasReplica(testShard, n.id) || !n.node.HasReplica(testShard+1, n.id) {
		t.Error("the Raft log knows what was set aside, or has lost another replica")
	}
	kept := 0
	err := filepath.Walk(filepath.Join(n.options.Dir, quarantineDir), func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			kept++
		}
		return err
	})
	if err != nil || kept < 3 { // bootstrap record, log, snapshot
		t.Errorf("%d files are kept, %v", kept, err)
	}
}

func TestReplicaIDsTellTheirNodeAndAreNeverGivenTwice(t *testing.T) {
	used := []uint64{}
	for range 3 {
		id, err := NextReplica(2, append(used, 1, 3, 3+9<<nodeBits)...)
		if err != nil || NodeOf(id) != 2 || id == 2 {
			t.Fatalf("id %d of node %d, %v", id, NodeOf(id), err)
		}
		for _, before := range used {
			if id <= before {
				t.Fatalf("%d after %d", id, before)
			}
		}
		used = append(used, id)
	}
	if _, err := NextReplica(NodeMax + 1); err == nil {
		t.Error("a node id that does not fit")
	}
}
