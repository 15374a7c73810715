package partitions

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lni/vfs"

	"logbroker/internal/errcode"
	"logbroker/internal/storage"
)

func TestOnePartitionOnOneNodeSurvivesAStopAndARestart(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	for i := range 10 {
		if a := appended(c.leader(), numbered(1, 0, int32(2*i), 2)); a.Err != nil || a.BaseOffset != int64(2*i) {
			t.Fatalf("append %d: %+v", i, a)
		}
	}
	if err := n.host.Start(c.spec(n, true)); !errors.Is(err, ErrStarted) {
		t.Fatalf("started twice: %v", err)
	}
	if err := n.host.Stop(shardForTest); err != nil {
		t.Fatal(err)
	}
	if _, ok := n.host.Get(shardForTest); ok || !errors.Is(n.host.Stop(shardForTest), ErrNotFound) {
		t.Fatal("a stopped replica is still there")
	}
	c.down(n)
	c.restart(n)
	p := c.leader()
	if got := readAll(t, p); len(got) != 20 || got[7] != "7 p1 e0 s7" {
		t.Fatalf("after the restart: %q", got)
	}
	if a := appended(p, numbered(1, 0, 8, 2)); a.Err != nil || !a.Duplicate || a.BaseOffset != 8 {
		t.Fatalf("duplicate after the restart: %+v", a)
	}
}

func TestAStoppedReplicaEndsItsWaitsAndRefuses(t *testing.T) {
	c := newCluster(t, 1, nil)
	p := c.leader()
	woken := make(chan struct{})
	p.WaitFor(1000, func() { close(woken) })
	if err := c.nodes[0].host.Stop(shardForTest); err != nil {
		t.Fatal(err)
	}
	<-woken
	if a := appended(p, numbered(1, 0, 0, 1)); errcode.Of(a.Err) != errcode.NotLeaderOrFollower {
		t.Errorf("append: %v", a.Err)
	}
	if _, err := p.Read(nil, 0, 1); errcode.Of(err) != errcode.NotLeaderOrFollower {
		t.Errorf("read: %v", err)
	}
	if s := p.Status(); s.State != StateStopped {
		t.Errorf("status %+v", s)
	}
}

func TestAStartedReplicaWithoutItsRaftLogNeverStartsAgain(t *testing.T) {
	var told atomic.Int64
	c := newCluster(t, 1, func(o *Options) { o.OnDamage = func(Damage) { told.Add(1) } })
	n := c.nodes[0]
	if a := appended(c.leader(), numbered(1, 0, 0, 1)); a.Err != nil {
		t.Fatal(a.Err)
	}
	c.down(n)
	n.raftFS = vfs.NewMem() // the disk is lost
	c.up(n)
	for range 2 { // the mark holds
		if err := n.host.Start(c.spec(n, true)); !errors.Is(err, ErrQuarantined) {
			t.Fatalf("start: %v", err)
		}
		p, ok := n.host.Get(shardForTest)
		if !ok || p.Status().State != StateQuarantined || p.Status().Err == "" {
			t.Fatalf("status %+v", p.Status())
		}
		c.down(n)
		c.up(n)
	}
	if n := told.Load(); n != 1 {
		t.Errorf("the loss was told %d times", n)
	}
	fresh := c.spec(n, false)
	if err := n.host.Start(fresh); !errors.Is(err, ErrQuarantined) {
		t.Fatalf("not even as a new one under the same id: %v", err)
	}
	p, _ := n.host.Get(shardForTest)
	if a := appended(p, numbered(1, 0, 0, 1)); errcode.Of(a.Err) != errcode.StorageError {
		t.Errorf("append: %v", a.Err)
	}
	if p.Leader() != (LeaderHint{}) || p.Earliest() != 0 {
		t.Errorf("a quarantined replica knows something")
	}
}

func TestFilesOlderThanTheRaftLogQuarantineTheReplica(t *testing.T) {
	var told atomic.Int64
	c := newCluster(t, 1, func(o *Options) {
		o.SnapshotBytes = 1000
		o.OnDamage = func(Damage) { told.Add(1) }
	})
	n := c.nodes[0]
	p := c.leader()
	for i := range 20 {
		if a := appended(p, batchOf(1, 0, int32(i), 1, 200)); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	until(t, "a Raft snapshot", func() bool {
		floor, err := n.raft.AppliedFloor(shardForTest, 1)
		return err == nil && floor > 0
	})
	c.down(n)
	n.fs = vfs.NewMem() // the data disk is lost, the Raft disk is not
	c.up(n)
	if err := n.host.Start(c.spec(n, true)); !errors.Is(err, ErrQuarantined) || told.Load() != 1 {
		t.Fatalf("start: %v, told %d times", err, told.Load())
	}
}

func TestDamagedFilesQuarantineTheReplicaAlone(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	if a := appended(c.leader(), numbered(1, 0, 0, 1)); a.Err != nil {
		t.Fatal(a.Err)
	}
	c.down(n)
	marker, err := n.fs.OpenForAppend("/partitions/1001-1/marker")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := marker.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := marker.Close(); err != nil {
		t.Fatal(err)
	}
	c.up(n)
	if err := n.host.Start(c.spec(n, true)); !errors.Is(err, ErrQuarantined) {
		t.Fatalf("start: %v", err)
	}
	if _, err := n.fs.Stat("/partitions/1001-1/quarantine/marker"); err != nil {
		t.Errorf("the files were not moved aside: %v", err)
	}
}

func TestANewReplicaNeedsAnEmptyDirectory(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	s := c.spec(n, false)
	s.Shard = 2000
	if err := n.fs.MkdirAll("/partitions/2000-1/log", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := n.host.Start(s); !errors.Is(err, ErrLeftovers) {
		t.Fatalf("start: %v", err)
	}
	if _, ok := n.host.Get(2000); ok {
		t.Error("a replica that did not start is there")
	}
}

// leftIn lists what is in the Host's directory beside its own record.
func leftIn(t *testing.T, fs vfs.FS) []string {
	t.Helper()
	names, err := fs.List("/partitions")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, tailsFile) })
}

func TestRemoveDeletesFilesAndRaftLog(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	if a := appended(c.leader(), numbered(1, 0, 0, 1)); a.Err != nil {
		t.Fatal(a.Err)
	}
	if err := n.host.Remove(shardForTest); err != nil {
		t.Fatal(err)
	}
	if names := leftIn(t, n.fs); len(names) != 0 {
		t.Errorf("left: %q", names)
	}
	if n.raft.HasReplica(shardForTest, 1) {
		t.Error("the Raft log is still there")
	}
}

func TestLeftoversOfATopicDeletedWhileTheNodeWasDownCanBeDiscarded(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	c.stored(numbered(1, 0, 0, 1))
	if err := n.host.Discard(ReplicaKey{Shard: shardForTest, Replica: 1}); !errors.Is(err, ErrStarted) {
		t.Fatalf("discard of a running replica: %v", err)
	}
	if left, err := n.host.Leftovers(); err != nil || len(left) != 0 {
		t.Fatalf("leftovers %v, %v", left, err)
	}
	c.down(n)
	c.up(n)
	left, err := n.host.Leftovers()
	if err != nil || len(left) != 1 || left[0] != (ReplicaKey{Shard: shardForTest, Replica: 1}) {
		t.Fatalf("leftovers %v, %v", left, err)
	}
	if err := n.host.Discard(left[0]); err != nil {
		t.Fatal(err)
	}
	if left, err = n.host.Leftovers(); err != nil || len(left) != 0 || n.raft.HasReplica(shardForTest, 1) {
		t.Fatalf("leftovers %v, %v", left, err)
	}
}

// failingFS does not remove while told so.
type failingFS struct {
	*vfs.MemFS
	fail atomic.Bool
}

func (f *failingFS) RemoveAll(name string) error {
	if f.fail.Load() {
		return errors.New("remove failed for the test")
	}
	return f.MemFS.RemoveAll(name)
}

func TestARemovalThatFailedCanBeTriedAgain(t *testing.T) {
	fs := &failingFS{MemFS: vfs.NewMem()}
	if err := fs.MkdirAll("/partitions", 0o755); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, 1, func(o *Options) { o.FS = fs })
	n := c.nodes[0]
	c.stored(numbered(1, 0, 0, 1))
	fs.fail.Store(true)
	if err := n.host.Remove(shardForTest); err == nil {
		t.Fatal("removed though nothing can be removed")
	}
	fs.fail.Store(false)
	if err := n.host.Remove(shardForTest); err != nil {
		t.Fatal(err)
	}
	if names := leftIn(t, fs); len(names) != 0 || n.raft.HasReplica(shardForTest, 1) {
		t.Errorf("left: %q", names)
	}
	if err := n.host.Remove(shardForTest); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestARemovalCutShortByACrashIsFinished(t *testing.T) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("/partitions/1001-1.removed/log", 0o755); err != nil {
		t.Fatal(err)
	}
	h := NewHost(Options{FS: fs, Dir: "/partitions"})
	if names, err := fs.List("/partitions"); err != nil || len(names) != 0 {
		t.Errorf("left: %q, %v", names, err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if err := h.Start(Spec{Shard: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("start after close: %v", err)
	}
}

func TestABadByteInASealedSegmentIsFoundByAReadAndEndsTheService(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	for i := range 50 {
		c.stored(batchOf(1, 0, int32(i), 1, 200))
	}
	c.down(n)
	flipByte(t, n.fs, firstSegment(t, n.fs))
	c.restart(n)
	p := c.leader()
	if _, err := p.Read(nil, 49, 100); err != nil {
		t.Fatalf("a sound segment: %v", err)
	}
	woken := make(chan struct{})
	p.WaitFor(1000, func() { close(woken) })
	if r, err := p.Read(nil, 0, 1<<20); errcode.Of(err) != errcode.StorageError || len(r.Data) != 0 {
		t.Fatalf("the damaged segment: %d bytes, %v", len(r.Data), err)
	}
	<-woken
	if s := p.Status(); s.State != StateDamaged || s.Serving || s.Err == "" {
		t.Errorf("status %+v", s)
	}
	if _, err := p.Read(nil, 49, 100); errcode.Of(err) != errcode.StorageError {
		t.Errorf("a damaged replica still serves: %v", err)
	}
	if a := appended(p, numbered(1, 0, 50, 1)); errcode.Of(a.Err) != errcode.StorageError {
		t.Errorf("append: %v", a.Err)
	}
}

// firstSegment returns the path of the replica's oldest segment.
func firstSegment(t *testing.T, fs *vfs.MemFS) string {
	t.Helper()
	var found []string
	for dirs := []string{"/partitions"}; len(dirs) > 0; dirs = dirs[1:] {
		names, err := fs.List(dirs[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			path := fs.PathJoin(dirs[0], name)
			info, err := fs.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case info.IsDir():
				dirs = append(dirs, path)
			case strings.HasSuffix(name, ".log"):
				found = append(found, path)
			}
		}
	}
	slices.Sort(found)
	if len(found) < 2 {
		t.Fatalf("segments %q: none is sealed", found)
	}
	return found[0]
}

func flipByte(t *testing.T, fs *vfs.MemFS, path string) {
	t.Helper()
	data, err := storage.ReadFile(fs, path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 0x40
	if err := storage.WriteFileAtomic(fs, path, data); err != nil {
		t.Fatal(err)
	}
}

func TestLeadershipIsToldByTheNodeThatServes(t *testing.T) {
	var mu sync.Mutex
	var leading []Leadership
	c := newCluster(t, 3, func(o *Options) {
		o.OnLeadership = func(l Leadership) {
			mu.Lock()
			defer mu.Unlock()
			leading = append(leading, l)
		}
	})
	last := func() (l Leadership) {
		mu.Lock()
		defer mu.Unlock()
		if len(leading) > 0 {
			l = leading[len(leading)-1]
		}
		return l
	}
	until(t, "told", func() bool { return last().Leading && last().Shard == shardForTest })
	c.leader()
	c.stop()
	if l := last(); l.Leading || l.Topic != "orders" || l.TopicID != 7 {
		t.Fatalf("last told: %+v", l)
	}
}
