package groups

import (
	"maps"
	"slices"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
)

// basis is what an assignment is made from. Two groups of the same revision have
// the same members and subscriptions.
type basis struct {
	revision int32
	topics   []topicCount // subscribed and existing, by name
}

func (b basis) equal(o basis) bool {
	return b.revision == o.revision && slices.Equal(b.topics, o.topics)
}

// topicsChanged marks every group that has members: whether its topics are among
// the changed ones is seen when its basis is looked at.
func (c *coordinator) topicsChanged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for group := range c.sessions {
		c.mark(group)
	}
}

// assignDirty has the marked groups assigned anew where what they rest on has
// changed.
func (c *coordinator) assignDirty() {
	c.mu.Lock()
	var work []string
	for group := range c.dirty {
		if !c.busy[group] {
			work = append(work, group)
			delete(c.dirty, group)
			c.busy[group] = true
		}
	}
	c.mu.Unlock()
	for _, group := range work {
		c.assign(group)
	}
}

// assign makes a group's assignment and proposes it if it is another one.
func (c *coordinator) assign(group string) {
	c.mu.Lock()
	made := c.made[group]
	c.mu.Unlock()
	image := c.options.Metadata.Image()
	var now basis
	var members []subscriber
	stands := true
	c.machine.read(func(s *state) {
		g := s.groups[group]
		if g == nil || len(g.members) == 0 {
			return
		}
		if now = g.basis(image); now.equal(made) {
			return
		}
		for id, m := range g.members {
			members = append(members, subscriber{id: id, topics: m.Topics, has: m.target})
		}
		stands = g.saw()
	})
	if len(members) == 0 {
		c.assigned(group, made)
		return
	}
	targets := assign(members, now.topics)
	for _, m := range members {
		stands = stands && slices.Equal(m.has, targets[m.id])
	}
	if stands {
		c.assigned(group, now)
		return
	}
	op := operation{Kind: opTarget, Group: group, Revision: now.revision, Topics: now.topics}
	for _, id := range slices.Sorted(maps.Keys(targets)) {
		op.Targets = append(op.Targets, target{Member: id, Partitions: targets[id]})
	}
	c.submit(op, func(o outcome, err error) {
		if err == nil && o.Code == errcode.None {
			c.options.Metrics.GroupRebalanced()
			c.assigned(group, now)
			return
		}
		c.logger.Debug("assignment not taken, making it anew", "group", group, "err", err, "reason", o.Message)
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.busy, group)
		c.mark(group)
	})
}

// assigned notes what a group's assignment is made from now.
func (c *coordinator) assigned(group string, made basis) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, group)
	c.made[group] = made
	if c.sessions[group] == nil {
		delete(c.made, group)
	}
	if c.dirty[group] {
		c.stir()
	}
}

// basis returns what the group's assignment is to be made from.
func (g *group) basis(image *metadata.Image) basis {
	names := map[string]bool{}
	for _, m := range g.members {
		for _, name := range m.Topics {
			names[name] = true
		}
	}
	b := basis{revision: g.revision}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if t, ok := image.Topic(name); ok {
			b.topics = append(b.topics, topicCount{ID: t.ID, Name: name, Partitions: int32(len(t.Partitions))})
		}
	}
	return b
}

// saw reports whether every subscribed topic has been noted.
func (g *group) saw() bool {
	for _, m := range g.members {
		for _, name := range m.Topics {
			if _, ok := g.seen[name]; !ok {
				return false
			}
		}
	}
	return true
}

// housekeep has groups deleted that were empty for too long, and offsets of
// topics that are no more. Age counts only while the clock is trusted.
func (c *coordinator) housekeep() {
	image, trusted := c.options.Metadata.Image(), c.options.ClockTrusted()
	spared := 0
	before := c.options.Clock().Add(-c.options.OffsetRetention).UnixMilli()
	var ops []operation
	c.machine.read(func(s *state) {
		for name, g := range s.groups {
			old := len(g.members) == 0 && g.emptySinceMs < before
			if old && !trusted {
				spared++
			} else if old {
				ops = append(ops, operation{Kind: opExpired, Group: name, SinceMs: g.emptySinceMs})
			} else if gone := g.gone(image); len(gone) > 0 {
				ops = append(ops, operation{Kind: opPurge, Group: name, Gone: gone})
			}
		}
	})
	if spared > 0 {
		c.logger.Warn("groups do not expire: this node's clock differs from the other nodes' by more than a minute; correct it", "groups", spared)
	}
	for _, op := range ops {
		c.submit(op, func(o outcome, err error) {
			c.logger.Debug("group housekeeping", "group", op.Group, "kind", op.Kind, "err", err, "reason", o.Message)
		})
	}
}

// gone returns the ids of topics that the group remembers and that are no more.
// Topic ids are never used again, and the image is not older than any commit
// (catchUp), so what it lacks is gone for good.
func (g *group) gone(image *metadata.Image) []uint64 {
	ids := map[uint64]bool{}
	for p := range g.offsets {
		ids[p.Topic] = true
	}
	for name, t := range g.seen {
		if t.ID != 0 && !g.subscribed(name) {
			ids[t.ID] = true
		}
	}
	out := []uint64{}
	for id := range ids {
		if _, ok := image.TopicByID(id); !ok {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}
