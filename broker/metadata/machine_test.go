package metadata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/errcode"
)

// rig is a state machine that is fed by hand.
type rig struct {
	t     *testing.T
	m     *machine
	image *Image
	index uint64
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, image: &Image{}}
	r.m = NewStateMachine(func(i *Image) { r.image = i }).(*machine)
	return r
}

// foundedRig has a founded cluster with nodes 1, 2, ….
func foundedRig(t *testing.T, nodes int) *rig {
	r := newRig(t)
	r.ok(command{Kind: kindFound}, Founding{ClusterID: "c1", ClusterName: "test", Defaults: testDefaults()})
	for i := range nodes {
		r.ok(command{Kind: kindRegister}, testNode(uint64(i+1)))
	}
	return r
}

func testNode(id uint64) Node {
	return Node{
		ID: id, Incarnation: fmt.Sprintf("00000000-0000-0000-0000-%012d", id), RaftAddr: fmt.Sprintf("10.0.0.%d:63001", id),
		ClientURLs: []string{fmt.Sprintf("nats://10.0.0.%d:4222", id)},
	}
}

func testConfig() TopicConfig {
	return TopicConfig{
		RetentionAge: 168 * time.Hour, RetentionBytes: -1, MaxBatchBytes: 1 << 20,
		SegmentBytes: 256 << 20, SegmentAge: 168 * time.Hour, Cleanup: CleanupDelete,
	}
}

func testDefaults() Defaults { return Defaults{Partitions: 3, Config: testConfig()} }

func (r *rig) bytes(data []byte) result {
	r.t.Helper()
	r.index++
	got, err := r.m.Update(statemachine.Entry{Index: r.index, Cmd: data})
	if err != nil {
		r.t.Fatal(err)
	}
	var out result
	if err := json.Unmarshal(got.Data, &out); err != nil {
		r.t.Fatal(err)
	}
	if r.image.Index != r.index {
		r.t.Fatalf("the image has index %d after command %d", r.image.Index, r.index)
	}
	return out
}

func (r *rig) do(c command, body any) result {
	r.t.Helper()
	return r.bytes(encode(c, body))
}

func (r *rig) ok(c command, body any) result {
	r.t.Helper()
	out := r.do(c, body)
	if err := out.err(); err != nil {
		r.t.Fatalf("%s: %v", c.Kind, err)
	}
	return out
}

func (r *rig) refused(code errcode.Code, says string, c command, body any) {
	r.t.Helper()
	before := *r.image
	out := r.do(c, body)
	if out.Code != code || !strings.Contains(out.Message, says) {
		r.t.Fatalf("%s: got %v, want %v saying %q", c.Kind, out.err(), code, says)
	}
	before.Index = r.image.Index
	if !reflect.DeepEqual(before, *r.image) {
		r.t.Fatalf("%s was refused and still changed the image", c.Kind)
	}
}

func (r *rig) snapshot() []byte {
	r.t.Helper()
	var b bytes.Buffer
	if err := r.m.SaveSnapshot(&b, nil, nil); err != nil {
		r.t.Fatal(err)
	}
	return b.Bytes()
}

// create is a command body for a topic with the default settings.
func create(name string, partitions int32, replicas int) createTopic {
	return createTopic{Name: name, Partitions: partitions, Replicas: replicas, Config: testConfig()}
}

func (r *rig) ref(name string) topicRef {
	t, ok := r.image.Topic(name)
	if !ok {
		return topicRef{Name: name}
	}
	return topicRef{name, t.ID}
}

func TestFoundIsDoneOnce(t *testing.T) {
	r := newRig(t)
	f := Founding{ClusterID: "c1", ClusterName: "test", Defaults: testDefaults()}
	r.refused(errcode.LeaderNotAvailable, "not founded", command{Kind: kindCreateTopic}, create("a", 1, 1))
	r.ok(command{Kind: kindFound}, f)
	r.ok(command{Kind: kindFound}, f)
	f.ClusterID = "c2"
	r.refused(errcode.InvalidRequest, "c1", command{Kind: kindFound}, f)
	r.refused(errcode.InvalidRequest, "without an id", command{Kind: kindFound}, Founding{})
	if r.image.ClusterName != "test" || r.image.Defaults != testDefaults() {
		t.Fatalf("%+v", r.image)
	}
}

func TestRegisterRefusesAnIDWithAnotherIncarnation(t *testing.T) {
	r := foundedRig(t, 2)
	n := testNode(2)
	n.Incarnation = "another"
	r.refused(errcode.DuplicateRegistration, "cluster.node_id", command{Kind: kindRegister}, n)
	n = testNode(2)
	n.ID = 3
	r.refused(errcode.DuplicateRegistration, "belongs to node 2", command{Kind: kindRegister}, n)
	r.refused(errcode.InvalidRequest, "incarnation", command{Kind: kindRegister}, Node{ID: 9})
	n = testNode(2)
	n.RaftAddr = "elsewhere:1"
	r.ok(command{Kind: kindRegister}, n)
	if got, _ := r.image.Node(2); got.RaftAddr != "elsewhere:1" || len(r.image.Nodes()) != 2 {
		t.Fatalf("%+v", r.image.Nodes())
	}
}

func TestCreateTopicPlacesAndNumbersPartitions(t *testing.T) {
	r := foundedRig(t, 3)
	got := r.ok(command{Kind: kindCreateTopic, TimeMs: 77, RequestID: "q"}, create("orders", 6, 0))
	topic, ok := r.image.TopicByID(got.TopicID)
	if !ok || topic.Name != "orders" || topic.Replicas != 3 || topic.CreatedMs != 77 || topic.RequestID != "q" {
		t.Fatalf("%+v", topic)
	}
	led := map[uint64]int{}
	for i := range topic.Partitions {
		p := &topic.Partitions[i]
		led[p.Replicas[0].Node]++
		if p.ID != int32(i) || p.Shard != FirstPartitionShard+uint64(i) || p.NextReplica != 4 {
			t.Fatalf("%+v", p)
		}
		for k, rep := range p.Replicas {
			if rep.Replica != uint64(k+1) || rep.Started || rep.Incarnation != testNode(rep.Node).Incarnation {
				t.Fatalf("%+v", rep)
			}
		}
		if gotT, gotP, ok := r.image.PartitionByShard(p.Shard); !ok || gotT != topic || gotP != p {
			t.Fatalf("shard %d leads to %v", p.Shard, gotP)
		}
	}
	if !reflect.DeepEqual(led, map[uint64]int{1: 2, 2: 2, 3: 2}) {
		t.Fatalf("preferred leaders %v", led)
	}
}

func TestCreateTopicRefuses(t *testing.T) {
	r := foundedRig(t, 3)
	c := command{Kind: kindCreateTopic}
	r.ok(c, create("a", 1, 1))
	r.refused(errcode.TopicAlreadyExists, "topic describe a", c, create("a", 1, 1))
	r.refused(errcode.InvalidTopic, "..", c, create("a..b", 1, 1))
	r.refused(errcode.InvalidPartitions, "1 to 10000", c, create("b", 0, 1))
	r.refused(errcode.InvalidPartitions, "1 to 10000", c, create("b", 10_001, 1))
	r.refused(errcode.InvalidReplicationFactor, "there are 3 nodes", c, create("b", 1, 4))
	body := create("b", 1, 1)
	body.Nodes = []uint64{2, 9}
	r.refused(errcode.NodeNotFound, "no node 9", c, body)
	body = create("b", 1, 1)
	body.Config.MaxBatchBytes = 8 << 20
	r.refused(errcode.InvalidConfig, "max_batch_bytes", c, body)
}

func TestClusterPartitionLimit(t *testing.T) {
	r := foundedRig(t, 1)
	for i := range TotalPartitionsMax / PartitionsMax {
		r.ok(command{Kind: kindCreateTopic}, create(fmt.Sprint("t", i), PartitionsMax, 1))
	}
	r.refused(errcode.InvalidPartitions, "limit of 100000", command{Kind: kindCreateTopic}, create("more", 1, 1))
}

func TestCreateTopicOnNamedNodes(t *testing.T) {
	r := foundedRig(t, 4)
	body := create("a", 4, 2)
	body.Nodes = []uint64{4, 2, 2}
	r.ok(command{Kind: kindCreateTopic}, body)
	if len(r.image.ReplicasOn(2)) != 4 || len(r.image.ReplicasOn(4)) != 4 || len(r.image.ReplicasOn(1)) != 0 {
		t.Fatal("replicas lie on other nodes than asked for")
	}
}

func TestARequestIDIsAnsweredOnce(t *testing.T) {
	r := foundedRig(t, 1)
	c := command{Kind: kindCreateTopic, RequestID: "q1"}
	first := r.ok(c, create("a", 1, 1))
	if again := r.do(c, create("a", 1, 1)); again != first {
		t.Fatalf("got %+v, the first time %+v", again, first)
	}
	del := command{Kind: kindDeleteTopic, RequestID: "q2"}
	r.ok(del, deleteTopic{r.ref("a")})
	r.ok(del, deleteTopic{r.ref("a")}) // the proposer sees no topic now
	r.refused(errcode.InvalidRequest, "was used for delete_topic", command{Kind: kindCreateTopic, RequestID: "q2"}, create("b", 1, 1))
	refusal := command{Kind: kindCreateTopic, RequestID: "q3"}
	r.refused(errcode.InvalidReplicationFactor, "", refusal, create("b", 1, 5))
	r.refused(errcode.InvalidReplicationFactor, "", refusal, create("b", 1, 5))
}

func TestRequestMemoryIsBounded(t *testing.T) {
	r := foundedRig(t, 1)
	r.ok(command{Kind: kindCreateTopic, RequestID: "first"}, create("a", 1, 1))
	for i := range requestsMax + 50 {
		r.do(command{Kind: kindDeleteTopic, RequestID: fmt.Sprint("q", i)}, deleteTopic{topicRef{"none", 0}})
	}
	if len(r.m.requests.order) != requestsMax || len(r.m.requests.byID) != requestsMax {
		t.Fatalf("%d and %d requests are remembered", len(r.m.requests.order), len(r.m.requests.byID))
	}
	// The topic itself still knows the request that made it.
	r.ok(command{Kind: kindCreateTopic, RequestID: "first"}, create("a", 1, 1))
}

func TestDeleteNeverReusesIDs(t *testing.T) {
	r := foundedRig(t, 1)
	old := r.ok(command{Kind: kindCreateTopic}, create("a", 2, 1))
	ref := r.ref("a")
	r.ok(command{Kind: kindDeleteTopic}, deleteTopic{ref})
	if _, ok := r.image.Topic("a"); ok || r.image.PartitionCount() != 0 {
		t.Fatal("the topic is still there")
	}
	if _, _, ok := r.image.PartitionByShard(FirstPartitionShard); ok {
		t.Fatal("its shard is still there")
	}
	restored := newRig(t)
	if err := restored.m.RecoverFromSnapshot(bytes.NewReader(r.snapshot()), nil, nil); err != nil {
		t.Fatal(err)
	}
	restored.index = r.index
	for _, r := range []*rig{r, restored} {
		made := r.ok(command{Kind: kindCreateTopic}, create("a", 1, 1))
		topic, _ := r.image.TopicByID(made.TopicID)
		if made.TopicID == old.TopicID || topic.Partitions[0].Shard != FirstPartitionShard+2 {
			t.Fatalf("topic %d with shard %d", made.TopicID, topic.Partitions[0].Shard)
		}
		// A late delete of the old topic does not hit the new one.
		r.refused(errcode.UnknownTopicOrPartition, "topic list", command{Kind: kindDeleteTopic}, deleteTopic{ref})
	}
}

func TestAlterChangesOnlyWhatItNames(t *testing.T) {
	r := foundedRig(t, 1)
	r.ok(command{Kind: kindCreateTopic}, create("a", 2, 1))
	before := r.image
	patch, err := parsePatch(map[string]string{"retention_bytes": "1GiB", "segment_age": "1h"})
	if err != nil {
		t.Fatal(err)
	}
	r.ok(command{Kind: kindAlterTopic}, alterTopic{r.ref("a"), patch})
	want := testConfig()
	want.RetentionBytes, want.SegmentAge = 1<<30, time.Hour
	if got, _ := r.image.Topic("a"); got.Config != want {
		t.Fatalf("%+v", got.Config)
	}
	if old, _ := before.Topic("a"); old.Config != testConfig() {
		t.Fatal("the old image changed")
	}
	bad := int64(5)
	r.refused(errcode.InvalidConfig, "max_batch_bytes", command{Kind: kindAlterTopic}, alterTopic{r.ref("a"), configPatch{MaxBatchBytes: &bad}})
	r.refused(errcode.UnknownTopicOrPartition, "topic list", command{Kind: kindAlterTopic}, alterTopic{r.ref("b"), patch})
}

func TestAddPartitionsContinuesTheSpread(t *testing.T) {
	r := foundedRig(t, 3)
	r.ok(command{Kind: kindCreateTopic}, create("a", 2, 2))
	r.ok(command{Kind: kindCreateTopic}, create("b", 1, 1))
	before := r.image
	r.ok(command{Kind: kindAddPartitions}, addPartitions{topicRef: r.ref("a"), Partitions: 6})
	topic, _ := r.image.Topic("a")
	replicas := map[uint64]int{}
	for i := range topic.Partitions {
		p := &topic.Partitions[i]
		for _, rep := range p.Replicas {
			replicas[rep.Node]++
		}
		if _, got, ok := r.image.PartitionByShard(p.Shard); !ok || got != p || p.ID != int32(i) {
			t.Fatalf("shard %d leads to %+v", p.Shard, got)
		}
	}
	if !reflect.DeepEqual(replicas, map[uint64]int{1: 4, 2: 4, 3: 4}) || r.image.PartitionCount() != 7 {
		t.Fatalf("replicas %v", replicas)
	}
	if old, _ := before.Topic("a"); len(old.Partitions) != 2 || before.PartitionCount() != 3 {
		t.Fatal("the old image changed")
	}
	for _, n := range []int32{6, 5, 0, -1, PartitionsMax + 1} {
		r.refused(errcode.InvalidPartitions, "only be raised", command{Kind: kindAddPartitions}, addPartitions{topicRef: r.ref("a"), Partitions: n})
	}
	r.refused(errcode.UnknownTopicOrPartition, "", command{Kind: kindAddPartitions}, addPartitions{topicRef: r.ref("c"), Partitions: 2})
}

func TestMarkStartedMarksTheNodesOwnReplicasOnly(t *testing.T) {
	r := foundedRig(t, 2)
	r.ok(command{Kind: kindCreateTopic}, create("a", 2, 2))
	before := r.image
	var keys []ReplicaKey
	for _, a := range r.image.ReplicasOn(1) {
		keys = append(keys, ReplicaKey{a.Partition.Shard, a.Replica.Replica})
	}
	other := r.image.ReplicasOn(2)[0]
	keys = append(keys, ReplicaKey{other.Partition.Shard, other.Replica.Replica}, ReplicaKey{5, 1}, ReplicaKey{FirstPartitionShard, 9})
	r.ok(command{Kind: kindMarkStarted}, markStarted{1, keys})
	for node, want := range map[uint64]bool{1: true, 2: false} {
		for _, a := range r.image.ReplicasOn(node) {
			if a.Replica.Started != want {
				t.Fatalf("node %d: %+v", node, a.Replica)
			}
		}
	}
	for _, a := range before.ReplicasOn(1) {
		if a.Replica.Started {
			t.Fatal("the old image changed")
		}
	}
}

func TestProducerIDsAreNeverGivenTwice(t *testing.T) {
	r := newRig(t)
	a := r.ok(command{Kind: kindProducerIDs}, producerIDs{10})
	b := r.ok(command{Kind: kindProducerIDs}, producerIDs{10})
	if a.FirstID != 1 || b.FirstID != 11 {
		t.Fatalf("%d, %d", a.FirstID, b.FirstID)
	}
	r.refused(errcode.InvalidRequest, "", command{Kind: kindProducerIDs}, producerIDs{0})
}

func TestUnreadableAndUnknownCommandsAreAnswered(t *testing.T) {
	r := foundedRig(t, 1)
	for cmd, code := range map[string]errcode.Code{
		``:                                       errcode.InvalidRequest,
		`{`:                                      errcode.InvalidRequest,
		`"x"`:                                    errcode.InvalidRequest,
		`null`:                                   errcode.UnsupportedVersion,
		`{"version":2,"kind":"found","body":{}}`: errcode.UnsupportedVersion,
		`{"version":1,"kind":"from_the_future"}`: errcode.UnsupportedVersion,
		`{"version":1,"kind":"register"}`:        errcode.InvalidRequest,
		`{"version":1,"kind":"register","body":[1]}`:    errcode.InvalidRequest,
		`{"version":1,"kind":"alter_topic","body":{}}`:  errcode.UnknownTopicOrPartition,
		`{"version":1,"kind":"create_topic","body":{}}`: errcode.InvalidTopic,
	} {
		if got := r.bytes([]byte(cmd)); got.Code != code || got.Message == "" {
			t.Errorf("%q: %+v, want %v", cmd, got, code)
		}
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	r := foundedRig(t, 3)
	r.ok(command{Kind: kindCreateTopic, RequestID: "q"}, create("b", 5, 2))
	r.ok(command{Kind: kindCreateTopic}, create("a", 3, 3))
	r.ok(command{Kind: kindAddPartitions}, addPartitions{topicRef: r.ref("b"), Partitions: 7})
	r.ok(command{Kind: kindProducerIDs}, producerIDs{10})
	first := r.snapshot()
	restored := newRig(t)
	if err := restored.m.RecoverFromSnapshot(bytes.NewReader(first), nil, nil); err != nil {
		t.Fatal(err)
	}
	if second := restored.snapshot(); !bytes.Equal(first, second) {
		t.Fatalf("wrote\n%s\nand then\n%s", first, second)
	}
	for _, topic := range r.image.Topics() {
		for i := range topic.Partitions {
			gotT, gotP, ok := restored.image.PartitionByShard(topic.Partitions[i].Shard)
			if !ok || gotT.ID != topic.ID || gotP.ID != int32(i) {
				t.Fatalf("shard %d leads to %+v", topic.Partitions[i].Shard, gotP)
			}
		}
	}
	if got, want := restored.image.NextShard, r.image.NextShard; got != want || want == 0 {
		t.Fatalf("next shard %d after the snapshot, %d before", got, want)
	}
	if again := restored.m.requests.byID["q"]; again.Result.TopicID == 0 {
		t.Fatal("the request ids are gone")
	}
}

func TestRecoverRefusesWhatItCannotRead(t *testing.T) {
	for _, s := range []string{``, `{"version":1,`, `{"version":2}`, `{}`} {
		if err := newRig(t).m.RecoverFromSnapshot(strings.NewReader(s), nil, nil); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

// randomCommand makes commands that succeed mostly.
func randomCommand(rnd *rand.Rand, r *rig) []byte {
	c := command{TimeMs: int64(rnd.IntN(1000)), RequestID: fmt.Sprint("q", rnd.IntN(400))}
	name := fmt.Sprint("topic-", rnd.IntN(12))
	switch rnd.IntN(8) {
	case 0:
		c.Kind = kindRegister
		n := testNode(uint64(1 + rnd.IntN(9)))
		n.Rack = fmt.Sprint("r", n.ID%3)
		return encode(c, n)
	case 1, 2, 3:
		c.Kind = kindCreateTopic
		return encode(c, create(name, int32(1+rnd.IntN(9)), rnd.IntN(4)))
	case 4:
		c.Kind = kindDeleteTopic
		return encode(c, deleteTopic{r.ref(name)})
	case 5:
		c.Kind = kindAddPartitions
		return encode(c, addPartitions{topicRef: r.ref(name), Partitions: int32(rnd.IntN(20))})
	case 6:
		c.Kind = kindAlterTopic
		bytes := int64(1 + rnd.IntN(1<<30))
		return encode(c, alterTopic{r.ref(name), configPatch{RetentionBytes: &bytes}})
	}
	c.Kind = kindMarkStarted
	body := markStarted{Node: uint64(1 + rnd.IntN(9))}
	for range 20 {
		body.Replicas = append(body.Replicas, ReplicaKey{FirstPartitionShard + uint64(rnd.IntN(200)), uint64(1 + rnd.IntN(3))})
	}
	return encode(c, body)
}

func TestReplicasFedTheSameCommandsHoldTheSameBytes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for range 10 {
		a, b := foundedRig(t, 3), foundedRig(t, 3)
		for range 400 {
			cmd := randomCommand(rnd, a)
			if x, y := a.bytes(cmd), b.bytes(cmd); x != y {
				t.Fatalf("%s: answers %+v and %+v", cmd, x, y)
			}
			if rnd.IntN(20) == 0 { // b restarts from a snapshot of its own
				from := b.snapshot()
				index := b.index
				b = newRig(t)
				if err := b.m.RecoverFromSnapshot(bytes.NewReader(from), nil, nil); err != nil {
					t.Fatal(err)
				}
				b.index = index
			}
		}
		if x, y := a.snapshot(), b.snapshot(); !bytes.Equal(x, y) {
			t.Fatalf("snapshots differ:\n%s\n%s", x, y)
		}
	}
}

func BenchmarkMarkStartedInTenThousandPartitions(b *testing.B) {
	m := NewStateMachine(func(*Image) {}).(*machine)
	index := uint64(0)
	feed := func(c command, body any) {
		index++
		if _, err := m.Update(statemachine.Entry{Index: index, Cmd: encode(c, body)}); err != nil {
			b.Fatal(err)
		}
	}
	feed(command{Kind: kindFound}, Founding{ClusterID: "c", Defaults: testDefaults()})
	feed(command{Kind: kindRegister}, testNode(1))
	for i := range 1000 {
		feed(command{Kind: kindCreateTopic}, create(fmt.Sprint("t", i), 10, 1))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		feed(command{Kind: kindMarkStarted}, markStarted{1, []ReplicaKey{{FirstPartitionShard + uint64(i%10_000), 1}}})
	}
}
