package metadata

import (
	"slices"

	"logbroker/broker/placement"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// found carries out kindFound.
func (m *machine) found(next *Image, _ command, f Founding) (result, error) {
	switch {
	case f.ClusterID == "":
		return result{}, errcode.New(errcode.InvalidRequest, "a cluster cannot be founded without an id")
	case next.ClusterID == f.ClusterID:
		return result{}, nil
	case next.Founded():
		return result{}, errcode.New(errcode.InvalidRequest, "this is cluster %s (%s) already; it cannot be founded again as %s",
			next.ClusterName, next.ClusterID, f.ClusterID)
	}
	next.ClusterID, next.ClusterName, next.Defaults = f.ClusterID, f.ClusterName, f.Defaults
	next.GroupShards = f.GroupShards
	return result{}, nil
}

// register carries out kindRegister.
func (m *machine) register(next *Image, _ command, n Node) (result, error) {
	if n.ID == 0 || n.Incarnation == "" {
		return result{}, errcode.New(errcode.InvalidRequest, "a node needs an id above 0 and an incarnation to register")
	}
	if old, ok := next.Node(n.ID); ok && old.Incarnation != n.Incarnation {
		return result{}, errcode.New(errcode.DuplicateRegistration,
			"node id %d belongs to another node (incarnation %s, last at %s); give this node a cluster.node_id that no node has had, or start it on the storage.data_dir of node %d",
			n.ID, old.Incarnation, old.RaftAddr, n.ID)
	}
	if old, ok := next.NodeByIncarnation(n.Incarnation); ok && old.ID != n.ID {
		return result{}, errcode.New(errcode.DuplicateRegistration,
			"this storage.data_dir (incarnation %s) belongs to node %d; set cluster.node_id: %d, or start node %d on an empty data_dir",
			n.Incarnation, old.ID, old.ID, n.ID)
	}
	next.withNode(n)
	return result{}, nil
}

// createTopic carries out kindCreateTopic. The memory of requests is bounded;
// the topic itself remembers for ever which request made it.
func (m *machine) createTopic(next *Image, c command, body createTopic) (result, error) {
	if old, ok := next.Topic(body.Name); ok && c.RequestID != "" && old.RequestID == c.RequestID {
		return result{TopicID: old.ID}, nil
	}
	t, err := planTopic(next, body, planIDs{topic: m.nextTopic, shard: m.nextShard, timeMs: c.TimeMs, request: c.RequestID})
	if err != nil {
		return result{}, err
	}
	m.nextTopic++
	m.nextShard += uint64(len(t.Partitions))
	next.NextShard = m.nextShard
	next.withTopic(t, 0)
	return result{TopicID: t.ID}, nil
}

// planIDs is what a new topic is given besides its placement.
type planIDs struct {
	topic, shard uint64
	timeMs       int64
	request      string
}

// planTopic returns the topic that c asks for, or why it cannot be.
func planTopic(m *Image, c createTopic, ids planIDs) (*Topic, error) {
	if err := m.mayCreate(c); err != nil {
		return nil, err
	}
	nodes, err := m.candidates(c.Nodes)
	if err != nil {
		return nil, err
	}
	replicas := c.Replicas
	if replicas == 0 {
		replicas = min(placement.ReplicasDefault, len(m.nodes))
	}
	rows, err := placement.Place(nodes, int(c.Partitions), replicas)
	if err != nil {
		return nil, err
	}
	return &Topic{
		Name: c.Name, ID: ids.topic, Replicas: replicas, Config: c.Config, RequestID: ids.request,
		CreatedMs: ids.timeMs, Partitions: m.newPartitions(rows, 0, ids.shard),
	}, nil
}

// mayCreate checks all of c but its placement.
func (m *Image) mayCreate(c createTopic) error {
	if err := m.mustBeFounded(); err != nil {
		return err
	}
	if err := protocol.ValidateTopicName(c.Name); err != nil {
		return err
	}
	if _, exists := m.Topic(c.Name); exists {
		return errcode.New(errcode.TopicAlreadyExists, "topic %q exists; see it with: logbroker topic describe %s", c.Name, c.Name)
	}
	if c.Partitions < 1 || c.Partitions > PartitionsMax {
		return errcode.New(errcode.InvalidPartitions, "%d partitions were asked for; a topic has 1 to %d", c.Partitions, PartitionsMax)
	}
	if err := m.roomFor(int(c.Partitions)); err != nil {
		return err
	}
	return c.Config.validate()
}

// mustBeFounded refuses what needs a founded cluster.
func (m *Image) mustBeFounded() error {
	if m.Founded() {
		return nil
	}
	return errcode.New(errcode.LeaderNotAvailable, "the cluster is not founded yet; wait until all of cluster.founders are up")
}

// roomFor refuses add partitions more than the cluster may have.
func (m *Image) roomFor(add int) error {
	if have := m.PartitionCount(); have+add > TotalPartitionsMax {
		return errcode.New(errcode.InvalidPartitions, "the cluster has %d partitions, and %d more would be above its limit of %d; delete topics or use fewer partitions",
			have, add, TotalPartitionsMax)
	}
	return nil
}

// candidates returns the nodes that may be given replicas, with what they have:
// those of only, or all where only is empty.
func (m *Image) candidates(only []uint64) ([]placement.Node, error) {
	for _, id := range only {
		if _, ok := m.Node(id); !ok {
			return nil, errcode.New(errcode.NodeNotFound, "there is no node %d; list the nodes with: logbroker cluster nodes", id)
		}
	}
	replicas, preferred := m.replicaCounts()
	var out []placement.Node
	for _, n := range m.nodes {
		if len(only) == 0 || slices.Contains(only, n.ID) {
			out = append(out, placement.Node{ID: n.ID, Rack: n.Rack, Replicas: replicas[n.ID], Preferred: preferred[n.ID]})
		}
	}
	return out, nil
}

// replicaCounts counts replicas and preferred leaders of each node.
func (m *Image) replicaCounts() (replicas, preferred map[uint64]int) {
	replicas, preferred = map[uint64]int{}, map[uint64]int{}
	for _, t := range m.topics {
		for _, p := range t.Partitions {
			for i, r := range p.Replicas {
				replicas[r.Node]++
				if i == 0 {
					preferred[r.Node]++
				}
			}
		}
	}
	return replicas, preferred
}

// newPartitions turns placed rows into partitions first, first+1, … with the
// shards shard, shard+1, …
func (m *Image) newPartitions(rows [][]uint64, first int, shard uint64) []Partition {
	out := make([]Partition, len(rows))
	for i, row := range rows {
		p := Partition{ID: int32(first + i), Shard: shard + uint64(i), NextReplica: uint64(len(row)) + 1}
		p.Replicas = make([]Replica, len(row))
		for k, id := range row {
			n, _ := m.Node(id)
			p.Replicas[k] = Replica{Node: id, Replica: uint64(k) + 1, Incarnation: n.Incarnation}
		}
		out[i] = p
	}
	return out
}

// find returns the topic a command is about. A topic that has the name but
// another id is another topic.
func (m *Image) find(ref topicRef) (*Topic, error) {
	t, ok := m.Topic(ref.Name)
	if !ok || t.ID != ref.TopicID {
		return nil, errcode.New(errcode.UnknownTopicOrPartition, "there is no topic %q; list the topics with: logbroker topic list", ref.Name)
	}
	return t, nil
}

// deleteTopic carries out kindDeleteTopic.
func (m *machine) deleteTopic(next *Image, _ command, body deleteTopic) (result, error) {
	t, err := next.find(body.topicRef)
	if err != nil {
		return result{}, err
	}
	next.withoutTopic(t)
	return result{TopicID: t.ID}, nil
}

// alterTopic carries out kindAlterTopic.
func (m *machine) alterTopic(next *Image, _ command, body alterTopic) (result, error) {
	old, err := next.find(body.topicRef)
	if err != nil {
		return result{}, err
	}
	t := *old
	t.Config = body.Changes.over(old.Config)
	if err := t.Config.validate(); err != nil {
		return result{}, err
	}
	next.withTopic(&t, len(t.Partitions))
	return result{TopicID: t.ID}, nil
}

// addPartitions carries out kindAddPartitions.
func (m *machine) addPartitions(next *Image, _ command, body addPartitions) (result, error) {
	old, err := next.find(body.topicRef)
	if err != nil {
		return result{}, err
	}
	have := len(old.Partitions)
	if int(body.Partitions) <= have || body.Partitions > PartitionsMax {
		return result{}, errcode.New(errcode.InvalidPartitions,
			"topic %q has %d partitions and %d were asked for; the number can only be raised, up to %d", old.Name, have, body.Partitions, PartitionsMax)
	}
	add := int(body.Partitions) - have
	if err := next.roomFor(add); err != nil {
		return result{}, err
	}
	nodes, err := next.candidates(body.Nodes)
	if err != nil {
		return result{}, err
	}
	rows, err := placement.Extend(nodes, placedRows(old), add, old.Replicas)
	if err != nil {
		return result{}, err
	}
	t := *old
	t.Partitions = slices.Concat(old.Partitions, next.newPartitions(rows, have, m.nextShard))
	m.nextShard += uint64(add)
	next.NextShard = m.nextShard
	next.withTopic(&t, have)
	return result{TopicID: t.ID}, nil
}

// placedRows returns the nodes of each partition of t.
func placedRows(t *Topic) [][]uint64 {
	rows := make([][]uint64, len(t.Partitions))
	for i := range t.Partitions {
		rows[i] = t.Partitions[i].Nodes()
	}
	return rows
}

// markStarted carries out kindMarkStarted. Replicas that are gone, or are
// another node's, are skipped.
func (m *machine) markStarted(next *Image, _ command, body markStarted) (result, error) {
	fresh := map[uint64]*Topic{} // topics copied by this command
	for _, key := range body.Replicas {
		t, p, ok := next.PartitionByShard(key.Shard)
		if !ok {
			continue
		}
		at := slices.IndexFunc(p.Replicas, func(r Replica) bool { return r.Replica == key.Replica && r.Node == body.Node })
		if at < 0 || p.Replicas[at].Started {
			continue
		}
		if fresh[t.ID] == nil {
			c := *t
			c.Partitions = slices.Clone(t.Partitions)
			fresh[t.ID] = &c
			next.withTopic(&c, len(c.Partitions))
		}
		p = &fresh[t.ID].Partitions[p.ID]
		p.Replicas = slices.Clone(p.Replicas)
		p.Replicas[at].Started = true
	}
	return result{}, nil
}

// producerIDs carries out kindProducerIDs.
func (m *machine) producerIDs(_ *Image, _ command, body producerIDs) (result, error) {
	if body.Count < 1 || body.Count > 1<<20 {
		return result{}, errcode.New(errcode.InvalidRequest, "%d producer ids were asked for; ask for 1 to %d", body.Count, 1<<20)
	}
	first := m.nextProducer
	m.nextProducer += body.Count
	return result{FirstID: first}, nil
}
