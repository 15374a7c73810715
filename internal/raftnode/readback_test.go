package raftnode

import (
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// dragonboat holds what it reads back for a follower, for each of its shards: 64
// MiB a shard is more than a node has.
func TestWhatIsReadBackFromTheLogIsBounded(t *testing.T) {
	t.Parallel()
	s, _ := openStore(t, vfs.NewStrictMem(), "/raft")
	defer s.Close()
	const entries, size = 40, 256 << 10
	for i := range uint64(entries) {
		save(t, s, update(1, 1, i, pb.Entry{Index: i + 1, Term: 1, Cmd: make([]byte, size)}))
	}
	next, reads := uint64(1), 0
	for next <= entries {
		got, n, err := s.IterateEntries(nil, 0, 1, 1, next, entries+1, readBackAsked)
		switch {
		case err != nil || len(got) == 0 || got[0].Index != next:
			t.Fatalf("from %d on: %d entries, %v", next, len(got), err)
		case len(got)*size > readBackMax+size:
			t.Fatalf("from %d on: %d entries of %d bytes at once", next, len(got), size)
		}
		next, reads = next+uint64(len(got)), reads+1
		if whole := next == entries+1; !whole && n <= readBackAsked {
			t.Fatalf("%d entries are said to be %d bytes: dragonboat takes that for a gap", len(got), n)
		}
	}
	if reads < 4 {
		t.Errorf("%d bytes were read in %d reads", entries*size, reads)
	}
	if got, _, err := s.IterateEntries(nil, 0, 1, 1, 1, entries+1, 0); err != nil || len(got) != entries {
		t.Errorf("without a limit: %d entries, %v", len(got), err)
	}
	if got, _, err := s.IterateEntries(nil, 0, 1, 1, 1, entries+1, 1); err != nil || len(got) != 1 {
		t.Errorf("with a limit of a byte: %d entries, %v", len(got), err)
	}
}
