package cluster

import (
	"testing"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// A group goes on while its topic is deleted and made again under its name: its
// member is given the new topic, and nothing that was committed for the old one is
// taken for an offset of it, however late it comes.
func TestAGroupHasNoOldOffsetsOfATopicMadeAnew(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: longSessions})
	const topic = "anew"
	where := part{topic, 0}
	first := c.CreateTopic(topic, 1, 3, nil)
	c.fill(topic, 1, 10)
	m := c.member("g", "m", topic)
	settle(c, 1, m)
	if codes := m.commit(7, where); codes[0] != errcode.None {
		t.Fatal(codes)
	}
	if at := c.committed("g")[where]; at != 7 {
		t.Fatalf("committed 7, the coordinator has %d", at)
	}

	if err := c.Client().Admin().DeleteTopic(within(t, waitTimeout), topic); err != nil {
		t.Fatal(err)
	}
	second := c.CreateTopic(topic, 1, 3, nil)
	c.WaitFor("the member is given the new topic", func() bool { m.beat(); return m.owned[where] == second.ID })
	if at, has := c.committed("g")[where]; has && at > 0 {
		t.Errorf("the new topic is empty, the group has offset %d", at)
	}

	c.fill(topic, 1, 3)
	m.sequence++
	late := protocol.CommitRequest{Group: m.group, MemberID: m.id, MemberEpoch: m.epoch, Sequence: m.sequence, Offsets: []protocol.CommittedOffset{
		{Topic: topic, TopicID: first.ID, Partition: 0, Offset: 9},
	}}
	reply, err := groupCall[protocol.CommitReply](c, protocol.VerbGroupCommit, m.group, late)
	if err == nil && (len(reply.Results) != 1 || reply.Results[0].Error == nil) {
		t.Errorf("a commit for the deleted topic: %+v", reply)
	}
	if codes := m.commit(2, where); codes[0] != errcode.None {
		t.Error(codes)
	}
	if at := c.committed("g")[where]; at != 2 {
		t.Errorf("committed 2, the coordinator has %d", at)
	}
}
