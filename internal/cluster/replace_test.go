package cluster

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/config"
	"logbroker/internal/protocol"
)

// loseRaftLog deletes the Raft log of one replica of a stopped node, which is all
// that this does.
func (c *Cluster) loseRaftLog(node, shard uint64) {
	c.tb.Helper()
	lost := 0
	for _, name := range []string{"node-%d-*", filepath.Join("bootstrap", "BOOTSTRAP-%d-*")} {
		found, err := filepath.Glob(filepath.Join(c.DataDir(node), "raft", "*", "*", "tandb", fmt.Sprintf(name, shard)))
		if err != nil {
			c.tb.Fatal(err)
		}
		for _, path := range found {
			lost++
			if err := os.RemoveAll(path); err != nil {
				c.tb.Fatal(err)
			}
		}
	}
	if lost != 2 {
		c.tb.Fatalf("node %d has %d files and directories of shard %d in its Raft log", node, lost, shard)
	}
}

// replicaOf returns the id of a node's replica: the highest that has a directory.
func (c *Cluster) replicaOf(node, shard uint64) (replica uint64) {
	c.tb.Helper()
	found, err := filepath.Glob(filepath.Join(c.DataDir(node), "partitions", fmt.Sprintf("%d-*", shard)))
	if err != nil {
		c.tb.Fatal(err)
	}
	for _, path := range found {
		var id uint64
		if n, err := fmt.Sscanf(filepath.Base(path), "%d-%d", &shard, &id); err == nil && n == 2 {
			replica = max(replica, id)
		}
	}
	return replica
}

// waitReplaced returns when a node's replica has the id and votes, and all is well.
func (c *Cluster) waitReplaced(node, shard, replica uint64) {
	c.tb.Helper()
	c.WaitFor(fmt.Sprintf("replica %d of node %d runs and the cluster is healthy", replica, node), func() bool {
		return c.replicaOf(node, shard) == replica && c.health().Healthy
	})
}

// waitAlike returns when all replicas of the only partition of a topic have the
// same segment files.
func (c *Cluster) waitAlike(shard uint64) {
	c.tb.Helper()
	c.WaitFor("the replicas have the same segments", func() bool {
		one := c.segments(1, shard, 0)
		return len(one) > 0 && maps.Equal(one, c.segments(2, shard, 0)) && maps.Equal(one, c.segments(3, shard, 0))
	})
}

var smallSegments = map[string]string{"segment_bytes": "64KiB"}

// A replica whose Raft log is gone never votes again; one under a new id takes its
// place by itself, while producers go on, and can lead in its turn.
func TestAReplicaThatLostItsRaftLogIsReplacedUnderANewID(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	c.CreateTopic("kept", 1, 3, smallSegments)
	other := c.onePart("other", nil)
	shard := c.shards("kept", 1)[0]
	l := startLoad(c, "kept", 0, 1, 500)
	defer l.stop()
	c.WaitFor("some records", func() bool { return l.count() > 200 })
	node := c.WaitLeader("kept", 0)%3 + 1
	was := c.replicaOf(node, shard)
	c.Stop(node)
	c.loseRaftLog(node, shard)
	c.Restart(node)
	c.waitReplaced(node, shard, 4)
	if page := c.metrics(node); !strings.Contains(page, "logbroker_replicas_replaced_total 1\n") {
		t.Error("the metrics page does not count the replacement")
	}
	old := filepath.Join(c.DataDir(node), "partitions", fmt.Sprintf("%d-%d", shard, was))
	for _, kept := range []string{"QUARANTINED", "quarantine/marker"} {
		if _, err := os.Stat(filepath.Join(old, kept)); err != nil {
			t.Errorf("what was quarantined: %v", err)
		}
	}
	c.Transfer("kept", 0, node)
	sent := l.count()
	c.WaitFor("producers go on", func() bool { return l.count() > sent+100 })
	l.end(t)
	l.check(t, c, "kept", 0)
	c.waitAlike(shard)

	// Both others and the new one together hold what is acked: any two are enough.
	c.Stop(node%3 + 1)
	lone := c.onePartOf("kept")
	c.WaitFor("the new replica's vote counts", func() bool { return lone.try(0) == 0 })
	c.Restart(node%3 + 1)
	c.Stop(node) // and it comes back as what it is now
	c.Restart(node)
	c.waitReplaced(node, shard, 4)
	c.waitAlike(shard)
	other.check()
	if _, err := os.Stat(old); err != nil {
		t.Errorf("a restart took what was quarantined: %v", err)
	}

	if err := c.Client().Admin().DeleteTopic(within(t, waitTimeout), "kept"); err != nil {
		t.Fatal(err)
	}
	c.WaitFor("the topic's files are gone, the quarantined ones too", func() bool {
		found, err := filepath.Glob(filepath.Join(c.DataDir(node), "partitions", fmt.Sprintf("%d-*", shard)))
		return err == nil && len(found) == 0
	})
}

// onePartOf is the onePart of a topic that is there.
func (c *Cluster) onePartOf(topic string) *onePart {
	c.tb.Helper()
	p := &onePart{c: c, topic: c.Describe(topic)}
	p.conn = c.dial(c.WaitLeader(topic, 0))
	c.waitAnswered(p.conn, topic, 0)
	return p
}

// gate notices when a node logs a message: a step is done then.
type gate struct {
	mu      sync.Mutex // guards message and node
	message string
	node    uint64
	seen    atomic.Bool
}

func (g *gate) await(node uint64, message string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.node, g.message = node, message
	g.seen.Store(false)
}

func (g *gate) see(node uint64, r slog.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if node == g.node && strings.HasPrefix(r.Message, g.message) {
		g.seen.Store(true)
	}
}

// Whoever is restarted while a replica is replaced, the replacement comes to its
// end: first the node whose replica is replaced, as the new one starts, then the
// one that leads, between the removal of the old replica and the new one's vote.
func TestAReplacementOutlivesRestartsOfItsNodeAndOfTheLeader(t *testing.T) {
	t.Parallel()
	g := &gate{}
	c := Start(t, Options{Configure: quietLeaders, Log: g.see})
	p := c.onePart("kept", smallSegments)
	shard := c.shards("kept", 1)[0]
	for round, message := range []string{"a replica under a new id takes the place", "a replica that was lost is removed"} {
		for acked := len(p.acked); len(p.acked) < acked+30; {
			p.try(4 << 10)
		}
		leader := c.WaitLeader("kept", 0)
		node := leader%3 + 1
		restarted := []uint64{node, leader}[round]
		c.Stop(node)
		c.loseRaftLog(node, shard)
		g.await(restarted, message)
		c.Restart(node)
		c.WaitFor(message, g.seen.Load)
		c.Stop(restarted)
		c.Restart(restarted)
		c.waitReplaced(node, shard, uint64(4+round))
		c.waitAlike(shard)
		p = &onePart{c: c, topic: p.topic, sent: p.sent, acked: p.acked, conn: c.dial(c.WaitLeader("kept", 0))}
		c.waitAnswered(p.conn, "kept", 0)
	}
	p.check()
}

// Without a majority of complete replicas beside it, and with fewer than three
// replicas at all, nothing is replaced, and health says why.
func TestNothingIsReplacedWithoutAHealthyMajority(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	p := c.onePart("kept", nil)
	shard := c.shards("kept", 1)[0]
	for len(p.acked) < 20 {
		p.try(100)
	}
	leader := c.WaitLeader("kept", 0)
	node, third := leader%3+1, (leader+1)%3+1
	lone := c.CreateTopic("lone", 3, 1, nil) // a partition on each node
	at := slices.IndexFunc(lone.Partitions, func(p protocol.PartitionDescription) bool { return p.Replicas[0] == node })
	loneShard, loneName := c.shards("lone", 3)[at], fmt.Sprint("lone/", at)
	c.Stop(node)
	c.loseRaftLog(node, shard)
	c.loseRaftLog(node, loneShard)
	c.Stop(third)
	// Two of three nodes found a metadata majority; the partition has one replica.
	c.Restart(node)
	says := func(want string) bool {
		return slices.ContainsFunc(c.health().Reasons, func(s string) bool { return strings.Contains(s, want) })
	}
	c.WaitFor("health says why the replica is not replaced", func() bool {
		return says(fmt.Sprintf("the replica of kept/0 on node %d is quarantined", node)) && says("it is not replaced: the partition has no leader")
	})
	c.WaitFor("health says that a lone replica cannot be replaced", func() bool {
		return says(fmt.Sprintf("the replica of %s on node %d is quarantined", loneName, node)) && says("it is not replaced: it cannot be replaced")
	})
	if id := c.replicaOf(node, shard); id == 4 {
		t.Fatal("it was replaced")
	}
	// A crash between the quarantine and the replacement changes nothing of it.
	c.Stop(node)
	c.Restart(node)
	c.WaitFor("health says it again after a restart", func() bool {
		return says(fmt.Sprintf("the replica of kept/0 on node %d is quarantined", node)) && says("it is not replaced: the partition has no leader")
	})
	c.Restart(third)
	c.WaitFor("it is replaced once the others are complete", func() bool {
		return c.replicaOf(node, shard) == 4 && !says("kept/0")
	})
	c.waitAlike(shard)
	p.check()
	if !says("it is not replaced: it cannot be replaced") {
		t.Error("the lone replica is forgotten")
	}
}

// A topic that is deleted while a replica of it is replaced goes entirely.
func TestATopicDeletedWhileAReplicaIsReplacedIsGone(t *testing.T) {
	t.Parallel()
	g := &gate{}
	c := Start(t, Options{Configure: quietLeaders, Log: g.see})
	p := c.onePart("gone", nil)
	shard := c.shards("gone", 1)[0]
	for len(p.acked) < 20 {
		p.try(100)
	}
	node := c.WaitLeader("gone", 0)%3 + 1
	c.Stop(node)
	c.loseRaftLog(node, shard)
	g.await(node, "a quarantined replica is to be replaced")
	c.Restart(node)
	c.WaitFor("the replacement has begun", g.seen.Load)
	if err := c.Client().Admin().DeleteTopic(within(t, waitTimeout), "gone"); err != nil {
		t.Fatal(err)
	}
	c.WaitFor("nothing is left of it", func() bool {
		for _, id := range c.IDs() {
			found, err := filepath.Glob(filepath.Join(c.DataDir(id), "partitions", fmt.Sprintf("%d-*", shard)))
			if err != nil || len(found) > 0 {
				return false
			}
		}
		return c.health().Healthy
	})
}

// A replica whose active segment is damaged while it runs is given up and replaced.
func TestAReplicaWhoseActiveSegmentIsDamagedWhileItRunsIsReplaced(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: func(f *config.Config) {
		quietLeaders(f)
		f.Storage.ScrubInterval = 100 * time.Millisecond
	}})
	p := c.onePart("kept", nil) // all of it in the active segment
	shard := c.shards("kept", 1)[0]
	for len(p.acked) < 20 {
		p.try(4 << 10)
	}
	node := c.WaitLeader("kept", 0)%3 + 1
	files, err := filepath.Glob(filepath.Join(c.DataDir(node), "partitions", fmt.Sprintf("%d-*", shard), "log-*", "*.log"))
	if err != nil || len(files) != 1 {
		t.Fatalf("segments %q, %v", files, err)
	}
	c.damageFile(files[0])
	c.waitReplaced(node, shard, 4)
	acked := len(p.acked)
	c.WaitFor("the partition goes on", func() bool { return p.try(0) == 0 && len(p.acked) > acked })
	c.waitAlike(shard)
	p.check()
}

// damageFile flips bits in the middle of a batch.
func (c *Cluster) damageFile(path string) {
	c.tb.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		c.tb.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff, 0, 0xff, 0}, 3000); err != nil {
		c.tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		c.tb.Fatal(err)
	}
}
