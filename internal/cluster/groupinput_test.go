package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/config"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// groupAnswerWithin is how soon a bad group request is refused: it may take a
// round of Raft.
const groupAnswerWithin = 500 * time.Millisecond

// groupAnswerLost is when no answer will come any more.
const groupAnswerLost = 10 * time.Second

// groupInputs makes the table of bad group requests. Group "g" has members a
// and b, who own partitions 0 and 1 of the topic "input" with ten records each;
// "static" has a static member, "full" as many members as a group may have,
// "idle" none. Each has committed something. "anew" is a topic that was deleted
// and made anew.
type groupInputs struct {
	t            *testing.T
	id, anew     uint64 // topic ids
	before       uint64 // id of the topic "anew" before it was deleted
	a, b, static *groupMember
	rows         []inputRow
}

func (in *groupInputs) add(want errcode.Code, verb, group, name string, request any) {
	body, err := json.Marshal(request)
	if err != nil {
		in.t.Fatal(err)
	}
	in.rows = append(in.rows, inputRow{name: name, subject: protocol.PrefixGroup + verb + "." + group, payload: body, want: want})
}

// forms is what every verb refuses: bytes that are no request, and names that
// are none of a group.
func (in *groupInputs) forms() {
	const a = protocol.PrefixAdmin
	for _, verb := range []string{
		protocol.VerbGroupHeartbeat, protocol.VerbGroupCommit, protocol.VerbGroupFetchOffsets, protocol.VerbGroupDeleteOffsets,
		protocol.VerbGroupDescribe, protocol.VerbGroupDelete, protocol.VerbGroupSeek,
	} {
		subject := protocol.GroupSubject(verb, "g")
		for body, want := range map[string]errcode.Code{
			"not JSON": errcode.InvalidRequest, `{"group":`: errcode.InvalidRequest, `[]`: errcode.InvalidRequest, `{"version":"x"}`: errcode.InvalidRequest,
			`{"version":9}`: errcode.UnsupportedVersion, `{"version":-1}`: errcode.UnsupportedVersion, "\xfe\x00": errcode.InvalidRequest,
		} {
			in.rows = append(in.rows, inputRow{name: body, subject: subject, payload: []byte(body), want: want})
		}
		good := fmt.Sprintf(`{"version":1,"member_id":"x","member_epoch":1,"topics":%s}`, map[bool]string{true: `["input"]`, false: `[{"topic":"input"}]`}[verb == protocol.VerbGroupHeartbeat])
		for _, group := range []string{strings.Repeat("g", 250), strings.Repeat("g.", 200) + "g", "a\x01b", "a\x7f", "$g", "a*b", "é", "a/b"} {
			in.rows = append(in.rows, inputRow{name: "group name", subject: protocol.GroupSubject(verb, group), payload: []byte(good), want: errcode.InvalidGroupID})
		}
		in.rows = append(in.rows, inputRow{name: "no group name", subject: protocol.PrefixGroup + verb, payload: []byte(good), want: errcode.InvalidGroupID})
	}
	for body, want := range map[string]errcode.Code{"not JSON": errcode.InvalidRequest, `[]`: errcode.InvalidRequest, `{"version":9}`: errcode.UnsupportedVersion} {
		for _, verb := range []string{protocol.VerbGroupList, protocol.VerbGroupDescribed} {
			in.rows = append(in.rows, inputRow{name: body, subject: a + verb, payload: []byte(body), want: want})
		}
	}
	for _, group := range []string{"", strings.Repeat("g", 250), "a\\u0001b", "a b"} {
		in.rows = append(in.rows, inputRow{name: "group name", subject: a + protocol.VerbGroupDescribed, payload: fmt.Appendf(nil, `{"group":"%s"}`, group), want: errcode.InvalidGroupID})
	}
	in.rows = append(in.rows, inputRow{name: "no such group", subject: a + protocol.VerbGroupDescribed, payload: []byte(`{"group":"nope"}`), want: errcode.GroupIDNotFound})
	in.add(errcode.InvalidRequest, "nonsense", "g", "verb", protocol.Empty{})
	in.add(errcode.GroupIDNotFound, protocol.VerbGroupDescribe, "nope", "no such group", protocol.GroupRequest{})
	in.add(errcode.GroupIDNotFound, protocol.VerbGroupDelete, "nope", "no such group", protocol.GroupRequest{})
	in.add(errcode.NonEmptyGroup, protocol.VerbGroupDelete, "g", "a group with members", protocol.GroupRequest{})
}

func (in *groupInputs) heartbeats() {
	long := strings.Repeat("i", protocol.GroupMemberNameMax+1)
	many := make([]string, 10_000)
	for i := range many {
		many[i] = fmt.Sprint("t", i)
	}
	for _, r := range []struct {
		want  errcode.Code
		group string
		name  string
		req   protocol.HeartbeatRequest
	}{
		{errcode.InvalidRequest, "g", "joins without a topic", protocol.HeartbeatRequest{MemberID: "new"}},
		{errcode.InvalidRequest, "g", "joins with 10,000 topics", protocol.HeartbeatRequest{MemberID: "new", Topics: many}},
		{errcode.InvalidRequest, "g", "subscribes to 10,000 topics", protocol.HeartbeatRequest{MemberID: "a", MemberEpoch: in.a.epoch, Topics: many}},
		{errcode.InvalidTopic, "g", "topic name", protocol.HeartbeatRequest{MemberID: "new", Topics: []string{"a b"}}},
		{errcode.InvalidTopic, "g", "empty topic name", protocol.HeartbeatRequest{MemberID: "new", Topics: []string{""}}},
		{errcode.InvalidRequest, "g", "long member id", protocol.HeartbeatRequest{MemberID: long, Topics: []string{inputTopic}}},
		{errcode.InvalidRequest, "g", "long instance id", protocol.HeartbeatRequest{MemberID: "new", InstanceID: long, Topics: []string{inputTopic}}},
		{errcode.InvalidRequest, "g", "long client id", protocol.HeartbeatRequest{MemberID: "new", ClientID: long, Topics: []string{inputTopic}}},
		{errcode.InvalidRequest, "g", "long host", protocol.HeartbeatRequest{MemberID: "new", Host: long, Topics: []string{inputTopic}}},
		{errcode.InvalidRequest, "g", "control character in the member id", protocol.HeartbeatRequest{MemberID: "n\x1b[2Jw", Topics: []string{inputTopic}}},
		{errcode.InvalidRequest, "g", "control character in the client id", protocol.HeartbeatRequest{MemberID: "new", ClientID: "c\n", Topics: []string{inputTopic}}},
		{errcode.InvalidRequest, "g", "large metadata", protocol.HeartbeatRequest{MemberID: "new", Metadata: make([]byte, protocol.GroupMemberMetadataMax+1), Topics: []string{inputTopic}}},
		{errcode.InvalidRequest, "g", "member epoch -3", protocol.HeartbeatRequest{MemberID: "a", MemberEpoch: -3}},
		{errcode.InvalidRequest, "g", "no member id", protocol.HeartbeatRequest{MemberEpoch: in.a.epoch, Topics: []string{inputTopic}}},
		{errcode.InvalidRequest, "g", "leaves without a member id", protocol.HeartbeatRequest{MemberEpoch: protocol.MemberEpochLeave}},
		{errcode.InvalidRequest, "g", "owns without end", protocol.HeartbeatRequest{MemberID: "a", MemberEpoch: in.a.epoch, Owned: []protocol.TopicPartitions{{Topic: inputTopic, TopicID: in.id, Partitions: make([]int32, 100_000)}}}},
		{errcode.UnknownMemberID, "g", "unknown member", protocol.HeartbeatRequest{MemberID: "ghost", MemberEpoch: 1}},
		{errcode.UnknownMemberID, "g", "unknown member leaves", protocol.HeartbeatRequest{MemberID: "ghost", MemberEpoch: protocol.MemberEpochLeave}},
		{errcode.UnknownMemberID, "g", "unknown member leaves for a while", protocol.HeartbeatRequest{MemberID: "ghost", MemberEpoch: protocol.MemberEpochLeaveStatic}},
		{errcode.UnknownMemberID, "nope", "unknown group", protocol.HeartbeatRequest{MemberID: "a", MemberEpoch: 1}},
		{errcode.FencedMemberEpoch, "g", "future epoch", protocol.HeartbeatRequest{MemberID: "a", MemberEpoch: in.a.epoch + 1}},
		{errcode.UnreleasedInstanceID, "static", "second member with one static id", protocol.HeartbeatRequest{MemberID: "twin", InstanceID: "one", Topics: []string{inputTopic}}},
		{errcode.FencedInstanceID, "static", "stays with another's static id", protocol.HeartbeatRequest{MemberID: "twin", MemberEpoch: 1, InstanceID: "one"}},
		{errcode.GroupMaxSizeReached, "full", "one member too many", protocol.HeartbeatRequest{MemberID: "new", Topics: []string{inputTopic}}},
	} {
		in.add(r.want, protocol.VerbGroupHeartbeat, r.group, r.name, r.req)
	}
}

// badOffsets are the offsets that neither commit nor seek takes.
func (in *groupInputs) badOffsets() map[string]struct {
	want errcode.Code
	o    protocol.CommittedOffset
} {
	type row = struct {
		want errcode.Code
		o    protocol.CommittedOffset
	}
	return map[string]row{
		"unknown topic":        {errcode.UnknownTopicOrPartition, protocol.CommittedOffset{Topic: "nope", Offset: 1}},
		"topic name":           {errcode.UnknownTopicOrPartition, protocol.CommittedOffset{Topic: "a b\x00", Offset: 1}},
		"unknown partition":    {errcode.UnknownTopicOrPartition, protocol.CommittedOffset{Topic: inputTopic, Partition: 2, Offset: 1}},
		"negative partition":   {errcode.UnknownTopicOrPartition, protocol.CommittedOffset{Topic: inputTopic, Partition: -1, Offset: 1}},
		"id that never was":    {errcode.UnknownTopicID, protocol.CommittedOffset{Topic: inputTopic, TopicID: in.id + 77, Offset: 1}},
		"id of a deleted one":  {errcode.UnknownTopicID, protocol.CommittedOffset{Topic: "anew", TopicID: in.before, Offset: 1}},
		"negative offset":      {errcode.OffsetOutOfRange, protocol.CommittedOffset{Topic: inputTopic, TopicID: in.id, Offset: -1}},
		"least offset":         {errcode.OffsetOutOfRange, protocol.CommittedOffset{Topic: inputTopic, TopicID: in.id, Offset: -1 << 63}},
		"one beyond the end":   {errcode.OffsetOutOfRange, protocol.CommittedOffset{Topic: inputTopic, TopicID: in.id, Offset: 11}},
		"far beyond the end":   {errcode.OffsetOutOfRange, protocol.CommittedOffset{Topic: inputTopic, TopicID: in.id, Offset: 1<<63 - 1}},
		"beyond an empty log":  {errcode.OffsetOutOfRange, protocol.CommittedOffset{Topic: "anew", TopicID: in.anew, Offset: 1}},
		"metadata over length": {errcode.OffsetMetadataTooLarge, protocol.CommittedOffset{Topic: inputTopic, TopicID: in.id, Offset: 2, Metadata: strings.Repeat("m", protocol.GroupOffsetMetadataMax+1)}},
	}
}

func (in *groupInputs) commits() {
	at := func(partition int32, offset int64) []protocol.CommittedOffset {
		return []protocol.CommittedOffset{{Topic: inputTopic, TopicID: in.id, Partition: partition, Offset: offset}}
	}
	const verb = protocol.VerbGroupCommit
	for name, r := range in.badOffsets() {
		offsets := []protocol.CommittedOffset{r.o}
		in.add(r.want, verb, "g", name, protocol.CommitRequest{MemberID: "a", MemberEpoch: in.a.epoch, Sequence: 1 << 40, Offsets: offsets})
		in.add(r.want, verb, "idle", name+", no member", protocol.CommitRequest{MemberEpoch: -1, Offsets: offsets})
		in.add(errcode.UnknownMemberID, verb, "g", name+", unknown member", protocol.CommitRequest{MemberID: "ghost", MemberEpoch: 1, Offsets: offsets})
	}
	for _, r := range []struct {
		want  errcode.Code
		group string
		name  string
		req   protocol.CommitRequest
	}{
		{errcode.PartitionNotOwned, "g", "partition of another", protocol.CommitRequest{MemberID: "a", MemberEpoch: in.a.epoch, Sequence: 1 << 40, Offsets: at(1, 2)}},
		{errcode.PartitionNotOwned, "static", "topic not subscribed to", protocol.CommitRequest{MemberID: "s", MemberEpoch: in.static.epoch, Sequence: 1 << 40, Offsets: []protocol.CommittedOffset{{Topic: "anew", Offset: 0}}}},
		{errcode.StaleMemberEpoch, "g", "epoch before the partition was granted", protocol.CommitRequest{MemberID: "b", MemberEpoch: 1, Sequence: 1 << 40, Offsets: at(1, 2)}},
		{errcode.FencedMemberEpoch, "g", "future epoch", protocol.CommitRequest{MemberID: "a", MemberEpoch: in.a.epoch + 1, Sequence: 1 << 40, Offsets: at(0, 2)}},
		{errcode.UnknownMemberID, "g", "unknown member", protocol.CommitRequest{MemberID: "ghost", MemberEpoch: 1, Offsets: at(0, 2)}},
		{errcode.UnknownMemberID, "g", "member of another group", protocol.CommitRequest{MemberID: "s", MemberEpoch: in.static.epoch, Offsets: at(0, 2)}},
		{errcode.UnknownMemberID, "nope", "unknown group", protocol.CommitRequest{MemberID: "a", MemberEpoch: 1, Offsets: at(0, 2)}},
		{errcode.UnknownMemberID, "g", "nothing, by an unknown member", protocol.CommitRequest{MemberID: "ghost", MemberEpoch: 1}},
		{errcode.NonEmptyGroup, "g", "no member of a group with members", protocol.CommitRequest{MemberEpoch: -1, Offsets: at(0, 2)}},
		{errcode.InvalidRequest, "g", "no member, but an epoch", protocol.CommitRequest{MemberEpoch: 1, Offsets: at(0, 2)}},
		{errcode.InvalidRequest, "g", "epoch 0", protocol.CommitRequest{MemberID: "a", Offsets: at(0, 2)}},
		{errcode.InvalidRequest, "g", "epoch -1", protocol.CommitRequest{MemberID: "a", MemberEpoch: -1, Offsets: at(0, 2)}},
		{errcode.InvalidRequest, "g", "too many offsets", protocol.CommitRequest{MemberID: "a", MemberEpoch: in.a.epoch, Sequence: 1 << 40, Offsets: slices.Repeat(at(0, 2), protocol.GroupCommitOffsetsMax+1)}},
	} {
		in.add(r.want, verb, r.group, r.name, r.req)
	}
}

func (in *groupInputs) offsets() {
	named := func(topic string, id uint64, partitions ...int32) []protocol.TopicPartitions {
		return []protocol.TopicPartitions{{Topic: topic, TopicID: id, Partitions: partitions}}
	}
	const fetch, remove, seek = protocol.VerbGroupFetchOffsets, protocol.VerbGroupDeleteOffsets, protocol.VerbGroupSeek
	in.add(errcode.UnknownMemberID, fetch, "g", "unknown member", protocol.FetchOffsetsRequest{MemberID: "ghost", MemberEpoch: 1})
	in.add(errcode.UnknownMemberID, fetch, "nope", "unknown group", protocol.FetchOffsetsRequest{MemberID: "ghost", MemberEpoch: 1})
	in.add(errcode.FencedMemberEpoch, fetch, "g", "future epoch", protocol.FetchOffsetsRequest{MemberID: "a", MemberEpoch: in.a.epoch + 1})
	for _, verb := range []string{fetch, remove} {
		in.add(errcode.InvalidRequest, verb, "idle", "partitions without end", protocol.FetchOffsetsRequest{Topics: named(inputTopic, in.id, make([]int32, 100_000)...)})
	}
	in.add(errcode.GroupSubscribedToTopic, remove, "g", "a topic in use", protocol.DeleteOffsetsRequest{Topics: named(inputTopic, in.id)})
	in.add(errcode.GroupIDNotFound, remove, "nope", "unknown group", protocol.DeleteOffsetsRequest{Topics: named(inputTopic, in.id)})
	in.add(errcode.UnknownTopicOrPartition, remove, "idle", "unknown topic", protocol.DeleteOffsetsRequest{Topics: named("nope", 0)})
	in.add(errcode.UnknownTopicOrPartition, remove, "idle", "unknown partition", protocol.DeleteOffsetsRequest{Topics: named(inputTopic, in.id, 0, 2)})
	in.add(errcode.UnknownTopicOrPartition, remove, "idle", "negative partition", protocol.DeleteOffsetsRequest{Topics: named(inputTopic, in.id, -1)})
	in.add(errcode.UnknownTopicID, remove, "idle", "id of a deleted topic", protocol.DeleteOffsetsRequest{Topics: named("anew", in.before)})
	for name, r := range in.badOffsets() {
		// One of them is good: it must not be stored either.
		offsets := []protocol.CommittedOffset{r.o, {Topic: inputTopic, TopicID: in.id, Partition: 1, Offset: 7}}
		in.add(r.want, seek, "idle", name, protocol.GroupSeekRequest{Offsets: offsets})
		in.add(r.want, seek, "idle", name+", dry run", protocol.GroupSeekRequest{Offsets: offsets, DryRun: true})
	}
	good := []protocol.CommittedOffset{{Topic: inputTopic, TopicID: in.id, Offset: 2}}
	in.add(errcode.NonEmptyGroup, seek, "g", "a group with members", protocol.GroupSeekRequest{Offsets: good})
	in.add(errcode.NonEmptyGroup, seek, "g", "a group with members, dry run", protocol.GroupSeekRequest{Offsets: good, DryRun: true})
	in.add(errcode.InvalidRequest, seek, "idle", "too many offsets", protocol.GroupSeekRequest{Offsets: slices.Repeat(good, protocol.GroupCommitOffsetsMax+1)})
	in.add(errcode.OffsetOutOfRange, seek, "idle", "below the log start", protocol.GroupSeekRequest{Offsets: []protocol.CommittedOffset{{Topic: inputTopic, TopicID: in.id, Partition: 1, Offset: 0}}})
}

func TestEveryBadGroupRequestIsRefusedByCodeAndChangesNothing(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: func(f *config.Config) {
		quietLeaders(f)
		longSessions(f)
	}})
	in := newGroupInputs(t, c)
	in.forms()
	in.heartbeats()
	in.commits()
	in.offsets()
	h := newHostile(t, c, 1, in.id)
	look := func() string {
		out := ""
		for _, g := range []string{"g", "static", "idle", "full", "nope"} {
			out += fmt.Sprint(g, " ", c.committed(g), "\n")
		}
		for _, g := range []string{"g", "static"} {
			d := c.describeGroup(g)
			for _, m := range d.Members {
				out += fmt.Sprint(g, " ", m.MemberID, m.Epoch, m.Topics, m.Assignment, m.Away, "\n")
			}
		}
		return out
	}
	before := look()
	var took []time.Duration
	for i := range in.rows {
		r := &in.rows[i]
		took = append(took, h.tryGroup(c, r))
		if codes := in.a.commit(3, part{inputTopic, 0}); codes[0] != errcode.None {
			t.Fatalf("%s, %s: the next good commit: %v", r.subject, r.name, codes)
		}
		if i%10 == 0 || i == len(in.rows)-1 {
			in.a.beat()
			if after := look(); after != before {
				t.Fatalf("%s, %s, or one of the ten before, changed something:\n%s\nwas:\n%s", r.subject, r.name, after, before)
			}
		}
	}
	slices.Sort(took)
	t.Logf("%d rows, answers after %v in the middle, %v at worst", len(took), took[len(took)/2].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))
}

// tryGroup sends one bad request, again while the coordination is just moving or
// the answer was late, and returns how long the answer took. What the machine
// stood still does not count, and a slow disk is told from a slow answer by
// trying again.
func (h *hostile) tryGroup(c *Cluster, r *inputRow) (took time.Duration) {
	h.t.Helper()
	late := 0
	c.WaitFor("an answer that is none of an election's", func() bool {
		began := h.stalls.Mark()
		code, detail := h.sendGroup(r)
		took = h.stalls.Since(began)
		switch {
		case code != r.want && code.Retriable():
			return false
		case code != r.want:
			h.t.Errorf("%s, %s: got %v (%s), want %v", r.subject, r.name, code, detail, r.want)
		case took > groupAnswerWithin && !raceEnabled:
			if late++; late < 5 {
				return false
			}
			h.t.Errorf("%s, %s: answered after %v, want %v", r.subject, r.name, took, groupAnswerWithin)
		}
		return true
	})
	return took
}

// sendGroup is send, with a look into the answer of a request that was taken:
// an offset of it may have been refused.
func (h *hostile) sendGroup(r *inputRow) (code errcode.Code, detail string) {
	m, err := h.nc.Request(r.subject, r.payload, groupAnswerLost)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return noResponders, err.Error()
	case errors.Is(err, nats.ErrTimeout):
		return errcode.RequestTimedOut, err.Error() // nobody answers while the coordination moves
	case err != nil:
		return errcode.UnknownServerError, err.Error()
	}
	code, ok := codeOf(r.subject, m.Data)
	var e protocol.Envelope[protocol.CommitReply]
	switch {
	case !ok:
		return errcode.UnknownServerError, fmt.Sprintf("not an answer: %.80q", m.Data)
	case code == errcode.None && json.Unmarshal(m.Data, &e) == nil:
		for _, o := range e.Body.Results {
			if o.Error != nil {
				return o.Error.Code, o.Error.Message
			}
		}
	}
	return code, fmt.Sprintf("%.200q", m.Data)
}

// newGroupInputs makes what the table speaks of.
func newGroupInputs(t *testing.T, c *Cluster) *groupInputs {
	in := &groupInputs{t: t}
	in.id = c.CreateTopic(inputTopic, 2, 3, nil).ID
	in.before = c.CreateTopic("anew", 1, 3, nil).ID
	if err := c.Client().Admin().DeleteTopic(within(t, waitTimeout), "anew"); err != nil {
		t.Fatal(err)
	}
	in.anew = c.CreateTopic("anew", 1, 3, nil).ID
	c.fill(inputTopic, 2, 10)
	if _, err := c.Client().Admin().TrimTopic(within(t, waitTimeout), inputTopic, 1, 1); err != nil {
		t.Fatal(err)
	}
	in.a, in.b = c.member("g", "a", inputTopic), c.member("g", "b", inputTopic)
	settle(c, 2, in.a)
	settle(c, 2, in.a, in.b)
	if _, has := in.a.owned[part{inputTopic, 0}]; !has {
		in.a, in.b = in.b, in.a
	}
	in.static = c.member("static", "s", inputTopic)
	in.static.instance = "one"
	settle(c, 2, in.static)
	idle := c.member("idle", "i", inputTopic)
	settle(c, 2, idle)
	for m, parts := range map[*groupMember][]part{in.a: {{inputTopic, 0}}, in.b: {{inputTopic, 1}}, in.static: {{inputTopic, 0}, {inputTopic, 1}}, idle: {{inputTopic, 0}, {inputTopic, 1}}} {
		if codes := m.commit(3, parts...); slices.Max(codes) != errcode.None {
			t.Fatal(codes)
		}
	}
	idle.leave(protocol.MemberEpochLeave)
	c.crowd("full", protocol.GroupMembersMax)
	return in
}

// crowd makes a group of n members, many at once.
func (c *Cluster) crowd(group string, n int) {
	c.tb.Helper()
	c.Client() // which only the test's goroutine makes
	const atOnce = 64
	next, failed := make(chan int), make(chan error, atOnce)
	var joining sync.WaitGroup
	for range atOnce {
		joining.Go(func() {
			var errs []error
			for i := range next {
				req := protocol.HeartbeatRequest{MemberID: fmt.Sprint("m", i), Topics: []string{inputTopic}}
				_, err := groupCall[protocol.HeartbeatReply](c, protocol.VerbGroupHeartbeat, group, req)
				errs = append(errs, err)
			}
			failed <- errors.Join(errs...)
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	joining.Wait()
	for range atOnce {
		if err := <-failed; err != nil {
			c.tb.Fatal(err)
		}
	}
}
