package partitions

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"github.com/lni/vfs"

	"logbroker/internal/raftnode"
	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

var testTails = map[ReplicaKey]raftnode.LogTail{
	{Shard: 1002, Replica: 3}: {Last: 258, Term: 4, Vote: 2},
	{Shard: 1001, Replica: 1}: {Last: 7, Term: 5},
}

// The bytes are a format: a node must read what an older one wrote.
func TestTailsAreWrittenAsTheyAlwaysWere(t *testing.T) {
	t.Parallel()
	const golden = "4c425441494c5301" + "02000000" +
		"e903000000000000" + "0100000000000000" + "0700000000000000" + "0500000000000000" + "0000000000000000" +
		"ea03000000000000" + "0300000000000000" + "0201000000000000" + "0400000000000000" + "0200000000000000" + "SUM"
	got := hex.EncodeToString(encodeTails(testTails))
	if want := strings.Replace(golden, "SUM", got[len(got)-8:], 1); got != want {
		t.Errorf("wrote\n%s, want\n%s", got, want)
	}
	if again, err := decodeTails(encodeTails(testTails)); err != nil || !maps.Equal(again, testTails) {
		t.Errorf("read back %v, %v", again, err)
	}
	for i := range encodeTails(testTails) {
		data := encodeTails(testTails)
		data[i] ^= 0x10
		if _, err := decodeTails(data); err == nil {
			t.Errorf("a flipped bit in byte %d is taken", i)
		}
		if _, err := decodeTails(encodeTails(testTails)[:i]); err == nil {
			t.Errorf("%d bytes are taken", i)
		}
	}
}

func TestALogThatIsBehindWhatIsRecordedIsShortened(t *testing.T) {
	t.Parallel()
	k := ReplicaKey{Shard: 1001, Replica: 1}
	was := raftnode.LogTail{Last: 10, Term: 5, Vote: 2}
	for _, c := range []struct {
		now   raftnode.LogTail
		whole bool
	}{
		{was, true},
		{raftnode.LogTail{Last: 11, Term: 5, Vote: 2}, true},
		{raftnode.LogTail{Last: 10, Term: 6}, true},
		{raftnode.LogTail{Last: 9, Term: 6}, false},
		{raftnode.LogTail{Last: 11, Term: 4, Vote: 2}, false},
		{raftnode.LogTail{Last: 11, Term: 5}, false},
		{raftnode.LogTail{Last: 11, Term: 5, Vote: 3}, false},
		{raftnode.LogTail{}, false},
	} {
		tails := &tails{recorded: map[ReplicaKey]raftnode.LogTail{k: was}}
		if err := tails.check(k, c.now); errors.Is(err, errShortened) == c.whole {
			t.Errorf("%+v: %v", c.now, err)
		}
		if err := tails.check(ReplicaKey{Shard: 1001, Replica: 2}, c.now); err != nil {
			t.Errorf("a replica of which nothing is recorded: %v", err)
		}
	}
}

// killed makes the cluster's node n look as a kill leaves it: its Raft log is not
// closed. The node is down afterwards.
func (c *cluster) killed(n *node) {
	c.t.Helper()
	raft, files := vfs.NewMem(), vfs.NewMem()
	if _, err := vfs.Clone(n.raftFS, raft, "/raft", "/raft"); err != nil {
		c.t.Fatal(err)
	}
	if _, err := vfs.Clone(n.fs, files, "/partitions", "/partitions"); err != nil {
		c.t.Fatal(err)
	}
	c.down(n)
	n.raftFS, n.fs = raft, files
}

// openLog returns the path of the log file that the replica of n wrote to last.
func (n *node) openLog(t *testing.T) string {
	t.Helper()
	var find func(dir string) string
	find = func(dir string) string {
		names, err := n.raftFS.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		found := ""
		for _, name := range names {
			path := n.raftFS.PathJoin(dir, name)
			info, err := n.raftFS.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				found = max(found, find(path))
			} else if strings.HasSuffix(path, ".log") {
				found = max(found, path)
			}
		}
		return found
	}
	path := find("/raft")
	if path == "" {
		t.Fatal("no log file was found")
	}
	return path
}

func cutInHalf(data []byte) []byte { return data[:len(data)/2] }

// The marker is only as new as the last snapshot. Above it nothing but the record
// tells that entries are gone which this replica has acknowledged.
func TestARaftLogThatWasCutAboveTheMarkerIsNoticed(t *testing.T) {
	var noticed []Damage
	c := newCluster(t, 3, func(o *Options) { o.OnDamage = func(d Damage) { noticed = append(noticed, d) } })
	for i := range 20 {
		c.stored(numbered(1, 0, int32(i), 1))
	}
	c.settled()
	n := c.anotherNode(c.leader())
	p, _ := n.host.Get(shardForTest)
	until(t, "the log has the commit index on disk, which comes behind the applying", func() bool {
		tail, ok := n.raft.Reached(shardForTest, n.replica)
		return ok && tail.Last >= p.machine.AppliedIndex()
	})
	n.host.tails.record()
	if marker := p.machine.DurableIndex(); marker >= p.machine.AppliedIndex()/2 {
		t.Fatalf("the marker is at %d of %d: the test cuts nothing above it", marker, p.machine.AppliedIndex())
	}
	c.killed(n)
	storagetest.Rewrite(t, n.raftFS, n.openLog(t), cutInHalf)
	c.up(n)
	if err := n.host.Start(c.spec(n, true)); !errors.Is(err, ErrQuarantined) || !errors.Is(err, errShortened) {
		t.Fatalf("start: %v", err)
	} else if len(noticed) != 1 || noticed[0].FoundBy != "start" {
		t.Errorf("%v noticed as %v", err, noticed)
	}
	c.stored(numbered(1, 0, 20, 1)) // the others go on
	if _, err := n.fs.Stat("/partitions/1001-" + string(rune('0'+n.id)) + "/" + quarantineMark); err != nil {
		t.Error(err)
	}
}

// One replica's damaged log is that replica's affair: tan would end the process.
func TestADamagedRaftLogQuarantinesItsReplicaAlone(t *testing.T) {
	c := newCluster(t, 3, nil)
	for i := range 20 {
		c.stored(numbered(1, 0, int32(i), 1))
	}
	c.settled()
	n := c.anotherNode(c.leader())
	c.killed(n)
	storagetest.Rewrite(t, n.raftFS, n.openLog(t), func(data []byte) []byte { data[len(data)/2] ^= 0x10; return data })
	c.up(n)
	if err := n.host.Start(c.spec(n, true)); !errors.Is(err, ErrQuarantined) || !errors.Is(err, raftnode.ErrLogDamaged) {
		t.Fatalf("start: %v", err)
	}
	other := c.spec(n, false)
	other.Shard, other.Members = shardForTest+1, map[uint64]string{n.id: n.incarnation}
	if err := n.host.Start(other); err != nil {
		t.Fatalf("another replica of the node: %v", err)
	}
	p, _ := n.host.Get(other.Shard)
	until(t, "the other replica serves", func() bool { return p.Leader().Serving })
	c.stored(numbered(1, 0, 20, 1))
	if err := n.host.Remove(shardForTest); err != nil || n.raft.HasReplica(shardForTest, n.id) {
		t.Errorf("remove: %v", err)
	}
}

// A replica that is stopped and started again in one process is not held to what
// its log was when the process began.
func TestARecordThatRisesWhileTheNodeRunsHoldsForTheNextStart(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	k := ReplicaKey{Shard: shardForTest, Replica: 1}
	next := int32(0)
	more := func() {
		for range 5 {
			c.stored(numbered(1, 0, next, 1))
			next++
		}
		n.host.tails.record()
	}
	more()
	for range 2 {
		if err := n.host.Stop(shardForTest); err != nil {
			t.Fatal(err)
		}
		if err := n.host.Start(c.spec(n, true)); err != nil {
			t.Fatal(err)
		}
		more()
	}
	was := n.host.tails.recorded[k]
	if was.Last < 15 || was.Term == 0 {
		t.Fatalf("recorded %+v", was)
	}
	c.down(n) // which records a last time
	c.restart(n)
	if now := n.host.tails.recorded[k]; now.Last < was.Last {
		t.Fatalf("recorded %+v after the restart, %+v before", now, was)
	}
	if err := n.host.Remove(shardForTest); err != nil {
		t.Fatal(err)
	}
	n.host.tails.record()
	data, err := storage.ReadFile(n.fs, "/partitions/"+tailsFile)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := decodeTails(data); err != nil || len(all) != 0 {
		t.Errorf("after the replica was removed: %v, %v", all, err)
	}
}

func TestANodeWithoutTheRecordStartsAndSaysSo(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, n *node){
		"is lost": func(t *testing.T, n *node) {
			if err := n.fs.Remove("/partitions/" + tailsFile); err != nil {
				t.Fatal(err)
			}
		},
		"is damaged": func(t *testing.T, n *node) { storagetest.Rewrite(t, n.fs, "/partitions/"+tailsFile, cutInHalf) },
	} {
		t.Run(name, func(t *testing.T) {
			var said strings.Builder
			c := newCluster(t, 1, func(o *Options) {
				o.Logger = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
			})
			n := c.nodes[0]
			c.stored(numbered(1, 0, 0, 1))
			c.down(n)
			harm(t, n)
			said.Reset()
			c.restart(n)
			c.stored(numbered(1, 0, 1, 1))
			if !strings.Contains(said.String(), name) {
				t.Errorf("said: %s", said.String())
			}
			c.down(n)
			if _, err := n.fs.Stat("/partitions/" + tailsFile); err != nil {
				t.Error(err)
			}
		})
	}
}

// What recording costs, once a second, a node with a thousand replicas that are
// all written to.
func BenchmarkTails(b *testing.B) {
	t := &tails{fs: storage.OS(), dir: b.TempDir(), logger: slog.New(slog.DiscardHandler), recorded: map[ReplicaKey]raftnode.LogTail{}}
	for i := range uint64(1000) {
		t.recorded[ReplicaKey{Shard: 1000 + i, Replica: 1}] = raftnode.LogTail{Last: 1 << 40, Term: 7, Vote: 1}
	}
	for b.Loop() {
		t.changed = true
		t.record()
	}
}
