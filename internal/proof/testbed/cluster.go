package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/protocol"
)

const (
	// Nodes is how many nodes a cluster has; a majority is two.
	Nodes = 3
	// ReadyMax bounds every wait for a node or the cluster to come back.
	ReadyMax = 90 * time.Second
	// stopMax is how long a node may take to stop in good order.
	stopMax = 60 * time.Second
	askMax  = 5 * time.Second
)

// Options say what a cluster is made of.
type Options struct {
	Binary string // logbrokerd
	Dir    string // an existing directory for disks, configurations and logs
	Powers Powers
	// DiskBytes is the size of each node's disk where it has one of its own.
	DiskBytes int64
	// Storage are further settings of the storage section, as YAML: "key: value, …".
	Storage string
	// Wrap is put before the binary's command line.
	Wrap []string
	// Limits bound each node's process, as far as the machine can.
	Limits Limits
	Out    io.Writer // tells people what is done
}

// Cluster is three nodes and a control connection.
type Cluster struct {
	Nodes []*Node

	options Options
	network *network
	// pids are the nodes' last processes; the proxy's goroutines read them.
	pids  [Nodes]atomic.Int64
	admin *client.Client
	began time.Time
}

// New makes and starts a cluster and returns once it is ready.
func New(ctx context.Context, o Options) (*Cluster, error) {
	network, err := newNetwork(Nodes, o.Powers)
	if err != nil {
		return nil, fmt.Errorf("the network: %w", err)
	}
	c := &Cluster{options: o, network: network, began: time.Now()}
	if o.Powers.Proxy {
		network.proxy = newProxy(c.ownerOf)
	}
	for id := 1; id <= Nodes; id++ {
		n, err := c.newNode(id)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.Nodes = append(c.Nodes, n)
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) newNode(id int) (*Node, error) {
	o := c.options
	n := &Node{ID: id, cluster: c, pid: &c.pids[id-1], wrap: o.Wrap, dir: filepath.Join(o.Dir, fmt.Sprintf("node-%d", id))}
	n.config, n.ready = n.dir+".yaml", n.dir+".ready.json"
	if o.Powers.Disks {
		d, err := newDisk(o.Dir, id, o.DiskBytes)
		if err != nil {
			return nil, err
		}
		n.disk, n.dir = d, filepath.Join(d.mount, "data")
	}
	c.limit(n)
	log, err := os.Create(n.logFile(o.Dir))
	if err != nil {
		return nil, err
	}
	n.log = log
	if err := n.addresses(c.network.host(id), c.network.apart); err != nil {
		return nil, err
	}
	if c.network.proxy == nil {
		return n, nil
	}
	var errs []error
	for _, addr := range []string{n.client, n.routes, n.raft} {
		errs = append(errs, c.network.proxy.front(id, n.told(addr), addr))
	}
	return n, errors.Join(errs...)
}

// ownerOf returns the node that has made a connection, 0 for a client.
func (c *Cluster) ownerOf(conn net.Conn) int {
	pids := make([]int, Nodes)
	for i := range pids {
		pids[i] = int(c.pids[i].Load())
	}
	return 1 + ownerOf(conn, pids)
}

// limit bounds a node's process, or says why it cannot. A disk that cannot be
// bounded is made slow in another way.
func (c *Cluster) limit(n *Node) {
	o := c.options
	n.group = &group{}
	if o.Limits.MemoryBytes > 0 {
		if err := n.group.limitMemory(o.Limits.MemoryBytes); err != nil {
			c.Say("skipped: a bound on the memory of node %d (%v)", n.ID, err)
		}
	}
	if o.Limits.DiskBytes == 0 {
		return
	}
	err := n.group.limitDisk(o.Limits.DiskBytes, filepath.Dir(n.dir))
	switch {
	case err == nil:
	case o.Powers.Trace:
		c.Say("skipped: a bound on what the disk of node %d writes in a second (%v); every sync takes 20 ms longer instead", n.ID, err)
		n.wrap = slices.Concat(n.wrap, slowSyncs())
	default:
		c.Say("skipped: a slow disk of node %d (%v)", n.ID, err)
	}
}

// FreeDisks ends the bounds on the disks' speed.
func (c *Cluster) FreeDisks() error {
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.SetDisk(0))
	}
	return errors.Join(errs...)
}

func (c *Cluster) start(ctx context.Context) error {
	founders := []string{}
	for _, n := range c.Nodes {
		founders = append(founders, n.told(n.raft))
	}
	more := ""
	if c.options.Storage != "" {
		more = ", " + c.options.Storage
	}
	for _, n := range c.Nodes {
		if err := errors.Join(n.configure(founders, more), n.Start()); err != nil {
			return err
		}
	}
	if err := c.AwaitReady(ctx); err != nil {
		return err
	}
	return c.Dial(ctx)
}

// Dial makes a new control connection. Where the nodes' data were taken back in
// time one must: a client that knows later epochs takes what it hears for old.
func (c *Cluster) Dial(ctx context.Context) error {
	if c.admin != nil {
		c.admin.Close()
	}
	admin, err := client.Dial(ctx, c.URLs(), client.Options{Name: "proof"})
	c.admin = admin
	return err
}

// Say tells people what is done, with the seconds since the cluster began.
func (c *Cluster) Say(format string, args ...any) {
	fmt.Fprintf(c.options.Out, "%8.2fs %s\n", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

// URLs are where clients find the nodes.
func (c *Cluster) URLs() []string {
	urls := []string{}
	for _, n := range c.Nodes {
		urls = append(urls, n.URL())
	}
	return urls
}

// Ended returns an error that matches ErrEnded where a node does not run.
func (c *Cluster) Ended() error {
	for _, n := range c.Nodes {
		if !n.Running() {
			return fmt.Errorf("node %d: %w: %s", n.ID, ErrEnded, n.LastError())
		}
	}
	return nil
}

// AwaitReady waits until every node is ready, each of which must run.
func (c *Cluster) AwaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ReadyMax)
	defer cancel()
	for _, n := range c.Nodes {
		if err := n.AwaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// CreateTopic makes a topic of three replicas.
func (c *Cluster) CreateTopic(ctx context.Context, name string, partitions int32, config map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, ReadyMax)
	defer cancel()
	_, err := c.admin.Admin().CreateTopic(ctx, protocol.TopicCreateRequest{Version: protocol.ControlVersion, Name: name, Partitions: partitions, Config: config})
	return err
}

// AlterTopic changes settings of a topic.
func (c *Cluster) AlterTopic(ctx context.Context, name string, config map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	_, err := c.admin.Admin().AlterTopic(ctx, name, config)
	return err
}

// AwaitSetting waits until every node's own copy of the metadata has a topic's
// setting at a value.
func (c *Cluster) AwaitSetting(ctx context.Context, topic, key, value string) error {
	return await(ctx, fmt.Sprintf("every node has %s at %s", key, value), func() (bool, string) {
		for _, n := range c.Nodes {
			if got, err := n.setting(ctx, topic, key); err != nil || got != value {
				return false, fmt.Sprintf("node %d has %q (%v)", n.ID, got, err)
			}
		}
		return true, ""
	})
}

// TopicID returns the id that requests for a topic carry.
func (c *Cluster) TopicID(ctx context.Context, name string) (uint64, error) {
	meta, err := c.admin.Topic(ctx, name)
	if err != nil {
		return 0, err
	}
	return meta.ID, nil
}

// Shard returns the Raft shard of a partition.
func (c *Cluster) Shard(ctx context.Context, topic string, partition int32) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	shown, err := c.admin.Admin().ShowRaft(ctx, protocol.RaftShowRequest{Topic: topic, Partition: partition})
	if err != nil {
		return 0, err
	}
	return shown.Shard, nil
}

// Leaders returns the node that leads each partition of a topic, 0 for none.
func (c *Cluster) Leaders(ctx context.Context, topic string) ([]int, error) {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	d, err := c.admin.Admin().DescribeTopic(ctx, topic)
	if err != nil {
		return nil, err
	}
	leaders := make([]int, len(d.Partitions))
	for _, p := range d.Partitions {
		if p.Leader != nil {
			leaders[p.Partition] = int(*p.Leader)
		}
	}
	return leaders, nil
}

// Busiest returns the node that leads most partitions of topic. Where the
// cluster does not say, it is otherwise.
func (c *Cluster) Busiest(ctx context.Context, topic string, otherwise int) *Node {
	leaders, err := c.Leaders(ctx, topic)
	if err != nil {
		return c.Nodes[otherwise]
	}
	var count [Nodes]int
	best := otherwise
	for _, id := range leaders {
		if id > 0 {
			count[id-1]++
		}
	}
	for i := range count {
		if count[i] > count[best] {
			best = i
		}
	}
	return c.Nodes[best]
}

// Transfer asks that a node lead a partition. It may fail at any time.
func (c *Cluster) Transfer(ctx context.Context, topic string, partition int32, to int) error {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	return c.admin.Admin().TransferLeader(ctx, topic, partition, uint64(to))
}

// Isolate cuts a node from the other nodes, in both directions; clients still
// reach it.
func (c *Cluster) Isolate(n *Node) error {
	var errs []error
	for _, other := range c.Nodes {
		if other != n {
			errs = append(errs, c.network.cut(n.ID, other.ID), c.network.cut(other.ID, n.ID))
		}
	}
	return errors.Join(errs...)
}

// Cut drops what one node sends to another one.
func (c *Cluster) Cut(from, to *Node) error { return c.network.cut(from.ID, to.ID) }

// Unplug cuts a node from everybody.
func (c *Cluster) Unplug(n *Node) error { return c.network.unplug(n.ID) }

// HealNetwork ends every cut.
func (c *Cluster) HealNetwork() error { return c.network.heal() }

// Heal undoes everything that was done, starts what does not run, and waits
// until all nodes are ready.
func (c *Cluster) Heal(ctx context.Context) error {
	errs := []error{c.network.heal()}
	for _, n := range c.Nodes {
		errs = append(errs, n.heal())
		if !n.Running() {
			errs = append(errs, n.Start())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.AwaitReady(ctx)
}

// AwaitHealthy waits until the cluster says that it is healthy.
func (c *Cluster) AwaitHealthy(ctx context.Context) error {
	return await(ctx, "the cluster is healthy", func() (bool, string) {
		asking, cancel := context.WithTimeout(ctx, askMax)
		defer cancel()
		health, err := c.admin.Admin().ClusterHealth(asking)
		if err != nil {
			return false, err.Error()
		}
		return health.Healthy, strings.Join(health.Reasons, "; ")
	})
}

// AwaitCaughtUp waits until all replicas of a topic have applied the same, and
// returns the partitions' shards.
func (c *Cluster) AwaitCaughtUp(ctx context.Context, topic string, partitions int32) (shards []uint64, err error) {
	for p := range partitions {
		err := await(ctx, fmt.Sprintf("every replica of partition %d has applied all", p), func() (bool, string) {
			asking, cancel := context.WithTimeout(ctx, askMax)
			defer cancel()
			shown, err := c.admin.Admin().ShowRaft(asking, protocol.RaftShowRequest{Topic: topic, Partition: p})
			if err != nil {
				return false, err.Error()
			}
			if !sameApplied(shown) {
				return false, describe(shown)
			}
			shards = append(shards, shown.Shard)
			return true, ""
		})
		if err != nil {
			return nil, err
		}
	}
	return shards, nil
}

func sameApplied(r *protocol.RaftShowReply) bool {
	for _, replica := range r.Replicas {
		if replica.Applied == nil || replica.Last == nil || *replica.Applied != *r.Replicas[0].Applied || *replica.Applied != *replica.Last {
			return false
		}
	}
	return len(r.Replicas) == Nodes
}

func describe(r *protocol.RaftShowReply) string {
	var b strings.Builder
	for _, replica := range r.Replicas {
		if replica.Applied == nil || replica.Last == nil {
			fmt.Fprintf(&b, "node %d unreachable; ", replica.Node)
			continue
		}
		fmt.Fprintf(&b, "node %d applied %d last %d; ", replica.Node, *replica.Applied, *replica.Last)
	}
	return b.String()
}

// Stop stops all nodes at the same time in good order.
func (c *Cluster) Stop() error {
	errs := make([]error, len(c.Nodes))
	var all sync.WaitGroup
	for i, n := range c.Nodes {
		all.Go(func() { errs[i] = n.Stop(stopMax) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Close kills what still runs and gives everything back but the files.
func (c *Cluster) Close() error {
	if c.admin != nil {
		c.admin.Close()
	}
	errs := []error{c.network.heal()}
	for _, n := range c.Nodes {
		n.Kill()
		errs = append(errs, n.log.Close(), n.group.close())
		if n.disk != nil {
			errs = append(errs, n.disk.close())
		}
	}
	errs = append(errs, c.network.close())
	return errors.Join(errs...)
}

// SyncDisks makes durable what the nodes have written up to now, for nodes that
// do not do it themselves: they lose what comes after.
func (c *Cluster) SyncDisks() error {
	var errs []error
	for _, n := range c.Nodes {
		if n.disk != nil {
			errs = append(errs, n.disk.sync())
		}
	}
	return errors.Join(errs...)
}

// Unhealthy returns what cluster health complains of, "" where it does not or
// nobody answers.
func (c *Cluster) Unhealthy(ctx context.Context) string {
	reasons, _ := c.Health(ctx)
	return reasons
}

// Health returns what cluster health complains of; known is false where nobody
// answers.
func (c *Cluster) Health(ctx context.Context) (reasons string, known bool) {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	health, err := c.admin.Admin().ClusterHealth(ctx)
	if err != nil || health.Healthy {
		return "", err == nil
	}
	return strings.Join(health.Reasons, "; "), true
}
