package raftnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"
)

// listDisk is the durable part of a listMachine: it survives restarts.
type listDisk struct {
	mu       sync.Mutex
	index    uint64
	commands []string
}

// listMachine is an on-disk machine that keeps every command. Its "disk" is
// memory that outlives it; only Sync writes there.
type listMachine struct {
	disk *listDisk

	mu       sync.Mutex
	index    uint64
	commands []string
}

type listState struct {
	Index    uint64
	Commands []string
}

func (m *listMachine) Open(<-chan struct{}) (uint64, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index, m.commands = m.disk.index, slices.Clone(m.disk.commands)
	return m.index, nil
}

func (m *listMachine) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range entries {
		m.index = entries[i].Index
		if len(entries[i].Cmd) > 0 {
			m.commands = append(m.commands, string(entries[i].Cmd))
		}
		entries[i].Result.Value = uint64(len(m.commands))
	}
	return entries, nil
}

func (m *listMachine) Lookup(any) (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.commands), nil
}

func (m *listMachine) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.index, m.disk.commands = m.index, slices.Clone(m.commands)
	return nil
}

func (m *listMachine) PrepareSnapshot() (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return listState{Index: m.index, Commands: slices.Clone(m.commands)}, nil
}

func (m *listMachine) SaveSnapshot(state any, w io.Writer, _ <-chan struct{}) error {
	return json.NewEncoder(w).Encode(state)
}

func (m *listMachine) RecoverFromSnapshot(r io.Reader, _ <-chan struct{}) error {
	var state listState
	if err := json.NewDecoder(r).Decode(&state); err != nil {
		return err
	}
	m.mu.Lock()
	m.index, m.commands = state.Index, state.Commands
	m.mu.Unlock()
	return m.Sync()
}

func (m *listMachine) Close() error { return nil }

// testNode is one node of a testCluster; it can be closed and opened again.
type testNode struct {
	id          uint64 // replica id in every shard, 1…
	incarnation string
	options     Options
	endpoint    *Endpoint
	node        *Node
	disks       map[uint64]*listDisk

	mu     sync.Mutex
	events []LeaderEvent
}

func (n *testNode) onLeader(e LeaderEvent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

// testCluster is a few nodes in one process on loopback TCP.
type testCluster struct {
	t     testing.TB
	nodes []*testNode

	mu        sync.Mutex
	addresses map[string]string
}

const testRTT = 5 * time.Millisecond

func testIncarnation(id uint64) string {
	return fmt.Sprintf("00000000-0000-4000-8000-%012d", id)
}

// testLogger prints dragonboat's lines when RAFTNODE_TEST_LOG is set.
func testLogger() *slog.Logger {
	if os.Getenv("RAFTNODE_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// newCluster makes and opens n nodes; adjust may change options before. It makes
// the test a parallel one: such tests wait for elections and disks mostly.
func newCluster(t testing.TB, n int, adjust func(*testNode, *EndpointOptions)) *testCluster {
	t.Helper()
	if t, ok := t.(*testing.T); ok {
		t.Parallel()
	}
	c := &testCluster{t: t, addresses: make(map[string]string)}
	for i := range n {
		node := &testNode{id: uint64(i + 1), incarnation: testIncarnation(uint64(i + 1)), disks: make(map[uint64]*listDisk)}
		node.options = Options{
			Dir:          t.TempDir(),
			NodeID:       node.id,
			Incarnation:  node.incarnation,
			DeploymentID: 77,
			RTT:          testRTT,
			ElectionRTT:  40,
			HeartbeatRTT: 2,
			Resolve:      c.resolve,
			Logger:       testLogger(),
			RaftLevel:    slog.LevelDebug,
			OnLeader:     node.onLeader,
		}
		port := EndpointOptions{Listen: "127.0.0.1:0", Logger: testLogger()}
		if adjust != nil {
			adjust(node, &port)
		}
		c.nodes = append(c.nodes, node)
		if node.options.Transport != nil {
			c.addresses[node.incarnation] = node.options.Advertise
			continue
		}
		var err error
		if node.endpoint, err = Listen(port); err != nil {
			t.Fatal(err)
		}
		c.addresses[node.incarnation] = node.endpoint.Addr()
	}
	for _, node := range c.nodes {
		c.open(node)
	}
	t.Cleanup(c.close)
	return c
}

func (c *testCluster) resolve(incarnation string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	address, ok := c.addresses[incarnation]
	return address, ok
}

func (c *testCluster) open(n *testNode) {
	c.t.Helper()
	node, err := Open(n.endpoint, n.options)
	if err != nil {
		c.t.Fatal(err)
	}
	n.node = node
}

func (c *testCluster) close() {
	for _, n := range c.nodes {
		if n.node != nil {
			n.node.Close()
		}
		if n.endpoint != nil {
			if err := n.endpoint.Close(); err != nil {
				c.t.Error(err)
			}
		}
	}
}

func (c *testCluster) members() map[uint64]string {
	members := make(map[uint64]string)
	for _, n := range c.nodes {
		members[n.id] = n.incarnation
	}
	return members
}

// start starts a replica of shard on node; members nil = restart.
func (c *testCluster) start(n *testNode, s Shard) {
	c.t.Helper()
	s.Replica = n.id
	if n.disks[s.ID] == nil {
		n.disks[s.ID] = new(listDisk)
	}
	disk := n.disks[s.ID]
	err := n.node.StartOnDisk(s, func(uint64, uint64) statemachine.IOnDiskStateMachine {
		return &listMachine{disk: disk}
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// found starts shard on every node and waits for a leader.
func (c *testCluster) found(shard uint64) *testNode {
	c.t.Helper()
	for _, n := range c.nodes {
		c.start(n, Shard{ID: shard, Members: c.members()})
	}
	return c.leader(shard)
}

// leader waits for a node that leads shard.
func (c *testCluster) leader(shard uint64) (leader *testNode) {
	c.t.Helper()
	eventually(c.t, "a leader", func() bool {
		for _, n := range c.nodes {
			if n.node == nil {
				continue
			}
			if id, _, ok := n.node.Leader(shard); ok && id == n.id {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

func (c *testCluster) followers(leader *testNode) (out []*testNode) {
	for _, n := range c.nodes {
		if n != leader {
			out = append(out, n)
		}
	}
	return out
}

// list returns what a node has applied.
func (n *testNode) list(t testing.TB, shard uint64) []string {
	t.Helper()
	answer, err := n.node.Query(shard, nil)
	if err != nil {
		return nil // still starting
	}
	return answer.([]string)
}

// settled waits until every node has applied the same commands, and returns them.
func (c *testCluster) settled(shard uint64, atLeast int) []string {
	c.t.Helper()
	var want []string
	eventually(c.t, "equal replicas", func() bool {
		want = c.nodes[0].list(c.t, shard)
		if len(want) < atLeast {
			return false
		}
		for _, n := range c.nodes[1:] {
			if !slices.Equal(want, n.list(c.t, shard)) {
				return false
			}
		}
		return true
	})
	return want
}

// must proposes on whoever leads until it is acknowledged; for set-up only (a
// command may be applied twice).
func (c *testCluster) must(shard uint64, cmd string) {
	c.t.Helper()
	eventually(c.t, "an acknowledged proposal", func() bool {
		p, err := c.leader(shard).node.Propose(shard, []byte(cmd), time.Second)
		if err != nil {
			return false
		}
		_, err = p.Wait()
		return err == nil
	})
}

// eventually polls until ok, at most a minute: it is where a test hangs.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("no %s within a minute", what)
		case <-tick.C:
		}
	}
}

// checkClass fails unless err wraps exactly one of the two classes.
func checkClass(t testing.TB, err error) (refused bool) {
	t.Helper()
	refused = errors.Is(err, ErrRefused)
	if refused == errors.Is(err, ErrUnknown) {
		t.Fatalf("error %v is not of exactly one class", err)
	}
	return refused
}

func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}
