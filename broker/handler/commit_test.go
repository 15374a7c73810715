package handler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/partitions"
)

// storingGroups stores what is committed, as "partition:offset".
type storingGroups struct {
	fakeGroups
	stored []string
}

func (g *storingGroups) Route(string) error { return nil }

func (g *storingGroups) Commit(_ context.Context, req protocol.CommitRequest, done func(*protocol.CommitReply, error)) {
	reply := &protocol.CommitReply{}
	for _, o := range req.Offsets {
		g.stored = append(g.stored, fmt.Sprintf("%d:%d", o.Partition, o.Offset))
		reply.Results = append(reply.Results, protocol.OffsetResult{Topic: o.Topic, Partition: o.Partition})
	}
	done(reply, nil)
}

// countingPeers counts the calls between nodes.
type countingPeers struct {
	fakePeers
	calls atomic.Int64
}

func (p *countingPeers) Call(ctx context.Context, node uint64, name string, req, reply any) error {
	p.calls.Add(1)
	return p.fakePeers.Call(ctx, node, name, req, reply)
}

// committing is node 1, which coordinates and has a replica of some partitions.
type committing struct {
	*fleet
	h      *Handler
	groups *storingGroups
	peers  *countingPeers
	topic  *metadata.Topic
}

// newCommitting makes a topic of four partitions with ten records each. Node 1
// leads partition 0, has a replica of 1 that lacks the last three records, and
// none of the others; node 2 leads 1 to 3.
func newCommitting(t *testing.T) *committing {
	f := newFleet(t, 2)
	topic, err := f.store.CreateTopic(t.Context(), metadata.TopicSpec{Name: "orders", Partitions: 4, Replicas: 2})
	must(t, err)
	c := &committing{fleet: f, h: f.peers[1], groups: &storingGroups{}, peers: &countingPeers{fakePeers: f.peers}, topic: topic}
	c.h.options.Groups, c.h.options.Peers = c.groups, c.peers
	put := func(node uint64, number int, leader uint64, records int) {
		r := &fakeReplica{hint: partitions.LeaderHint{Node: leader, Epoch: 1, Serving: node == leader}}
		f.nodes[node].add(topic.Partitions[number].Shard, r)
		must(t, r.Append(partitions.AppendRequest{Buf: encodeBatch(t, slices.Repeat([]string{"v"}, records)...)}, func(partitions.AppendResult) {}))
		if node == leader {
			f.leaders.Set(protocol.LeadersBroadcast{Node: leader, Leaders: []protocol.ShardLeader{{Shard: topic.Partitions[number].Shard, Epoch: 1}}})
		}
	}
	put(1, 0, 1, 10)
	put(1, 1, 2, 7)
	for n := 1; n < 4; n++ {
		put(2, n, 2, 10)
	}
	return c
}

// commit commits pairs of partition and offset, and returns the codes and what
// was stored.
func (c *committing) commit(pairs ...int64) (codes []errcode.Code, stored []string) {
	c.Helper()
	req := protocol.CommitRequest{MemberID: "m", MemberEpoch: 1}
	for i := 0; i < len(pairs); i += 2 {
		req.Offsets = append(req.Offsets, protocol.CommittedOffset{Topic: "orders", TopicID: c.topic.ID, Partition: int32(pairs[i]), Offset: pairs[i+1]})
	}
	body, err := json.Marshal(req)
	must(c.T, err)
	c.groups.stored = nil
	_, answer, _ := askGroup(c.T, c.h, protocol.VerbGroupCommit, "g", string(body))
	var reply protocol.CommitReply
	must(c.T, json.Unmarshal(answer, &reply))
	for i, r := range reply.Results {
		if r.Partition != int32(pairs[2*i]) {
			c.Errorf("result %d is of partition %d", i, r.Partition)
		}
		codes = append(codes, errcode.Of(r.Error.Err()))
	}
	return codes, c.groups.stored
}

func (c *committing) want(calls int64, codes []errcode.Code, stored []string, pairs ...int64) {
	c.Helper()
	before := c.peers.calls.Load()
	gotCodes, gotStored := c.commit(pairs...)
	if !slices.Equal(gotCodes, codes) || !slices.Equal(gotStored, stored) {
		c.Errorf("commit of %v: %v, stored %v; want %v, %v", pairs, gotCodes, gotStored, codes, stored)
	}
	if n := c.peers.calls.Load() - before; n != calls {
		c.Errorf("commit of %v asked other nodes %d times, not %d", pairs, n, calls)
	}
}

func TestACommitBeyondTheEndIsRefusedAndTheOthersAreStored(t *testing.T) {
	c := newCommitting(t)
	const fine, beyond = errcode.None, errcode.OffsetOutOfRange
	_, err := c.nodes[1].m[c.topic.Partitions[0].Shard].Trim(t.Context(), 5)
	must(t, err)
	c.want(0, []errcode.Code{fine, fine, fine}, []string{"0:10", "1:7", "0:2"}, 0, 10, 1, 7, 0, 2) // the own replicas cover it; one is below the log start
	c.want(0, []errcode.Code{beyond, fine}, []string{"1:7"}, 0, 11, 1, 7)
	c.want(1, []errcode.Code{fine, fine, beyond}, []string{"1:9", "2:10"}, 1, 9, 2, 10, 3, 11) // the leader is asked once
	c.want(0, []errcode.Code{fine, fine}, []string{"1:10", "3:10"}, 1, 10, 3, 10)              // what it said is remembered
	c.want(1, []errcode.Code{beyond, beyond}, nil, 2, 11, 3, 1<<62)
}

func TestACommitIsStoredUnseenWhileNobodyCanTellTheEnd(t *testing.T) {
	c := newCommitting(t)
	third := c.nodes[2].m[c.topic.Partitions[3].Shard]
	third.latest = func(context.Context) (int64, error) {
		return 0, errcode.New(errcode.NotEnoughReplicas, "deposed")
	}
	fine := []errcode.Code{errcode.None}
	c.want(1, fine, []string{"3:99"}, 3, 99) // who leads is not certain
	c.peers.fakePeers[2] = nil               // does not answer
	began := time.Now()
	c.want(1, fine, []string{"2:99"}, 2, 99)
	if took := time.Since(began); took < endsTimeout {
		t.Errorf("it was not waited for: %v", took)
	}
	c.want(0, fine, []string{"1:99"}, 1, 99) // not waited for again
	for i := range c.topic.Partitions {      // there is no leader that anybody knows
		if r, ok := c.nodes[1].Get(c.topic.Partitions[i].Shard); ok {
			r.(*fakeReplica).setLeader(partitions.LeaderHint{})
		}
	}
	c.h.options.Leaders = metadata.NewLeaders()
	c.want(0, fine, []string{"0:99"}, 0, 99)
}

func TestTheMemoryOfEndsIsBoundedAndOnlyRises(t *testing.T) {
	l := newLogEnds()
	for shard := range uint64(logEndsMax + 10) {
		l.raise(shard, 5)
	}
	l.raise(logEndsMax+9, 3)
	if len(l.ends) != logEndsMax || !l.reaches(logEndsMax+9, 5) {
		t.Fatal(len(l.ends))
	}
}
