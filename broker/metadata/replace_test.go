package metadata

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"testing"

	"logbroker/internal/errcode"
)

// started is a rig with a topic "a" of one partition on three nodes, all started.
func startedRig(t *testing.T) *rig {
	r := foundedRig(t, 3)
	r.ok(command{Kind: kindCreateTopic}, create("a", 1, 3))
	for _, replica := range r.part().Replicas {
		r.ok(command{Kind: kindMarkStarted}, markStarted{replica.Node, []ReplicaKey{{FirstPartitionShard, replica.Replica}}})
	}
	return r
}

func (r *rig) part() *Partition {
	r.t.Helper()
	_, p, ok := r.image.PartitionByShard(FirstPartitionShard)
	if !ok {
		r.t.Fatal("no partition")
	}
	return p
}

func key(replica uint64) ReplicaKey { return ReplicaKey{FirstPartitionShard, replica} }

func TestAReplicaIsReplacedUnderAnIDThatIsNeverUsedAgain(t *testing.T) {
	r := startedRig(t)
	before, image := *r.part(), r.image
	was := before.Replicas[1]
	replace := command{Kind: kindReplaceReplica}
	for range 2 { // again: done already
		r.ok(replace, replaceReplica{key(was.Replica), was.Node})
		p := r.part()
		want := Replica{Node: was.Node, Replica: 4, Incarnation: was.Incarnation, Joiner: true, Joining: true}
		if p.Replicas[1] != want || p.NextReplica != 5 || !slices.Equal(p.Leaving, []uint64{was.Replica}) {
			t.Fatalf("%+v", p)
		}
		if !maps.Equal(p.Members(), before.Members()) {
			t.Fatalf("the shard's first members are %v, they were %v", p.Members(), before.Members())
		}
		if slices.Contains(p.Voters(), was.Node) || len(p.Voters()) != 2 || !slices.Equal(p.Nodes(), before.Nodes()) {
			t.Fatalf("voters %v of nodes %v", p.Voters(), p.Nodes())
		}
	}
	if got := r.image.Replacements(); len(got) != 1 || got[0].Replica.Replica != 4 {
		t.Fatalf("replacements: %+v", got)
	}
	if _, p, _ := image.PartitionByShard(FirstPartitionShard); !reflect.DeepEqual(*p, before) {
		t.Fatal("the old image changed")
	}
	r.refused(errcode.InvalidRequest, "before replica", command{Kind: kindReplicaPromoted}, key(4))
	r.ok(command{Kind: kindReplicaLeft}, key(was.Replica))
	r.ok(command{Kind: kindReplicaLeft}, key(was.Replica))
	r.ok(command{Kind: kindMarkStarted}, markStarted{was.Node, []ReplicaKey{key(4)}})
	r.ok(command{Kind: kindReplicaPromoted}, key(4))
	r.ok(command{Kind: kindReplicaPromoted}, key(4))
	p := r.part()
	if len(p.Leaving) != 0 || len(p.Voters()) != 3 || len(r.image.Replacements()) != 0 || !p.Replicas[1].Joiner {
		t.Fatalf("after the promotion: %+v", p)
	}
	r.ok(replace, replaceReplica{key(4), was.Node})
	if id := r.part().Replicas[1].Replica; id != 5 {
		t.Fatalf("the next replacement has id %d", id)
	}
	r.ok(replace, replaceReplica{key(was.Replica), was.Node}) // a late copy of the first
	if id := r.part().Replicas[1].Replica; id != 5 {
		t.Fatalf("a late command replaced replica 5 by %d", id)
	}
}

func TestAReplacementThatIsLostIsReplacedInTurn(t *testing.T) {
	r := startedRig(t)
	was := r.part().Replicas[0]
	r.ok(command{Kind: kindReplaceReplica}, replaceReplica{key(was.Replica), was.Node})
	r.refused(errcode.InvalidRequest, "never ran", command{Kind: kindReplaceReplica}, replaceReplica{key(4), was.Node})
	r.ok(command{Kind: kindMarkStarted}, markStarted{was.Node, []ReplicaKey{key(4)}})
	r.ok(command{Kind: kindReplaceReplica}, replaceReplica{key(4), was.Node})
	p := r.part()
	if p.Replicas[0].Replica != 5 || !slices.Equal(p.Leaving, []uint64{was.Replica, 4}) || len(p.Members()) != 3 || p.Members()[4] != "" {
		t.Fatalf("%+v", p)
	}
	r.ok(command{Kind: kindReplicaPromoted}, key(4)) // too late: it is not the one that joins
	if !r.part().Replicas[0].Joining {
		t.Fatal("the news of a lost replica promoted its successor")
	}
}

func TestReplaceReplicaRefuses(t *testing.T) {
	r := startedRig(t)
	replace := command{Kind: kindReplaceReplica}
	one, two := r.part().Replicas[0], r.part().Replicas[1]
	r.refused(errcode.UnknownTopicOrPartition, "deleted", replace, replaceReplica{ReplicaKey{9999, 1}, 1})
	r.refused(errcode.InvalidRequest, "node 9", replace, replaceReplica{key(one.Replica), 9})
	r.refused(errcode.InvalidRequest, "never ran", replace, replaceReplica{key(17), one.Node})
	r.ok(replace, replaceReplica{key(one.Replica), one.Node})
	r.refused(errcode.NotEnoughReplicas, "one at a time", replace, replaceReplica{key(two.Replica), two.Node})
	for _, replicas := range []int{1, 2} {
		r.ok(command{Kind: kindCreateTopic}, create("few", 1, replicas))
		few, _ := r.image.Topic("few")
		p := few.Partitions[0]
		k := ReplicaKey{p.Shard, p.Replicas[0].Replica}
		r.ok(command{Kind: kindMarkStarted}, markStarted{p.Replicas[0].Node, []ReplicaKey{k}})
		r.refused(errcode.InvalidRequest, "no majority", replace, replaceReplica{k, p.Replicas[0].Node})
		r.ok(command{Kind: kindDeleteTopic}, deleteTopic{r.ref("few")})
	}
	// A topic that goes away takes its replacements along.
	r.ok(command{Kind: kindDeleteTopic}, deleteTopic{r.ref("a")})
	r.ok(command{Kind: kindReplicaLeft}, key(one.Replica))
	r.ok(command{Kind: kindReplicaPromoted}, key(4))
	if len(r.image.Replacements()) != 0 {
		t.Fatal("a deleted topic has a replacement")
	}
}

// replaceCommands are one command of each kind of a replacement.
func replaceCommands() [][]byte {
	return [][]byte{
		encode(command{Kind: kindFound, TimeMs: 1}, Founding{ClusterID: "c1", ClusterName: "test", Defaults: testDefaults()}),
		encode(command{Kind: kindRegister, TimeMs: 2}, testNode(1)),
		encode(command{Kind: kindRegister, TimeMs: 3}, testNode(2)),
		encode(command{Kind: kindRegister, TimeMs: 4}, testNode(3)),
		encode(command{Kind: kindCreateTopic, TimeMs: 5, RequestID: "q1"}, create("a", 1, 3)),
		encode(command{Kind: kindCreateTopic, TimeMs: 6, RequestID: "q2"}, create("b", 1, 3)),
		encode(command{Kind: kindMarkStarted, TimeMs: 7}, markStarted{1, []ReplicaKey{{1001, 1}, {1002, 2}}}),
		encode(command{Kind: kindReplaceReplica, TimeMs: 8}, replaceReplica{ReplicaKey{1001, 1}, 1}),
		encode(command{Kind: kindReplicaLeft, TimeMs: 9}, ReplicaKey{1001, 1}),
		encode(command{Kind: kindReplicaPromoted, TimeMs: 10}, ReplicaKey{1001, 4}),
		encode(command{Kind: kindReplaceReplica, TimeMs: 11}, replaceReplica{ReplicaKey{1002, 2}, 1}),
	}
}

func TestReplaceCommandsKeepTheirBytesAndTheirMeaning(t *testing.T) {
	golden(t, "replace-commands-v1.jsonl", append(bytes.Join(replaceCommands(), []byte("\n")), '\n'))
	r := replayed(t, "replace-commands-v1.jsonl")
	golden(t, "replace-snapshot-v1.json", r.snapshot())
	restored := newRig(t)
	if err := restored.m.RecoverFromSnapshot(bytes.NewReader(r.snapshot()), nil, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.snapshot(), restored.snapshot()) || len(restored.image.Replacements()) != 1 {
		t.Fatalf("a snapshot does not carry a replacement: %s", restored.snapshot())
	}
}
