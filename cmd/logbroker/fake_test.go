package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/internal/cli"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/producer"
)

// fakeCluster is a cluster in memory: topics with partitions that records are
// appended to and read from.
type fakeCluster struct {
	mu     sync.Mutex
	topics map[string]*fakeTopic
	health func(n int) (*protocol.ClusterHealth, error) // n-th look, from 1
	looks  int
	raft   *protocol.RaftShowReply
	info   *protocol.ClusterInfo
	rows   []protocol.PartitionRow
	calls  []string
	// refuse is the error of a record, nil: stored.
	refuse func(r producer.Record) error
	// grown is closed and replaced when a record is appended.
	grown chan struct{}
	dials []connection
	// groups are what is committed, by group; described is what describe says.
	groups    map[string]map[partitionName]int64
	described *protocol.GroupDescription
}

type fakeTopic struct {
	name   string
	start  []int64
	stored [][]consumer.Record
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{topics: map[string]*fakeTopic{}, grown: make(chan struct{})}
}

func (c *fakeCluster) addTopic(name string, partitions int) *fakeTopic {
	t := &fakeTopic{name: name, start: make([]int64, partitions), stored: make([][]consumer.Record, partitions)}
	c.topics[name] = t
	return t
}

func (t *fakeTopic) add(partition int32, key, value []byte) {
	t.stored[partition] = append(t.stored[partition], consumer.Record{
		Topic: t.name, Partition: partition, Offset: int64(len(t.stored[partition])), Key: key, Value: value,
		Timestamp: time.UnixMilli(1000 + int64(len(t.stored[partition]))),
	})
}

func (c *fakeCluster) call(format string, args ...any) {
	c.calls = append(c.calls, fmt.Sprintf(format, args...))
}

func (c *fakeCluster) topic(name string) (*fakeTopic, error) {
	if t := c.topics[name]; t != nil {
		return t, nil
	}
	return nil, errcode.New(errcode.UnknownTopicOrPartition, "topic %q does not exist", name)
}

func (c *fakeCluster) describe(t *fakeTopic) *protocol.TopicDescription {
	d := &protocol.TopicDescription{Name: t.name, ID: 7, Replicas: 3, Config: map[string]string{"cleanup": "delete"}}
	for i, records := range t.stored {
		leader := uint64(i + 1)
		d.Partitions = append(d.Partitions, protocol.PartitionDescription{
			Partition: int32(i), Leader: &leader, PreferredLeader: leader,
			Epoch: 4, Replicas: []uint64{1, 2, 3}, LogStart: t.start[i], HighWatermark: int64(len(records)), SizeBytes: 2048,
		})
	}
	return d
}

func (c *fakeCluster) CreateTopic(_ context.Context, r protocol.TopicCreateRequest) (*protocol.TopicDescription, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.RequestID == "" {
		return nil, errors.New("a request without id cannot be repeated")
	}
	c.call("create %s %d %d %v %v", r.Name, r.Partitions, r.Replicas, r.Config, r.DryRun)
	if c.topics[r.Name] != nil {
		return nil, errcode.New(errcode.TopicAlreadyExists, "topic %q exists", r.Name)
	}
	t := c.addTopic(r.Name, max(int(r.Partitions), 1))
	if r.DryRun {
		delete(c.topics, r.Name)
	}
	return c.describe(t), nil
}

func (c *fakeCluster) ListTopics(context.Context) (*protocol.TopicListReply, error) {
	reply := &protocol.TopicListReply{}
	for _, t := range c.topics {
		reply.Topics = append(reply.Topics, protocol.TopicSummary{Name: t.name, Partitions: len(t.stored), Replicas: 3})
	}
	slices.SortFunc(reply.Topics, func(a, b protocol.TopicSummary) int { return strings.Compare(a.Name, b.Name) })
	return reply, nil
}

func (c *fakeCluster) DescribeTopic(_ context.Context, name string) (*protocol.TopicDescription, error) {
	t, err := c.topic(name)
	if err != nil {
		return nil, err
	}
	return c.describe(t), nil
}

func (c *fakeCluster) DeleteTopic(_ context.Context, name string) error {
	_, err := c.topic(name)
	delete(c.topics, name)
	return err
}

func (c *fakeCluster) AlterTopic(ctx context.Context, name string, config map[string]string) (*protocol.TopicDescription, error) {
	c.call("alter %s %v", name, config)
	return c.DescribeTopic(ctx, name)
}

func (c *fakeCluster) AddPartitions(ctx context.Context, name string, partitions int32) (*protocol.TopicDescription, error) {
	c.call("add-partitions %s %d", name, partitions)
	return c.DescribeTopic(ctx, name)
}

func (c *fakeCluster) TrimTopic(_ context.Context, name string, partition int32, offset int64) (*protocol.TopicTrimReply, error) {
	c.call("trim %s %d %d", name, partition, offset)
	_, err := c.topic(name)
	return &protocol.TopicTrimReply{Partitions: []protocol.TopicTrimPartition{{Partition: 0, LogStart: offset}}}, err
}

func (c *fakeCluster) ClusterInfo(context.Context) (*protocol.ClusterInfo, error) { return c.info, nil }

func (c *fakeCluster) ClusterHealth(context.Context) (*protocol.ClusterHealth, error) {
	c.looks++
	return c.health(c.looks)
}

func (c *fakeCluster) Partitions(context.Context) (*protocol.PartitionListReply, error) {
	return &protocol.PartitionListReply{Partitions: slices.Clone(c.rows)}, nil
}

func (c *fakeCluster) TransferLeader(_ context.Context, topic string, partition int32, to uint64) error {
	c.call("transfer %s/%d %d", topic, partition, to)
	_, err := c.topic(topic)
	return err
}

func (c *fakeCluster) BalanceLeaders(context.Context) (*protocol.BalanceReply, error) {
	return &protocol.BalanceReply{Moves: 2}, nil
}

func (c *fakeCluster) ShowRaft(_ context.Context, r protocol.RaftShowRequest) (*protocol.RaftShowReply, error) {
	topic := r.Topic
	if r.GroupShard != nil {
		c.call("raft of coordinator shard %d", *r.GroupShard)
	} else {
		c.call("raft %q %d", topic, r.Partition)
	}
	if topic != "" {
		if _, err := c.topic(topic); err != nil {
			return nil, err
		}
	}
	return c.raft, nil
}

func (c *fakeCluster) Topic(_ context.Context, name string) (*protocol.TopicMetadata, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, err := c.topic(name)
	if err != nil {
		return nil, err
	}
	return &protocol.TopicMetadata{Name: name, ID: 7, Partitions: make([]protocol.PartitionMetadata, len(t.stored))}, nil
}

func (c *fakeCluster) Offsets(_ context.Context, topic string, partition int32, timestampMs int64) (protocol.OffsetsReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.topics[topic]
	switch timestampMs {
	case protocol.TimestampEarliest:
		return protocol.OffsetsReply{Offset: t.start[partition]}, nil
	case protocol.TimestampLatest:
		return protocol.OffsetsReply{Offset: int64(len(t.stored[partition]))}, nil
	}
	for _, r := range t.stored[partition] {
		if r.Timestamp.UnixMilli() >= timestampMs {
			return protocol.OffsetsReply{Offset: r.Offset}, nil
		}
	}
	return protocol.OffsetsReply{Offset: -1}, nil
}

func (c *fakeCluster) Close() {}

// fakeSender stores records at once and calls back from a goroutine, as a
// producer does.
type fakeSender struct {
	c         *fakeCluster
	callbacks chan func()
	ended     chan struct{}
}

func newFakeSender(c *fakeCluster) *fakeSender {
	s := &fakeSender{c: c, callbacks: make(chan func(), 1000), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		for f := range s.callbacks {
			f()
		}
	}()
	return s
}

func (s *fakeSender) SendAsync(_ context.Context, r producer.Record, done func(producer.Receipt, error)) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.c.refuse != nil {
		if err := s.c.refuse(r); err != nil {
			s.callbacks <- func() { done(producer.Receipt{Topic: r.Topic, Partition: -1, Offset: -1}, err) }
			return
		}
	}
	p := int32(0)
	if r.Partition != nil {
		p = *r.Partition
	}
	t := s.c.topics[r.Topic]
	t.add(p, bytes.Clone(r.Key), bytes.Clone(r.Value))
	stored := &t.stored[p][len(t.stored[p])-1]
	for _, h := range r.Headers {
		stored.Headers = append(stored.Headers, consumer.Header{Key: h.Key, Value: bytes.Clone(h.Value)})
	}
	if !r.Timestamp.IsZero() {
		stored.Timestamp = r.Timestamp
	}
	receipt := producer.Receipt{Topic: r.Topic, Partition: p, Offset: stored.Offset, Timestamp: stored.Timestamp}
	s.callbacks <- func() { done(receipt, nil) }
	close(s.c.grown)
	s.c.grown = make(chan struct{})
}

func (s *fakeSender) Close(context.Context) error {
	close(s.callbacks)
	<-s.ended
	return nil
}

// fakeReader reads a partition of a fakeCluster.
type fakeReader struct {
	c        *fakeCluster
	name     partitionName
	position int64
}

func (r *fakeReader) Poll(ctx context.Context, max int) ([]consumer.Record, error) {
	for {
		r.c.mu.Lock()
		stored, grown := r.c.topics[r.name.topic].stored[r.name.partition], r.c.grown
		r.c.mu.Unlock()
		if n := int64(len(stored)) - r.position; n > 0 {
			out := stored[r.position : r.position+min(n, int64(max))]
			r.position += int64(len(out))
			return out, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *fakeReader) Close() error { return nil }

// run is one run of the command line.
type run struct {
	t              *testing.T
	c              *fakeCluster
	stdin          io.Reader
	env            map[string]string
	stdout, stderr bytes.Buffer
	code           int
	app            *app
}

func newRun(t *testing.T, c *fakeCluster, stdin string) *run {
	r := &run{t: t, c: c, stdin: strings.NewReader(stdin), env: map[string]string{}}
	config := filepath.Join(t.TempDir(), "config")
	r.app = &app{
		getenv: func(name string) string { return r.env[name] }, configDir: func() (string, error) { return config, nil },
		now: time.Now, watchEvery: time.Millisecond,
		dial: func(_ context.Context, conn connection) (backend, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.dials = append(c.dials, conn)
			return c, nil
		},
		newProducer: func(context.Context, connection, ...producer.Option) (recordSender, error) {
			return newFakeSender(c), nil
		},
		// The position to start at is inside the options, which only package
		// consumer can read: tests that care about it look at spans.
		newReader: func(_ context.Context, _ connection, p partitionName, _ ...consumer.Option) (recordReader, error) {
			return &fakeReader{c: c, name: p, position: c.topics[p.topic].start[p.partition]}, nil
		},
		newConsumer: func(_ context.Context, _ connection, group, topic string, _ ...consumer.Option) (groupReader, error) {
			return newFakeGroupReader(c, group, topic), nil
		},
	}
	r.app.stderr = &serialWriter{w: &r.stderr}
	return r
}

func (r *run) do(args ...string) *run {
	r.stdout.Reset()
	r.stderr.Reset()
	r.app.globals = globals{}
	r.app.stdin = r.stdin
	if r.app.stdout == nil {
		r.app.stdout = &r.stdout
	}
	r.code = cli.Run(newRoot(r.app), args, r.app.stdout, r.app.stderr)
	return r
}

func (r *run) want(code int, stdout string) {
	r.t.Helper()
	if r.code != code || r.stdout.String() != stdout {
		r.t.Fatalf("exit %d, stdout %q, stderr %q; want exit %d, stdout %q", r.code, r.stdout.String(), r.stderr.String(), code, stdout)
	}
}

func (r *run) wantErr(code int, parts ...string) {
	r.t.Helper()
	for _, part := range parts {
		if r.code != code || !strings.Contains(r.stderr.String(), part) {
			r.t.Fatalf("exit %d, stderr %q; want exit %d and %q", r.code, r.stderr.String(), code, part)
		}
	}
}
