package handler

import (
	"context"
	"slices"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// CoordinatedGroups describes every group that this node coordinates, with its
// lag. It asks other nodes, so it may take Options.PeerTimeout.
func (h *Handler) CoordinatedGroups(ctx context.Context) []*protocol.GroupDescription {
	all := h.options.Groups.All()
	h.fillLag(ctx, all)
	return all
}

// fillLag completes descriptions of groups with where the logs begin and end,
// and with the lag. A partition that nobody answers for stays unknown and takes
// nothing from the others.
func (h *Handler) fillLag(ctx context.Context, groups []*protocol.GroupDescription) {
	image := h.options.Metadata.Image()
	var nodes, shards []uint64
	for _, g := range groups {
		for i := range g.Partitions {
			if p, ok := knownPartition(image, g.Partitions[i].TopicID, g.Partitions[i].Partition); ok {
				shards = append(shards, p.Shard)
				nodes = append(nodes, p.Nodes()...)
			}
		}
	}
	slices.Sort(nodes)
	slices.Sort(shards)
	nodes, shards = slices.Compact(nodes), slices.Compact(shards)
	if len(shards) == 0 {
		return
	}
	v := h.gather(ctx, nodes, shards)
	for _, g := range groups {
		for i := range g.Partitions {
			p := &g.Partitions[i]
			if place, ok := knownPartition(image, p.TopicID, p.Partition); ok {
				p.LogStart, p.LogEnd = v.ends(place.Shard)
			}
		}
		totalLag(g)
	}
}

// ends returns where a shard's log begins and ends as its leader says, or the
// replica that has the most where none leads; nil where nobody answers.
func (v *view) ends(shard uint64) (start, end *int64) {
	_, s := v.leader(shard)
	if s == nil {
		s = v.best(shard)
	}
	if s == nil || s.State != stateRunning {
		return nil, nil
	}
	return &s.LogStart, &s.HighWatermark
}

// totalLag computes the lag of each partition, of each topic, and in all.
func totalLag(g *protocol.GroupDescription) {
	g.Topics, g.TotalLag, g.Incomplete = []protocol.GroupTopicLag{}, 0, false
	for i := range g.Partitions {
		p := &g.Partitions[i]
		if n := len(g.Topics); n == 0 || g.Topics[n-1].Topic != p.Topic {
			g.Topics = append(g.Topics, protocol.GroupTopicLag{Topic: p.Topic})
		}
		topic := &g.Topics[len(g.Topics)-1]
		if p.LogEnd == nil || p.LogStart == nil {
			topic.Incomplete, g.Incomplete = true, true
			continue
		}
		from := *p.LogStart
		if p.Committed != nil {
			from = max(from, *p.Committed)
		}
		lag := max(*p.LogEnd-from, 0)
		p.Lag = &lag
		topic.Lag += lag
		g.TotalLag += lag
	}
}

// checkOffsets refuses, in reply, what lies outside its log. It reports whether
// all is well; a partition whose log nobody tells of is not.
func (h *Handler) checkOffsets(ctx context.Context, offsets []protocol.CommittedOffset, reply *protocol.CommitReply) (fine bool) {
	fine = true
	g := &protocol.GroupDescription{}
	image := h.options.Metadata.Image()
	for _, o := range offsets {
		p := protocol.GroupPartition{Topic: o.Topic, TopicID: o.TopicID, Partition: o.Partition}
		if t, ok := image.Topic(o.Topic); ok && o.TopicID == 0 {
			p.TopicID = t.ID
		}
		g.Partitions = append(g.Partitions, p)
	}
	h.fillLag(ctx, []*protocol.GroupDescription{g})
	for i, o := range offsets {
		p, result := g.Partitions[i], &reply.Results[i]
		if result.Error == nil {
			switch {
			case p.LogEnd == nil:
				result.Error = protocol.NewControlError(errcode.New(errcode.LeaderNotAvailable, "%s/%d: nobody tells where its log begins and ends; try again", o.Topic, o.Partition))
			case o.Offset < *p.LogStart || o.Offset > *p.LogEnd:
				result.Error = protocol.NewControlError(errcode.New(errcode.OffsetOutOfRange, "%s/%d has offsets %d to %d, not %d", o.Topic, o.Partition, *p.LogStart, *p.LogEnd, o.Offset))
			}
		}
		fine = fine && result.Error == nil
	}
	return fine
}
