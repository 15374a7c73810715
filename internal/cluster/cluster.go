// Package cluster runs a whole cluster of brokers in the test's own process:
// every node with its own directories, its own Raft, NATS and HTTP ports on
// loopback, and a fine Raft tick. Nodes are stopped, started again and joined
// one by one, and the tests of this package do so through the public clients.
//
// It is for tests only, and it is not a simulator: nothing here drops messages
// or loses what was written. Start at Start, then wait.go for the waits that
// tests need between one step and the next.
package cluster

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"logbroker/broker"
	"logbroker/config"
	"logbroker/internal/client"
)

const (
	// startTimeout bounds the start of a node, stopTimeout its clean stop.
	startTimeout = time.Minute
	stopTimeout  = time.Minute
)

// Options describes a cluster.
type Options struct {
	// Nodes is the number of founders. Default 3.
	Nodes int
	// Configure, when not nil, changes the configuration all nodes share. The
	// one it is given is Default with free ports and fast timing.
	Configure func(*config.Config)
	// Client is what Client dials with; a cluster with TLS needs it.
	Client client.Options
	// FreeBytes, when not nil, says how much is free on a node's disk; it is
	// called from any goroutine.
	FreeBytes func(node uint64) uint64
	// Dir is where the nodes' directories are made. Default: a temporary one.
	Dir string
	// Log, when not nil, sees every record the nodes log, debug ones too, from
	// any goroutine. Node 0 is one that was never taken in.
	Log func(node uint64, r slog.Record)
}

// Cluster is a running cluster. Its methods are for the test's goroutine,
// except the ones that only look.
type Cluster struct {
	tb      testing.TB
	options Options
	dir     string
	logs    *logBuffer
	logger  *slog.Logger

	mu    sync.Mutex // guards nodes and the fields of its elements
	nodes map[uint64]*node

	clientOnce sync.Once
	client     *client.Client
}

// node is one node: what it is configured with, and the broker while it runs.
type node struct {
	config config.Config
	broker *broker.Broker // nil while stopped
	info   broker.Info    // of the last start
}

// Start founds a cluster and returns when every node is ready. The test's end
// stops it, and prints the nodes' log when the test has failed.
func Start(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Dir == "" {
		o.Dir = tb.TempDir()
	}
	logs := &logBuffer{}
	text := slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelInfo})
	c := &Cluster{tb: tb, options: o, dir: o.Dir, logs: logs, logger: slog.New(watched{text, 0, o.Log}), nodes: map[uint64]*node{}}
	tb.Cleanup(c.end)
	founders := []string{}
	for id := uint64(1); id <= uint64(o.Nodes); id++ {
		b := c.make(id, c.baseConfig(id))
		founders = append(founders, b.RaftAddr())
	}
	for _, n := range c.nodes {
		n.config.Cluster.Founders = founders
		n.broker.SetFounders(founders)
	}
	c.startAll(c.IDs()...)
	return c
}

// baseConfig is the configuration of a node that was never started.
func (c *Cluster) baseConfig(id uint64) config.Config {
	f := config.Default()
	const anyPort = "127.0.0.1:0"
	f.Client.Listen, f.NATSCluster.Listen, f.Raft.Listen, f.HTTP.Listen = anyPort, anyPort, anyPort, anyPort
	// Elections as in Default: on a machine that stands still for a moment a
	// shorter wait holds one after the other. They may come at any time all the same.
	f.Raft.RTT, f.Raft.ElectionRTT, f.Raft.HeartbeatRTT = 10*time.Millisecond, 50, 2
	f.Leaders.Interval = time.Second // a move has three of them
	f.Storage.MinFreeBytes = 64 * config.MiB
	f.Storage.RetentionCheckInterval = 200 * time.Millisecond
	f.TopicDefaults.Partitions = 1
	f.Log.RaftLevel = "error"
	f.Shutdown.DrainTimeout = stopTimeout
	if c.options.Configure != nil {
		c.options.Configure(&f)
	}
	f.Cluster.NodeID = id
	f.Storage.DataDir = c.DataDir(id)
	return f
}

// DataDir returns a node's data directory.
func (c *Cluster) DataDir(id uint64) string {
	return filepath.Join(c.dir, "node-"+strconv.FormatUint(id, 10))
}

func (c *Cluster) brokerOptions(id uint64, f config.Config) broker.Options {
	o := broker.Options{Config: f, Logger: c.logger.With("node", id)}
	if free := c.options.FreeBytes; free != nil {
		o.FreeBytes = func(string) (uint64, error) { return free(id), nil }
	}
	return o
}

// make takes a node's directories and Raft port. The port stays the node's own
// from now on, so that its address does not change with a restart.
func (c *Cluster) make(id uint64, f config.Config) *broker.Broker {
	c.tb.Helper()
	b, err := broker.New(c.brokerOptions(id, f))
	if err != nil {
		c.tb.Fatalf("node %d: %v", id, err)
	}
	f.Raft.Listen = b.RaftAddr()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[id] = &node{config: f, broker: b}
	return b
}

// startAll starts nodes that were made, all at once, and returns when they are
// ready.
func (c *Cluster) startAll(ids ...uint64) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		b := c.Node(id)
		wg.Go(func() {
			if errs[i] = b.Start(ctx); errs[i] != nil {
				cancel() // the others may be waiting for this one
				return
			}
			c.started(id, b.Info())
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		c.tb.Fatalf("start of nodes %v: %v", ids, err)
	}
}

// started notes where a node listens, so that a restart takes the same ports
// and clients find it again.
func (c *Cluster) started(id uint64, info broker.Info) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[id]
	n.info = info
	_, at, _ := strings.Cut(info.ClientURL, "://")
	n.config.Client.Listen = at
}

// Restart starts stopped nodes, all at once, and returns when they are ready.
func (c *Cluster) Restart(ids ...uint64) {
	c.tb.Helper()
	for _, id := range ids {
		c.mu.Lock()
		f := c.nodes[id].config
		c.mu.Unlock()
		c.make(id, f)
	}
	c.startAll(ids...)
}

// Join starts a further node that joins through the Raft port of node seed, and
// returns its error.
func (c *Cluster) Join(id, seed uint64, configure func(*config.Config)) error {
	c.tb.Helper()
	f := c.baseConfig(id)
	f.Cluster.Seeds = []string{c.Info(seed).RaftAddr}
	if configure != nil {
		configure(&f)
	}
	b, err := broker.New(c.brokerOptions(id, f))
	if err != nil {
		return err
	}
	f.Raft.Listen = b.RaftAddr()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := b.Start(ctx); err != nil {
		return errors.Join(err, b.Stop(ctx))
	}
	c.mu.Lock()
	c.nodes[id] = &node{config: f, broker: b}
	c.mu.Unlock()
	c.started(id, b.Info())
	return nil
}

// Stop stops nodes cleanly, one after the other.
func (c *Cluster) Stop(ids ...uint64) {
	c.tb.Helper()
	for _, id := range ids {
		c.mu.Lock()
		b := c.nodes[id].broker
		c.nodes[id].broker = nil
		c.mu.Unlock()
		if b == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		if err := b.Stop(ctx); err != nil {
			c.tb.Errorf("stop of node %d: %v", id, err)
		}
		cancel()
	}
}

// StopAll stops every node at once: no node has another one to hand over to.
func (c *Cluster) StopAll() {
	c.tb.Helper()
	var wg sync.WaitGroup
	for _, id := range c.Running() {
		wg.Go(func() { c.Stop(id) })
	}
	wg.Wait()
}

func (c *Cluster) end() {
	c.StopAll()
	if c.tb.Failed() {
		c.tb.Logf("log of the nodes:\n%s", c.logs.tail())
	}
}

// Node returns the running broker of a node, nil while it is stopped.
func (c *Cluster) Node(id uint64) *broker.Broker {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[id]; n != nil {
		return n.broker
	}
	return nil
}

// Info says where a node is, or was when it last ran.
func (c *Cluster) Info(id uint64) broker.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id].info
}

// IDs returns the ids of all nodes, Running of those that run.
func (c *Cluster) IDs() []uint64 { return c.ids(func(*node) bool { return true }) }

// Running returns the ids of the nodes that run.
func (c *Cluster) Running() []uint64 { return c.ids(func(n *node) bool { return n.broker != nil }) }

func (c *Cluster) ids(want func(*node) bool) []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []uint64{}
	for id, n := range c.nodes {
		if want(n) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// URLs returns the client URLs of the running nodes.
func (c *Cluster) URLs() []string {
	urls := []string{}
	for _, id := range c.Running() {
		urls = append(urls, c.Info(id).ClientURL)
	}
	return urls
}

// Client returns a client that is connected to the cluster; the test's end
// closes it.
func (c *Cluster) Client() *client.Client {
	c.tb.Helper()
	c.clientOnce.Do(func() { c.client = c.connect(c.URLs()...) })
	return c.client
}

// ClientOf returns a new client that is connected to one node, which so is the
// one that answers its control requests; the test's end closes it.
func (c *Cluster) ClientOf(id uint64) *client.Client {
	c.tb.Helper()
	return c.connect(c.Info(id).ClientURL)
}

func (c *Cluster) connect(urls ...string) *client.Client {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	out, err := client.Dial(ctx, urls, c.options.Client)
	if err != nil {
		c.tb.Fatalf("connecting to the cluster: %v", err)
	}
	c.tb.Cleanup(out.Close)
	return out
}
