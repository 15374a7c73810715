package raftnode

import (
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// A commit index alone is written and not synced. tan then saves an index file
// that points at that record, when it closes and when it changes to a new log
// file, and closes the log unsynced: after a power cut the newest state record
// is a place past the end of the file, which reads as no state at all.
func TestPowerCutAfterACleanCloseKeepsTermAndVote(t *testing.T) {
	fs := vfs.NewStrictMem()
	s, _ := openStore(t, fs, "/raft")
	save(t, s, update(7, 2, 0, pb.Entry{Index: 1, Term: 7}))
	save(t, s, update(7, 2, 1))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fs.ResetToSyncedState()
	s, _ = openStore(t, fs, "/raft")
	defer s.Close()
	state, err := s.ReadRaftState(1, 1, 0)
	if err != nil || state.State.Term != 7 || state.State.Vote != 2 || state.EntryCount != 1 {
		t.Fatalf("after the power cut: %+v, %v", state, err)
	}
}

// Entries are applied before the commit index that covers them is saved, and a
// snapshot of what is applied is saved by another goroutine: a crash can leave
// the snapshot without the commit index. dragonboat panics on such a state.
func TestCommitIndexIsNeverBelowTheSnapshot(t *testing.T) {
	s, _ := openStore(t, vfs.NewMem(), "/raft")
	defer s.Close()
	save(t, s, update(3, 1, 4, entriesFrom(1, 10, 3)...))
	snapshot := pb.Update{ShardID: 1, ReplicaID: 1, Snapshot: pb.Snapshot{Dummy: true, ShardID: 1, Index: 8, Term: 3, Filepath: "x"}}
	if err := s.SaveSnapshots([]pb.Update{snapshot}); err != nil {
		t.Fatal(err)
	}
	state, err := s.ReadRaftState(1, 1, 8)
	if err != nil || state.State != (pb.State{Term: 3, Vote: 1, Commit: 8}) || state.FirstIndex != 9 || state.EntryCount != 2 {
		t.Fatalf("read %+v, %v", state, err)
	}
}
