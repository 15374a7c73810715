package groups

import (
	"context"
	"maps"
	"slices"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// assignor is what describe calls the assignment.
const assignor = "uniform-sticky"

// Describe returns a group with its members and committed offsets. Log starts,
// log ends and lag are the caller's to fill in: this package reads no logs.
func (h *Host) Describe(ctx context.Context, group string) (*protocol.GroupDescription, error) {
	c, err := h.confirm(ctx, group)
	if err != nil {
		return nil, err
	}
	image := h.options.Metadata.Image()
	var d *protocol.GroupDescription
	c.machine.read(func(s *state) {
		if g := s.groups[group]; g != nil {
			d = g.describe(image)
		}
	})
	if d == nil {
		return nil, errcode.New(errcode.GroupIDNotFound, "there is no consumer group %q; see `logbroker group list`", group)
	}
	d.Coordinator, d.Shard = h.options.NodeID, protocol.GroupShardName(int(c.shard-FirstShard))
	return d, nil
}

// All describes every group that this node coordinates, as far as it knows.
func (h *Host) All() []*protocol.GroupDescription {
	image := h.options.Metadata.Image()
	out := []*protocol.GroupDescription{}
	for _, c := range h.all() {
		if c.mayServe() != nil {
			continue
		}
		c.machine.read(func(s *state) {
			for _, name := range slices.Sorted(maps.Keys(s.groups)) {
				d := s.groups[name].describe(image)
				d.Coordinator, d.Shard = h.options.NodeID, protocol.GroupShardName(int(c.shard-FirstShard))
				out = append(out, d)
			}
		})
	}
	return out
}

// List lists the groups that this node coordinates.
func (h *Host) List() *protocol.GroupListReply {
	reply := &protocol.GroupListReply{Groups: []protocol.GroupSummary{}, Shards: h.Serving()}
	for _, c := range h.all() {
		if !slices.Contains(reply.Shards, c.shard) {
			continue
		}
		c.machine.read(func(s *state) {
			for _, name := range slices.Sorted(maps.Keys(s.groups)) {
				reply.Groups = append(reply.Groups, s.groups[name].summary(h.options.NodeID))
			}
		})
	}
	return reply
}

func (g *group) summary(node uint64) protocol.GroupSummary {
	topics := map[string]bool{}
	for _, m := range g.members {
		for _, t := range m.Topics {
			topics[t] = true
		}
	}
	return protocol.GroupSummary{Group: g.name, State: g.stateName(), Members: len(g.members), Topics: len(topics), Coordinator: node}
}

func (g *group) stateName() string {
	switch {
	case len(g.members) == 0:
		return protocol.GroupEmpty
	case g.reconciling():
		return protocol.GroupReconciling
	}
	return protocol.GroupStable
}

func (g *group) describe(image *metadata.Image) *protocol.GroupDescription {
	d := &protocol.GroupDescription{
		Group: g.name, State: g.stateName(), GroupEpoch: g.epoch, Assignor: assignor,
		Members: []protocol.GroupMember{}, Partitions: []protocol.GroupPartition{}, Topics: []protocol.GroupTopicLag{},
	}
	topics := map[uint64]bool{}
	missing := map[string]bool{}
	for _, id := range g.memberIDs() {
		m := g.members[id]
		d.Members = append(d.Members, m.describe(g, image))
		for _, name := range m.Topics {
			if t, ok := image.Topic(name); ok {
				topics[t.ID] = true
			} else if !missing[name] {
				missing[name] = true
				d.Problems = append(d.Problems, protocol.GroupProblem{Topic: name, Message: "a member subscribes to it and it does not exist"})
			}
		}
	}
	committed := map[uint64][]int32{}
	for p := range g.offsets {
		committed[p.Topic] = append(committed[p.Topic], p.Number)
	}
	for _, t := range image.Topics() {
		numbers := committed[t.ID]
		slices.Sort(numbers)
		if topics[t.ID] {
			numbers = nil
			for i := range t.Partitions {
				numbers = append(numbers, int32(i))
			}
		}
		for _, n := range numbers {
			d.Partitions = append(d.Partitions, g.describePartition(t, n))
		}
	}
	return d
}

func (m *member) describe(g *group, image *metadata.Image) protocol.GroupMember {
	return protocol.GroupMember{
		MemberID: m.id, InstanceID: m.InstanceID, ClientID: m.ClientID, Host: m.Host, Epoch: m.epoch, Topics: m.Topics,
		Assignment: g.topicPartitions(image, m.may()), Revoking: g.topicPartitions(image, m.revoking()), Away: m.away, Metadata: m.Metadata,
	}
}

func (g *group) describePartition(t *metadata.Topic, number int32) protocol.GroupPartition {
	p := Partition{Topic: t.ID, Number: number}
	out := protocol.GroupPartition{Topic: t.Name, TopicID: t.ID, Partition: number}
	if o, ok := g.offsets[p]; ok {
		out.Committed, out.Metadata, out.CommitTimeMs = &o.offset, o.metadata, o.timeMs
	}
	if m := g.members[g.owners[p]]; m != nil {
		out.MemberID, out.ClientID, out.Host = m.id, m.ClientID, m.Host
	}
	return out
}
