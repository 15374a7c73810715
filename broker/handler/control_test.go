package handler

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/stall"
	"logbroker/partitions"
)

// fleet is a cluster of handlers that share one metadata store, so that every
// node has the same image.
type fleet struct {
	*testing.T
	store     *metadata.Store
	leaders   *metadata.Leaders
	peers     fakePeers
	nodes     map[uint64]*fakeReplicas
	meta      map[uint64]protocol.ReplicaStatus
	replacing map[uint64][]string // by node
}

func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	store, _ := newStore(t, n)
	f := &fleet{
		T: t, store: store, leaders: metadata.NewLeaders(), peers: fakePeers{}, nodes: map[uint64]*fakeReplicas{},
		meta: map[uint64]protocol.ReplicaStatus{},
	}
	for i := range n {
		id := uint64(i + 1)
		f.nodes[id] = &fakeReplicas{}
		f.meta[id] = protocol.ReplicaStatus{Shard: metadata.ShardID, Replica: id, Role: "follower", Leader: 1, Term: 2}
		h := New(Options{
			NodeID: id, Version: "v9", Replicas: f.nodes[id], Metadata: store, Leaders: f.leaders, Peers: f.peers,
			MetadataRaft: func() (RaftState, bool) { return f.meta[id], true }, PeerTimeout: 200 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
			Replacing: func() []string { return f.replacing[id] },
		})
		t.Cleanup(h.Close)
		f.peers[id] = h
	}
	return f
}

// topic creates a topic and its replicas; every partition is led by its
// preferred leader in epoch 1.
func (f *fleet) topic(name string, partitionCount int32, replicas int) *metadata.Topic {
	f.Helper()
	topic, err := f.store.CreateTopic(f.Context(), metadata.TopicSpec{Name: name, Partitions: partitionCount, Replicas: replicas})
	must(f.T, err)
	f.start(topic)
	return topic
}

func (f *fleet) start(topic *metadata.Topic) {
	for _, p := range topic.Partitions {
		leader := p.Nodes()[0]
		for _, node := range p.Nodes() {
			if _, ok := f.nodes[node].Get(p.Shard); ok {
				continue
			}
			r := &fakeReplica{hint: partitions.LeaderHint{Node: leader, Epoch: 1, Serving: node == leader}}
			r.status.Role = "follower"
			f.nodes[node].add(p.Shard, r)
		}
		f.leaders.Set(protocol.LeadersBroadcast{Node: leader, Leaders: []protocol.ShardLeader{{Shard: p.Shard, Epoch: 1}}})
	}
}

func (f *fleet) replica(node, shard uint64) *fakeReplica {
	f.Helper()
	r, ok := f.nodes[node].m[shard]
	if !ok {
		f.Fatalf("node %d has no replica of shard %d", node, shard)
	}
	return r
}

// ask calls a verb of node 1.
func ask[Reply any](f *fleet, p Plane, name string, req any) (Reply, error) {
	f.Helper()
	body, err := json.Marshal(req)
	must(f.T, err)
	var reply Reply
	err = callControl(f.peers[1], p, name, body, &reply)
	return reply, err
}

func admin[Reply any](f *fleet, name string, req any) (Reply, error) {
	f.Helper()
	return ask[Reply](f, PlaneAdmin, name, req)
}

func TestControlRefusesWhatItDoesNotUnderstand(t *testing.T) {
	f := newFleet(t, 1)
	for name, c := range map[string]struct {
		plane Plane
		verb  string
		body  string
		want  errcode.Code
	}{
		"no JSON":         {PlaneAdmin, protocol.VerbTopicCreate, "garbage", errcode.InvalidRequest},
		"wrong type":      {PlaneAdmin, protocol.VerbTopicCreate, `{"name":7}`, errcode.InvalidRequest},
		"an array":        {PlaneAdmin, protocol.VerbTopicList, `[]`, errcode.InvalidRequest},
		"version":         {PlaneAdmin, protocol.VerbTopicList, `{"version":2}`, errcode.UnsupportedVersion},
		"unknown verb":    {PlaneAdmin, "topic_explode", `{}`, errcode.InvalidRequest},
		"other plane":     {PlaneAdmin, protocol.VerbNodeTrim, `{}`, errcode.InvalidRequest},
		"metadata plane":  {PlaneMetadata, "", `{}`, errcode.InvalidRequest},
		"no topic":        {PlaneAdmin, protocol.VerbTopicDescribe, `{"name":"nope"}`, errcode.UnknownTopicOrPartition},
		"bad topic":       {PlaneAdmin, protocol.VerbTopicDescribe, `{"name":"a..b"}`, errcode.InvalidTopic},
		"empty body":      {PlaneAdmin, protocol.VerbTopicDescribe, ``, errcode.InvalidTopic},
		"bad config":      {PlaneAdmin, protocol.VerbTopicCreate, `{"name":"x","config":{"colour":"red"}}`, errcode.InvalidConfig},
		"nothing altered": {PlaneAdmin, protocol.VerbTopicAlter, `{"name":"x"}`, errcode.InvalidRequest},
		"no shard":        {PlaneNode, protocol.VerbNodeTransfer, `{"shard":5}`, errcode.NotLeaderOrFollower},
		"no shard trim":   {PlaneNode, protocol.VerbNodeTrim, `{"shard":5}`, errcode.NotLeaderOrFollower},
	} {
		err := callControl(f.peers[1], c.plane, c.verb, []byte(c.body), &json.RawMessage{})
		if errcode.Of(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if name == "unknown verb" && !strings.Contains(err.Error(), protocol.VerbTopicCreate) {
			t.Errorf("the known verbs are not named: %v", err)
		}
	}
}

func TestRule7ErrorsCarryCodeMessageAndRetriable(t *testing.T) {
	f := newFleet(t, 1)
	f.replica(1, f.topic("orders", 1, 1).Partitions[0].Shard).setLeader(partitions.LeaderHint{})
	answers := make(chan []byte, 1)
	f.peers[1].Control(PlaneAdmin, protocol.VerbTopicTrim, []byte(`{"name":"orders","partition":0,"offset":0}`), func(b []byte) { answers <- b })
	var e protocol.Envelope[json.RawMessage]
	must(t, json.Unmarshal(receive(t, answers), &e))
	if e.Version != 1 || e.Error == nil || e.Error.Code != errcode.LeaderNotAvailable || e.Error.Name != "LEADER_NOT_AVAILABLE" ||
		!e.Error.Retriable || e.Error.Message == "" || e.Error.RetryAfterMs == 0 {
		t.Errorf("%+v", e.Error)
	}
}

func TestTopicCreateWaitsForLeaders(t *testing.T) {
	f := newFleet(t, 3)
	type answer struct {
		topic protocol.TopicDescription
		err   error
	}
	created := make(chan answer, 1)
	go func() {
		got, err := admin[protocol.TopicDescription](f, protocol.VerbTopicCreate, protocol.TopicCreateRequest{Name: "orders", Partitions: 3, Replicas: 3})
		created <- answer{got, err}
	}()
	var topic *metadata.Topic
	eventually(t, "the topic", func() (ok bool) { topic, ok = f.store.Image().Topic("orders"); return ok })
	select {
	case got := <-created:
		t.Fatalf("answered without leaders: %+v", got)
	default:
	}
	f.start(topic)
	got := receive(t, created)
	must(t, got.err)
	if len(got.topic.Partitions) != 3 || got.topic.ID != topic.ID || got.topic.Config["segment_bytes"] != "256MiB" {
		t.Errorf("%+v", got.topic)
	}
	for _, p := range got.topic.Partitions {
		if p.Leader == nil || *p.Leader != p.PreferredLeader || p.Epoch != 1 || len(p.Replicas) != 3 {
			t.Errorf("%+v", p)
		}
	}
}

func TestTopicCreateThatFindsNoLeaderIsATimeOut(t *testing.T) {
	f := newFleet(t, 1)
	f.peers[1].options.ControlTimeout = 20 * time.Millisecond
	_, err := admin[protocol.TopicDescription](f, protocol.VerbTopicCreate, protocol.TopicCreateRequest{Name: "orders"})
	if errcode.Of(err) != errcode.RequestTimedOut || !strings.Contains(err.Error(), "is created") {
		t.Errorf("%v", err)
	}
}

func TestDryRunCreatesNothing(t *testing.T) {
	f := newFleet(t, 3)
	got, err := admin[protocol.TopicDescription](f, protocol.VerbTopicCreate,
		protocol.TopicCreateRequest{Name: "orders", Partitions: 6, Config: map[string]string{"retention_age": "1h"}, DryRun: true})
	must(t, err)
	if len(got.Partitions) != 6 || len(got.Partitions[0].Replicas) != 3 || got.Config["retention_age"] != "1h" || got.Partitions[0].Leader != nil {
		t.Errorf("%+v", got)
	}
	if len(f.store.Image().Topics()) != 0 {
		t.Error("the topic exists")
	}
}

func TestTopicLife(t *testing.T) {
	f := newFleet(t, 3)
	f.topic("b", 2, 3)
	f.topic("a", 1, 1)
	list, err := admin[protocol.TopicListReply](f, protocol.VerbTopicList, protocol.Empty{})
	must(t, err)
	if want := []protocol.TopicSummary{{Name: "a", Partitions: 1, Replicas: 1}, {Name: "b", Partitions: 2, Replicas: 3}}; !slices.Equal(list.Topics, want) {
		t.Errorf("%+v", list)
	}
	altered, err := admin[protocol.TopicDescription](f, protocol.VerbTopicAlter, protocol.TopicAlterRequest{Name: "b", Config: map[string]string{"retention_age": "2h"}})
	must(t, err)
	if altered.Config["retention_age"] != "2h" {
		t.Errorf("%+v", altered)
	}
	f.peers[1].options.ControlTimeout = 20 * time.Millisecond
	if _, err := admin[protocol.TopicDescription](f, protocol.VerbTopicPartitions, protocol.TopicPartitionsRequest{Name: "b", Partitions: 5}); errcode.Of(err) != errcode.RequestTimedOut {
		t.Errorf("%v", err)
	}
	if b, _ := f.store.Image().Topic("b"); len(b.Partitions) != 5 {
		t.Errorf("%d partitions", len(b.Partitions))
	}
	must(t, second(admin[protocol.Empty](f, protocol.VerbTopicDelete, protocol.TopicRequest{Name: "b"})))
	if _, err := admin[protocol.TopicDescription](f, protocol.VerbTopicDescribe, protocol.TopicRequest{Name: "b"}); errcode.Of(err) != errcode.UnknownTopicOrPartition {
		t.Errorf("%v", err)
	}
}

func TestTrimGoesToTheLeaders(t *testing.T) {
	f := newFleet(t, 3)
	topic := f.topic("orders", 3, 3)
	for _, p := range topic.Partitions {
		f.replica(p.Nodes()[0], p.Shard).batches = append(f.replica(p.Nodes()[0], p.Shard).batches, encodeBatch(t, "a", "b", "c"))
	}
	one, err := admin[protocol.TopicTrimReply](f, protocol.VerbTopicTrim, protocol.TopicTrimRequest{Name: "orders", Partition: 1, Offset: 2})
	must(t, err)
	if want := []protocol.TopicTrimPartition{{Partition: 1, LogStart: 2}}; !slices.Equal(one.Partitions, want) {
		t.Errorf("%+v", one)
	}
	all, err := admin[protocol.TopicTrimReply](f, protocol.VerbTopicTrim, protocol.TopicTrimRequest{Name: "orders", Partition: -1, Offset: -1})
	must(t, err)
	if want := []protocol.TopicTrimPartition{{Partition: 0, LogStart: 3}, {Partition: 1, LogStart: 3}, {Partition: 2, LogStart: 3}}; !slices.Equal(all.Partitions, want) {
		t.Errorf("%+v", all)
	}
	for _, bad := range []protocol.TopicTrimRequest{{Name: "orders", Partition: 3}, {Name: "orders", Offset: -2}, {Name: "nope"}} {
		if _, err := admin[protocol.TopicTrimReply](f, protocol.VerbTopicTrim, bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestTransferLeaderAsksTheLeader(t *testing.T) {
	f := newFleet(t, 3)
	topic := f.topic("orders", 1, 3)
	p := topic.Partitions[0]
	leader, other := p.Nodes()[0], p.Nodes()[1]
	must(t, second(admin[protocol.Empty](f, protocol.VerbTransferLeader, protocol.TransferLeaderRequest{Topic: "orders", To: other})))
	if got := f.replica(leader, p.Shard).transferred.Load(); got != other {
		t.Errorf("handed to node %d, want %d", got, other)
	}
	must(t, second(admin[protocol.Empty](f, protocol.VerbTransferLeader, protocol.TransferLeaderRequest{Topic: "orders"})))
	if _, err := admin[protocol.Empty](f, protocol.VerbTransferLeader, protocol.TransferLeaderRequest{Topic: "orders", To: 9}); errcode.Of(err) != errcode.InvalidRequest {
		t.Errorf("%v", err)
	}
}

func TestBalanceLeadersAsksTheNodeThatLeadsTheMetadata(t *testing.T) {
	f := newFleet(t, 3)
	calls := map[uint64]int{}
	for id, h := range f.peers {
		h.options.BalanceNow = func() int { calls[id]++; return int(id) }
	}
	balance := func() (protocol.BalanceReply, error) {
		return admin[protocol.BalanceReply](f, protocol.VerbBalanceLeaders, protocol.Empty{})
	}
	lead := func(leader uint64) {
		for id := range f.meta {
			f.meta[id] = protocol.ReplicaStatus{Shard: metadata.ShardID, Replica: id, Leader: leader}
		}
	}
	for _, leader := range []uint64{1, 3} { // this node, another one
		lead(leader)
		clear(calls)
		got, err := balance()
		must(t, err)
		if got.Moves != int(leader) || !maps.Equal(calls, map[uint64]int{leader: 1}) {
			t.Errorf("node %d leads: %+v, asked %v", leader, got, calls)
		}
	}
	clear(calls)
	f.meta[3] = protocol.ReplicaStatus{Shard: metadata.ShardID, Replica: 3, Leader: 2} // node 1 does not know yet
	if _, err := balance(); errcode.Of(err) != errcode.NotLeaderOrFollower || len(calls) != 0 {
		t.Errorf("the old leader of the metadata: %v, asked %v", err, calls)
	}
	lead(0)
	if _, err := balance(); errcode.Of(err) != errcode.LeaderNotAvailable || len(calls) != 0 {
		t.Errorf("no leader of the metadata: %v, asked %v", err, calls)
	}
}

func TestATransferToANodeThatDoesNotAnswerIsKnownNotToHappen(t *testing.T) {
	f := newFleet(t, 3)
	p := f.topic("orders", 1, 3).Partitions[0]
	leader, other := p.Nodes()[0], p.Nodes()[1]
	f.peers[other] = nil
	_, err := admin[protocol.Empty](f, protocol.VerbTransferLeader, protocol.TransferLeaderRequest{Topic: "orders", To: other})
	if errcode.Of(err) != errcode.LeaderNotAvailable || f.replica(leader, p.Shard).transferred.Load() != 0 {
		t.Errorf("%v, handed to %d", err, f.replica(leader, p.Shard).transferred.Load())
	}
}

func TestARepeatedChangeOfATopicIsAnsweredAsTheFirst(t *testing.T) {
	f := newFleet(t, 3)
	f.topic("orders", 1, 3)
	alter := protocol.TopicAlterRequest{Name: "orders", Config: map[string]string{"retention_age": "1h"}, RequestID: "a"}
	must(t, second(admin[protocol.TopicDescription](f, protocol.VerbTopicAlter, alter)))
	must(t, second(admin[protocol.TopicDescription](f, protocol.VerbTopicAlter, protocol.TopicAlterRequest{
		Name: "orders", Config: map[string]string{"retention_age": "2h"}, RequestID: "b",
	})))
	must(t, second(admin[protocol.TopicDescription](f, protocol.VerbTopicAlter, alter)))
	now, err := admin[protocol.TopicDescription](f, protocol.VerbTopicDescribe, protocol.TopicRequest{Name: "orders"})
	must(t, err)
	if got := now.Config["retention_age"]; got != "2h" && got != "2h0m0s" {
		t.Errorf("the repeat undid the later change: %q", got)
	}
	// More partitions are led only where replicas run, which the fleet starts by hand.
	raise := func(id string) error {
		_, err := f.store.AddPartitions(f.Context(), "orders", 3, id)
		return err
	}
	must(t, raise("c"))
	f.start(func() *metadata.Topic { topic, _ := f.store.Image().Topic("orders"); return topic }())
	repeated := protocol.TopicPartitionsRequest{Name: "orders", Partitions: 3, RequestID: "c"}
	must(t, second(admin[protocol.TopicDescription](f, protocol.VerbTopicPartitions, repeated)))
	if err := raise("d"); errcode.Of(err) != errcode.InvalidPartitions {
		t.Errorf("another request for as many partitions: %v", err)
	}
	gone := protocol.TopicRequest{Name: "orders", RequestID: "e"}
	must(t, second(admin[protocol.Empty](f, protocol.VerbTopicDelete, gone)))
	f.topic("orders", 1, 3) // somebody makes a new one
	must(t, second(admin[protocol.Empty](f, protocol.VerbTopicDelete, gone)))
	if _, ok := f.store.Image().Topic("orders"); !ok {
		t.Error("the repeated delete took the new topic")
	}
}

func TestLeadershipIsNotHandedToAReplicaThatLags(t *testing.T) {
	f := newFleet(t, 3)
	p := f.topic("orders", 1, 3).Partitions[0]
	leader, other := p.Nodes()[0], p.Nodes()[1]
	applied := func(index uint64) {
		r := f.replica(leader, p.Shard)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.status.Applied = index
	}
	transfer := func() error {
		return second(admin[protocol.Empty](f, protocol.VerbTransferLeader, protocol.TransferLeaderRequest{Topic: "orders", To: other}))
	}
	applied(transferLagMax + 1)
	if err := transfer(); errcode.Of(err) != errcode.LeaderNotAvailable || f.replica(leader, p.Shard).transferred.Load() != 0 {
		t.Errorf("a replica that lacks %d entries: %v, handed to %d", transferLagMax+1, err, f.replica(leader, p.Shard).transferred.Load())
	}
	applied(transferLagMax)
	must(t, transfer())
	if got := f.replica(leader, p.Shard).transferred.Load(); got != other {
		t.Errorf("handed to node %d, want %d", got, other)
	}
}

func TestClusterViewsWithANodeDown(t *testing.T) {
	f := newFleet(t, 3)
	topic := f.topic("orders", 3, 3)
	healthy, err := admin[protocol.ClusterHealth](f, protocol.VerbClusterHealth, protocol.Empty{})
	must(t, err)
	if !healthy.Healthy || healthy.Reasons == nil || healthy.Leaderless == nil || healthy.UnderReplicated == nil {
		t.Errorf("%+v", healthy)
	}
	f.peers[3] = nil // does not answer
	var led int
	for _, p := range topic.Partitions {
		if p.Nodes()[0] == 3 {
			led++
		}
	}
	stalls := stall.Start(t)
	start := stalls.Mark()
	sick, err := admin[protocol.ClusterHealth](f, protocol.VerbClusterHealth, protocol.Empty{})
	must(t, err)
	if sick.Healthy || len(sick.Leaderless) != led || len(sick.UnderReplicated) != 3 || len(sick.Reasons) < 2 {
		t.Errorf("%+v", sick)
	}
	if took := stalls.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	info, err := admin[protocol.ClusterInfo](f, protocol.VerbClusterInfo, protocol.Empty{})
	must(t, err)
	alive := []bool{}
	for _, n := range info.Nodes {
		alive = append(alive, n.Alive)
	}
	if !slices.Equal(alive, []bool{true, true, false}) || info.MetadataLeader == nil || *info.MetadataLeader != 1 || info.Partitions != 3 || info.Nodes[0].Replicas != 3 {
		t.Errorf("%+v", info)
	}
	rows, err := admin[protocol.PartitionListReply](f, protocol.VerbPartitions, protocol.Empty{})
	must(t, err)
	if len(rows.Partitions) != 3 || !rows.Partitions[0].UnderReplicated || rows.Partitions[0].Topic != "orders" {
		t.Errorf("%+v", rows)
	}
}

func TestHealthNamesAReplicaThatIsMadeAnew(t *testing.T) {
	f := newFleet(t, 3)
	f.topic("orders", 1, 3)
	f.replacing = map[uint64][]string{2: {"the metadata"}}
	got, err := admin[protocol.ClusterHealth](f, protocol.VerbClusterHealth, protocol.Empty{})
	must(t, err)
	if got.Healthy || len(got.Reasons) != 1 || !strings.Contains(got.Reasons[0], "node 2 gets a new replica of the metadata") {
		t.Errorf("%+v", got)
	}
}

func TestReplicaFarBehindIsUnderReplicated(t *testing.T) {
	f := newFleet(t, 3)
	p := f.topic("orders", 1, 3).Partitions[0]
	f.replica(p.Nodes()[0], p.Shard).status.Commit = 5000
	f.replica(p.Nodes()[1], p.Shard).status.Commit = 4990
	f.replica(p.Nodes()[2], p.Shard).status.Commit = 10
	got, err := admin[protocol.ClusterHealth](f, protocol.VerbClusterHealth, protocol.Empty{})
	must(t, err)
	if !slices.Equal(got.UnderReplicated, []string{"orders/0"}) || len(got.Leaderless) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestRaftShowHasNullsForAnUnreachableNode(t *testing.T) {
	f := newFleet(t, 3)
	f.topic("orders", 1, 3)
	f.peers[3] = nil
	for _, name := range []string{"orders", ""} {
		got, err := admin[protocol.RaftShowReply](f, protocol.VerbRaftShow, protocol.RaftShowRequest{Topic: name})
		must(t, err)
		if len(got.Replicas) != 3 {
			t.Fatalf("%+v", got)
		}
		for _, r := range got.Replicas {
			known := r.Role != nil && r.Term != nil && r.Last != nil && r.Commit != nil && r.Applied != nil && r.Leader != nil
			empty := reflect.DeepEqual(r, protocol.RaftReplica{Node: r.Node})
			if r.Node == 3 && !empty || r.Node != 3 && !known {
				t.Errorf("%q, node %d: %+v", name, r.Node, r)
			}
		}
	}
	if _, err := admin[protocol.RaftShowReply](f, protocol.VerbRaftShow, protocol.RaftShowRequest{Topic: "orders", Partition: 7}); errcode.Of(err) != errcode.UnknownTopicOrPartition {
		t.Errorf("%v", err)
	}
}

func TestMetadataIsAHint(t *testing.T) {
	f := newFleet(t, 3)
	topic := f.topic("orders", 3, 3)
	f.topic("other", 1, 1)
	got, err := ask[protocol.MetadataReply](f, PlaneMetadata, protocol.VerbMetadata, protocol.MetadataRequest{Topics: []string{"orders", "nope", "a..b"}})
	must(t, err)
	if len(got.Topics) != 1 || got.Topics[0].ID != topic.ID || len(got.Nodes) != 3 || got.ClusterID != "c" || got.Index == 0 {
		t.Fatalf("%+v", got)
	}
	for _, p := range got.Topics[0].Partitions {
		if p.Leader == 0 || p.Epoch != 1 || len(p.Replicas) != 3 {
			t.Errorf("%+v", p)
		}
	}
	all, err := ask[protocol.MetadataReply](f, PlaneMetadata, protocol.VerbMetadata, protocol.MetadataRequest{})
	must(t, err)
	if len(all.Topics) != 2 {
		t.Errorf("%+v", all.Topics)
	}
}

func TestProducerIDsAreNeverGivenTwice(t *testing.T) {
	f := newFleet(t, 1)
	seen := map[int64]bool{}
	for range 50 {
		got, err := ask[protocol.ProducerIDReply](f, PlaneMetadata, protocol.VerbProducerID, protocol.Empty{})
		must(t, err)
		if seen[got.ProducerID] || got.Window != 64 || got.ExpiryMs != 24*3600*1000 {
			t.Fatalf("%+v", got)
		}
		seen[got.ProducerID] = true
	}
}

func TestControlThrottlesBeyondTheQueue(t *testing.T) {
	f := newFleet(t, 2)
	f.peers[2] = nil
	h := f.peers[1]
	h.options.PeerTimeout = time.Hour
	const asked = adminWorkers + controlWaitingMax + 5
	codes := make(chan errcode.Code, asked)
	for range asked {
		h.Control(PlaneAdmin, protocol.VerbClusterInfo, nil, func(b []byte) {
			var e protocol.Envelope[json.RawMessage]
			if err := json.Unmarshal(b, &e); err != nil {
				panic(err)
			}
			codes <- errcode.Of(e.Error.Err())
		})
	}
	for range 5 {
		if got := receive(t, codes); got != errcode.Throttled {
			t.Fatalf("%v", got)
		}
	}
	// Another plane is not held up.
	must(t, second(ask[protocol.MetadataReply](f, PlaneMetadata, protocol.VerbMetadata, protocol.MetadataRequest{})))
	h.cancel()
	for range asked - 5 {
		receive(t, codes)
	}
	if err := h.Drain(context.Background()); err != nil {
		t.Error(err)
	}
}
