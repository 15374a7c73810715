package handler

import (
	"testing"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/partitions"
)

// Around a leader change a request reaches the old leader and the new one. What
// the old one says about itself (throttled, disk reserve, no leader …) must not
// carry the new one's epoch: the client would take it for the leader's definite
// refusal of a batch that the leader stores.
func TestRefusalCarriesOnlyAnEpochThatTheReplicaOpened(t *testing.T) {
	low := false
	b := newBench(t, func(o *Options) {
		o.DiskLow = func() []uint64 {
			if low {
				return []uint64{1}
			}
			return nil
		}
	})
	topic, r := b.topic("orders")
	b.leaders.Set(protocol.LeadersBroadcast{Node: 2, Leaders: []protocol.ShardLeader{{Shard: topic.Partitions[0].Shard, Epoch: 4}}})
	request := func() PartitionRequest { return produceRequest(topic, encodeBatch(t, "v")) }
	for _, code := range []errcode.Code{
		errcode.DiskReserve, errcode.Throttled, errcode.NotEnoughReplicas, errcode.LeaderNotAvailable, errcode.ShuttingDown,
	} {
		low = code == errcode.DiskReserve
		r.append = func(partitions.AppendRequest, func(partitions.AppendResult)) error { return errcode.New(code, "no") }
		// It led epoch 3 once and has applied the entry of the leader of epoch 4.
		r.setLeader(partitions.LeaderHint{Node: 2, Epoch: 4})
		if got := b.produce(request()); got.Code != code || got.Epoch != 0 || got.Leader != 0 {
			t.Errorf("%v of a replica that does not lead: %+v", code, got)
		}
		// It lags, and has only heard of epoch 4.
		r.setLeader(partitions.LeaderHint{Epoch: 3, Own: true})
		if got := b.produce(request()); got.Code != code || got.Epoch != 3 {
			t.Errorf("%v of the leader of epoch 3: %+v", code, got)
		}
	}
	low = false
	r.setLeader(partitions.LeaderHint{Node: 2, Epoch: 4})
	damaged := encodeBatch(t, "v")
	damaged[len(damaged)-1] ^= 1
	if got := b.produce(produceRequest(topic, damaged)); got.Code != errcode.NotLeaderOrFollower {
		t.Errorf("a replica that does not lead judged the batch: %+v", got)
	}
}
