package partitions

import (
	"errors"
	"testing"

	"github.com/lni/vfs"
)

// The record that a replica was bootstrapped lies apart from its log. A log that
// is gone though the record is there would be bootstrapped again, and the empty
// replica would vote.
func TestARaftLogThatEndsBeforeTheFilesQuarantinesTheReplica(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	for i := range 3 {
		if a := appended(c.leader(), numbered(1, 0, int32(i), 1)); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	c.down(n)
	if !removeDir(t, n.raftFS, "/raft", "node-1001-1") {
		t.Fatal("the replica's log was not found")
	}
	c.up(n)
	if !n.raft.HasReplica(shardForTest, 1) {
		t.Fatal("the bootstrap record is gone too: that is another test")
	}
	if err := n.host.Start(c.spec(n, true)); !errors.Is(err, ErrQuarantined) || !errors.Is(err, errShortened) {
		t.Fatalf("start: %v", err)
	}
}

// removeDir removes the directory called name below dir.
func removeDir(t *testing.T, fs vfs.FS, dir, name string) bool {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		path := fs.PathJoin(dir, n)
		if n == name {
			if err := fs.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			return true
		}
		if info, err := fs.Stat(path); err == nil && info.IsDir() && removeDir(t, fs, path, name) {
			return true
		}
	}
	return false
}
