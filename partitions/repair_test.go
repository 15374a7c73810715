package partitions

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/vfs"

	"logbroker/internal/errcode"
)

// threeFull is a cluster with some segments on every replica, and a follower.
func threeFull(t *testing.T) (c *cluster, m *ackedProducer, follower *node) {
	t.Helper()
	c = newCluster(t, 3, nil)
	retry := time.NewTicker(2 * time.Millisecond)
	defer retry.Stop()
	m = &ackedProducer{id: 1, window: 8}
	m.send(400, c.serving, retry.C)
	c.settled()
	return c, m, c.anotherNode(c.leader())
}

// A damaged sealed segment is fetched again alone, whether a read finds it on a
// running replica or the start does.
func TestADamagedSegmentIsFetchedAloneAndServedAgain(t *testing.T) {
	for name, breakIt := range map[string]func(t *testing.T, fs *vfs.MemFS, path string){
		"flipped": func(t *testing.T, fs *vfs.MemFS, path string) { flipByte(t, fs, path) },
		"missing": func(t *testing.T, fs *vfs.MemFS, path string) {
			if err := fs.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"footer": func(t *testing.T, fs *vfs.MemFS, path string) {
			flipByte(t, fs, strings.TrimSuffix(path, ".log")+".footer")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, m, n := threeFull(t)
			c.down(n)
			path := firstSegment(t, n.fs)
			breakIt(t, n.fs, path)
			c.up(n)
			until(t, "started", func() bool {
				err := n.host.Start(c.spec(n, true))
				if err != nil && !errors.Is(err, ErrRepairing) {
					t.Fatal(err)
				}
				return err == nil
			})
			p, _ := n.host.Get(shardForTest)
			until(t, "readable", func() bool {
				_, err := p.Read(nil, 0, 1<<20)
				if err != nil && errcode.Of(err) != errcode.StorageError {
					t.Fatal(err)
				}
				return err == nil
			})
			c.identical()
			m.check(t, readAll(t, p))
			log, _ := p.machine.Log()
			if got, want := n.host.transfers.taken.Load(), log.Segments()[0].Bytes; got != want {
				t.Errorf("%d bytes were fetched for a segment of %d", got, want)
			}
			if _, err := n.fs.Stat("/partitions/" + ReplicaKey{shardForTest, n.replica}.directory() + "/quarantine/" + n.fs.PathBase(path)); name == "flipped" && err != nil {
				t.Errorf("what was damaged is not kept: %v", err)
			}
			if s := p.Status(); s.State != StateRunning || s.Err != "" {
				t.Errorf("status %+v", s)
			}
		})
	}
}

// damageActive damages the segment that grows on n, and has a read find it.
func damageActive(t *testing.T, n *node) *Partition {
	t.Helper()
	p, _ := n.host.Get(shardForTest)
	log, _ := p.machine.Log()
	segments := log.Segments()
	active := segments[len(segments)-1]
	dir := "/partitions/" + ReplicaKey{shardForTest, n.replica}.directory()
	flipByte(t, n.fs, fmt.Sprintf("%s/log-1/%020d.log", dir, active.Base))
	if _, err := p.Read(nil, active.Base, 1<<20); errcode.Of(err) != errcode.StorageError {
		t.Fatalf("read: %v", err)
	}
	return p
}

// The segment that grows cannot be fetched alone. Where the others cannot do
// without the replica it serves nothing, and its vote goes on counting.
func TestAReplicaWhoseActiveSegmentIsDamagedServesNothingAndStillVotes(t *testing.T) {
	t.Parallel()
	c, m, n := threeFull(t)
	for _, other := range c.nodes {
		if other != n && other != c.nodeOf(c.leader()) {
			c.down(other) // now a majority needs the damaged one's vote
			break
		}
	}
	p := damageActive(t, n)
	if p.repair(t.Context()) {
		t.Fatal("it was given up although a majority needs it")
	}
	if s := p.Status(); s.State != StateDamaged || !strings.Contains(s.Err, "not replaced yet: of the other replicas 1 are complete, it takes 2") {
		t.Fatalf("status %+v", s)
	}
	c.stored(numbered(1, 0, int32(len(m.offsets)), 1))
}

// Of two damaged replicas neither counts on the other.
func TestTwoDamagedReplicasAreNotBothGivenUp(t *testing.T) {
	t.Parallel()
	c, m, n := threeFull(t)
	leader := c.nodeOf(c.leader())
	for _, other := range c.nodes {
		if other == leader {
			continue
		}
		if p, _ := other.host.Get(shardForTest); other != n {
			p.damaged("test", errors.New("damaged by the test"))
		}
	}
	p := damageActive(t, n)
	if p.repair(t.Context()) || p.Status().State != StateDamaged {
		t.Fatalf("it was given up: %+v", p.Status())
	}
	c.stored(numbered(1, 0, int32(len(m.offsets)), 1))
}

func TestAReplicaOfTwoIsNeverGivenUp(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.stored(numbered(1, 0, 0, 1))
	c.settled()
	p := damageActive(t, c.anotherNode(c.leader()))
	if !p.repair(t.Context()) {
		t.Fatal("it is tried again although nothing can be done")
	}
	if s := p.Status(); s.State != StateDamaged || !strings.Contains(s.Err, "too few replicas") {
		t.Fatalf("status %+v", s)
	}
	c.stored(numbered(1, 0, 1, 1))
}

// Where the others can do without it, the replica is given up, and one under a new
// id takes its place, on the same running node.
func TestAReplicaWhoseActiveSegmentIsDamagedIsGivenUpAndReplaced(t *testing.T) {
	t.Parallel()
	var told atomic.Int64
	c := newCluster(t, 3, func(o *Options) { o.OnQuarantined = func() { told.Add(1) } })
	retry := time.NewTicker(2 * time.Millisecond)
	defer retry.Stop()
	m := &ackedProducer{id: 1, window: 8}
	m.send(200, c.serving, retry.C)
	c.settled()
	n := c.anotherNode(c.leader())
	p, old := damageActive(t, n), n.replica
	until(t, "given up", func() bool { return p.stopped() || p.repair(t.Context()) })
	until(t, "quarantined", func() bool {
		p, _ = n.host.Get(shardForTest)
		return p.Status().State == StateQuarantined
	})
	if told.Load() != 1 {
		t.Errorf("OnQuarantined was told %d times", told.Load())
	}
	dir := "/partitions/" + ReplicaKey{shardForTest, old}.directory() + "/"
	for _, name := range []string{quarantineMark, quarantineFolder + "/marker"} {
		if _, err := n.fs.Stat(dir + name); err != nil {
			t.Errorf("after giving up: %v", err)
		}
	}
	if err := c.startOn(n); !errors.Is(err, ErrQuarantined) {
		t.Fatalf("the replica that was given up starts again: %v", err)
	}
	for _, other := range c.nodes { // the new one needs a snapshot, and so the segments
		if other != n {
			until(t, "compacted", func() bool { return other.raft.Snapshot(t.Context(), shardForTest, 1) == nil })
		}
	}
	c.replace(n, 4)
	m.send(100, c.serving, retry.C)
	c.identical()
	p, _ = n.host.Get(shardForTest)
	m.check(t, readAll(t, p))
	if n.host.transfers.taken.Load() == 0 {
		t.Error("no segments were fetched: the Raft log was still there")
	}
	if err := n.host.DiscardRaftLog(ReplicaKey{shardForTest, old}); err != nil || n.raft.HasReplica(shardForTest, old) {
		t.Fatalf("the old replica's Raft log: %v", err)
	}
	if err := n.host.DiscardRaftLog(ReplicaKey{shardForTest, n.replica}); !errors.Is(err, ErrStarted) {
		t.Fatalf("the new replica's Raft log may be deleted: %v", err)
	}
	if _, err := n.fs.Stat(dir + quarantineMark); err != nil {
		t.Errorf("what was quarantined is gone: %v", err)
	}
	c.down(n)
	c.restart(n)
	c.identical()
}

// startOn starts n's replica once the one before is let go of.
func (c *cluster) startOn(n *node) (err error) {
	until(c.t, "the shard is free", func() bool {
		err = n.host.Start(c.spec(n, true))
		return !errors.Is(err, ErrStarted)
	})
	return err
}

// replace takes n's quarantined replica out of the shard and one with a new id in.
func (c *cluster) replace(n *node, replica uint64) {
	c.t.Helper()
	old := n.replica
	n.replica = replica
	if err := n.host.Prepare(c.spec(n, false)); err != nil {
		c.t.Fatal(err)
	}
	if err := c.startOn(n); err != nil {
		c.t.Fatal(err)
	}
	for _, other := range c.nodes {
		other.host.Update(c.spec(other, true))
	}
	leader := c.nodeOf(c.leader()).raft
	ctx := c.t.Context()
	if err := leader.RemoveReplica(ctx, shardForTest, old); err != nil {
		c.t.Fatal(err)
	}
	if err := leader.AddNonVoting(ctx, shardForTest, replica, n.incarnation); err != nil {
		c.t.Fatal(err)
	}
	c.settled()
	if err := leader.AddReplica(ctx, shardForTest, replica, n.incarnation); err != nil {
		c.t.Fatal(err)
	}
}
