package handler

import (
	"testing"

	"logbroker/broker/metadata"
	"logbroker/internal/protocol"
)

func TestAReplicaThatFetchesIsShownAndCountsAsIncomplete(t *testing.T) {
	p := &metadata.Partition{Shard: 1001, Replicas: []metadata.Replica{{Node: 1, Replica: 1}, {Node: 2, Replica: 2}}}
	v := view{replicas: map[uint64]map[uint64]*protocol.ReplicaStatus{1001: {
		1: {Shard: 1001, State: stateRunning, Serving: true},
		2: {Shard: 1001, State: stateRunning},
	}}}
	if v.underReplicated(p) || v.fetching(p) != nil {
		t.Fatal("a whole partition is shown as incomplete")
	}
	v.replicas[1001][2].FetchedBytes, v.replicas[1001][2].FetchBytes = 3, 10
	if got := v.fetching(p); !v.underReplicated(p) || len(got) != 1 || got[0] != (protocol.FetchProgress{Node: 2, FetchedBytes: 3, FetchBytes: 10}) {
		t.Errorf("fetching %+v", got)
	}
}
