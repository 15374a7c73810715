package groups

import (
	"fmt"
	"maps"
	"slices"
)

// snapshotVersion is the version of the snapshot's JSON.
const snapshotVersion = 1

// snapshot is a coordinator shard as JSON: every list is in order, so replicas
// that applied the same entries write the same bytes.
type snapshot struct {
	Version int             `json:"version"`
	Epoch   int32           `json:"epoch"`
	Replica uint64          `json:"replica"`
	Groups  []groupSnapshot `json:"groups"`
}

type groupSnapshot struct {
	Name         string           `json:"name"`
	Epoch        int32            `json:"epoch"`
	Revision     int32            `json:"revision"`
	EmptySinceMs int64            `json:"empty_since_ms,omitempty"`
	Members      []memberSnapshot `json:"members,omitempty"`
	Seen         []seenSnapshot   `json:"seen,omitempty"`
	Offsets      []offsetSnapshot `json:"offsets,omitempty"`
}

type memberSnapshot struct {
	ID string `json:"id"`
	joining
	Epoch  int32           `json:"epoch"`
	Away   bool            `json:"away,omitempty"`
	Owned  []ownedSnapshot `json:"owned,omitempty"`
	Target []Partition     `json:"target,omitempty"`
	// Assignment is opaque.
	Assignment []byte `json:"assignment,omitempty"`
}

type ownedSnapshot struct {
	Partition
	Granted int32 `json:"granted"`
	Revoked int32 `json:"revoked,omitempty"`
}

type seenSnapshot struct {
	Name string `json:"name"`
	seenTopic
}

type offsetSnapshot struct {
	Partition
	Offset   int64  `json:"offset"`
	Metadata string `json:"metadata,omitempty"`
	TimeMs   int64  `json:"time_ms"`
	Epoch    int32  `json:"epoch"`
	Sequence int64  `json:"sequence"`
}

func (s *state) snapshot() snapshot {
	out := snapshot{Version: snapshotVersion, Epoch: s.epoch, Replica: s.replica, Groups: []groupSnapshot{}}
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		out.Groups = append(out.Groups, s.groups[name].snapshot())
	}
	return out
}

func (g *group) snapshot() groupSnapshot {
	out := groupSnapshot{Name: g.name, Epoch: g.epoch, Revision: g.revision, EmptySinceMs: g.emptySinceMs}
	for _, id := range g.memberIDs() {
		out.Members = append(out.Members, g.members[id].snapshot())
	}
	for _, name := range slices.Sorted(maps.Keys(g.seen)) {
		out.Seen = append(out.Seen, seenSnapshot{Name: name, seenTopic: g.seen[name]})
	}
	for _, p := range slices.SortedFunc(maps.Keys(g.offsets), comparePartitions) {
		o := g.offsets[p]
		out.Offsets = append(out.Offsets, offsetSnapshot{
			Partition: p, Offset: o.offset, Metadata: o.metadata, TimeMs: o.timeMs, Epoch: o.epoch, Sequence: o.sequence,
		})
	}
	return out
}

func (m *member) snapshot() memberSnapshot {
	out := memberSnapshot{ID: m.id, joining: m.joining, Epoch: m.epoch, Away: m.away, Target: m.target, Assignment: m.assignment}
	for p, o := range m.owned {
		out.Owned = append(out.Owned, ownedSnapshot{Partition: p, Granted: o.granted, Revoked: o.revoked})
	}
	slices.SortFunc(out.Owned, func(a, b ownedSnapshot) int { return comparePartitions(a.Partition, b.Partition) })
	return out
}

// state builds the state that a snapshot stands for, or says why it cannot be.
func (s snapshot) state() (state, error) {
	out := state{epoch: s.Epoch, replica: s.Replica, groups: make(map[string]*group, len(s.Groups))}
	if s.Version != snapshotVersion {
		return out, fmt.Errorf("it has version %d and this logbroker reads version %d; start the version that wrote it", s.Version, snapshotVersion)
	}
	for _, in := range s.Groups {
		if out.groups[in.Name] != nil {
			return out, fmt.Errorf("group %q is there twice", in.Name)
		}
		g, err := in.group()
		if err != nil {
			return out, fmt.Errorf("group %q: %w", in.Name, err)
		}
		out.groups[in.Name] = g
	}
	return out, nil
}

func (s groupSnapshot) group() (*group, error) {
	g := newGroup(s.Name)
	g.epoch, g.revision, g.emptySinceMs = s.Epoch, s.Revision, s.EmptySinceMs
	for _, in := range s.Members {
		if err := g.restore(in); err != nil {
			return nil, err
		}
	}
	if (g.emptySinceMs != 0) != (len(g.members) == 0) {
		return nil, fmt.Errorf("it has %d members and has been empty since %d", len(g.members), g.emptySinceMs)
	}
	for _, t := range s.Seen {
		g.seen[t.Name] = t.seenTopic
	}
	for _, o := range s.Offsets {
		g.offsets[o.Partition] = offset{offset: o.Offset, metadata: o.Metadata, timeMs: o.TimeMs, epoch: o.Epoch, sequence: o.Sequence}
	}
	return g, nil
}

// restore adds a member; no partition may have two owners.
func (g *group) restore(in memberSnapshot) error {
	m := &member{
		joining: in.joining, id: in.ID, epoch: in.Epoch, away: in.Away, owned: make(map[Partition]ownership, len(in.Owned)),
		target: in.Target, assignment: in.Assignment,
	}
	if g.members[m.id] != nil || m.epoch > g.epoch {
		return fmt.Errorf("member %q is there twice or ahead of its group", m.id)
	}
	g.members[m.id] = m
	for _, o := range in.Owned {
		if other, owned := g.owners[o.Partition]; owned {
			return fmt.Errorf("partition %d of topic %d belongs to %q and %q", o.Number, o.Topic, other, m.id)
		}
		g.owners[o.Partition] = m.id
		m.owned[o.Partition] = ownership{granted: o.Granted, revoked: o.Revoked}
	}
	return nil
}
