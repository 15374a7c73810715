package handler

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"logbroker/broker/groups"
	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/partitions"
)

// fakeGroups coordinates the groups it is told of.
type fakeGroups struct {
	noGroups
	groups   map[string]*protocol.GroupDescription
	shards   []uint64
	sought   []protocol.GroupSeekRequest
	released bool
}

func (f *fakeGroups) Route(group string) error {
	if f.groups[group] == nil {
		return groups.ErrElsewhere
	}
	return nil
}

func (f *fakeGroups) Heartbeat(req protocol.HeartbeatRequest, done func(*protocol.HeartbeatReply, error)) {
	if f.groups[req.Group] == nil {
		done(nil, groups.ErrElsewhere)
		return
	}
	done(&protocol.HeartbeatReply{MemberID: req.MemberID}, nil)
}

func (f *fakeGroups) Describe(_ context.Context, group string) (*protocol.GroupDescription, error) {
	g := f.groups[group]
	if g == nil {
		return nil, groups.ErrElsewhere
	}
	c := *g
	c.Partitions = slices.Clone(g.Partitions)
	return &c, nil
}

func (f *fakeGroups) List() *protocol.GroupListReply {
	reply := &protocol.GroupListReply{Shards: f.shards}
	for name := range f.groups {
		reply.Groups = append(reply.Groups, protocol.GroupSummary{Group: name})
	}
	return reply
}

func (f *fakeGroups) Seek(_ context.Context, req protocol.GroupSeekRequest) (*protocol.CommitReply, error) {
	f.sought = append(f.sought, req)
	return &protocol.CommitReply{Results: make([]protocol.OffsetResult, len(req.Offsets))}, nil
}

func (f *fakeGroups) Release() { f.released = true }

// askGroup sends a group verb; silent means that the node did not answer.
func askGroup(t *testing.T, h *Handler, verb, group, body string) (code errcode.Code, reply json.RawMessage, silent bool) {
	t.Helper()
	answers := make(chan []byte, 1)
	h.Group(verb, group, []byte(body), func(b []byte) { answers <- b })
	data := receive(t, answers)
	if data == nil {
		return 0, nil, true
	}
	var env protocol.Envelope[json.RawMessage]
	must(t, json.Unmarshal(data, &env))
	return errcode.Of(env.Error.Err()), env.Body, false
}

// fill gives a partition a log from start to end.
func (f *fleet) fill(p *metadata.Partition, start, end int64) {
	r := f.replica(p.Nodes()[0], p.Shard)
	values := make([]string, end)
	must(f.T, r.Append(partitions.AppendRequest{Buf: encodeBatch(f.T, values...)}, func(partitions.AppendResult) {}))
	_, err := r.Trim(f.Context(), start)
	must(f.T, err)
}

// at is a committed offset for a row of a description.
func at(offset int64) *int64 { return &offset }

func TestGroupRequestsAreAnsweredByTheirCoordinatorAlone(t *testing.T) {
	none := newBench(t)
	if code, _, _ := askGroup(t, none.h, protocol.VerbGroupHeartbeat, "g", `{}`); code != errcode.NotImplemented {
		t.Errorf("in a cluster without groups: %v", code)
	}
	fake := &fakeGroups{groups: map[string]*protocol.GroupDescription{"mine": {Group: "mine"}}}
	b := newBench(t, func(o *Options) { o.Groups = fake })
	if code, reply, silent := askGroup(t, b.h, protocol.VerbGroupHeartbeat, "mine", `{"group":"another","member_id":"m"}`); code != 0 || silent {
		t.Errorf("%v %s %v", code, reply, silent)
	}
	for _, verb := range []string{protocol.VerbGroupHeartbeat, protocol.VerbGroupCommit, protocol.VerbGroupFetchOffsets, protocol.VerbGroupDeleteOffsets, protocol.VerbGroupDescribe, protocol.VerbGroupDelete, "nonsense"} {
		if _, _, silent := askGroup(t, b.h, verb, "theirs", `{}`); !silent {
			t.Errorf("%s of a group that another node coordinates was answered", verb)
		}
	}
	for body, want := range map[string]errcode.Code{"not JSON": errcode.InvalidRequest, `{"version":9}`: errcode.UnsupportedVersion, `{"topics":7}`: errcode.InvalidRequest} {
		if code, _, _ := askGroup(t, b.h, protocol.VerbGroupHeartbeat, "mine", body); code != want {
			t.Errorf("%s: %v, want %v", body, code, want)
		}
	}
	if code, _, _ := askGroup(t, b.h, "nonsense", "mine", `{}`); code != errcode.InvalidRequest {
		t.Errorf("an unknown verb: %v", code)
	}
	must(t, b.h.Drain(t.Context()))
	if !fake.released {
		t.Error("held heartbeats are not released when the node drains")
	}
	if code, _, _ := askGroup(t, b.h, protocol.VerbGroupHeartbeat, "mine", `{}`); code != errcode.ShuttingDown {
		t.Errorf("while draining: %v", code)
	}
	if _, _, silent := askGroup(t, b.h, protocol.VerbGroupHeartbeat, "theirs", `{}`); !silent {
		t.Error("while draining it answers for a group that another node coordinates")
	}
}

func TestLagIsThatOfTheLeadersAndOneUnknownPartitionTakesNothingFromTheRest(t *testing.T) {
	f := newFleet(t, 2)
	topic := f.topic("orders", 3, 1)
	description := &protocol.GroupDescription{Group: "g"}
	for i := range topic.Partitions {
		description.Partitions = append(description.Partitions, protocol.GroupPartition{Topic: "orders", TopicID: topic.ID, Partition: int32(i)})
	}
	description.Partitions[0].Committed = at(2)
	gone := description.Partitions[1]
	for i := range topic.Partitions {
		f.fill(&topic.Partitions[i], 1, 10)
	}
	delete(f.nodes[topic.Partitions[1].Nodes()[0]].m, topic.Partitions[1].Shard)
	h := f.peers[1]
	h.options.Groups = &fakeGroups{groups: map[string]*protocol.GroupDescription{"g": description}, shards: []uint64{2}}
	var d protocol.GroupDescription
	must(t, callControl(f.peers[2], PlaneAdmin, protocol.VerbGroupDescribed, []byte(`{"group":"g"}`), &d))
	if d.TotalLag != 8+9 || !d.Incomplete || len(d.Topics) != 1 || d.Topics[0].Lag != 17 || d.Partitions[gone.Partition].Lag != nil {
		t.Errorf("%+v", d)
	}
	if got := *d.Partitions[0].Lag; got != 8 {
		t.Errorf("lag of a committed partition: %d", got)
	}
	var list protocol.GroupListReply
	must(t, callControl(f.peers[2], PlaneAdmin, protocol.VerbGroupList, nil, &list))
	if len(list.Groups) != 1 || list.Groups[0].Group != "g" {
		t.Errorf("%+v", list)
	}
	err := callControl(f.peers[2], PlaneAdmin, protocol.VerbGroupDescribed, []byte(`{"group":"other"}`), &d)
	if errcode.Of(err) != errcode.CoordinatorNotAvailable {
		t.Errorf("a group without a coordinator: %v", err)
	}
}

func TestSeekOutsideOfTheLogIsRefusedAndNothingMoves(t *testing.T) {
	f := newFleet(t, 1)
	topic := f.topic("orders", 2, 1)
	for i := range topic.Partitions {
		f.fill(&topic.Partitions[i], 5, 10)
	}
	h := f.peers[1]
	fake := &fakeGroups{}
	h.options.Groups = fake
	for _, test := range []struct {
		offset int64
		dry    bool
		want   errcode.Code
		moved  bool
	}{{11, false, errcode.OffsetOutOfRange, false}, {4, false, errcode.OffsetOutOfRange, false}, {10, true, 0, false}, {10, false, 0, true}} {
		fake.sought = nil
		req := protocol.GroupSeekRequest{Group: "g", DryRun: test.dry, Offsets: []protocol.CommittedOffset{{Topic: "orders", Partition: 0, Offset: 6}, {Topic: "orders", TopicID: topic.ID, Partition: 1, Offset: test.offset}}}
		reply, err := h.groupSeek(t.Context(), req)
		must(t, err)
		if got := errcode.Of(reply.Results[1].Error.Err()); got != test.want {
			t.Errorf("seek to %d: %v, want %v", test.offset, got, test.want)
		}
		if moved := slices.ContainsFunc(fake.sought, func(r protocol.GroupSeekRequest) bool { return !r.DryRun }); moved != test.moved {
			t.Errorf("seek to %d, dry %v: moved %v", test.offset, test.dry, moved)
		}
	}
}
