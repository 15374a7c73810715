package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"logbroker/consumer"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

func (c *fakeCluster) commit(group, topic string, partition int32, offset int64) {
	if c.groups == nil {
		c.groups = map[string]map[partitionName]int64{}
	}
	if c.groups[group] == nil {
		c.groups[group] = map[partitionName]int64{}
	}
	c.groups[group][partitionName{topic, partition}] = offset
}

func (c *fakeCluster) ListGroups(context.Context) (*protocol.GroupListReply, error) {
	reply := &protocol.GroupListReply{}
	for _, name := range slices.Sorted(maps.Keys(c.groups)) {
		reply.Groups = append(reply.Groups, protocol.GroupSummary{Group: name, State: protocol.GroupEmpty, Topics: 1, Coordinator: 2})
	}
	return reply, nil
}

func (c *fakeCluster) DescribeGroup(_ context.Context, group string) (*protocol.GroupDescription, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looks++
	if c.described == nil {
		return nil, errcode.New(errcode.GroupIDNotFound, "no %s", group)
	}
	d := *c.described
	d.TotalLag += int64(c.looks / 3)
	return &d, nil
}

func (c *fakeCluster) DeleteGroup(_ context.Context, group string) error {
	if c.groups[group] == nil {
		return errcode.New(errcode.GroupIDNotFound, "no %s", group)
	}
	if strings.HasPrefix(group, "busy") {
		return errcode.New(errcode.NonEmptyGroup, "2 members")
	}
	delete(c.groups, group)
	return nil
}

func (c *fakeCluster) SeekGroup(_ context.Context, r protocol.GroupSeekRequest) (*protocol.CommitReply, error) {
	if strings.HasPrefix(r.Group, "busy") {
		return nil, errcode.New(errcode.NonEmptyGroup, "2 members")
	}
	reply := &protocol.CommitReply{}
	for _, o := range r.Offsets {
		if o.TopicID != 7 {
			return nil, errcode.New(errcode.UnknownTopicID, "topic id %d", o.TopicID)
		}
		c.call("seek %s %s/%d %d %v", r.Group, o.Topic, o.Partition, o.Offset, r.DryRun)
		reply.Results = append(reply.Results, protocol.OffsetResult{Topic: o.Topic, Partition: o.Partition})
	}
	return reply, nil
}

func (c *fakeCluster) GroupOffsets(_ context.Context, group string, _ ...protocol.TopicPartitions) ([]protocol.CommittedOffset, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.groups[group] == nil {
		return nil, errcode.New(errcode.GroupIDNotFound, "no %s", group)
	}
	var out []protocol.CommittedOffset
	for p, offset := range c.groups[group] {
		out = append(out, protocol.CommittedOffset{Topic: p.topic, TopicID: 7, Partition: p.partition, Offset: offset})
	}
	return out, nil
}

// fakeGroupReader is a member that owns some partitions of a topic.
type fakeGroupReader struct {
	c      *fakeCluster
	group  string
	topic  string
	owned  []int32
	at     map[int32]int64
	paused map[int32]bool
	marked map[int32]int64
	events []string
	ended  bool
}

func newFakeGroupReader(c *fakeCluster, group, topic string) *fakeGroupReader {
	g := &fakeGroupReader{c: c, group: group, topic: topic, at: map[int32]int64{}, paused: map[int32]bool{}, marked: map[int32]int64{}}
	for p := range c.topics[topic].stored {
		g.owned = append(g.owned, int32(p))
		g.at[int32(p)] = c.groups[group][partitionName{topic, int32(p)}]
	}
	return g
}

func (g *fakeGroupReader) Poll(ctx context.Context, max int) ([]consumer.Record, error) {
	for {
		g.c.mu.Lock()
		for _, p := range g.owned {
			stored := g.c.topics[g.topic].stored[p]
			if n := int64(len(stored)) - g.at[p]; n > 0 && !g.paused[p] {
				out := slices.Clone(stored[g.at[p] : g.at[p]+min(n, int64(max), 1000)])
				g.at[p] += int64(len(out))
				g.c.mu.Unlock()
				return out, nil
			}
		}
		grown := g.c.grown
		g.c.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (g *fakeGroupReader) Mark(records ...consumer.Record) {
	g.events = append(g.events, fmt.Sprint("mark ", len(records)))
	for _, r := range records {
		if r.Offset != max(g.marked[r.Partition], g.c.groups[g.group][partitionName{g.topic, r.Partition}]) {
			panic(fmt.Sprintf("offset %d is marked after %d", r.Offset, g.marked[r.Partition]))
		}
		g.marked[r.Partition] = r.Offset + 1
	}
}

func (g *fakeGroupReader) Positions() []consumer.Position {
	var out []consumer.Position
	for _, p := range g.owned {
		committed := int64(-1)
		if at, some := g.c.groups[g.group][partitionName{g.topic, p}]; some {
			committed = at
		}
		out = append(out, consumer.Position{
			TopicPartition: consumer.TopicPartition{Topic: g.topic, Partition: p}, Offset: g.at[p], Committed: committed, Paused: g.paused[p],
		})
	}
	return out
}

func (g *fakeGroupReader) Seek(p consumer.TopicPartition, offset int64) error {
	g.at[p.Partition] = offset
	return nil
}

func (g *fakeGroupReader) Pause(partitions ...consumer.TopicPartition) error {
	for _, p := range partitions {
		g.paused[p.Partition] = true
	}
	return nil
}

func (g *fakeGroupReader) Drain(context.Context) error {
	g.ended = true
	for p, offset := range g.marked {
		g.c.commit(g.group, g.topic, p, offset)
	}
	return nil
}
