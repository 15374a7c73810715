package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"logbroker/config"
	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/stall"
	"logbroker/producer"
)

// quickSession is a session that a test can wait for the end of, and that a
// member by hand, whose heartbeats stop while the test does something else, does
// not lose on a busy machine.
const quickSession = 8 * time.Second

func quickGroups(f *config.Config) {
	f.Groups.SessionTimeout, f.Groups.HeartbeatInterval = quickSession, 200*time.Millisecond
}

// longSessions is for tests that end none: nobody sends heartbeats while topics
// are made and nodes start.
func longSessions(f *config.Config) {
	f.Groups.SessionTimeout, f.Groups.HeartbeatInterval = 10*time.Minute, 200*time.Millisecond
}

// part is a partition as the tests name it.
type part struct {
	topic  string
	number int32
}

// groupMember is a member by hand: it does what the test says and nothing else.
type groupMember struct {
	c         *Cluster
	group, id string
	topics    []string
	instance  string
	epoch     int32
	last      *protocol.HeartbeatReply
	owned     map[part]uint64 // with the topic's id
	sequence  int64
}

func (c *Cluster) member(group, id string, topics ...string) *groupMember {
	return &groupMember{c: c, group: group, id: id, topics: topics, owned: map[part]uint64{}}
}

func groupCall[T any](c *Cluster, verb, group string, req any) (*T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	var reply T
	err := c.Client().Group(ctx, verb, group, req, &reply)
	return &reply, err
}

// try sends one heartbeat and takes what it is answered: it gives up at once
// what it must, and reports that with the next.
func (m *groupMember) try() error {
	req := protocol.HeartbeatRequest{
		Version: protocol.ControlVersion, Group: m.group, MemberID: m.id, InstanceID: m.instance, MemberEpoch: m.epoch,
		ClientID: "test", Host: "here", Topics: m.topics,
	}
	byTopic := map[string]*protocol.TopicPartitions{}
	for p, id := range m.owned {
		t := byTopic[p.topic]
		if t == nil {
			t = &protocol.TopicPartitions{Topic: p.topic, TopicID: id}
			byTopic[p.topic] = t
		}
		t.Partitions = append(t.Partitions, p.number)
	}
	for _, t := range byTopic {
		req.Owned = append(req.Owned, *t)
	}
	reply, err := groupCall[protocol.HeartbeatReply](m.c, protocol.VerbGroupHeartbeat, m.group, req)
	if err != nil {
		return err
	}
	m.last, m.epoch = reply, reply.MemberEpoch
	m.owned = map[part]uint64{}
	for _, t := range reply.Assignment {
		for _, n := range t.Partitions {
			m.owned[part{t.Topic, n}] = t.TopicID
		}
	}
	return nil
}

func (m *groupMember) beat() {
	m.c.tb.Helper()
	if err := m.try(); err != nil {
		m.c.tb.Fatalf("heartbeat of %s: %v", m.id, err)
	}
}

func (m *groupMember) leave(epoch int32) {
	m.c.tb.Helper()
	m.epoch = epoch
	m.beat()
	m.owned = map[part]uint64{}
}

// commit commits one offset for each partition and returns the codes.
func (m *groupMember) commit(offset int64, parts ...part) []errcode.Code {
	m.c.tb.Helper()
	m.sequence++
	req := protocol.CommitRequest{Group: m.group, MemberID: m.id, MemberEpoch: m.epoch, Sequence: m.sequence}
	for _, p := range parts {
		req.Offsets = append(req.Offsets, protocol.CommittedOffset{Topic: p.topic, Partition: p.number, Offset: offset, Metadata: "by " + m.id})
	}
	reply, err := groupCall[protocol.CommitReply](m.c, protocol.VerbGroupCommit, m.group, req)
	codes := make([]errcode.Code, len(parts))
	for i := range parts {
		codes[i] = errcode.Of(err)
		if err == nil && reply.Results[i].Error != nil {
			codes[i] = reply.Results[i].Error.Code
		}
	}
	return codes
}

// settle lets members send heartbeats until each partition of the topic has one
// owner and the shares differ by at most one. No partition may ever have two.
func settle(c *Cluster, partitions int, members ...*groupMember) {
	c.tb.Helper()
	c.WaitFor(fmt.Sprintf("%d partitions are spread over %d members", partitions, len(members)), func() bool {
		for _, m := range members {
			m.beat()
			oneOwner(c, members...)
		}
		return settled(partitions, members...)
	})
}

func settled(partitions int, members ...*groupMember) bool {
	total, least, most := 0, partitions, 0
	for _, m := range members {
		total, least, most = total+len(m.owned), min(least, len(m.owned)), max(most, len(m.owned))
	}
	return total == partitions && most-least <= 1
}

func oneOwner(c *Cluster, members ...*groupMember) {
	c.tb.Helper()
	owner := map[part]string{}
	for _, m := range members {
		for p := range m.owned {
			if other, twice := owner[p]; twice {
				c.tb.Fatalf("%v belongs to %s and %s", p, other, m.id)
			}
			owner[p] = m.id
		}
	}
}

// fill appends so many records to each partition of a topic.
func (c *Cluster) fill(topic string, partitions, records int) {
	c.tb.Helper()
	p := c.produce()
	for i := range partitions * records {
		p.SendAsync(context.Background(), producer.Record{Topic: topic, Partition: new(int32(i % partitions)), Value: []byte("x")},
			func(_ producer.Receipt, err error) {
				if err != nil {
					c.tb.Errorf("record for %s: %v", topic, err)
				}
			})
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		c.tb.Fatal(err)
	}
}

func (c *Cluster) describeGroup(group string) *protocol.GroupDescription {
	c.tb.Helper()
	d, err := groupCall[protocol.GroupDescription](c, protocol.VerbGroupDescribe, group, protocol.GroupRequest{Group: group})
	if err != nil {
		c.tb.Fatalf("describe group %s: %v", group, err)
	}
	return d
}

// committed returns what a group has committed.
func (c *Cluster) committed(group string) map[part]int64 {
	c.tb.Helper()
	reply, err := groupCall[protocol.FetchOffsetsReply](c, protocol.VerbGroupFetchOffsets, group, protocol.FetchOffsetsRequest{Group: group})
	if err != nil {
		c.tb.Fatalf("offsets of group %s: %v", group, err)
	}
	out := map[part]int64{}
	for _, o := range reply.Offsets {
		out[part{o.Topic, o.Partition}] = o.Offset
	}
	return out
}

func TestGroupMembersShareAndHandOverPartitions(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quickGroups})
	c.CreateTopic("jobs", 12, 3, nil)
	c.fill("jobs", 12, 5)

	a, b, d := c.member("g", "a", "jobs"), c.member("g", "b", "jobs"), c.member("g", "d", "jobs")
	settle(c, 12, a)
	before := maps.Clone(a.owned)
	b.beat()
	d.beat()
	settle(c, 12, a, b, d)
	for p := range a.owned {
		if _, had := before[p]; !had {
			t.Errorf("%v was given to a, which had 12 and was to lose some", p)
		}
	}
	three := map[string]map[part]uint64{"a": maps.Clone(a.owned), "d": maps.Clone(d.owned)}

	b.leave(protocol.MemberEpochLeave)
	settle(c, 12, a, d)
	for _, m := range []*groupMember{a, d} {
		for p := range three[m.id] {
			if _, keeps := m.owned[p]; !keeps {
				t.Errorf("%v was taken from %s, which stayed", p, m.id)
			}
		}
	}

	// A member that falls silent is fenced, and cannot commit any more.
	own := slices.Collect(maps.Keys(d.owned))
	if codes := d.commit(5, own...); slices.ContainsFunc(codes, func(code errcode.Code) bool { return code != errcode.None }) {
		t.Fatalf("commit of what it owns: %v", codes)
	}
	stalls := stall.Start(t)
	began, coordinator := stalls.Mark(), d.last.Coordinator
	settle(c, 12, a)
	// A coordinator that takes over gives every session its full time again.
	if took := stalls.Since(began); took > quickSession+time.Second && a.last.Coordinator == coordinator {
		t.Errorf("the partitions of a silent member moved after %v", took)
	}
	if codes := d.commit(9, own...); codes[0] != errcode.UnknownMemberID {
		t.Errorf("a zombie's commit: %v", codes)
	}
	if err := d.try(); errcode.Of(err) != errcode.UnknownMemberID {
		t.Errorf("a zombie's heartbeat: %v", err)
	}
	for _, p := range own {
		if got := c.committed("g")[p]; got != 5 {
			t.Errorf("%v is committed at %d, not 5", p, got)
		}
	}
}

func TestGroupPicksUpNewPartitionsAndTopics(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: longSessions})
	topic := c.CreateTopic("grows", 4, 3, nil)
	a, b := c.member("g", "a", "grows", "later"), c.member("g", "b", "grows", "later")
	a.beat()
	b.beat()
	settle(c, 4, a, b)
	if _, err := c.Client().Admin().AddPartitions(within(t, waitTimeout), "grows", 7); err != nil {
		t.Fatal(err)
	}
	settle(c, 7, a, b)
	c.CreateTopic("later", 2, 3, nil)
	settle(c, 9, a, b)
	for _, m := range []*groupMember{a, b} {
		for _, got := range m.last.Assignment {
			want := map[string]int32{"grows": 4, "later": 0}[got.Topic]
			if got.PolicyBelow != want {
				t.Errorf("%s: partitions of %s take the start policy below %d, not %d", m.id, got.Topic, want, got.PolicyBelow)
			}
			if got.Topic == "grows" && got.TopicID != topic.ID {
				t.Errorf("topic id %d, not %d", got.TopicID, topic.ID)
			}
		}
	}
}

func TestGroupOffsetsAndLag(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: longSessions})
	topic := c.CreateTopic("lagging", 2, 3, nil)
	c.fill("lagging", 2, 5)
	m := c.member("g", "m", "lagging")
	settle(c, 2, m)
	p0, p1 := part{"lagging", 0}, part{"lagging", 1}
	if codes := m.commit(3, p0); codes[0] != errcode.None {
		t.Fatal(codes)
	}
	d := c.describeGroup("g")
	if d.State != protocol.GroupStable || len(d.Members) != 1 || len(d.Partitions) != 2 || d.TotalLag != 7 || d.Incomplete {
		t.Fatalf("%+v", d)
	}
	if row := d.Partitions[0]; *row.Committed != 3 || *row.Lag != 2 || row.MemberID != "m" || row.Metadata != "by m" {
		t.Errorf("%+v", row)
	}
	if row := d.Partitions[1]; row.Committed != nil || *row.Lag != 5 {
		t.Errorf("a partition without a commit: %+v", row)
	}

	// A commit that comes late does not take the offset back.
	m.sequence = 0
	if codes := m.commit(1, p0); codes[0] != errcode.None || c.committed("g")[p0] != 3 {
		t.Errorf("a late commit: %v, %v", codes, c.committed("g"))
	}
	m.sequence = 10
	for name, test := range map[string]struct {
		part part
		at   int64
		want errcode.Code
	}{
		"unknown topic":     {part{"nope", 0}, 1, errcode.UnknownTopicOrPartition},
		"unknown partition": {part{"lagging", 7}, 1, errcode.UnknownTopicOrPartition},
		"negative offset":   {p0, -4, errcode.OffsetOutOfRange},
		"beyond the end":    {p0, 6, errcode.OffsetOutOfRange},
	} {
		if codes := m.commit(test.at, test.part, p1); codes[0] != test.want || codes[1] != errcode.None && test.at >= 0 && test.at <= 5 {
			t.Errorf("%s: %v", name, codes)
		}
	}

	seek := func(offset int64, dry bool) error {
		reply, err := groupCall[protocol.CommitReply](c, protocol.VerbGroupSeek, "g", protocol.GroupSeekRequest{
			Group: "g", DryRun: dry, Offsets: []protocol.CommittedOffset{{Topic: "lagging", TopicID: topic.ID, Partition: 0, Offset: offset}},
		})
		if err == nil && reply.Results[0].Error != nil {
			err = reply.Results[0].Error.Err()
		}
		return err
	}
	if err := seek(0, false); errcode.Of(err) != errcode.NonEmptyGroup {
		t.Errorf("seek with a member: %v", err)
	}
	m.leave(protocol.MemberEpochLeave)
	if err := errors.Join(seek(1, true), nil); err != nil || c.committed("g")[p0] != 3 {
		t.Errorf("a dry run: %v, %v", err, c.committed("g"))
	}
	if err := seek(99, false); errcode.Of(err) != errcode.OffsetOutOfRange {
		t.Errorf("seek beyond the end: %v", err)
	}
	if err := seek(1, false); err != nil || c.committed("g")[p0] != 1 {
		t.Errorf("seek: %v, %v", err, c.committed("g"))
	}
	list := call(c, "list groups", c.Client().Admin().ListGroups)
	if len(list.Groups) != 1 || list.Groups[0].State != protocol.GroupEmpty || len(list.Unreachable) != 0 {
		t.Errorf("%+v", list)
	}
	if _, err := groupCall[protocol.Empty](c, protocol.VerbGroupDelete, "g", protocol.GroupRequest{Group: "g"}); err != nil {
		t.Error(err)
	}
	if _, err := groupCall[protocol.Empty](c, protocol.VerbGroupDelete, "g", protocol.GroupRequest{Group: "g"}); errcode.Of(err) != errcode.GroupIDNotFound {
		t.Error(err)
	}
}

func TestGroupOutlivesItsCoordinator(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: longSessions})
	stalls := stall.Start(t)
	c.CreateTopic("kept", 6, 3, nil)
	a, b := c.member("g", "a", "kept"), c.member("g", "b", "kept")
	a.beat()
	b.beat()
	settle(c, 6, a, b)
	for range 2 {
		ownA, ownB, epoch := maps.Clone(a.owned), maps.Clone(b.owned), a.last.GroupEpoch
		if codes := a.commit(0, slices.Collect(maps.Keys(ownA))...); slices.Max(codes) != errcode.None {
			t.Fatal(codes)
		}
		gone := a.last.Coordinator
		c.Stop(gone)
		began := stalls.Mark()
		if codes := a.commit(0, slices.Collect(maps.Keys(ownA))...); slices.Max(codes) != errcode.None {
			t.Fatalf("commit after the coordinator stopped: %v", codes)
		}
		if took := stalls.Since(began); took > 3*time.Second {
			t.Errorf("commits resumed after %v", took)
		}
		a.beat()
		b.beat()
		if !maps.Equal(a.owned, ownA) || !maps.Equal(b.owned, ownB) || a.last.GroupEpoch != epoch {
			t.Errorf("the group was rebalanced: epoch %d → %d", epoch, a.last.GroupEpoch)
		}
		if a.last.Coordinator == gone {
			t.Errorf("node %d is stopped and coordinates", gone)
		}
		c.Restart(gone)
	}
	c.StopAll()
	c.Restart(c.IDs()...)
	settle(c, 6, a, b)
	if got := len(c.committed("g")); got == 0 {
		t.Error("the offsets are gone after a restart of the cluster")
	}
}

func TestGroupStaticMemberComesBackWithoutARebalance(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: func(f *config.Config) {
		quickGroups(f)
		f.Groups.SessionTimeout = 2 * quickSession // several steps lie between two heartbeats
	}})
	c.CreateTopic("static", 6, 3, nil)
	a, b := c.member("g", "a", "static"), c.member("g", "b", "static")
	a.instance, b.instance = "one", "two"
	a.beat()
	b.beat()
	settle(c, 6, a, b)
	ownA, ownB := maps.Clone(a.owned), maps.Clone(b.owned)

	twin := c.member("g", "twin", "static")
	twin.instance = "two"
	c.WaitFor("a second member with one static id is refused", func() bool {
		a.beat()
		b.beat() // still there
		err := c.Client().GroupOnce(within(t, waitTimeout), client.GroupCall{Verb: protocol.VerbGroupHeartbeat, Group: "g", Request: protocol.HeartbeatRequest{
			Group: "g", MemberID: "twin", InstanceID: "two", Topics: []string{"static"},
		}})
		if err == nil {
			t.Fatal("a second member with one static id was let in")
		}
		return errcode.Of(err) == errcode.UnreleasedInstanceID
	})

	b.leave(protocol.MemberEpochLeaveStatic)
	a.beat()
	a.beat()
	if !maps.Equal(a.owned, ownA) {
		t.Errorf("a got the partitions of a static member that will be back: %v", a.owned)
	}
	twin.beat()
	if !maps.Equal(twin.owned, ownB) {
		t.Errorf("the new process has %v, the old one had %v", twin.owned, ownB)
	}
	b.epoch = 3
	if err := b.try(); errcode.Of(err) != errcode.FencedInstanceID {
		t.Errorf("the old process: %v", err)
	}
	twin.leave(protocol.MemberEpochLeaveStatic)
	settle(c, 6, a) // nobody comes back
}
