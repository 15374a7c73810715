package partitions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/vfs"

	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
)

const (
	shardForTest = 1001
	segmentBytes = 4000
)

// cluster is n nodes in this process, each with one replica of one partition,
// on file systems in memory and real Raft over loopback. Node i (from 1) has
// replica i at first.
type cluster struct {
	t      *testing.T
	nodes  []*node
	change func(*Options)
	config TopicConfig

	mu    sync.Mutex
	addrs map[string]string // incarnation → address, of the nodes that are up
}

type node struct {
	id          uint64
	replica     uint64 // of the partition
	incarnation string
	raftFS      *vfs.MemFS
	fs          *vfs.MemFS

	endpoint *raftnode.Endpoint
	raft     *raftnode.Node
	host     *Host // nil while the node is down
}

func newCluster(t *testing.T, n int, change func(*Options)) *cluster {
	t.Helper()
	c := &cluster{
		t: t, change: change, addrs: map[string]string{},
		config: TopicConfig{SegmentBytes: segmentBytes, SegmentAge: time.Hour},
	}
	for i := range n {
		c.nodes = append(c.nodes, &node{
			id: uint64(i + 1), replica: uint64(i + 1), incarnation: fmt.Sprintf("00000000-0000-4000-8000-%012d", i+1),
			raftFS: vfs.NewMem(), fs: vfs.NewMem(),
		})
	}
	t.Cleanup(c.stop)
	for _, n := range c.nodes {
		c.up(n)
	}
	for _, n := range c.nodes {
		if err := n.host.Start(c.spec(n, false)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *cluster) spec(n *node, restart bool) Spec {
	s := Spec{
		Shard: shardForTest, Replica: n.replica, Join: n.replica != n.id, Topic: "orders", TopicID: 7, Config: c.config, Restart: restart,
		Members: map[uint64]string{}, Nodes: map[uint64]uint64{},
	}
	for _, other := range c.nodes {
		s.Members[other.id] = other.incarnation
		s.Nodes[other.replica] = other.id
	}
	return s
}

func (c *cluster) specWith(n *node, config TopicConfig) Spec {
	s := c.spec(n, true)
	s.Config = config
	return s
}

// up starts the node without its replica.
func (c *cluster) up(n *node) {
	c.t.Helper()
	var host atomic.Pointer[Host]
	var err error
	if n.endpoint, err = raftnode.Listen(raftnode.EndpointOptions{Listen: "127.0.0.1:0"}); err != nil {
		c.t.Fatal(err)
	}
	c.setAddr(n.incarnation, n.endpoint.Addr())
	n.raft, err = raftnode.Open(n.endpoint, raftnode.Options{
		Dir: "/raft", FS: n.raftFS, NodeID: n.id, Incarnation: n.incarnation,
		RTT: 10 * time.Millisecond, ElectionRTT: 20, HeartbeatRTT: 2,
		Resolve:  c.addr,
		OnLeader: func(e raftnode.LeaderEvent) { host.Load().LeaderEvent(e) },
		OnSnapshot: func(ctx context.Context, o raftnode.SnapshotOffer) error {
			return host.Load().Prefetch(ctx, o.Shard, o.Replica)
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := n.fs.MkdirAll("/partitions", 0o755); err != nil {
		c.t.Fatal(err)
	}
	o := Options{
		Node: n.raft, FS: n.fs, Dir: "/partitions", NodeID: n.id, ProposeTimeout: time.Second,
		Stream: func(ctx context.Context, node uint64, request []byte) (io.ReadCloser, error) {
			addr, ok := c.addr(c.nodes[node-1].incarnation)
			if !ok {
				return nil, errors.New("the node is down")
			}
			return n.endpoint.Stream(ctx, addr, request)
		},
	}
	if c.change != nil {
		c.change(&o)
	}
	n.host = NewHost(o)
	host.Store(n.host)
	n.endpoint.HandleStream(n.host.ServeStream)
}

func (c *cluster) down(n *node) {
	if n.host == nil {
		return
	}
	if err := n.host.Close(); err != nil {
		c.t.Error(err)
	}
	n.raft.Close()
	if err := n.endpoint.Close(); err != nil {
		c.t.Error(err)
	}
	c.setAddr(n.incarnation, "")
	n.host = nil
}

func (c *cluster) restart(n *node) {
	c.t.Helper()
	c.up(n)
	if err := n.host.Start(c.spec(n, true)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) stop() {
	var ends sync.WaitGroup
	for _, n := range c.nodes {
		ends.Go(func() { c.down(n) })
	}
	ends.Wait()
}

func (c *cluster) addr(incarnation string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.addrs[incarnation]
	return a, a != ""
}

func (c *cluster) setAddr(incarnation, a string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addrs[incarnation] = a
}

// cutOff keeps every message from and to a node until reconnect is called: nobody
// knows its address.
func (c *cluster) cutOff(n *node) (reconnect func()) {
	a, _ := c.addr(n.incarnation)
	c.setAddr(n.incarnation, "")
	return func() { c.setAddr(n.incarnation, a) }
}

// running returns the replicas that are up.
func (c *cluster) running() (ps []*Partition) {
	for _, n := range c.nodes {
		if n.host == nil {
			continue
		}
		if p, ok := n.host.Get(shardForTest); ok {
			ps = append(ps, p)
		}
	}
	return ps
}

// serving returns the replica that serves, nil where none does.
func (c *cluster) serving() *Partition {
	for _, p := range c.running() {
		if p.Leader().Serving {
			return p
		}
	}
	return nil
}

func (c *cluster) leader() (p *Partition) {
	c.t.Helper()
	until(c.t, "a leader serves", func() bool { p = c.serving(); return p != nil })
	return p
}

// stored appends r at whoever leads, again until it is stored, as an idempotent
// producer does.
func (c *cluster) stored(r AppendRequest) (a AppendResult) {
	c.t.Helper()
	until(c.t, "stored", func() bool {
		a = appended(c.leader(), r)
		if a.Err != nil && !errcode.Of(a.Err).Retriable() {
			c.t.Fatal(a.Err)
		}
		return a.Err == nil
	})
	return a
}

func (c *cluster) nodeOf(p *Partition) *node { return c.nodes[p.options.NodeID-1] }

func (c *cluster) anotherNode(p *Partition) *node {
	return c.nodes[int(p.options.NodeID)%len(c.nodes)]
}

// settled waits until every replica that is up has applied the same.
func (c *cluster) settled() {
	c.t.Helper()
	until(c.t, "all replicas at the same end", func() bool {
		ps := c.running()
		for _, p := range ps {
			if p.machine.HighWatermark() != ps[0].machine.HighWatermark() || p.Earliest() != ps[0].Earliest() {
				return false
			}
		}
		return true
	})
}

// identical requires the same segments, byte for byte, on every replica.
func (c *cluster) identical() {
	c.t.Helper()
	c.settled()
	var first string
	for i, p := range c.running() {
		log, ok := p.machine.Log()
		if !ok {
			c.t.Fatalf("replica %d has no log", p.spec.Replica)
		}
		listing := ""
		for _, s := range log.Segments() {
			listing += fmt.Sprintf("[%d, %d) %d bytes, CRC %08x\n", s.Base, s.End, s.Bytes, s.CRC)
		}
		if i == 0 {
			first = listing
		} else if listing != first {
			c.t.Fatalf("replica %d has segments\n%sreplica %d\n%s", c.running()[0].spec.Replica, first, p.spec.Replica, listing)
		}
	}
}

// readAll reads everything of p as "offset value", and checks that offsets are
// dense and every CRC right.
func readAll(t *testing.T, p *Partition) (values []string) {
	t.Helper()
	next := p.Earliest()
	for {
		r, err := p.Read(nil, next, 1<<16)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Data) == 0 {
			return values
		}
		for _, b := range batchesIn(t, r.Data) {
			if b.BaseOffset() > next || b.CheckCRC() != nil {
				t.Fatalf("batch at %d after offset %d: %v", b.BaseOffset(), next, b.CheckCRC())
			}
			values = append(values, valuesOf(t, b)...)
			next = b.NextOffset()
		}
	}
}
