package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/broker/metadata"
	"logbroker/partitions"
)

// fakeHost notes what replicas does to it.
type fakeHost struct {
	replicaHost
	left      []partitions.ReplicaKey
	discarded []partitions.ReplicaKey
	failures  int // Discards that fail first
}

func (h *fakeHost) Leftovers() ([]partitions.ReplicaKey, error) { return slices.Clone(h.left), nil }

func (h *fakeHost) Discard(k partitions.ReplicaKey) error {
	if h.failures > 0 {
		h.failures--
		return errors.New("disk is busy")
	}
	h.discarded = append(h.discarded, k)
	h.left = slices.DeleteFunc(h.left, func(x partitions.ReplicaKey) bool { return x == k })
	return nil
}

func (h *fakeHost) RaftLogs() ([]partitions.ReplicaKey, error) { return nil, nil }

type fakeStore struct{ replicaStore }

func TestReplicasOfTopicsDeletedWhileDownAreRemoved(t *testing.T) {
	image := &metadata.Image{Index: 9, NextShard: 1005}
	deleted, unheardOf := partitions.ReplicaKey{Shard: 1004, Replica: 2}, partitions.ReplicaKey{Shard: 1005, Replica: 1}
	host := &fakeHost{left: []partitions.ReplicaKey{deleted, unheardOf}, failures: 1}
	r := newReplicas(host, fakeStore{}, 1, slog.New(slog.DiscardHandler))
	if r.follow(context.Background(), image) {
		t.Error("a failed removal is not tried again")
	}
	if !r.follow(context.Background(), image) || !slices.Equal(host.discarded, []partitions.ReplicaKey{deleted}) {
		t.Errorf("discarded %v; want %v and not %v, which the metadata never gave out", host.discarded, deleted, unheardOf)
	}
	host.left = append(host.left, deleted)
	if !r.follow(context.Background(), image) || len(host.discarded) != 1 {
		t.Error("looked for leftovers again after the start")
	}
}

// order notes what is done for a new replica, and the image that results.
type order struct {
	replicaHost
	replicaStore
	steps   []string
	machine statemachine.IStateMachine
	index   uint64
	image   *metadata.Image
	logs    []partitions.ReplicaKey
}

func (o *order) apply(t *testing.T, kind, body string) {
	t.Helper()
	o.index++
	cmd := fmt.Sprintf(`{"version":1,"kind":%q,"body":%s}`, kind, body)
	r, err := o.machine.Update(statemachine.Entry{Index: o.index, Cmd: []byte(cmd)})
	if err != nil || !strings.Contains(string(r.Data), `"code":0`) {
		t.Fatalf("%s: %s, %v", cmd, r.Data, err)
	}
}

func (o *order) RaftLogs() ([]partitions.ReplicaKey, error) { return o.logs, nil }

func (o *order) DiscardRaftLog(k partitions.ReplicaKey) error {
	o.steps = append(o.steps, fmt.Sprint("discard log ", k.Shard, "-", k.Replica))
	return nil
}

func (o *order) Update(s partitions.Spec) {
	o.steps = append(o.steps, fmt.Sprint("update ", s.Shard, "-", s.Replica, " joining ", s.Joining))
}

func (o *order) Leftovers() ([]partitions.ReplicaKey, error) { return nil, nil }

func (o *order) Prepare(s partitions.Spec) error {
	o.steps = append(o.steps, fmt.Sprint("prepare ", s.Shard, " of ", len(s.Members)))
	return nil
}

func (o *order) MarkStarted(_ context.Context, _ uint64, keys []metadata.ReplicaKey) error {
	o.steps = append(o.steps, fmt.Sprint("mark ", len(keys)))
	return nil
}

func (o *order) Start(s partitions.Spec) error {
	o.steps = append(o.steps, fmt.Sprint("start ", s.Shard, " known ", s.Restart))
	return nil
}

// A crash may fall between any two steps. A replica that is marked has been
// prepared, so that only one that has lost its log is unknown to the Raft log.
func TestNewReplicaIsPreparedThenMarkedThenStarted(t *testing.T) {
	o := newOrder(t, 1)
	newProcess := func() *replicas { return newReplicas(o, o, 1, slog.New(slog.DiscardHandler)) }
	newProcess().follow(context.Background(), o.image)
	newProcess().follow(context.Background(), o.image) // it died before the mark was applied
	o.apply(t, "mark_started", `{"node":1,"replicas":[{"shard":1001,"replica":1}]}`)
	newProcess().follow(context.Background(), o.image) // and before it started the replica
	want := []string{"prepare 1001 of 1", "mark 1", "prepare 1001 of 1", "mark 1", "start 1001 known true"}
	if !slices.Equal(o.steps, want) {
		t.Errorf("steps %q, want %q", o.steps, want)
	}
}

// newOrder has a topic of one partition on so many nodes.
func newOrder(t *testing.T, nodes int) *order {
	t.Helper()
	o := &order{}
	o.machine = metadata.NewStateMachine(func(i *metadata.Image) { o.image = i })
	o.apply(t, "found", `{"cluster_id":"c","cluster_name":"n","defaults":{"partitions":1}}`)
	for id := range nodes {
		o.apply(t, "register", fmt.Sprintf(`{"id":%d,"incarnation":"i%d"}`, id+1, id+1))
	}
	config, err := metadata.ParseTopicConfig(metadata.TopicConfig{
		RetentionBytes: -1, SegmentBytes: 1 << 20, SegmentAge: time.Hour, MaxBatchBytes: 1 << 20, Cleanup: "delete",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	o.apply(t, "create_topic", fmt.Sprintf(`{"name":"orders","partitions":1,"config":%s}`, raw))
	return o
}

// A replica under a new id comes as a new one does, also where the process dies in
// between; the old one's Raft log goes when it has left the shard.
func TestAReplicaThatTakesTheOtherOnesPlaceIsPreparedMarkedAndStarted(t *testing.T) {
	o := newOrder(t, 3)
	_, p, _ := o.image.PartitionByShard(1001)
	mine, _ := p.ReplicaOn(1)
	was := mine.Replica
	o.apply(t, "mark_started", fmt.Sprintf(`{"node":1,"replicas":[{"shard":1001,"replica":%d}]}`, was))
	o.logs = []partitions.ReplicaKey{{Shard: 1, Replica: 1}, {Shard: 1001, Replica: was}, {Shard: 1001, Replica: 4}}
	replaced := 0
	newProcess := func() *replicas {
		r := newReplicas(o, o, 1, slog.New(slog.DiscardHandler))
		r.replaced = func() { replaced++ }
		return r
	}
	r := newProcess()
	step := func(what string, r *replicas, want ...string) {
		t.Helper()
		o.steps = nil
		if !r.follow(context.Background(), o.image) || !slices.Equal(o.steps, want) {
			t.Errorf("%s: steps %q, want %q", what, o.steps, want)
		}
	}
	step("as ever", r, "start 1001 known true")
	o.apply(t, "replace_replica", fmt.Sprintf(`{"shard":1001,"replica":%d,"node":1}`, was))
	step("a new id is given", r, "prepare 1001 of 3", "mark 1")
	r = newProcess()
	step("it died before the mark", r, "prepare 1001 of 3", "mark 1")
	o.apply(t, "mark_started", `{"node":1,"replicas":[{"shard":1001,"replica":4}]}`)
	step("marked", r, "start 1001 known true")
	r = newProcess()
	step("it died while fetching", r, "start 1001 known true")
	o.apply(t, "replica_left", fmt.Sprintf(`{"shard":1001,"replica":%d}`, was))
	step("the old one has left", r, fmt.Sprint("discard log 1001-", was), "update 1001-4 joining 4")
	if replaced != 0 {
		t.Error("counted before it votes")
	}
	o.apply(t, "replica_promoted", `{"shard":1001,"replica":4}`)
	step("it votes", r, "update 1001-4 joining 0")
	step("nothing is left to do", r)
	if replaced != 1 {
		t.Errorf("counted %d times", replaced)
	}
}
