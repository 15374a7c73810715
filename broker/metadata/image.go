package metadata

import (
	"cmp"
	"slices"
)

// ShardID is the Raft shard of the metadata. Shards of partitions start at
// FirstPartitionShard and are never used twice.
const (
	ShardID             = 1
	FirstPartitionShard = 1001
)

// Node is a registered node. Its id and Incarnation (the UUID of its data
// directory) belong together for ever; the rest is replaced at every start.
type Node struct {
	ID          uint64   `json:"id"`
	Incarnation string   `json:"incarnation"`
	RaftAddr    string   `json:"raft_addr"`
	RouteAddr   string   `json:"route_addr"`
	HTTPAddr    string   `json:"http_addr"`
	ClientURLs  []string `json:"client_urls"`
	Rack        string   `json:"rack,omitempty"`
	Version     string   `json:"version,omitempty"`
}

// Topic is a topic and where its partitions lie. ID is never used twice, so a
// topic that is made again under the same name is another topic. RequestID is
// that of the request that created it.
//
// Invariant: Partitions[i].ID == i, len(Partitions[i].Replicas) == Replicas
// unless a replica is being replaced.
type Topic struct {
	Name       string      `json:"name"`
	ID         uint64      `json:"id"`
	Replicas   int         `json:"replicas"`
	Config     TopicConfig `json:"config"`
	Partitions []Partition `json:"partitions"`
	RequestID  string      `json:"request_id,omitempty"`
	CreatedMs  int64       `json:"created_ms"` // Unix time in ms by the clock of the node that proposed it
}

// Partition is one partition: a Raft shard of its own. The first replica is the
// preferred leader. NextReplica is the replica id that a replacement would get;
// replica ids of a shard are never used twice.
type Partition struct {
	ID          int32     `json:"id"`
	Shard       uint64    `json:"shard"`
	Replicas    []Replica `json:"replicas"`
	NextReplica uint64    `json:"next_replica"`
	// Founders are the first members of the shard, kept from when the first of them
	// is replaced; empty before.
	Founders []Founder `json:"founders,omitempty"`
	// Leaving holds the ids of replaced replicas that may still be members of the
	// shard. It is empty unless a replica is Joining.
	Leaving []uint64 `json:"leaving,omitempty"`
}

// Founder is one of a shard's first members.
type Founder struct {
	Replica     uint64 `json:"replica"`
	Incarnation string `json:"incarnation"`
}

// Nodes returns the ids of the nodes that hold replicas, preferred leader first.
func (p *Partition) Nodes() []uint64 {
	out := make([]uint64, len(p.Replicas))
	for i, r := range p.Replicas {
		out[i] = r.Node
	}
	return out
}

// Members maps replica ids to node incarnations: the first members of the shard,
// which stay what they were when a replica is replaced. They are what a replica
// that is no Joiner is started with for the first time.
func (p *Partition) Members() map[uint64]string {
	out := make(map[uint64]string, len(p.Replicas))
	for _, f := range p.founders() {
		out[f.Replica] = f.Incarnation
	}
	return out
}

func (p *Partition) founders() []Founder {
	if len(p.Founders) > 0 {
		return p.Founders
	}
	out := make([]Founder, len(p.Replicas))
	for i, r := range p.Replicas {
		out[i] = Founder{Replica: r.Replica, Incarnation: r.Incarnation}
	}
	return out
}

// Voters returns the ids of the nodes whose replicas vote and may lead, preferred
// leader first.
func (p *Partition) Voters() []uint64 {
	out := make([]uint64, 0, len(p.Replicas))
	for _, r := range p.Replicas {
		if !r.Joining {
			out = append(out, r.Node)
		}
	}
	return out
}

// Joining returns the replica that is taking the place of another one.
func (p *Partition) Joining() (Replica, bool) {
	for _, r := range p.Replicas {
		if r.Joining {
			return r, true
		}
	}
	return Replica{}, false
}

// ReplicaOn returns the replica that node holds.
func (p *Partition) ReplicaOn(node uint64) (Replica, bool) {
	for _, r := range p.Replicas {
		if r.Node == node {
			return r, true
		}
	}
	return Replica{}, false
}

// Replica is one replica of a partition. Started is set when its node's Raft log
// knows it and before it first runs: a started replica whose log is gone must
// never start again.
type Replica struct {
	Node        uint64 `json:"node"`
	Replica     uint64 `json:"replica"`
	Incarnation string `json:"incarnation"`
	Started     bool   `json:"started,omitempty"`
	// Joiner is set for good on a replica that took the place of another: it joined
	// the running shard. Joining is set until it votes.
	Joiner  bool `json:"joiner,omitempty"`
	Joining bool `json:"joining,omitempty"`
}

// ReplicaKey names a replica.
type ReplicaKey struct {
	Shard   uint64 `json:"shard"`
	Replica uint64 `json:"replica"`
}

// Defaults hold for topics whose creator does not say otherwise. Replicas 0
// means min(3, nodes).
type Defaults struct {
	Partitions int32       `json:"partitions"`
	Replicas   int         `json:"replicas"`
	Config     TopicConfig `json:"config"`
}

// Image is the metadata at one index. It never changes: a command makes a new
// one, which shares with the old what the command did not touch. What its
// methods return must not be changed either.
type Image struct {
	// Index is the log index of the last command applied, 0 for none.
	Index       uint64
	ClusterID   string // "" until the cluster is founded
	ClusterName string
	Defaults    Defaults
	// NextShard is above every shard that was ever given to a partition. A shard
	// below it without a partition belonged to a topic that was deleted.
	NextShard uint64
	// GroupShards is the number of coordinator shards of consumer groups, fixed
	// at founding; 0 in a cluster that was founded without.
	GroupShards int

	nodes  []Node       // by id
	topics []*Topic     // by id, which is also the order of creation
	byName []*Topic     // the same, by name
	ranges []shardRange // by first shard
}

// shardRange says that partitions from, from+1, … of a topic have the shards
// first, first+1, …, count of them. A topic has one range for each time it got
// partitions.
type shardRange struct {
	first, count uint64
	topic        uint64
	from         int32
}

// Founded reports whether the cluster has been founded.
func (m *Image) Founded() bool { return m.ClusterID != "" }

// Nodes returns all registered nodes by id.
func (m *Image) Nodes() []Node { return m.nodes }

// Node returns a node.
func (m *Image) Node(id uint64) (Node, bool) {
	i, ok := slices.BinarySearchFunc(m.nodes, id, func(n Node, id uint64) int { return cmp.Compare(n.ID, id) })
	if !ok {
		return Node{}, false
	}
	return m.nodes[i], true
}

// NodeByIncarnation returns the node with that incarnation.
func (m *Image) NodeByIncarnation(incarnation string) (Node, bool) {
	for _, n := range m.nodes {
		if n.Incarnation == incarnation {
			return n, true
		}
	}
	return Node{}, false
}

// Topics returns all topics by name.
func (m *Image) Topics() []*Topic { return m.byName }

// Topic returns the topic that has the name now.
func (m *Image) Topic(name string) (*Topic, bool) {
	i, ok := slices.BinarySearchFunc(m.byName, name, compareName)
	if !ok {
		return nil, false
	}
	return m.byName[i], true
}

// TopicByID returns a topic.
func (m *Image) TopicByID(id uint64) (*Topic, bool) {
	i, ok := slices.BinarySearchFunc(m.topics, id, compareID)
	if !ok {
		return nil, false
	}
	return m.topics[i], true
}

// PartitionByShard returns the partition that a shard is, with its topic.
func (m *Image) PartitionByShard(shard uint64) (*Topic, *Partition, bool) {
	i, ok := slices.BinarySearchFunc(m.ranges, shard, func(r shardRange, shard uint64) int {
		switch {
		case r.first+r.count <= shard:
			return -1
		case r.first > shard:
			return 1
		}
		return 0
	})
	if !ok {
		return nil, nil, false
	}
	r := m.ranges[i]
	t, ok := m.TopicByID(r.topic)
	if !ok {
		return nil, nil, false
	}
	return t, &t.Partitions[uint64(r.from)+shard-r.first], true
}

// PartitionCount returns the number of partitions of all topics.
func (m *Image) PartitionCount() int {
	n := 0
	for _, r := range m.ranges {
		n += int(r.count)
	}
	return n
}

// Assignment is a replica with what it belongs to.
type Assignment struct {
	Topic     *Topic
	Partition *Partition
	Replica   Replica
}

// ReplicasOn returns the replicas that a node should hold, by topic id and
// partition.
func (m *Image) ReplicasOn(node uint64) []Assignment {
	var out []Assignment
	for _, t := range m.topics {
		for i := range t.Partitions {
			if r, ok := t.Partitions[i].ReplicaOn(node); ok {
				out = append(out, Assignment{t, &t.Partitions[i], r})
			}
		}
	}
	return out
}

// Replacements returns the replicas of all nodes that are taking the place of
// others, by topic id and partition.
func (m *Image) Replacements() []Assignment {
	var out []Assignment
	for _, t := range m.topics {
		for i := range t.Partitions {
			if r, ok := t.Partitions[i].Joining(); ok {
				out = append(out, Assignment{t, &t.Partitions[i], r})
			}
		}
	}
	return out
}

func compareName(t *Topic, name string) int { return cmp.Compare(t.Name, name) }

func compareID(t *Topic, id uint64) int { return cmp.Compare(t.ID, id) }

// next returns a copy of m to be changed before it is published. The slices are
// still m's: the with… methods replace what they change.
func (m *Image) next(index uint64) *Image {
	c := *m
	c.Index = index
	return &c
}

// newImage completes an image of which the nodes and topics by id are given.
func newImage(m Image) *Image {
	m.byName = slices.Clone(m.topics)
	slices.SortFunc(m.byName, func(a, b *Topic) int { return compareName(a, b.Name) })
	for _, t := range m.topics {
		m.ranges = appendRanges(m.ranges, t, 0)
	}
	slices.SortFunc(m.ranges, func(a, b shardRange) int { return cmp.Compare(a.first, b.first) })
	return &m
}

// appendRanges appends the shards of t's partitions from number added on.
func appendRanges(ranges []shardRange, t *Topic, added int) []shardRange {
	for i := added; i < len(t.Partitions); i++ {
		shard := t.Partitions[i].Shard
		if last := len(ranges) - 1; i > added && ranges[last].first+ranges[last].count == shard {
			ranges[last].count++
			continue
		}
		ranges = append(ranges, shardRange{first: shard, count: 1, topic: t.ID, from: t.Partitions[i].ID})
	}
	return ranges
}

// withNode adds or replaces a node. Only for an image not published yet, like
// the other with… and without… methods.
func (m *Image) withNode(n Node) {
	i, ok := slices.BinarySearchFunc(m.nodes, n.ID, func(n Node, id uint64) int { return cmp.Compare(n.ID, id) })
	m.nodes = slices.Clone(m.nodes)
	if ok {
		m.nodes[i] = n
		return
	}
	m.nodes = slices.Insert(m.nodes, i, n)
}

// withTopic adds t or replaces the topic with its id, and adds the shards of
// its partitions from number added on, which must be the highest shards so far.
func (m *Image) withTopic(t *Topic, added int) {
	m.topics = put(m.topics, t, func(x *Topic) int { return compareID(x, t.ID) })
	m.byName = put(m.byName, t, func(x *Topic) int { return compareName(x, t.Name) })
	if added == len(t.Partitions) {
		return
	}
	// New shards are above all others, so the ranges stay sorted.
	m.ranges = appendRanges(slices.Clone(m.ranges), t, added)
}

// withoutTopic removes a topic.
func (m *Image) withoutTopic(t *Topic) {
	same := func(x *Topic) bool { return x.ID == t.ID }
	m.topics = slices.DeleteFunc(slices.Clone(m.topics), same)
	m.byName = slices.DeleteFunc(slices.Clone(m.byName), same)
	m.ranges = slices.DeleteFunc(slices.Clone(m.ranges), func(r shardRange) bool { return r.topic == t.ID })
}

// put returns a copy of the sorted slice in with t in its place. compare orders
// an element against t.
func put(in []*Topic, t *Topic, compare func(*Topic) int) []*Topic {
	i, ok := slices.BinarySearchFunc(in, t, func(x, _ *Topic) int { return compare(x) })
	out := slices.Clone(in)
	if ok {
		out[i] = t
		return out
	}
	return slices.Insert(out, i, t)
}
