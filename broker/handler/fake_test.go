package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/raftnode"
	"logbroker/internal/recordbatch"
	"logbroker/partitions"
)

// instantRaft is a metadata shard that commits everything at once: the state
// machine without Raft.
type instantRaft struct {
	mu      sync.Mutex // guards what follows
	machine statemachine.IStateMachine
	index   uint64
	down    bool
}

func (r *instantRaft) ProposeWait(_ context.Context, _ uint64, cmd []byte) (raftnode.Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return raftnode.Result{}, errcode.New(errcode.LeaderNotAvailable, "down")
	}
	r.index++
	result, err := r.machine.Update(statemachine.Entry{Index: r.index, Cmd: cmd})
	return raftnode.Result{Value: result.Value, Data: result.Data}, err
}

func (r *instantRaft) ReadIndex(context.Context, uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return errcode.New(errcode.LeaderNotAvailable, "down")
	}
	return nil
}

func (r *instantRaft) Leader(uint64) (uint64, uint64, bool) { return 1, 1, true }

// newStore returns the metadata of a founded cluster of nodes 1 to n.
func newStore(t *testing.T, nodes int) (*metadata.Store, *instantRaft) {
	t.Helper()
	store := metadata.NewStore(metadata.Options{RetryDelay: time.Millisecond})
	raft := &instantRaft{machine: store.StateMachine(metadata.ShardID, 1)}
	store.Attach(raft)
	config, err := metadata.ParseTopicConfig(metadata.TopicConfig{}, map[string]string{
		"retention_age": "168h", "retention_bytes": "-1",
		"max_batch_bytes": "1MiB", "segment_bytes": "256MiB", "segment_age": "168h", "cleanup": "delete",
	})
	must(t, err)
	must(t, store.Found(t.Context(), metadata.Founding{
		ClusterID: "c", ClusterName: "test",
		Defaults: metadata.Defaults{Partitions: 1, Config: config},
	}))
	for id := range nodes {
		id := uint64(id + 1)
		must(t, store.RegisterNode(t.Context(), metadata.Node{
			ID: id, Incarnation: string(rune('a' + id)),
			RaftAddr: "127.0.0.1:1", ClientURLs: []string{"nats://127.0.0.1:4222"},
		}))
	}
	return store, raft
}

// fakeReplica keeps batches in memory. Fields may be set before it is used,
// the rest through its methods.
type fakeReplica struct {
	append      func(partitions.AppendRequest, func(partitions.AppendResult)) error
	latest      func(context.Context) (int64, error)
	transferred atomic.Uint64
	// reading, when not nil, is closed by the first Read, which then waits for resume.
	reading, resume chan struct{}

	mu       sync.Mutex // guards what follows
	batches  []recordbatch.Batch
	start    int64
	hint     partitions.LeaderHint
	status   partitions.Status
	waiters  map[int]func()
	nextWait int
}

func (r *fakeReplica) Append(a partitions.AppendRequest, done func(partitions.AppendResult)) error {
	if r.append != nil {
		return r.append(a, done)
	}
	batch := recordbatch.Batch(bytes.Clone(a.Buf[a.BatchAt:]))
	r.mu.Lock()
	base := r.end()
	batch.SetBaseOffset(base)
	r.batches = append(r.batches, batch)
	epoch := r.hint.Epoch
	r.mu.Unlock()
	r.wakeAll()
	done(partitions.AppendResult{BaseOffset: base, AppendTimeMs: 7, Epoch: epoch})
	return nil
}

// end is the high watermark. r.mu is held.
func (r *fakeReplica) end() int64 {
	if len(r.batches) == 0 {
		return r.start
	}
	return r.batches[len(r.batches)-1].NextOffset()
}

func (r *fakeReplica) wakeAll() {
	r.mu.Lock()
	waiters := r.waiters
	r.waiters = nil
	r.mu.Unlock()
	for _, wake := range waiters {
		wake()
	}
}

func (r *fakeReplica) Read(dst []byte, offset int64, maxBytes int) (partitions.ReadResult, error) {
	if r.reading != nil {
		close(r.reading)
		<-r.resume
		r.reading = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	result := partitions.ReadResult{Data: dst, HighWatermark: r.end(), LogStart: r.start}
	switch {
	case offset < r.start, offset > r.end() && r.hint.Serving:
		return result, errcode.New(errcode.OffsetOutOfRange, "offset %d", offset)
	case offset > r.end():
		return result, errcode.New(errcode.OffsetNotAvailable, "offset %d", offset)
	}
	room := maxBytes
	for _, b := range r.batches {
		if b.NextOffset() <= offset {
			continue
		}
		if room < len(b) && len(result.Data) > len(dst) {
			break
		}
		room -= len(b)
		result.Data = append(result.Data, b...)
	}
	return result, nil
}

func (r *fakeReplica) WaitFor(offset int64, wake func()) func() {
	r.mu.Lock()
	if r.end() > offset {
		r.mu.Unlock()
		wake()
		return func() {}
	}
	defer r.mu.Unlock()
	if r.waiters == nil {
		r.waiters = map[int]func(){}
	}
	id := r.nextWait
	r.nextWait++
	r.waiters[id] = wake
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.waiters, id)
	}
}

func (r *fakeReplica) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiters)
}

func (r *fakeReplica) Earliest() int64 { return r.start }

func (r *fakeReplica) HighWatermark() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.end()
}

func (r *fakeReplica) Latest(ctx context.Context) (int64, error) {
	if r.latest != nil {
		return r.latest(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.end(), nil
}

func (r *fakeReplica) OffsetForTimestamp(_ context.Context, tsMs int64) (int64, int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.batches {
		if b.MaxTimestamp() >= tsMs {
			return b.BaseOffset(), b.MaxTimestamp(), nil
		}
	}
	return -1, -1, nil
}

func (r *fakeReplica) Leader() partitions.LeaderHint {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hint
}

func (r *fakeReplica) setLeader(h partitions.LeaderHint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hint = h
}

func (r *fakeReplica) Status() partitions.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Serving, s.Epoch, s.LeaderNode, s.LogStart, s.HighWatermark = r.hint.Serving, r.hint.Epoch, r.hint.Node, r.start, r.end()
	return s
}

func (r *fakeReplica) Trim(_ context.Context, offset int64) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.start = max(r.start, offset)
	return r.start, nil
}

func (r *fakeReplica) TransferLeader(_ context.Context, to uint64) error {
	r.transferred.Store(to)
	return nil
}

// fakeReplicas is the replicas of one node, by shard.
type fakeReplicas struct {
	mu sync.Mutex // guards m
	m  map[uint64]*fakeReplica
}

func (f *fakeReplicas) Get(shard uint64) (Replica, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.m[shard]
	if !ok {
		return nil, false
	}
	return r, true
}

func (f *fakeReplicas) All() []Replica {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Replica
	for _, r := range f.m {
		out = append(out, r)
	}
	return out
}

func (f *fakeReplicas) add(shard uint64, r *fakeReplica) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m == nil {
		f.m = map[uint64]*fakeReplica{}
	}
	r.status.Shard, r.status.State = shard, partitions.StateRunning
	f.m[shard] = r
}

// fakePeers routes calls between handlers. A nil handler does not answer.
type fakePeers map[uint64]*Handler

func (p fakePeers) Call(ctx context.Context, node uint64, name string, req, reply any) error {
	h, ok := p[node]
	switch {
	case !ok:
		return errcode.New(errcode.LeaderNotAvailable, "node %d is not connected", node)
	case h == nil:
		<-ctx.Done()
		return errcode.New(errcode.RequestTimedOut, "node %d did not answer", node)
	}
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	return callControl(h, PlaneNode, name, body, reply)
}

// callControl calls a verb and decodes the envelope.
func callControl(h *Handler, p Plane, name string, body []byte, reply any) error {
	answers := make(chan []byte, 2)
	h.Control(p, name, body, func(b []byte) { answers <- b })
	var e protocol.Envelope[json.RawMessage]
	if err := json.Unmarshal(<-answers, &e); err != nil {
		return err
	}
	if e.Version != protocol.ControlVersion {
		return io.ErrUnexpectedEOF
	}
	if e.Error != nil {
		return e.Error.Err()
	}
	return json.Unmarshal(e.Body, reply)
}

// bench is one node with fakes around its handler.
type bench struct {
	t        *testing.T
	h        *Handler
	store    *metadata.Store
	raft     *instantRaft
	leaders  *metadata.Leaders
	replicas *fakeReplicas
	metrics  *countingMetrics
}

type countingMetrics struct {
	noMetrics
	produced, fetched atomic.Int64
}

func (m *countingMetrics) Produced(_ string, records, _ int, _ bool) { m.produced.Add(int64(records)) }

func (m *countingMetrics) Fetched(records, _ int) { m.fetched.Add(int64(records)) }

// newBench returns node 1 of a one-node cluster.
func newBench(t *testing.T, change ...func(*Options)) *bench {
	t.Helper()
	store, raft := newStore(t, 1)
	b := &bench{t: t, store: store, raft: raft, leaders: metadata.NewLeaders(), replicas: &fakeReplicas{}, metrics: &countingMetrics{}}
	o := Options{NodeID: 1, Version: "test", Replicas: b.replicas, Metadata: store, Leaders: b.leaders, Metrics: b.metrics, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&o)
	}
	b.h = New(o)
	t.Cleanup(b.h.Close)
	return b
}

// topic creates a topic of one partition that this node leads in epoch 3.
func (b *bench) topic(name string) (*metadata.Topic, *fakeReplica) {
	b.t.Helper()
	topic, err := b.store.CreateTopic(b.t.Context(), metadata.TopicSpec{Name: name})
	must(b.t, err)
	r := &fakeReplica{hint: partitions.LeaderHint{Node: 1, Epoch: 3, Serving: true}}
	shard := topic.Partitions[0].Shard
	b.replicas.add(shard, r)
	b.leaders.Set(protocol.LeadersBroadcast{Node: 1, Leaders: []protocol.ShardLeader{{Shard: shard, Epoch: 3}}})
	return topic, r
}

// encodeBatch returns a batch of the values.
func encodeBatch(t *testing.T, values ...string) []byte {
	t.Helper()
	var b recordbatch.Builder
	for i, v := range values {
		b.Append(int64(1000+i), nil, []byte(v), nil)
	}
	out, err := b.Build(nil, recordbatch.None)
	must(t, err)
	return out
}

func produceRequest(topic *metadata.Topic, batch []byte) PartitionRequest {
	r := protocol.ProduceRequest{TopicID: topic.ID, Epoch: protocol.EpochUnknown}
	return PartitionRequest{Topic: topic.Name, Payload: append(r.AppendHeader(nil), batch...)}
}

// produce waits for the answer.
func (b *bench) produce(r PartitionRequest) protocol.ProduceReply {
	b.t.Helper()
	out := make(chan protocol.ProduceReply, 2)
	b.h.Produce(r, func(r *protocol.ProduceReply) { out <- *r })
	return receive(b.t, out)
}

func fetchRequest(topic *metadata.Topic, offset int64, maxBytes, waitMs uint32) PartitionRequest {
	r := protocol.FetchRequest{TopicID: topic.ID, Epoch: protocol.EpochUnknown, Offset: offset, MaxBytes: maxBytes, MaxWaitMs: waitMs}
	return PartitionRequest{Topic: topic.Name, Payload: r.Append(nil)}
}

// startFetch returns where the replies will come.
func (b *bench) startFetch(r PartitionRequest) <-chan protocol.FetchReply {
	out := make(chan protocol.FetchReply, 1000)
	b.h.Fetch(r, func(msg []byte) {
		reply, err := protocol.DecodeFetchReply(bytes.Clone(msg))
		if err != nil {
			panic(err)
		}
		out <- reply
	})
	return out
}

// fetch waits for all replies.
func (b *bench) fetch(r PartitionRequest) []protocol.FetchReply {
	b.t.Helper()
	replies := b.startFetch(r)
	var all []protocol.FetchReply
	for {
		reply := receive(b.t, replies)
		if all = append(all, reply); reply.Last {
			return all
		}
	}
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(time.Minute):
		t.Fatal("no answer")
		panic("unreachable")
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not seen in time: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
