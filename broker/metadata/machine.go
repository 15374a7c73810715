package metadata

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/errcode"
)

// snapshotVersion is the version of the snapshot's JSON.
const snapshotVersion = 1

// machine is the state machine of the metadata shard. Everything it does
// follows from the commands alone: no clock, no randomness, and no map is
// walked on the way to a result or a snapshot.
//
// dragonboat never calls Update and RecoverFromSnapshot beside each other or
// beside SaveSnapshot, so there is no lock here.
type machine struct {
	image   *Image
	onImage func(*Image)

	nextTopic    uint64 // > every topic id given so far
	nextShard    uint64 // > every shard given so far
	nextProducer int64  // > every producer id given so far
	requests     requests
}

// NewStateMachine returns an empty state machine. onImage is told each new
// image, from the goroutine that applies; it must not block.
func NewStateMachine(onImage func(*Image)) statemachine.IStateMachine {
	return &machine{
		image: &Image{}, onImage: onImage, nextTopic: 1, nextShard: FirstPartitionShard,
		nextProducer: 1, requests: newRequests(),
	}
}

// Update applies one command. It never fails: a command that cannot be carried
// out answers with a code.
func (m *machine) Update(e statemachine.Entry) (statemachine.Result, error) {
	r := m.apply(e)
	data, err := json.Marshal(r)
	if err != nil {
		return statemachine.Result{}, fmt.Errorf("encoding a metadata result: %w", err)
	}
	m.onImage(m.image)
	return statemachine.Result{Data: data}, nil
}

// apply carries out one command, or answers a repeated one as before. The image
// gets the entry's index in any case.
func (m *machine) apply(e statemachine.Entry) result {
	next := m.image.next(e.Index)
	unchanged := m.image.next(e.Index)
	var c command
	if err := json.Unmarshal(e.Cmd, &c); err != nil {
		m.image = unchanged
		return refused(errcode.New(errcode.InvalidRequest, "the metadata command cannot be read"))
	}
	if r, done := m.requests.answer(c); done {
		m.image = unchanged
		return r
	}
	r, err := m.execute(next, c)
	if err != nil {
		r, next = refused(err), unchanged
	}
	r.Index = e.Index
	m.image = next
	m.requests.remember(c, r)
	return r
}

// execute changes next as c says, or returns why not; then next is thrown away,
// and nothing of m may have changed.
func (m *machine) execute(next *Image, c command) (result, error) {
	if c.Version != commandVersion {
		return result{}, unknownCommand(c)
	}
	switch c.Kind {
	case kindFound:
		return with(m.found, next, c)
	case kindRegister:
		return with(m.register, next, c)
	case kindCreateTopic:
		return with(m.createTopic, next, c)
	case kindDeleteTopic:
		return with(m.deleteTopic, next, c)
	case kindAlterTopic:
		return with(m.alterTopic, next, c)
	case kindAddPartitions:
		return with(m.addPartitions, next, c)
	case kindMarkStarted:
		return with(m.markStarted, next, c)
	case kindProducerIDs:
		return with(m.producerIDs, next, c)
	case kindReplaceReplica:
		return with(m.replaceReplica, next, c)
	case kindReplicaLeft:
		return with(m.replicaLeft, next, c)
	case kindReplicaPromoted:
		return with(m.replicaPromoted, next, c)
	}
	return result{}, unknownCommand(c)
}

// unknownCommand is the answer to a command of a newer node. This replica does
// not do what the newer ones do, so a cluster must be upgraded before anyone
// uses what is new.
func unknownCommand(c command) error {
	return errcode.New(errcode.UnsupportedVersion,
		"this node does not know the metadata command %q version %d; upgrade all nodes first", c.Kind, c.Version)
}

// with decodes c's body for f. The decoder's own words stay out of the answer:
// they differ between Go versions, and answers are replicated state.
func with[B any](f func(*Image, command, B) (result, error), next *Image, c command) (result, error) {
	var body B
	if err := json.Unmarshal(c.Body, &body); err != nil {
		return result{}, errcode.New(errcode.InvalidRequest, "the body of metadata command %q cannot be read", c.Kind)
	}
	return f(next, c, body)
}

// Lookup returns the *Image, whatever the query.
func (m *machine) Lookup(any) (any, error) { return m.image, nil }

// Close does nothing.
func (m *machine) Close() error { return nil }

// snapshot is the state machine as JSON.
type snapshot struct {
	Version      int          `json:"version"`
	Index        uint64       `json:"index"`
	ClusterID    string       `json:"cluster_id"`
	ClusterName  string       `json:"cluster_name"`
	Defaults     Defaults     `json:"defaults"`
	GroupShards  int          `json:"group_shards,omitempty"`
	Nodes        []Node       `json:"nodes"`
	Topics       []*Topic     `json:"topics"`
	NextTopic    uint64       `json:"next_topic"`
	NextShard    uint64       `json:"next_shard"`
	NextProducer int64        `json:"next_producer"`
	Requests     []remembered `json:"requests"`
}

// SaveSnapshot writes the state machine as JSON.
func (m *machine) SaveSnapshot(w io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	i := m.image
	err := json.NewEncoder(w).Encode(snapshot{
		Version: snapshotVersion, Index: i.Index,
		ClusterID: i.ClusterID, ClusterName: i.ClusterName, Defaults: i.Defaults, GroupShards: i.GroupShards, Nodes: i.nodes, Topics: i.topics,
		NextTopic: m.nextTopic, NextShard: m.nextShard, NextProducer: m.nextProducer, Requests: m.requests.order,
	})
	if err != nil {
		return fmt.Errorf("writing the metadata snapshot: %w", err)
	}
	return nil
}

// RecoverFromSnapshot replaces the state machine by a snapshot. An error ends
// the process: a node must not go on with half of the metadata.
func (m *machine) RecoverFromSnapshot(r io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	var s snapshot
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return fmt.Errorf("reading the metadata snapshot: %w", err)
	}
	if s.Version != snapshotVersion {
		return fmt.Errorf("the metadata snapshot has version %d and this logbroker reads version %d; start the version that wrote it", s.Version, snapshotVersion)
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("the metadata snapshot contradicts itself: %w", err)
	}
	m.image = s.image()
	m.nextTopic, m.nextShard, m.nextProducer = s.NextTopic, s.NextShard, s.NextProducer
	m.requests = newRequests()
	for _, q := range s.Requests {
		m.requests.put(q)
	}
	m.onImage(m.image)
	return nil
}

// image builds the image that a snapshot stands for.
func (s snapshot) image() *Image {
	return newImage(Image{
		Index: s.Index, ClusterID: s.ClusterID, ClusterName: s.ClusterName, Defaults: s.Defaults,
		NextShard: s.NextShard, GroupShards: s.GroupShards, nodes: s.Nodes, topics: s.Topics,
	})
}

// check returns what in s cannot be. It holds what the look-ups rest on: nodes
// and topics strictly ascending by id, names and shards given once, all below
// the next ones to be given.
func (s snapshot) check() error {
	for i, n := range s.Nodes {
		if i > 0 && n.ID <= s.Nodes[i-1].ID {
			return fmt.Errorf("node %d is out of order", n.ID)
		}
	}
	last, names, shards := uint64(0), map[string]bool{}, map[uint64]bool{}
	for _, t := range s.Topics {
		if t == nil || t.ID <= last || t.ID >= s.NextTopic || names[t.Name] {
			return fmt.Errorf("the topic after id %d is out of order or doubled", last)
		}
		last, names[t.Name] = t.ID, true
		for i, p := range t.Partitions {
			if int(p.ID) != i || p.Shard >= s.NextShard || shards[p.Shard] || len(p.Replicas) == 0 {
				return fmt.Errorf("partition %d of topic %q is out of order, doubled or empty", i, t.Name)
			}
			shards[p.Shard] = true
		}
	}
	if len(s.Requests) > requestsMax {
		return fmt.Errorf("%d requests are remembered, %d are allowed", len(s.Requests), requestsMax)
	}
	return nil
}
