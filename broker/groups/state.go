package groups

import (
	"maps"
	"slices"
)

// group is one consumer group in the state machine.
//
// Invariants: owners[p] == id exactly where members[id].owned has p. epoch is at
// least every member's epoch and every ownership's granted and revoked; it only
// rises. emptySinceMs is not 0 exactly where members is empty.
type group struct {
	name string
	// epoch counts changes of who may own what, revision changes of what the
	// assignment is made from: members and their subscriptions.
	epoch, revision int32
	members         map[string]*member
	owners          map[Partition]string // derived from members
	// seen is what each topic was when the group first subscribed to it, by name.
	seen         map[string]seenTopic
	offsets      map[Partition]offset
	emptySinceMs int64 // command time, or that of the last offset stored since
}

// seenTopic is a topic at the first subscription. ID 0: it did not exist then.
type seenTopic struct {
	ID         uint64 `json:"id"`
	Partitions int32  `json:"partitions"`
}

// offset is a committed offset. epoch is the ownership's granted epoch, which no
// two owners of a partition share, and sequence the commit's: together they
// order commits. Without membership they are the group's epoch and 0.
type offset struct {
	offset   int64
	metadata string
	timeMs   int64
	epoch    int32
	sequence int64
}

// member is a member of a group.
type member struct {
	joining
	id    string
	epoch int32 // the group's when its assignment last changed
	away  bool  // static: left and will be back
	owned map[Partition]ownership
	// target is what it should own, sorted.
	target []Partition
	// assignment are the opaque bytes that came with target.
	assignment []byte
}

// ownership says since which group epoch a member owns a partition, and since
// which it is to give it up; 0 = it may keep it.
type ownership struct {
	granted, revoked int32
}

func newGroup(name string) *group {
	return &group{
		name: name, members: map[string]*member{}, owners: map[Partition]string{},
		seen: map[string]seenTopic{}, offsets: map[Partition]offset{},
	}
}

// memberIDs returns the ids of the members in order: a map is never walked on
// the way to a result or a snapshot.
func (g *group) memberIDs() []string { return slices.Sorted(maps.Keys(g.members)) }

// byInstance returns the member with a static id.
func (g *group) byInstance(instance string) *member {
	if instance == "" {
		return nil
	}
	for _, m := range g.members { // at most one has it
		if m.InstanceID == instance {
			return m
		}
	}
	return nil
}

// subscribed reports whether some member subscribes to a topic.
func (g *group) subscribed(topic string) bool {
	for _, m := range g.members {
		if _, ok := slices.BinarySearch(m.Topics, topic); ok {
			return true
		}
	}
	return false
}

// reconciling reports whether some partition is on its way to its member.
func (g *group) reconciling() bool {
	for _, m := range g.members {
		if len(m.owned) != len(m.target) {
			return true
		}
		for _, p := range m.target {
			if o, ok := m.owned[p]; !ok || o.revoked != 0 {
				return true
			}
		}
	}
	return false
}

// may returns what m may own, sorted: what it owns and need not give up.
func (m *member) may() []Partition {
	return m.pick(func(o ownership) bool { return o.revoked == 0 })
}

// revoking returns what m must give up, sorted.
func (m *member) revoking() []Partition {
	return m.pick(func(o ownership) bool { return o.revoked != 0 })
}

func (m *member) pick(want func(ownership) bool) []Partition {
	out := []Partition{}
	for p, o := range m.owned {
		if want(o) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, comparePartitions)
	return out
}
