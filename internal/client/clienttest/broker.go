// Package clienttest is a broker for the tests of the client packages: real
// NATS servers, and behind them partitions kept in memory, with the real
// producer table and with faults that a test injects.
//
// It is not a broker: nothing is replicated and nothing is kept. All nodes
// share one memory, and a partition's leader is whoever the test says. Start at
// Start; produce.go and fetch.go answer the data plane, group.go consumer
// groups, control.go the rest.
package clienttest

import (
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
	"logbroker/partitions/producerstate"
)

const clusterName = "fake"

// Broker is a cluster of nodes that share one memory.
type Broker struct {
	t testing.TB
	// Window and Expiry are what producers are told. Set them before use.
	Window int
	Expiry time.Duration

	// mu guards all below, and the partitions.
	mu          sync.Mutex
	nodes       []*node
	topics      map[string]*topic
	nextID      int64
	topicID     uint64
	index       uint64
	hooks       hooks
	control     map[string]func(body []byte) (any, error)
	counts      map[string]int
	ended       bool
	waiting     sync.WaitGroup // of spawn
	closed      chan struct{}
	coordinator coordinator
	// discard: batches are numbered and acked, and not kept.
	discard bool
}

type node struct {
	id   uint64
	opts server.Options
	srv  *server.Server
	nc   *nats.Conn
	subs map[string][]*nats.Subscription // by topic/partition
	hide bool                            // metadata gives no URL
}

type topic struct {
	meta  protocol.TopicMetadata
	parts []*partition
}

// partition is one log. leader and epoch change by MoveLeader.
type partition struct {
	topic    *topic
	index    int32
	leader   uint64
	epoch    int32
	batches  [][]byte
	end      int64
	logStart int64
	table    *producerstate.Table
	grown    chan struct{} // closed and replaced at every append
}

// Start runs n nodes until the test ends.
func Start(t testing.TB, n int) *Broker {
	t.Helper()
	b := &Broker{
		t: t, Window: 64, Expiry: 24 * time.Hour, nextID: 1000,
		topics: make(map[string]*topic), control: make(map[string]func([]byte) (any, error)),
		counts: make(map[string]int), closed: make(chan struct{}),
		coordinator: coordinator{node: 1, news: make(chan struct{}), groups: make(map[string]*group), subs: make(map[uint64]*nats.Subscription), intervalMs: 10, sessionMs: 45_000},
	}
	for i := range n {
		b.startNode(uint64(i + 1))
	}
	b.await("routes between the nodes", func() bool {
		for _, nd := range b.nodes {
			if n > 1 && nd.srv.NumRoutes() < n-1 {
				return false
			}
		}
		return true
	})
	t.Cleanup(b.stop)
	return b
}

func (b *Broker) stop() {
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	close(b.closed)
	for _, n := range b.nodes {
		n.nc.Close()
		n.srv.Shutdown()
	}
	b.waiting.Wait()
}

// publish sends as node n; a stopped node says nothing.
func (b *Broker) publish(n *node, to string, data []byte) {
	b.mu.Lock()
	nc := n.nc
	b.mu.Unlock()
	_ = nc.Publish(to, data)
}

// spawn runs f on a goroutine that stop waits for; f ends with b.closed.
func (b *Broker) spawn(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.waiting.Go(f)
	}
}

func (b *Broker) startNode(id uint64) {
	b.t.Helper()
	opts := server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, MaxPayload: 1<<20 + 64<<10,
		ServerName: protocol.ServerName(clusterName, id),
		Cluster:    server.ClusterOpts{Name: clusterName, Host: "127.0.0.1", Port: server.RANDOM_PORT, PoolSize: -1},
	}
	if len(b.nodes) > 0 {
		opts.Routes = []*url.URL{{Scheme: "nats", Host: b.nodes[0].srv.ClusterAddr().String()}}
	}
	n := &node{id: id, opts: opts, subs: make(map[string][]*nats.Subscription)}
	b.run(n)
	n.opts.Port = mustPort(b.t, n.srv.ClientURL())
	b.nodes = append(b.nodes, n)
}

// run starts the node's server and its own connection.
func (b *Broker) run(n *node) {
	b.t.Helper()
	opts := n.opts
	srv, err := server.NewServer(&opts)
	if err != nil {
		b.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(5 * time.Second) {
		b.t.Fatal("the fake broker's server does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.ReconnectBufSize(-1))
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	n.srv, n.nc = srv, nc
	b.mu.Unlock()
	b.subscribeControl(n)
	b.mu.Lock()
	if n.id == b.coordinator.node {
		b.subscribeGroups(n)
	}
	b.mu.Unlock()
	if err := nc.Flush(); err != nil {
		b.t.Fatal(err)
	}
}

func mustPort(t testing.TB, raw string) int {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscan(u.Port(), &port); err != nil {
		t.Fatal(err)
	}
	return port
}

// URLs returns every node's client URL.
func (b *Broker) URLs() []string {
	var out []string
	for _, n := range b.nodes {
		out = append(out, n.url())
	}
	return out
}

func (n *node) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", n.opts.Port) }

// HideURLs makes metadata give no URLs, so that clients stay on their seed.
func (b *Broker) HideURLs() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.nodes {
		n.hide = true
	}
}

// StopNode ends a node's server; RestartNode starts it on the same port.
func (b *Broker) StopNode(id uint64) {
	n := b.nodes[id-1]
	n.nc.Close()
	n.srv.Shutdown()
	n.srv.WaitForShutdown()
	b.mu.Lock()
	n.subs = make(map[string][]*nats.Subscription)
	delete(b.coordinator.subs, id)
	b.mu.Unlock()
}

// RestartNode starts a stopped node's server again, on the same port.
func (b *Broker) RestartNode(id uint64) {
	b.t.Helper()
	n := b.nodes[id-1]
	b.run(n)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.topics {
		for _, p := range t.parts {
			if p.leader == id {
				b.subscribe(p, n)
			}
		}
	}
}

// CreateTopic makes a topic, led by the nodes in turn. An existing one is
// replaced by an empty one with another id.
func (b *Broker) CreateTopic(name string, partitions int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropTopic(name)
	b.topicID++
	t := &topic{meta: protocol.TopicMetadata{Name: name, ID: 100 + b.topicID, MaxBatchBytes: 1 << 20}}
	b.topics[name] = t
	b.addPartitions(t, partitions)
}

// Discard makes the partitions ack batches without keeping them, for benchmarks.
func (b *Broker) Discard() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.discard = true
}

// AddPartitions raises a topic's partition count.
func (b *Broker) AddPartitions(name string, partitions int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addPartitions(b.topics[name], partitions)
}

func (b *Broker) addPartitions(t *topic, partitions int) {
	for i := len(t.parts); i < partitions; i++ {
		p := &partition{
			topic: t, index: int32(i), leader: b.nodes[i%len(b.nodes)].id, epoch: 1,
			table: producerstate.New(producerstate.Limits{Window: b.Window}), grown: make(chan struct{}),
		}
		t.parts = append(t.parts, p)
		b.subscribe(p, b.nodes[p.leader-1])
	}
	b.index++
	b.news()
}

// DeleteTopic removes a topic.
func (b *Broker) DeleteTopic(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropTopic(name)
}

func (b *Broker) dropTopic(name string) {
	t := b.topics[name]
	if t == nil {
		return
	}
	for _, p := range t.parts {
		for _, n := range b.nodes {
			b.unsubscribe(p, n)
		}
	}
	delete(b.topics, name)
	b.index++
}

// SetMaxBatchBytes sets a topic's limit.
func (b *Broker) SetMaxBatchBytes(name string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.topics[name].meta.MaxBatchBytes = n
}

// MoveLeader makes node to the leader in the next epoch. The old leader stays
// subscribed and refuses, until Unlinger.
func (b *Broker) MoveLeader(name string, partition int32, to uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.topics[name].parts[partition]
	p.leader = to
	p.epoch++
	b.subscribe(p, b.nodes[to-1])
	b.index++
}

// Unlinger unsubscribes every node but the leader, or all with leader false:
// then nobody answers.
func (b *Broker) Unlinger(name string, partition int32, leader bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.topics[name].parts[partition]
	for _, n := range b.nodes {
		if n.id != p.leader || !leader {
			b.unsubscribe(p, n)
		}
	}
}

// Relead subscribes the leader again after Unlinger(…, false).
func (b *Broker) Relead(name string, partition int32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.topics[name].parts[partition]
	b.subscribe(p, b.nodes[p.leader-1])
}

func (p *partition) key() string { return fmt.Sprintf("%s/%d", p.topic.meta.Name, p.index) }

// subscribe makes n answer for p. b.mu is held.
func (b *Broker) subscribe(p *partition, n *node) {
	if len(n.subs[p.key()]) > 0 || !n.nc.IsConnected() {
		return
	}
	name := p.topic.meta.Name
	for subject, answer := range map[string]func(*partition, *node, *nats.Msg){
		protocol.ProduceSubject(name, p.index): b.produce,
		protocol.FetchSubject(name, p.index):   b.fetch,
		protocol.OffsetsSubject(name, p.index): b.offsets,
	} {
		sub, err := n.nc.Subscribe(subject, func(m *nats.Msg) { answer(p, n, m) })
		if err != nil {
			b.t.Error(err)
			return
		}
		n.subs[p.key()] = append(n.subs[p.key()], sub)
	}
	if err := n.nc.Flush(); err != nil {
		b.t.Error(err)
	}
}

func (b *Broker) unsubscribe(p *partition, n *node) {
	for _, s := range n.subs[p.key()] {
		_ = s.Unsubscribe() // a closed connection has none
	}
	delete(n.subs, p.key())
}

// Count returns how often something happened: "produce", "fetch", "offsets",
// "lb.m.metadata" and so on.
func (b *Broker) Count(what string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts[what]
}

// Values returns the values stored in a partition, in offset order, and fails
// the test if offsets are not dense.
func (b *Broker) Values(name string, partition int32) []string {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	next := b.topics[name].parts[partition].logStart
	for _, raw := range b.topics[name].parts[partition].batches {
		it, err := recordbatch.Batch(raw).Iterate(recordbatch.IterateOptions{})
		if err != nil {
			b.t.Fatal(err)
		}
		for it.Next() {
			if it.Record().Offset != next {
				b.t.Fatalf("offset %d where %d is due", it.Record().Offset, next)
			}
			next++
			out = append(out, string(it.Record().Value))
		}
	}
	return out
}

// Batches returns how many batches a partition holds.
func (b *Broker) Batches(name string, partition int32) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.topics[name].parts[partition].batches)
}

// Append stores records of these values in one batch, as a producer without
// number would, and returns the end offset.
func (b *Broker) Append(name string, partition int32, codec recordbatch.Codec, values ...string) int64 {
	b.t.Helper()
	builder := recordbatch.NewBuilder()
	for i, v := range values {
		builder.Append(1000+int64(i), []byte("k"), []byte(v), nil)
	}
	raw, err := builder.Build(nil, codec)
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.topics[name].parts[partition]
	p.store(raw)
	return p.end
}

// store appends a batch that is the partition's from now on. Broker.mu is held.
func (p *partition) store(raw []byte) {
	batch := recordbatch.Batch(raw)
	batch.SetBaseOffset(p.end)
	batch.SetPartitionLeaderEpoch(p.epoch)
	p.batches = append(p.batches, raw)
	p.end = batch.NextOffset()
	close(p.grown)
	p.grown = make(chan struct{})
}

// Trim moves the log start to the first batch that begins at or after offset.
func (b *Broker) Trim(name string, partition int32, offset int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.topics[name].parts[partition]
	for len(p.batches) > 0 && recordbatch.Batch(p.batches[0]).BaseOffset() < offset {
		p.logStart = recordbatch.Batch(p.batches[0]).NextOffset()
		p.batches = p.batches[1:]
	}
}

// ForgetProducers drops a partition's producer table.
func (b *Broker) ForgetProducers(name string, partition int32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.topics[name].parts[partition].table = producerstate.New(producerstate.Limits{Window: b.Window})
}

// await polls cond until it holds, for at most 10 s.
func (b *Broker) await(what string, cond func() bool) {
	b.t.Helper()
	Await(b.t, what, cond)
}

// Await polls cond until it holds and fails the test after 10 s.
func Await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute) // where a test hangs
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}
