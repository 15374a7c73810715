package metadata

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"logbroker/internal/protocol"
)

func says(node uint64, full bool, pairs ...uint64) protocol.LeadersBroadcast {
	b := protocol.LeadersBroadcast{Version: protocol.ControlVersion, Node: node, Full: full}
	for i := 0; i < len(pairs); i += 2 {
		b.Leaders = append(b.Leaders, protocol.ShardLeader{Shard: pairs[i], Epoch: int32(pairs[i+1])})
	}
	return b
}

func leads(t *testing.T, l *Leaders, shard, node uint64, epoch int32) {
	t.Helper()
	n, e, ok := l.Leader(shard)
	if n != node || e != epoch || ok != (node != 0) {
		t.Fatalf("shard %d: node %d epoch %d %v, want node %d epoch %d", shard, n, e, ok, node, epoch)
	}
}

func TestTheHigherEpochWins(t *testing.T) {
	l := NewLeaders()
	leads(t, l, 1001, 0, 0)
	l.Set(says(1, false, 1001, 5, 1002, 1))
	leads(t, l, 1001, 1, 5)
	l.Set(says(2, false, 1001, 6))
	l.Set(says(1, false, 1001, 5)) // late
	leads(t, l, 1001, 2, 6)
	l.Set(says(3, false, 1001, 6)) // cannot be: the first news stays
	leads(t, l, 1001, 2, 6)
	leads(t, l, 1002, 1, 1)
	if got := l.Counts(); !reflect.DeepEqual(got, map[uint64]int{1: 1, 2: 1}) {
		t.Fatal(got)
	}
}

func TestAFullBroadcastClearsWhatItDoesNotName(t *testing.T) {
	l := NewLeaders()
	l.Set(says(1, false, 1001, 5, 1002, 5))
	l.Set(says(2, false, 1003, 5))
	l.Set(says(1, true, 1002, 5))
	leads(t, l, 1001, 0, 5)
	leads(t, l, 1002, 1, 5)
	leads(t, l, 1003, 2, 5)
	l.Set(says(2, false, 1001, 4)) // late: epoch 5 has been seen
	leads(t, l, 1001, 0, 5)
	l.Set(says(1, false, 1001, 5)) // it does lead after all
	leads(t, l, 1001, 1, 5)
}

func TestLostLeavesANewerLeaderAlone(t *testing.T) {
	l := NewLeaders()
	l.Set(says(1, false, 1001, 5, 1002, 5))
	l.Lost(1, 1001)
	leads(t, l, 1001, 0, 5)
	l.Set(says(2, false, 1001, 6))
	l.Lost(1, 1001)
	leads(t, l, 1001, 2, 6)
	l.LostAll(1)
	leads(t, l, 1002, 0, 5)
	leads(t, l, 1001, 2, 6)
}

func TestPruneForgetsDeletedShards(t *testing.T) {
	r := foundedRig(t, 1)
	r.ok(command{Kind: kindCreateTopic}, create("a", 1, 1))
	l := NewLeaders()
	l.Set(says(1, false, FirstPartitionShard, 5, 2000, 5))
	l.Prune(r.image)
	leads(t, l, FirstPartitionShard, 1, 5)
	leads(t, l, 2000, 0, 0)
}

func TestLeadersWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLeaders()
		done := make(chan error)
		go func() {
			done <- l.WaitFor(t.Context(), func() bool { _, _, ok := l.Leader(1002); return ok })
		}()
		synctest.Wait()
		l.Set(says(1, false, 1001, 1))
		l.Set(says(1, false, 1002, 1))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.WaitFor(ctx, func() bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}
