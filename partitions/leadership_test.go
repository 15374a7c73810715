package partitions

import (
	"context"
	"errors"
	"testing"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
	"logbroker/partitions/fsm"
)

func TestALateEpochEntryOfAnOldLeaderEndsServingUntilANewEpoch(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	r.until("told", func() bool { return len(r.told()) == 1 })
	// Serving stays off as long as the next epoch cannot be opened.
	r.raft.setFate(func([]byte) fate { return drop })
	r.raft.applyForeign(fsm.EncodeEpoch(fsm.Epoch{Epoch: 2, Replica: 3}))
	if r.Leader().Serving {
		t.Fatal("serves behind another replica's epoch")
	}
	r.until("told of the end", func() bool { return len(r.told()) == 2 })
	r.raft.setFate(nil)
	r.until("serving again", func() bool { h := r.Leader(); return h.Serving && h.Epoch == 3 })
	r.until("told of the new epoch", func() bool { return len(r.told()) == 3 })
	for i, want := range []Leadership{{Epoch: 1, Leading: true}, {Epoch: 1}, {Epoch: 3, Leading: true}} {
		if got := r.told()[i]; got.Epoch != want.Epoch || got.Leading != want.Leading || got.Topic != "orders" || got.Partition != 2 {
			t.Errorf("event %d: %+v, want %+v", i, got, want)
		}
	}
}

func TestServingNeedsAnEpochEntryOfItsOwnTerm(t *testing.T) {
	r := newRig(t, nil)
	moved := false
	r.raft.setFate(func(cmd []byte) fate {
		if isEpoch(cmd) && !moved {
			// Leadership goes and comes back while the entry is under way: it is
			// applied, but says nothing about the new term.
			moved = true
			r.follow(6, 2)
			r.leaderEvent(raftnode.LeaderEvent{Shard: 1001, Replica: 1, Term: 7, Leader: 1})
		}
		return commit
	})
	r.leadIn(5)
	if h := r.Leader(); h.Epoch != 2 {
		t.Fatalf("serves in epoch %d, want 2: the entry of term 5 must not do for term 7", h.Epoch)
	}
}

func TestEpochIsProposedAgainUntilApplied(t *testing.T) {
	r := newRig(t, nil)
	tries := 0
	r.raft.setFate(func(cmd []byte) fate {
		if !isEpoch(cmd) {
			return commit
		}
		tries++
		return []fate{lose, drop, decline, commit}[min(tries-1, 3)]
	})
	r.leadIn(5)
	if h := r.Leader(); h.Epoch != 1 {
		t.Fatalf("epoch %d, want 1", h.Epoch)
	}
}

func TestAnEpochSomebodyElseTookIsNotServed(t *testing.T) {
	r := newRig(t, nil)
	first := true
	r.raft.setFate(func(cmd []byte) fate {
		if isEpoch(cmd) && first {
			first = false
			r.raft.apply(fsm.EncodeEpoch(fsm.Epoch{Epoch: 1, Replica: 2})) // raft.mu is held
		}
		return commit
	})
	r.leadIn(5)
	if e, replica, _ := r.machine.Epoch(); e != 2 || replica != 1 {
		t.Fatalf("epoch %d of replica %d, want 2 of 1", e, replica)
	}
}

func TestADeposedReplicaStopsAtOnceAndOldNewsAreIgnored(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	r.until("told", func() bool { return len(r.told()) == 1 })
	r.follow(6, 0)
	if r.Leader().Serving {
		t.Fatal("serves without leading")
	}
	r.follow(6, 2)
	r.leaderEvent(raftnode.LeaderEvent{Shard: 1001, Replica: 1, Term: 5, Leader: 1})
	if s := r.Status(); s.Role != "follower" || s.Term != 6 || s.LeaderNode != 102 || s.Serving {
		t.Fatalf("status %+v", s)
	}
	r.until("told of the end", func() bool { e := r.told(); return len(e) == 2 && !e[1].Leading })
}

func TestConfigurationIsReplicatedBeforeServingAndWhenAltered(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	if c := r.machine.Config().Segment; c.SegmentBytes != 1<<20 || c.SegmentAge != time.Hour {
		t.Fatalf("serves with configuration %+v", c)
	}
	altered := r.Config()
	altered.SegmentBytes = 2 << 20
	r.update(Spec{Config: altered})
	r.until("altered", func() bool { return r.machine.Config().Segment.SegmentBytes == 2<<20 })
	if !r.Leader().Serving {
		t.Fatal("an alter must not stop the leader")
	}
}

func TestTransferLeaderAsksAndWaits(t *testing.T) {
	r := newRig(t, nil)
	ctx := context.Background()
	if err := r.TransferLeader(ctx, 999); errcode.Of(err) != errcode.NodeNotFound {
		t.Fatalf("unknown node: %v", err)
	}
	if err := r.TransferLeader(ctx, 102); errcode.Of(err) != errcode.NotLeaderOrFollower {
		t.Fatalf("not leading: %v", err)
	}
	r.leadIn(5)
	if err := r.TransferLeader(ctx, 101); err != nil {
		t.Fatalf("to itself: %v", err)
	}
	done := make(chan error)
	go func() { done <- r.TransferLeader(ctx, 102) }()
	r.until("asked", func() bool { r.raft.mu.Lock(); defer r.raft.mu.Unlock(); return len(r.raft.transfers) > 0 })
	r.follow(6, 0)
	r.follow(6, 2)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	r.leadIn(7)
	if err := r.TransferLeader(ended, 103); errcode.Of(err) != errcode.RequestTimedOut {
		t.Fatalf("no time: %v", err)
	}
}

func TestADamagedReplicaServesNothingAndHandsOver(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	if a := appended(r.Partition, numbered(-1, 0, 0, 1)); a.Err != nil {
		t.Fatal(a.Err)
	}
	r.refuse(StateDamaged, errors.New("a flipped bit"))
	if a := appended(r.Partition, numbered(-1, 0, 0, 1)); errcode.Of(a.Err) != errcode.StorageError {
		t.Errorf("append: %v", a.Err)
	}
	if _, err := r.Read(nil, 0, 1); errcode.Of(err) != errcode.StorageError {
		t.Errorf("read: %v", err)
	}
	r.until("asked another to lead", func() bool { r.raft.mu.Lock(); defer r.raft.mu.Unlock(); return len(r.raft.transfers) > 0 })
	if s := r.Status(); s.State != StateDamaged || s.Err == "" {
		t.Errorf("status %+v", s)
	}
}
