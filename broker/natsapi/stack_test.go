package natsapi

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/vfs"
	"github.com/nats-io/nats.go"

	"logbroker/broker/handler"
	"logbroker/broker/metadata"
	"logbroker/internal/protocol"
	"logbroker/internal/raftnode"
	"logbroker/partitions"
)

// stack is a small cluster in this process: real NATS, real Raft, real
// partitions, on file systems in memory.
type stack struct {
	t     *testing.T
	nodes []*stackNode
	stop  context.CancelFunc
	loops sync.WaitGroup

	mu    sync.Mutex // guards addrs
	addrs map[string]string
}

type stackNode struct {
	id          uint64
	incarnation string
	endpoint    *raftnode.Endpoint
	raft        *raftnode.Node
	store       *metadata.Store
	leaders     *metadata.Leaders
	host        atomic.Pointer[partitions.Host]
	handler     *handler.Handler
	server      *Server
}

// newStack starts n nodes that know each other and are founded.
func newStack(t *testing.T, n int) *stack {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	k := &stack{t: t, stop: cancel, addrs: map[string]string{}}
	t.Cleanup(k.close)
	members := map[uint64]string{}
	for i := range n {
		node := &stackNode{id: uint64(i + 1), incarnation: fmt.Sprintf("00000000-0000-4000-8000-%012d", i+1)}
		members[node.id] = node.incarnation
		var err error
		node.endpoint, err = raftnode.Listen(raftnode.EndpointOptions{Listen: "127.0.0.1:0"})
		must(t, err)
		k.addrs[node.incarnation] = node.endpoint.Addr()
		k.nodes = append(k.nodes, node)
	}
	for _, node := range k.nodes {
		k.start(node, members)
	}
	k.found(ctx)
	for _, node := range k.nodes {
		k.loops.Go(func() { k.follow(ctx, node) })
	}
	eventually(t, "all routes", func() bool {
		for _, node := range k.nodes {
			if node.server.Routes() != n-1 {
				return false
			}
		}
		return true
	})
	return k
}

func (k *stack) start(n *stackNode, members map[uint64]string) {
	k.t.Helper()
	var err error
	n.store = metadata.NewStore(metadata.Options{RetryDelay: 10 * time.Millisecond})
	n.raft, err = raftnode.Open(n.endpoint, raftnode.Options{
		Dir: "/raft", FS: vfs.NewMem(), NodeID: n.id, Incarnation: n.incarnation,
		RTT: 5 * time.Millisecond, ElectionRTT: 40, HeartbeatRTT: 4, Resolve: k.resolve,
		OnLeader: func(e raftnode.LeaderEvent) {
			if h := n.host.Load(); h != nil {
				h.LeaderEvent(e)
			}
		},
	})
	must(k.t, err)
	n.store.Attach(n.raft)
	n.leaders = metadata.NewLeaders()
	var routes []string
	for _, other := range k.nodes {
		if other.server != nil {
			routes = append(routes, other.server.RouteAddr())
		}
	}
	n.server = New(Options{
		NodeID: n.id, ClusterName: "stack", ClientListen: "127.0.0.1:0", RouteListen: "127.0.0.1:0", Routes: routes,
		Linger: 300 * time.Millisecond, FullBroadcastInterval: 200 * time.Millisecond, Logger: testLogger(k.t),
	})
	fs := vfs.NewMem()
	must(k.t, fs.MkdirAll("/partitions", 0o755))
	host := partitions.NewHost(partitions.Options{
		Node: n.raft, FS: fs, Dir: "/partitions", NodeID: n.id,
		OnLeadership: func(l partitions.Leadership) {
			n.server.Leadership(Leadership{Shard: l.Shard, Topic: l.Topic, Partition: l.Partition, Epoch: l.Epoch, Leading: l.Leading})
		},
	})
	n.host.Store(host)
	n.handler = handler.New(handler.Options{
		NodeID: n.id, Version: "test", Replicas: handler.HostReplicas{Host: host}, Metadata: n.store,
		Leaders: n.leaders, Peers: n.server, Producer: n.server, Alive: n.server.Alive,
	})
	must(k.t, n.server.Start(n.handler))
	must(k.t, n.raft.StartInMemory(raftnode.Shard{ID: metadata.ShardID, Replica: n.id, Members: members, SnapshotEntries: 1000, CompactionOverhead: 100},
		n.store.StateMachine))
}

// found founds the cluster and registers its nodes.
func (k *stack) found(ctx context.Context) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	config, err := metadata.ParseTopicConfig(metadata.TopicConfig{}, map[string]string{
		"retention_age": "168h", "retention_bytes": "-1",
		"max_batch_bytes": "1MiB", "segment_bytes": "256MiB", "segment_age": "168h", "cleanup": "delete",
	})
	must(k.t, err)
	store := k.nodes[0].store
	must(k.t, store.Found(ctx, metadata.Founding{ClusterID: "stack", ClusterName: "stack", Defaults: metadata.Defaults{Partitions: 1, Config: config}}))
	for _, n := range k.nodes {
		must(k.t, store.RegisterNode(ctx, metadata.Node{
			ID: n.id, Incarnation: n.incarnation, RaftAddr: n.endpoint.Addr(),
			RouteAddr: n.server.RouteAddr(), ClientURLs: []string{n.server.ClientURL()},
		}))
	}
}

// follow starts the replicas that the metadata gives to n, until ctx ends.
func (k *stack) follow(ctx context.Context, n *stackNode) {
	nodes := map[uint64]uint64{}
	for index := uint64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-n.store.Changed(index):
		}
		image := n.store.Image()
		index = image.Index
		for _, a := range image.ReplicasOn(n.id) {
			if _, ok := n.host.Load().Get(a.Partition.Shard); ok {
				continue
			}
			clear(nodes)
			spec := partitions.Spec{
				Shard: a.Partition.Shard, Replica: a.Replica.Replica, Topic: a.Topic.Name, TopicID: a.Topic.ID,
				Partition: a.Partition.ID, Members: a.Partition.Members(), Nodes: map[uint64]uint64{},
				Config: partitions.TopicConfig{SegmentBytes: a.Topic.Config.SegmentBytes, SegmentAge: a.Topic.Config.SegmentAge, MaxBatchBytes: a.Topic.Config.MaxBatchBytes},
			}
			for _, r := range a.Partition.Replicas {
				spec.Nodes[r.Replica] = r.Node
			}
			if err := n.host.Load().Start(spec); err != nil {
				k.t.Errorf("node %d: %v", n.id, err)
			}
		}
	}
}

func (k *stack) resolve(incarnation string) (string, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, ok := k.addrs[incarnation]
	return a, ok
}

func (k *stack) close() {
	k.stop()
	k.loops.Wait()
	for _, n := range k.nodes {
		if n.server != nil {
			n.server.Close()
		}
		if n.handler != nil {
			n.handler.Close()
		}
		if h := n.host.Load(); h != nil {
			if err := h.Close(); err != nil {
				k.t.Error(err)
			}
		}
		if n.raft != nil {
			n.raft.Close()
		}
		if err := n.endpoint.Close(); err != nil {
			k.t.Error(err)
		}
	}
}

// client connects to a node.
func (k *stack) client(node int) *nats.Conn {
	k.t.Helper()
	return connect(k.t, k.nodes[node-1].server)
}

// admin calls an admin verb.
func (k *stack) admin(c *nats.Conn, verb string, req, reply any) error {
	k.t.Helper()
	body, err := json.Marshal(req)
	must(k.t, err)
	m, err := c.Request(protocol.PrefixAdmin+verb, body, time.Minute)
	if err != nil {
		return err
	}
	var e protocol.Envelope[json.RawMessage]
	must(k.t, json.Unmarshal(m.Data, &e))
	if e.Error != nil {
		return e.Error.Err()
	}
	return json.Unmarshal(e.Body, reply)
}

// topic creates a topic and waits until plain messages to it get through.
func (k *stack) topic(c *nats.Conn, name string, partitionCount int32) protocol.TopicDescription {
	k.t.Helper()
	var d protocol.TopicDescription
	must(k.t, k.admin(c, protocol.VerbTopicCreate, protocol.TopicCreateRequest{Name: name, Partitions: partitionCount}, &d))
	return d
}

// leaderOf returns the node that leads a partition, by any node's view.
func (k *stack) leaderOf(c *nats.Conn, topic string, partition int32) uint64 {
	k.t.Helper()
	var leader uint64
	eventually(k.t, "a leader", func() bool {
		var d protocol.TopicDescription
		if err := k.admin(c, protocol.VerbTopicDescribe, protocol.TopicRequest{Name: topic}, &d); err != nil || d.Partitions[partition].Leader == nil {
			return false
		}
		leader = *d.Partitions[partition].Leader
		return true
	})
	return leader
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
