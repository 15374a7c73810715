package cluster

import (
	"context"
	"slices"
	"time"

	"logbroker/internal/protocol"
)

const (
	// waitTimeout says where a test hangs; nothing that works takes it, also where
	// the machine stands still for seconds.
	waitTimeout  = 2 * time.Minute
	pollInterval = 5 * time.Millisecond
)

// WaitFor returns when cond holds and fails the test when it does not within
// waitTimeout. cond is called from this goroutine again and again.
func (c *Cluster) WaitFor(what string, cond func() bool) {
	c.tb.Helper()
	late := time.NewTimer(waitTimeout)
	defer late.Stop()
	again := time.NewTicker(pollInterval)
	defer again.Stop()
	for !cond() {
		select {
		case <-again.C:
		case <-late.C:
			c.tb.Fatalf("waited %s in vain: %s", waitTimeout, what)
		}
	}
}

// call gives f the time of one control request.
func call[T any](c *Cluster, what string, f func(context.Context) (T, error)) T {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	out, err := f(ctx)
	if err != nil {
		c.tb.Fatalf("%s: %v", what, err)
	}
	return out
}

// CreateTopic creates a topic and returns when every partition is led and every
// replica runs.
func (c *Cluster) CreateTopic(name string, partitions int32, replicas int, settings map[string]string) *protocol.TopicDescription {
	c.tb.Helper()
	t := call(c, "create topic "+name, func(ctx context.Context) (*protocol.TopicDescription, error) {
		return c.Client().Admin().CreateTopic(ctx, protocol.TopicCreateRequest{
			Name: name, Partitions: partitions, Replicas: replicas, Config: settings,
		})
	})
	c.WaitHealthy()
	return t
}

// Describe describes a topic.
func (c *Cluster) Describe(topic string) *protocol.TopicDescription {
	c.tb.Helper()
	return call(c, "describe topic "+topic, func(ctx context.Context) (*protocol.TopicDescription, error) {
		return c.Client().Admin().DescribeTopic(ctx, topic)
	})
}

// WaitHealthy returns when the cluster says that it is healthy.
func (c *Cluster) WaitHealthy() {
	c.tb.Helper()
	c.WaitFor("the cluster is healthy", func() bool {
		h := call(c, "cluster health", c.Client().Admin().ClusterHealth)
		return h.Healthy
	})
}

// Leader returns the node that serves a partition as its leader, 0 where there
// is none at the moment.
func (c *Cluster) Leader(topic string, partition int32) uint64 {
	c.tb.Helper()
	p := c.Describe(topic).Partitions[partition]
	if p.Leader == nil {
		return 0
	}
	return *p.Leader
}

// WaitLeader returns the node that leads a partition once there is one other
// than the nodes named.
func (c *Cluster) WaitLeader(topic string, partition int32, not ...uint64) (leader uint64) {
	c.tb.Helper()
	c.WaitFor("a leader of "+topic, func() bool {
		leader = c.Leader(topic, partition)
		return leader != 0 && !slices.Contains(not, leader)
	})
	return leader
}

// MetadataLeader returns the node that leads the metadata, once there is one.
func (c *Cluster) MetadataLeader() (leader uint64) {
	c.tb.Helper()
	c.WaitFor("a leader of the metadata", func() bool {
		info := call(c, "cluster info", c.Client().Admin().ClusterInfo)
		if info.MetadataLeader != nil {
			leader = *info.MetadataLeader
		}
		return leader != 0
	})
	return leader
}

// Transfer moves a partition's leadership to another node and returns when that
// node leads. An election may come in between; then it moves it again.
func (c *Cluster) Transfer(topic string, partition int32, to uint64) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	c.WaitFor("the leadership has moved", func() bool {
		switch c.Leader(topic, partition) {
		case to:
			return true
		case 0:
			return false
		}
		if err := c.Client().Admin().TransferLeader(ctx, topic, partition, to); err != nil {
			c.tb.Fatalf("transfer of %s/%d to node %d: %v", topic, partition, to, err)
		}
		return false
	})
}
