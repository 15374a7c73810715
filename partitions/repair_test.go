package partitions

import (
	"errors"
	"fmt"
	"strings"
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
			if _, err := n.fs.Stat("/partitions/" + ReplicaKey{shardForTest, n.id}.directory() + "/quarantine/" + n.fs.PathBase(path)); name == "flipped" && err != nil {
				t.Errorf("what was damaged is not kept: %v", err)
			}
			if s := p.Status(); s.State != StateRunning || s.Err != "" {
				t.Errorf("status %+v", s)
			}
		})
	}
}

// The segment that grows cannot be fetched alone: the replica serves nothing, and
// its vote goes on counting.
func TestAReplicaWhoseActiveSegmentIsDamagedServesNothingAndStillVotes(t *testing.T) {
	t.Parallel()
	c, m, n := threeFull(t)
	p, _ := n.host.Get(shardForTest)
	log, _ := p.machine.Log()
	segments := log.Segments()
	active := segments[len(segments)-1]
	dir := "/partitions/" + ReplicaKey{shardForTest, n.id}.directory()
	flipByte(t, n.fs, fmt.Sprintf("%s/log-1/%020d.log", dir, active.Base))
	if _, err := p.Read(nil, active.Base, 1<<20); errcode.Of(err) != errcode.StorageError {
		t.Fatalf("read: %v", err)
	}
	if !p.repair(t.Context()) {
		t.Fatal("it is tried again although nothing can be done")
	}
	if s := p.Status(); s.State != StateDamaged {
		t.Fatalf("status %+v", s)
	}
	for _, other := range c.nodes {
		if other != n && other != c.nodeOf(c.leader()) {
			c.down(other) // now a majority needs the damaged one's vote
			break
		}
	}
	c.stored(numbered(1, 0, int32(len(m.offsets)), 1))
}
