package groups

import (
	"cmp"
	"context"
	"slices"
	"time"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// topicPartitions gives partitions, which are sorted, their topics' names.
// Partitions of topics that are no more are left out.
func (g *group) topicPartitions(image *metadata.Image, list []Partition) []protocol.TopicPartitions {
	out := []protocol.TopicPartitions{}
	for _, p := range list {
		if n := len(out); n > 0 && out[n-1].TopicID == p.Topic {
			out[n-1].Partitions = append(out[n-1].Partitions, p.Number)
			continue
		}
		t, ok := image.TopicByID(p.Topic)
		if !ok {
			continue
		}
		next := protocol.TopicPartitions{Topic: t.Name, TopicID: t.ID, Partitions: []int32{p.Number}}
		if seen := g.seen[t.Name]; seen.ID == t.ID {
			next.PolicyBelow = seen.Partitions
		}
		out = append(out, next)
	}
	slices.SortFunc(out, byName)
	return out
}

// Commit stores committed offsets. It blocks only to look a topic up that this
// node does not know; done is called once, when ctx ends at the latest, with the
// error as for Heartbeat.
func (h *Host) Commit(ctx context.Context, req protocol.CommitRequest, done func(*protocol.CommitReply, error)) {
	c, err := h.of(req.Group)
	if err == nil {
		err = checkCommit(&req)
	}
	if err != nil {
		done(nil, err)
		return
	}
	op := operation{Kind: opCommit, Group: req.Group, Member: req.MemberID, Epoch: req.MemberEpoch, Sequence: req.Sequence}
	if req.MemberID == "" {
		op.Kind = opStore
	}
	reply, at := h.resolveOffsets(ctx, req.Offsets, &op)
	if len(op.Offsets) == 0 {
		done(reply, c.mayCommit(&op))
		return
	}
	c.submitFor(ctx, op, func(o outcome, err error) {
		if err == nil {
			err = o.err()
		}
		if err != nil {
			done(nil, err)
			return
		}
		stored := len(at)
		for i, code := range o.Codes {
			if code != errcode.None {
				stored--
				reply.Results[at[i]].Error = protocol.NewControlError(commitError(code, req.Offsets[at[i]], &req))
			}
		}
		c.options.Metrics.OffsetsCommitted(stored)
		done(reply, nil)
	})
}

// mayCommit refuses a commit of which nothing is left to store, as storing
// something would: who is no member any more is told that first.
func (c *coordinator) mayCommit(op *operation) (err error) {
	c.machine.read(func(s *state) {
		switch g := s.groups[op.Group]; {
		case op.Kind == opStore && g != nil && len(g.members) > 0:
			err = errNotEmpty(g)
		case op.Kind == opCommit:
			_, m, no := s.memberOf(op)
			switch {
			case m == nil:
				err = no.err()
			case op.Epoch > m.epoch:
				err = refusedEpoch(op, m).err()
			}
		}
	})
	return err
}

func errNotEmpty(g *group) error {
	return errcode.New(errcode.NonEmptyGroup, "group %q has %d members; stop them first, then its offsets can be moved", g.name, len(g.members))
}

func checkCommit(req *protocol.CommitRequest) error {
	if err := protocol.ValidateGroupName(req.Group); err != nil {
		return err
	}
	switch {
	case len(req.Offsets) > protocol.GroupCommitOffsetsMax:
		return errcode.New(errcode.InvalidRequest, "the commit has %d offsets; at most %d are allowed", len(req.Offsets), protocol.GroupCommitOffsetsMax)
	case req.MemberID == "" && req.MemberEpoch != protocol.MemberEpochNone:
		return errcode.New(errcode.InvalidRequest, "a commit without a member id has member epoch %d, not %d", protocol.MemberEpochNone, req.MemberEpoch)
	case req.MemberID != "" && req.MemberEpoch <= 0:
		return errcode.New(errcode.InvalidRequest, "member epoch %d cannot commit; join first", req.MemberEpoch)
	}
	return nil
}

// commitError puts into words why one offset was not stored.
func commitError(code errcode.Code, o protocol.CommittedOffset, req *protocol.CommitRequest) error {
	switch code {
	case errcode.PartitionNotOwned:
		return errcode.New(code, "%s/%d is not owned by member %q: it was revoked", o.Topic, o.Partition, req.MemberID)
	case errcode.StaleMemberEpoch:
		return errcode.New(code, "%s/%d was granted to member %q after epoch %d", o.Topic, o.Partition, req.MemberID, req.MemberEpoch)
	case errcode.GroupStateTooLarge:
		return errcode.New(code, "group %q has committed offsets of %d partitions, which is its limit", req.Group, protocol.GroupOffsetsMax)
	}
	return errcode.New(code, "the offset of %s/%d was not stored", o.Topic, o.Partition)
}

// resolveOffsets adds the offsets that can be stored to op. at[i] is the place
// in the request of op.Offsets[i]; the others have their error in the reply.
func (h *Host) resolveOffsets(ctx context.Context, offsets []protocol.CommittedOffset, op *operation) (reply *protocol.CommitReply, at []int) {
	reply = &protocol.CommitReply{Results: make([]protocol.OffsetResult, len(offsets))}
	look := &lookup{host: h}
	for i, o := range offsets {
		reply.Results[i] = protocol.OffsetResult{Topic: o.Topic, Partition: o.Partition}
		p, err := look.partition(ctx, o.Topic, o.TopicID, o.Partition)
		switch {
		case err != nil:
		case o.Offset < 0:
			err = errcode.New(errcode.OffsetOutOfRange, "offset %d of %s/%d is below 0", o.Offset, o.Topic, o.Partition)
		case len(o.Metadata) > protocol.GroupOffsetMetadataMax:
			err = errcode.New(errcode.OffsetMetadataTooLarge, "the metadata of %s/%d has %d bytes; at most %d are allowed", o.Topic, o.Partition, len(o.Metadata), protocol.GroupOffsetMetadataMax)
		}
		if err != nil {
			reply.Results[i].Error = protocol.NewControlError(err)
			continue
		}
		at = append(at, i)
		op.Offsets = append(op.Offsets, commit{Partition: p, Offset: o.Offset, Metadata: o.Metadata})
	}
	return reply, at
}

// lookup finds the partitions of one request; it waits for newer metadata at
// most once.
type lookup struct {
	host   *Host
	waited bool
}

// partition finds a partition. topicID 0 means the topic that has the name now.
func (l *lookup) partition(ctx context.Context, topic string, topicID uint64, number int32) (Partition, error) {
	p, err := l.find(topic, topicID, number)
	if err != nil && !l.waited {
		l.waited = true
		if l.host.barrier(ctx) == nil {
			p, err = l.find(topic, topicID, number)
		}
	}
	return p, err
}

// all finds a topic, and every partition named of it.
func (l *lookup) all(ctx context.Context, t protocol.TopicPartitions) (Partition, error) {
	p, err := l.partition(ctx, t.Topic, t.TopicID, 0)
	for _, n := range t.Partitions {
		if err == nil {
			_, err = l.partition(ctx, t.Topic, t.TopicID, n)
		}
	}
	return p, err
}

func (l *lookup) find(topic string, topicID uint64, number int32) (Partition, error) {
	t, ok := l.host.options.Metadata.Image().Topic(topic)
	switch {
	case !ok:
		return Partition{}, errcode.New(errcode.UnknownTopicOrPartition, "topic %q does not exist; see `logbroker topic list`", clip(topic))
	case topicID != 0 && topicID != t.ID:
		return Partition{}, errcode.New(errcode.UnknownTopicID, "topic %q has id %d, the request is for id %d: it was made anew", topic, t.ID, topicID)
	case number < 0 || int(number) >= len(t.Partitions):
		return Partition{}, errcode.New(errcode.UnknownTopicOrPartition, "topic %q has partitions 0 to %d, not %d", topic, len(t.Partitions)-1, number)
	}
	return Partition{Topic: t.ID, Number: number}, nil
}

// confirmTimeout bounds the waits for a majority while a request is answered: a
// cluster that has lost its own must say so soon.
const confirmTimeout = 2 * time.Second

// barrier waits until the metadata here are not older than the call.
func (h *Host) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	if err := h.options.Metadata.Barrier(ctx); err != nil {
		return errMoving("the metadata cannot be confirmed (%v)", err)
	}
	return nil
}

// confirm returns the group's coordinator once it is certain that this node led
// the shard after the call began, so that what it reads is not old.
func (h *Host) confirm(ctx context.Context, group string) (*coordinator, error) {
	c, err := h.of(group)
	if err != nil {
		return nil, err
	}
	if err := protocol.ValidateGroupName(group); err != nil {
		return nil, err
	}
	if err := h.options.Raft.ReadIndex(ctx, c.shard); err != nil {
		return nil, errMoving("the group's coordinator shard does not confirm its leader (%v)", err)
	}
	return c, nil
}

// FetchOffsets returns committed offsets, as protocol.FetchOffsetsRequest says.
// A group that does not exist has none.
func (h *Host) FetchOffsets(ctx context.Context, req protocol.FetchOffsetsRequest) (*protocol.FetchOffsetsReply, error) {
	if err := checkNamed(req.Topics); err != nil {
		return nil, err
	}
	c, err := h.confirm(ctx, req.Group)
	if err != nil {
		return nil, err
	}
	if err := h.knowTopics(ctx, req.Topics); err != nil {
		return nil, err
	}
	image := h.options.Metadata.Image()
	reply := &protocol.FetchOffsetsReply{Offsets: []protocol.CommittedOffset{}}
	c.machine.read(func(s *state) {
		g := s.groups[req.Group]
		if err = mayFetch(g, &req); err == nil && g != nil {
			reply.Offsets = g.committed(image, req.Topics)
		} else if err == nil {
			reply.Offsets = newGroup(req.Group).committed(image, req.Topics)
		}
	})
	return reply, err
}

// checkNamed bounds the partitions that a request names, so that its answer and
// its work are bounded too.
func checkNamed(topics []protocol.TopicPartitions) error {
	n := len(topics)
	for _, t := range topics {
		n += len(t.Partitions)
	}
	if n > protocol.GroupNamedMax {
		return errcode.New(errcode.InvalidRequest, "the request names %d topics and partitions; at most %d are allowed", n, protocol.GroupNamedMax)
	}
	return nil
}

// knowTopics waits for newer metadata where a topic named is not known.
func (h *Host) knowTopics(ctx context.Context, topics []protocol.TopicPartitions) error {
	image := h.options.Metadata.Image()
	for _, t := range topics {
		if have, ok := image.Topic(t.Topic); !ok || t.TopicID > have.ID {
			return h.barrier(ctx)
		}
	}
	return nil
}

func mayFetch(g *group, req *protocol.FetchOffsetsRequest) error {
	if req.MemberID == "" {
		return nil
	}
	if g == nil || g.members[req.MemberID] == nil {
		return errUnknownMember(req.Group, req.MemberID)
	}
	if m := g.members[req.MemberID]; req.MemberEpoch > m.epoch {
		return errcode.New(errcode.FencedMemberEpoch, "member %q is at epoch %d, the request says %d; join again", m.id, m.epoch, req.MemberEpoch)
	}
	return nil
}

// committed returns the offsets that are asked for, all where topics is empty.
func (g *group) committed(image *metadata.Image, topics []protocol.TopicPartitions) []protocol.CommittedOffset {
	out := []protocol.CommittedOffset{}
	if len(topics) == 0 {
		for p := range g.offsets {
			if t, ok := image.TopicByID(p.Topic); ok {
				out = append(out, g.committedOne(t, p))
			}
		}
	}
	for _, ask := range topics {
		t, ok := image.Topic(ask.Topic)
		same := ok && (ask.TopicID == 0 || ask.TopicID == t.ID)
		for _, n := range ask.Partitions {
			if same {
				out = append(out, g.committedOne(t, Partition{Topic: t.ID, Number: n}))
			} else {
				out = append(out, protocol.CommittedOffset{Topic: ask.Topic, TopicID: ask.TopicID, Partition: n, Offset: protocol.NoOffset})
			}
		}
		if len(ask.Partitions) > 0 || !same {
			continue
		}
		for p := range g.offsets {
			if p.Topic == t.ID {
				out = append(out, g.committedOne(t, p))
			}
		}
	}
	slices.SortStableFunc(out, func(a, b protocol.CommittedOffset) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return out
}

func (g *group) committedOne(t *metadata.Topic, p Partition) protocol.CommittedOffset {
	o, ok := g.offsets[p]
	if !ok {
		o.offset = protocol.NoOffset
	}
	return protocol.CommittedOffset{
		Topic: t.Name, TopicID: t.ID, Partition: p.Number, Offset: o.offset, Metadata: o.metadata, CommitTimeMs: o.timeMs,
	}
}

// await submits an operation and waits for its outcome, no longer than ctx.
func (c *coordinator) await(ctx context.Context, op operation) (outcome, error) {
	type answer struct {
		outcome
		err error
	}
	answered := make(chan answer, 1)
	c.submitFor(ctx, op, func(o outcome, err error) {
		if err == nil {
			err = o.err()
		}
		answered <- answer{o, err}
	})
	a := <-answered
	return a.outcome, a.err
}

// Seek stores offsets of a group without members, all or none. Whether they lie
// within their logs is the caller's to check.
func (h *Host) Seek(ctx context.Context, req protocol.GroupSeekRequest) (*protocol.CommitReply, error) {
	c, err := h.of(req.Group)
	if err == nil {
		err = checkCommit(&protocol.CommitRequest{Group: req.Group, MemberEpoch: protocol.MemberEpochNone, Offsets: req.Offsets})
	}
	if err != nil {
		return nil, err
	}
	op := operation{Kind: opStore, Group: req.Group}
	reply, at := h.resolveOffsets(ctx, req.Offsets, &op)
	if len(at) != len(req.Offsets) || len(at) == 0 {
		return reply, nil
	}
	if req.DryRun {
		if err := c.mayCommit(&op); err != nil {
			return nil, err
		}
		return reply, nil
	}
	_, err = c.await(ctx, op)
	return reply, err
}

// DeleteOffsets forgets committed offsets. The reply has one entry per topic.
func (h *Host) DeleteOffsets(ctx context.Context, req protocol.DeleteOffsetsRequest) (*protocol.CommitReply, error) {
	if err := checkNamed(req.Topics); err != nil {
		return nil, err
	}
	c, err := h.confirm(ctx, req.Group)
	if err != nil {
		return nil, err
	}
	reply := &protocol.CommitReply{Results: make([]protocol.OffsetResult, len(req.Topics))}
	op := operation{Kind: opForget, Group: req.Group}
	var at []int
	look := &lookup{host: h}
	for i, t := range req.Topics {
		reply.Results[i] = protocol.OffsetResult{Topic: t.Topic, Partition: -1}
		p, err := look.all(ctx, t)
		if err != nil {
			reply.Results[i].Error = protocol.NewControlError(err)
			continue
		}
		at = append(at, i)
		slices.Sort(t.Partitions)
		op.Forget = append(op.Forget, forgotten{Topic: p.Topic, Name: t.Topic, Numbers: slices.Compact(t.Partitions)})
	}
	o, err := c.await(ctx, op)
	if err != nil {
		return nil, err
	}
	for i, code := range o.Codes {
		if code != errcode.None {
			name := req.Topics[at[i]].Topic
			reply.Results[at[i]].Error = protocol.NewControlError(errcode.New(code, "members of group %q subscribe to topic %q; stop them first", req.Group, name))
		}
	}
	return reply, nil
}

// Delete deletes a group without members. Errors: NON_EMPTY_GROUP,
// GROUP_ID_NOT_FOUND.
func (h *Host) Delete(ctx context.Context, req protocol.GroupRequest) error {
	c, err := h.confirm(ctx, req.Group)
	if err != nil {
		return err
	}
	_, err = c.await(ctx, operation{Kind: opDelete, Group: req.Group})
	return err
}

// clip shortens a name from outside for an error message.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
