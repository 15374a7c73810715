package broker

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"logbroker/internal/raftnode"
	"logbroker/internal/storage"
)

// foundedBy makes the directories of node 1 in a cluster of n founders.
func foundedBy(t *testing.T, n uint64) directories {
	t.Helper()
	data, raft := dirs(t)
	d := directories{fs: storage.OS(), data: data, raft: raft}
	s, err := openIdentity(d, "test", 1)
	mustAll(t, err)
	mustAll(t, s.update(func(id *identity) {
		id.ClusterID, id.MetadataStarted, id.GroupsStarted = "cluster-1", true, true
		for i := range n {
			id.Founders = append(id.Founders, member{NodeID: i + 1})
		}
	}))
	return d
}

// Whose an empty Raft directory was the data directory says; whose one with files
// is it does not.
func TestALostRaftDirectoryIsOpenedWhereTheOthersAreAMajority(t *testing.T) {
	for _, test := range []struct {
		founders uint64
		left     string // a file in the Raft directory
		want     string // in the error, "" = none
	}{
		{3, "", ""},
		{3, "node.json.tmp", ""}, // the next start after a crash
		{3, "NODEHOST.ID", "another node's"},
		{2, "", "must not vote again"},
		{1, "", "must not vote again"},
	} {
		d := foundedBy(t, test.founders)
		mustAll(t, os.RemoveAll(d.raft), os.Mkdir(d.raft, 0o755))
		if test.left != "" {
			mustAll(t, os.WriteFile(filepath.Join(d.raft, test.left), []byte("x"), 0o600))
		}
		s, err := openIdentity(d, "test", 1)
		switch {
		case test.want == "" && (err != nil || !s.id.MetadataStarted || !s.id.GroupsStarted):
			t.Errorf("%d founders, %q is left: %v", test.founders, test.left, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%d founders, %q is left: %v; want one line with %q", test.founders, test.left, err, test.want)
		}
	}
}

// Whichever of the two copies is an old one, no step of a replacement is undone.
func TestAnOldCopyUndoesNoStepOfAReplacement(t *testing.T) {
	const shard, second, third = 3, 1 + 1<<32, 1 + 2<<32
	for _, copyOf := range []func(directories) string{
		func(d directories) string { return d.data }, func(d directories) string { return d.raft },
	} {
		d := foundedBy(t, 3)
		s, err := openIdentity(d, "test", 1)
		mustAll(t, err)
		f := &founding{ids: s}
		for i, step := range []func() error{
			func() error { return f.reached(map[uint64]uint64{shard: 100}) },
			func() error { return f.retire(shard, 1) },
			func() error { return f.given(shard, second) },
			func() error { return f.replacementStarted(shard) },
			func() error { return f.reached(map[uint64]uint64{shard: 7}) },
			func() error { return f.retire(shard, second) },
			func() error { return f.given(shard, third) },
		} {
			path := filepath.Join(copyOf(d), identityFile)
			before, err := os.ReadFile(path)
			mustAll(t, err, step())
			want, _ := f.replacement(shard)
			mustAll(t, os.WriteFile(path, before, 0o600))
			again, err := openIdentity(d, "test", 1)
			mustAll(t, err)
			got := again.id.Replaced[shard]
			if got.Reached = max(got.Reached, want.Reached); got != want { // a watermark lies in data_dir alone
				t.Fatalf("step %d: %+v became %+v", i, want, got)
			}
			if i > 0 && again.id.Format != identityFormat {
				t.Fatalf("step %d: format %d: an older version would start what is retired", i, again.id.Format)
			}
		}
		if got := f.identity(); got.reached(shard) != 0 || got.replica(shard) != third || got.replica(2) != 1 {
			t.Fatalf("%+v", got)
		}
		id := f.identity()
		retired := id.retired()
		if want := []raftnode.ReplicaID{{Shard: shard, Replica: 1}, {Shard: shard, Replica: second}}; !slices.Equal(retired, want) {
			t.Fatalf("retired are %v, want %v", retired, want)
		}
	}
}
