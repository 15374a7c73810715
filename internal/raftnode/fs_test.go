package raftnode

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// diskBytes is what du says: blocks in use below dir.
func diskBytes(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		n += st.Blocks * 512
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTwoHundredReplicasReserveLittleDisk(t *testing.T) {
	dir := t.TempDir()
	s, _ := openStore(t, vfs.Default, dir)
	for replica := range uint64(200) {
		ud := update(1, 1, 1, pb.Entry{Index: 1, Term: 1})
		ud.ShardID, ud.ReplicaID = replica+1, 1
		save(t, s, ud)
	}
	used := diskBytes(t, dir)
	t.Logf("200 replicas hold %d KiB", used>>10)
	if used > 1<<30 {
		t.Errorf("200 replicas reserve %d MiB: something preallocates", used>>20)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRenamedHostFindsItsData(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	c.found(testShard)
	c.must(testShard, "x")
	n.node.Close()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(n.options.Dir, func(path string, _ fs.DirEntry, err error) error {
		if rest := strings.TrimPrefix(path, n.options.Dir); strings.Contains(rest, host) {
			t.Errorf("%s holds the host name", rest)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	renameHost(t, filepath.Join(n.options.Dir, flagFile))
	c.open(n)
	c.start(n, Shard{ID: testShard})
	if got := c.settled(testShard, 1); got[0] != "x" {
		t.Fatalf("got %v", got)
	}
}

// renameHost makes the flag file one that was written on another host.
func renameHost(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var status pb.RaftDataStatus
	pb.MustUnmarshal(&status, data[flagChecksumBytes:])
	status.Hostname = "the-host-before"
	body := pb.MustMarshal(&status)
	if err := os.WriteFile(name, append(flagChecksum(body), body...), 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestHostFSReplacesTheHostNameOnlyAsAComponent(t *testing.T) {
	f := &hostFS{hostDir: "/raft/h1", fixedDir: "/raft/node"}
	for path, want := range map[string]string{
		"/raft/h1":         "/raft/node",
		"/raft/h1/000/x":   "/raft/node/000/x",
		"/raft/h10/000":    "/raft/h10/000",
		"/raft/LOCK":       "/raft/LOCK",
		"/elsewhere/h1/00": "/elsewhere/h1/00",
	} {
		if got := f.at(path); got != want {
			t.Errorf("%s became %s, want %s", path, got, want)
		}
	}
}

func TestFirstStartCutShortCanBeRepeated(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	n.node.Close()
	for _, name := range []string{flagFile, identityFile} {
		if err := os.WriteFile(filepath.Join(n.options.Dir, name), []byte("torn"), 0o640); err != nil {
			t.Fatal(err)
		}
		c.open(n) // no replica was ever started here
		n.node.Close()
	}
	c.open(n)
	c.found(testShard)
	n.node.Close()
	if err := os.WriteFile(filepath.Join(n.options.Dir, flagFile), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if node, err := Open(n.endpoint, n.options); err == nil || !strings.Contains(err.Error(), "damaged") {
		node.Close()
		t.Fatalf("a damaged note beside a replica's log: %v", err)
	}
}

func TestTheDurablePartOfALogLeavesThePageCache(t *testing.T) {
	dir := t.TempDir()
	files, err := newHostFS(Options{FS: vfs.Default, Dir: dir}.withDefaults(), newSyncStats())
	if err != nil {
		t.Fatal(err)
	}
	file, err := files.Create(filepath.Join(dir, "1.log"))
	if err != nil {
		t.Fatal(err)
	}
	log, block, written := file.(*logFile), make([]byte, 64<<10), int64(0)
	for i := range 3 * cachedTail / len(block) {
		block[0] = byte(i)
		if _, err := file.Write(block); err != nil {
			t.Fatal(err)
		}
		if got := log.forgotten.Load(); got > max(written-cachedTail, 0) {
			t.Fatalf("%d bytes are given up, %d are durable", got, written)
		}
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
		written += int64(len(block))
	}
	if got := log.forgotten.Load(); got <= written-cachedTail-forgetStep {
		t.Errorf("%d of %d bytes are given up", got, written)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "1.log"))
	if err != nil || int64(len(data)) != written {
		t.Fatalf("%d bytes of %d are there (%v)", len(data), written, err)
	}
	for i := range len(data) / len(block) {
		if data[i*len(block)] != byte(i) {
			t.Fatalf("block %d reads otherwise than it was written", i)
		}
	}
}
