package clienttest

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// coordinator keeps all groups in memory. It has no clock: a session ends when
// the test says so. Broker.mu guards it.
type coordinator struct {
	node   uint64 // who coordinates
	groups map[string]*group
	subs   map[uint64]*nats.Subscription // by node
	hook   func(GroupCall) Fault
	calls  int
	news   chan struct{} // closed and replaced when something may have changed
	// intervalMs and sessionMs are what members are told; the first is short, for
	// tests are impatient.
	intervalMs, sessionMs int64
}

type group struct {
	name    string
	epoch   int32
	members map[string]*member
	// target is who shall own a partition, owner who does until it has given it
	// up. A partition has one owner at most: that is the promise.
	target, owner map[Slot]string
	committed     map[Slot]protocol.CommittedOffset
	sequence      map[Slot]int64
	policyBelow   map[string]int32 // partitions when first subscribed
}

type member struct {
	id, instance string
	epoch        int32
	topics       []string
	told         map[Slot]bool // the last assignment
	away         bool
	beats        int // heartbeats so far
}

// Slot is a partition.
type Slot struct {
	Topic     string
	Partition int32
}

// GroupCall is a group request as a hook sees it. N counts them from 1.
type GroupCall struct {
	Verb  string
	Group string
	Body  []byte
	Node  uint64
	N     int
}

// OnGroup sets the hook for group requests. Drop, DropReply, Hold and Refuse of
// the Fault mean something.
func (b *Broker) OnGroup(f func(GroupCall) Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.coordinator.hook = f
}

// SetHeartbeatInterval sets what members are told, in milliseconds. It is 10
// unless told.
func (b *Broker) SetHeartbeatInterval(ms int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.coordinator.intervalMs = ms
}

// SetSessionTimeout sets what members are told, in milliseconds. It is 45,000
// unless told; the fake broker itself ends no session.
func (b *Broker) SetSessionTimeout(ms int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.coordinator.sessionMs = ms
}

// MoveCoordinator makes another node the coordinator. The old one stays
// subscribed and refuses, until UnlingerCoordinator. 0: nobody coordinates, and
// whoever is subscribed refuses.
func (b *Broker) MoveCoordinator(to uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.coordinator.node = to
	if to != 0 {
		b.subscribeGroups(b.nodes[to-1])
	}
}

// UnlingerCoordinator unsubscribes every node but the coordinator.
func (b *Broker) UnlingerCoordinator() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, s := range b.coordinator.subs {
		if id != b.coordinator.node {
			_ = s.Unsubscribe() // a closed connection has none
			delete(b.coordinator.subs, id)
		}
	}
}

// subscribeGroups makes n answer for groups. b.mu is held.
func (b *Broker) subscribeGroups(n *node) {
	if b.coordinator.subs[n.id] != nil {
		return
	}
	sub, err := n.nc.Subscribe(protocol.PrefixGroup+">", func(m *nats.Msg) { b.answerGroup(n, m) })
	if err != nil {
		b.t.Error(err)
		return
	}
	b.coordinator.subs[n.id] = sub
	if err := n.nc.Flush(); err != nil {
		b.t.Error(err)
	}
}

func (b *Broker) answerGroup(n *node, m *nats.Msg) {
	verb, name, _ := protocol.SplitGroupSubject(strings.TrimPrefix(m.Subject, protocol.PrefixGroup))
	b.mu.Lock()
	b.counts[protocol.PrefixGroup+verb]++
	b.coordinator.calls++
	hook, number := b.coordinator.hook, b.coordinator.calls
	b.mu.Unlock()
	var fault Fault
	if hook != nil {
		fault = hook(GroupCall{Verb: verb, Group: name, Body: m.Data, Node: n.id, N: number})
	}
	if fault.Drop {
		return
	}
	body, err := b.coordinate(n, verb, name, m.Data, fault)
	b.spawn(func() {
		if h, ok := body.(beaten); ok && err == nil {
			body, err = b.hold(n, h)
		}
		b.answer(n, m.Reply, body, err, fault)
	})
}

func (b *Broker) answer(n *node, to string, body any, err error, fault Fault) {
	out, failed := json.Marshal(protocol.Envelope[any]{Version: protocol.ControlVersion, Error: protocol.NewControlError(err), Body: body})
	if failed != nil {
		b.t.Error(failed)
		return
	}
	b.send(n, to, out, fault)
}

// news ends the waits of held heartbeats. b.mu is held.
func (b *Broker) news() {
	close(b.coordinator.news)
	b.coordinator.news = make(chan struct{})
}

// beaten is a heartbeat that was taken in.
type beaten struct {
	request protocol.HeartbeatRequest
	reply   protocol.HeartbeatReply
	beat    int // of the member
}

// settled reports whether there is nothing new for the member.
func (h *beaten) settled() bool {
	return h.reply.MemberEpoch == h.request.MemberEpoch && maps.Equal(slots(h.reply.Assignment), slots(h.request.Owned))
}

// hold waits while there is nothing new for a member, as it asks for, and until
// its next heartbeat.
func (b *Broker) hold(n *node, h beaten) (any, error) {
	end := time.NewTimer(time.Duration(h.request.WaitMs) * time.Millisecond)
	defer end.Stop()
	for ended := h.request.WaitMs == 0; h.settled() && !ended; {
		changed, err := b.look(n, &h)
		if err != nil {
			return nil, err
		}
		if changed == nil || !h.settled() {
			break
		}
		select {
		case <-changed:
		case <-end.C:
			ended = true
			_, err = b.look(n, &h)
		case <-b.closed:
			return h.reply, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return h.reply, nil
}

// look makes the reply to a held heartbeat anew, and returns what is closed when
// that should be done again; nil after the member's next heartbeat.
func (b *Broker) look(n *node, h *beaten) (changed <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.group(h.request.Group)
	m := g.members[h.request.MemberID]
	switch {
	case n.id != b.coordinator.node:
		return nil, errcode.New(errcode.NotCoordinator, "node %d does not coordinate", n.id)
	case m == nil:
		return nil, errcode.New(errcode.UnknownMemberID, "member %q", h.request.MemberID)
	case m.beats != h.beat:
		return nil, nil
	}
	b.aim(g)
	h.reply = g.assign(b, m)
	return b.coordinator.news, nil
}

// coordinate does what a request asks.
func (b *Broker) coordinate(n *node, verb, name string, body []byte, fault Fault) (any, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if fault.Refuse != errcode.None {
		return nil, errcode.New(fault.Refuse, "by the fake broker")
	}
	if n.id != b.coordinator.node {
		return nil, errcode.New(errcode.NotCoordinator, "node %d does not coordinate", n.id)
	}
	g := b.group(name)
	epoch, owner := g.epoch, maps.Clone(g.owner)
	defer func() {
		if g.epoch != epoch || !maps.Equal(g.owner, owner) {
			b.news()
		}
	}()
	switch verb {
	case protocol.VerbGroupHeartbeat:
		return decoded(body, func(r protocol.HeartbeatRequest) (any, error) { return b.heartbeat(g, r) })
	case protocol.VerbGroupCommit:
		return decoded(body, func(r protocol.CommitRequest) (any, error) { return g.commit(r) })
	case protocol.VerbGroupFetchOffsets:
		return decoded(body, func(r protocol.FetchOffsetsRequest) (any, error) { return g.fetchOffsets(r) })
	}
	return nil, errcode.New(errcode.NotImplemented, "the fake broker does not know %s", verb)
}

func decoded[T any](body []byte, f func(T) (any, error)) (any, error) {
	var r T
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, errcode.New(errcode.InvalidRequest, "%v", err)
	}
	return f(r)
}

func (b *Broker) group(name string) *group {
	g := b.coordinator.groups[name]
	if g == nil {
		g = &group{
			name: name, members: make(map[string]*member), target: make(map[Slot]string), owner: make(map[Slot]string),
			committed: make(map[Slot]protocol.CommittedOffset), sequence: make(map[Slot]int64), policyBelow: make(map[string]int32),
		}
		b.coordinator.groups[name] = g
	}
	return g
}

// heartbeat joins, keeps or ends a membership. b.mu is held.
func (b *Broker) heartbeat(g *group, r protocol.HeartbeatRequest) (any, error) {
	m := g.members[r.MemberID]
	switch {
	case r.MemberEpoch == protocol.MemberEpochJoin:
		var err error
		if m, err = g.join(r); err != nil {
			return nil, err
		}
	case m == nil:
		return nil, errcode.New(errcode.UnknownMemberID, "member %q", r.MemberID)
	case r.MemberEpoch == protocol.MemberEpochLeaveStatic:
		m.away = true
		return protocol.HeartbeatReply{MemberID: m.id, MemberEpoch: r.MemberEpoch}, nil
	case r.MemberEpoch == protocol.MemberEpochLeave:
		g.remove(m)
		return protocol.HeartbeatReply{MemberID: m.id, MemberEpoch: r.MemberEpoch}, nil
	case r.MemberEpoch > m.epoch: // one that is behind has not got every answer
		return nil, errcode.New(errcode.FencedMemberEpoch, "epoch %d, not %d", m.epoch, r.MemberEpoch)
	default:
		g.release(m, slots(r.Owned))
	}
	m.beats++
	b.aim(g)
	return beaten{r, g.assign(b, m), m.beats}, nil
}

// join takes a member in, or takes it in anew.
func (g *group) join(r protocol.HeartbeatRequest) (*member, error) {
	if old := g.members[r.MemberID]; old != nil {
		g.remove(old)
	}
	m := &member{id: r.MemberID, instance: r.InstanceID, topics: r.Topics}
	for _, other := range g.members {
		if m.instance == "" || other.instance != m.instance {
			continue
		}
		if !other.away {
			return nil, errcode.New(errcode.UnreleasedInstanceID, "instance %q is member %q", m.instance, other.id)
		}
		for _, of := range []map[Slot]string{g.target, g.owner} {
			for s, id := range of {
				if id == other.id {
					of[s] = m.id
				}
			}
		}
		delete(g.members, other.id)
	}
	g.members[m.id] = m
	g.epoch++
	return m, nil
}

func (g *group) remove(m *member) {
	delete(g.members, m.id)
	maps.DeleteFunc(g.sequence, func(s Slot, _ int64) bool { return g.owner[s] == m.id })
	for _, of := range []map[Slot]string{g.target, g.owner} {
		maps.DeleteFunc(of, func(_ Slot, id string) bool { return id == m.id })
	}
	g.epoch++
}

// release frees what m was told to give up and does not own any more.
func (g *group) release(m *member, owned map[Slot]bool) {
	for s, id := range g.owner {
		if id == m.id && !m.told[s] && !owned[s] {
			delete(g.owner, s)
			delete(g.sequence, s)
		}
	}
}

func slots(list []protocol.TopicPartitions) map[Slot]bool {
	out := make(map[Slot]bool)
	for _, t := range list {
		for _, p := range t.Partitions {
			out[Slot{t.Topic, p}] = true
		}
	}
	return out
}

func compareSlots(a, b Slot) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

// aim spreads the partitions evenly, and moves no more than it must. b.mu is
// held.
func (b *Broker) aim(g *group) {
	all := b.subscribed(g)
	ids := slices.Sorted(maps.Keys(g.members))
	next, load := g.keep(all, len(ids))
	for _, s := range all {
		if next[s] == "" && len(ids) > 0 {
			id := slices.MinFunc(ids, func(a, b string) int { return cmp.Compare(load[a], load[b]) })
			next[s] = id
			load[id]++
		}
	}
	if !maps.Equal(next, g.target) {
		g.epoch++
	}
	g.target = next
}

// subscribed lists the partitions of the topics that members want. b.mu is held.
func (b *Broker) subscribed(g *group) (all []Slot) {
	for name, t := range b.topics {
		wanted := false
		for _, m := range g.members {
			wanted = wanted || slices.Contains(m.topics, name)
		}
		if !wanted {
			continue
		}
		if _, known := g.policyBelow[name]; !known {
			g.policyBelow[name] = int32(len(t.parts))
		}
		for _, p := range t.parts {
			all = append(all, Slot{name, p.index})
		}
	}
	slices.SortFunc(all, compareSlots)
	return all
}

// keep leaves with their members as many partitions as an even share allows.
func (g *group) keep(all []Slot, members int) (next map[Slot]string, load map[string]int) {
	next, load = make(map[Slot]string, len(all)), make(map[string]int)
	most := (len(all) + members - 1) / max(members, 1)
	extra := len(all) - members*(most-1) // members that may have most
	for _, s := range all {
		id := g.target[s]
		last := load[id] == most-1
		if g.members[id] == nil || load[id] >= most || last && extra == 0 {
			continue
		}
		next[s] = id
		load[id]++
		if last {
			extra--
		}
	}
	return next, load
}

// assign tells m what it may own: what it shall and nobody else holds.
func (g *group) assign(b *Broker, m *member) protocol.HeartbeatReply {
	told := make(map[Slot]bool)
	for s, id := range g.target {
		if id == m.id && (g.owner[s] == "" || g.owner[s] == m.id) {
			g.owner[s] = m.id
			told[s] = true
		}
	}
	pending := false
	for s, id := range g.owner {
		pending = pending || id == m.id && !told[s]
	}
	if !pending && m.epoch != g.epoch {
		m.epoch = g.epoch
	}
	m.epoch = max(m.epoch, 1)
	m.told = told
	r := protocol.HeartbeatReply{MemberID: m.id, MemberEpoch: m.epoch, GroupEpoch: g.epoch, HeartbeatIntervalMs: b.coordinator.intervalMs, SessionTimeoutMs: b.coordinator.sessionMs}
	for _, s := range slices.SortedFunc(maps.Keys(told), compareSlots) {
		if n := len(r.Assignment); n == 0 || r.Assignment[n-1].Topic != s.Topic {
			r.Assignment = append(r.Assignment, protocol.TopicPartitions{
				Topic: s.Topic, TopicID: b.topics[s.Topic].meta.ID, PolicyBelow: g.policyBelow[s.Topic],
			})
		}
		last := &r.Assignment[len(r.Assignment)-1]
		last.Partitions = append(last.Partitions, s.Partition)
	}
	return r
}

// check refuses a member that is none any more.
func (g *group) check(id string, epoch int32) error {
	m := g.members[id]
	switch {
	case m == nil:
		return errcode.New(errcode.UnknownMemberID, "member %q", id)
	case epoch < m.epoch:
		return errcode.New(errcode.StaleMemberEpoch, "epoch %d, not %d", m.epoch, epoch)
	case epoch > m.epoch:
		return errcode.New(errcode.FencedMemberEpoch, "epoch %d, not %d", m.epoch, epoch)
	}
	return nil
}

func (g *group) commit(r protocol.CommitRequest) (any, error) {
	if err := g.check(r.MemberID, r.MemberEpoch); err != nil {
		return nil, err
	}
	var reply protocol.CommitReply
	for _, o := range r.Offsets {
		s := Slot{o.Topic, o.Partition}
		result := protocol.OffsetResult{Topic: o.Topic, Partition: o.Partition}
		switch {
		case g.owner[s] != r.MemberID:
			result.Error = protocol.NewControlError(errcode.New(errcode.PartitionNotOwned, "owned by %q", g.owner[s]))
		case r.Sequence >= g.sequence[s]:
			g.sequence[s], g.committed[s] = r.Sequence, o
		}
		reply.Results = append(reply.Results, result)
	}
	return reply, nil
}

func (g *group) fetchOffsets(r protocol.FetchOffsetsRequest) (any, error) {
	if r.MemberID != "" {
		if err := g.check(r.MemberID, r.MemberEpoch); err != nil {
			return nil, err
		}
	}
	var reply protocol.FetchOffsetsReply
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			o := protocol.CommittedOffset{Topic: t.Topic, TopicID: t.TopicID, Partition: p, Offset: protocol.NoOffset}
			if c, ok := g.committed[Slot{t.Topic, p}]; ok && c.TopicID == t.TopicID {
				o.Offset = c.Offset
			}
			reply.Offsets = append(reply.Offsets, o)
		}
	}
	return reply, nil
}

// Committed returns a group's committed offset, -1 for none.
func (b *Broker) Committed(group, topic string, partition int32) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o, ok := b.group(group).committed[Slot{topic, partition}]; ok {
		return o.Offset
	}
	return protocol.NoOffset
}

// Commit stores an offset for a group, as a seek would.
func (b *Broker) Commit(group, topic string, partition int32, offset int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.group(group).committed[Slot{topic, partition}] = protocol.CommittedOffset{
		Topic: topic, TopicID: b.topics[topic].meta.ID, Partition: partition, Offset: offset,
	}
}

// Owners returns which member owns each partition of a group.
func (b *Broker) Owners(group string) map[Slot]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.group(group).owner)
}

// Members returns the ids of a group's members, those away included.
func (b *Broker) Members(group string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.group(group).members))
}

// EndSession throws a member out, as if it had been silent for too long.
func (b *Broker) EndSession(group, member string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.group(group)
	if m := g.members[member]; m != nil {
		g.remove(m)
	}
}
