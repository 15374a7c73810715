package groups

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// bench is a machine under test, with epoch 1 open.
type bench struct {
	t      testing.TB
	m      *machine
	index  uint64
	epoch  int32
	timeMs int64
	// log and results are what was applied and answered so far.
	log, results [][]byte
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, m: newMachine(func(int32, uint64) {}), timeMs: 1000}
	b.open(1, 1)
	return b
}

func (b *bench) update(e entry) statemachine.Result {
	b.t.Helper()
	b.index++
	cmd := encode(e)
	r, err := b.m.Update(statemachine.Entry{Index: b.index, Cmd: cmd})
	if err != nil {
		b.t.Fatal(err)
	}
	b.log, b.results = append(b.log, cmd), append(b.results, r.Data)
	return r
}

func (b *bench) open(epoch int32, replica uint64) uint64 {
	b.epoch = max(b.epoch, epoch)
	return b.update(entry{Epoch: epoch, Replica: replica}).Value
}

// do applies operations in one entry of the present epoch.
func (b *bench) do(ops ...operation) []outcome {
	b.t.Helper()
	b.timeMs++
	r := b.update(entry{Epoch: b.epoch, TimeMs: b.timeMs, Ops: ops})
	if r.Value != verdictApplied {
		b.t.Fatalf("verdict %d", r.Value)
	}
	out, ok := decodeOutcomes(r.Data, len(ops))
	if !ok {
		b.t.Fatalf("outcomes %x", r.Data)
	}
	return out
}

func (b *bench) must(ops ...operation) {
	b.t.Helper()
	for i, o := range b.do(ops...) {
		if o.Code != errcode.None {
			b.t.Fatalf("%s: %v %s", ops[i].Kind, o.Code, o.Message)
		}
	}
}

func (b *bench) refuse(code errcode.Code, op operation) {
	b.t.Helper()
	if o := b.do(op)[0]; o.Code != code {
		b.t.Fatalf("%s was answered %v %s, want %v", op.Kind, o.Code, o.Message, code)
	}
}

func (b *bench) join(member string, topics ...string) {
	b.t.Helper()
	b.must(joinOp(member, "", topics...))
}

func joinOp(member, instance string, topics ...string) operation {
	return operation{Kind: opJoin, Group: "g", Member: member, Joining: &joining{InstanceID: instance, Topics: topics, SessionMs: 1000, RebalanceMs: 1000}}
}

// assign applies the assignment that the coordinator would make.
func (b *bench) assign(topics ...topicCount) {
	b.t.Helper()
	g := b.m.groups["g"]
	var members []subscriber
	for id, m := range g.members {
		members = append(members, subscriber{id: id, topics: m.Topics, has: m.target})
	}
	op := operation{Kind: opTarget, Group: "g", Revision: g.revision, Topics: topics}
	targets := assign(members, topics)
	for _, id := range slices.Sorted(maps.Keys(targets)) {
		op.Targets = append(op.Targets, target{Member: id, Partitions: targets[id], Assignment: []byte(id)})
	}
	b.must(op)
}

func (b *bench) member(id string) *member { return b.m.groups["g"].members[id] }

func (b *bench) commit(member string, epoch int32, sequence, offset int64, p Partition) errcode.Code {
	b.t.Helper()
	o := b.do(operation{Kind: opCommit, Group: "g", Member: member, Epoch: epoch, Sequence: sequence, Offsets: []commit{{Partition: p, Offset: offset}}})[0]
	if o.Codes != nil {
		return o.Codes[0]
	}
	return o.Code
}

func (b *bench) snapshot() []byte {
	b.t.Helper()
	var buffer bytes.Buffer
	if err := b.m.SaveSnapshot(&buffer, nil, nil); err != nil {
		b.t.Fatal(err)
	}
	return buffer.Bytes()
}

var four = topicCount{ID: 7, Name: "t", Partitions: 4}

func TestPartitionIsGivenOnOnlyAfterItWasGivenUp(t *testing.T) {
	b := newBench(t)
	b.join("a", "t")
	b.assign(four)
	if got := len(b.member("a").may()); got != 4 {
		t.Fatalf("a may own %d", got)
	}
	granted := b.member("a").epoch
	b.join("b", "t")
	b.assign(four)
	a, late := b.member("a"), b.member("b")
	if len(a.may()) != 2 || len(a.revoking()) != 2 || len(late.may()) != 0 {
		t.Fatalf("a %v %v, b %v", a.may(), a.revoking(), late.may())
	}
	// A report that was sent before a knew of the revocation gives up nothing.
	b.must(operation{Kind: opReport, Group: "g", Member: "a", Epoch: granted})
	if len(late.may()) != 0 {
		t.Fatalf("an old report gave b %v", late.may())
	}
	gives := a.revoking()
	b.must(operation{Kind: opReport, Group: "g", Member: "a", Epoch: a.epoch, Owned: append(a.may(), gives[0])})
	if got := late.may(); !slices.Equal(got, gives[1:]) {
		t.Fatalf("b may own %v, a gave up %v", got, gives[1:])
	}
	b.must(operation{Kind: opRemove, Group: "g", Member: "a", Epoch: a.epoch})
	if got := late.may(); !slices.Equal(got, gives) {
		t.Fatalf("after a was fenced b may own %v, not %v", got, gives)
	}
	b.assign(four)
	if got := len(late.may()); got != 4 {
		t.Fatalf("b may own %d", got)
	}
}

func TestCommitsAreOrderedAndFenced(t *testing.T) {
	b := newBench(t)
	b.join("a", "t")
	b.assign(four)
	p := Partition{7, 0}
	epoch := b.member("a").epoch
	for i, test := range []struct {
		member           string
		epoch            int32
		sequence, offset int64
		want             errcode.Code
		stands           int64
	}{
		{"a", epoch, 5, 50, errcode.None, 50},
		{"a", epoch, 5, 99, errcode.None, 50}, // the same commit again
		{"a", epoch, 4, 40, errcode.None, 50}, // overtaken
		{"a", epoch, 6, 30, errcode.None, 30}, // a member may go back
		{"a", epoch + 1, 7, 70, errcode.FencedMemberEpoch, 30},
		{"a", epoch - 1, 7, 70, errcode.StaleMemberEpoch, 30},
		{"z", epoch, 7, 70, errcode.UnknownMemberID, 30},
	} {
		if got := b.commit(test.member, test.epoch, test.sequence, test.offset, p); got != test.want {
			t.Errorf("%d: %v, want %v", i, got, test.want)
		}
		if got := b.m.groups["g"].offsets[p].offset; got != test.stands {
			t.Errorf("%d: the offset is %d, want %d", i, got, test.stands)
		}
	}
	if got := b.commit("a", epoch, 8, 1, Partition{7, 9}); got != errcode.PartitionNotOwned {
		t.Errorf("a partition that is not owned: %v", got)
	}
	b.refuse(errcode.NonEmptyGroup, operation{Kind: opStore, Group: "g", Offsets: []commit{{Partition: p, Offset: 1}}})
	// The next owner's sequences begin anew.
	b.must(operation{Kind: opRemove, Group: "g", Member: "a", Epoch: -1})
	b.join("c", "t")
	b.assign(four)
	if got := b.commit("c", b.member("c").epoch, 1, 31, p); got != errcode.None || b.m.groups["g"].offsets[p].offset != 31 {
		t.Errorf("the next owner's first commit: %v", got)
	}
}

// TestLateCommitOfAMemberThatJoinedAgainTakesNoOffsetBack: a member that heard of
// no coordinator for its session joins again, while the coordinator, a new one
// perhaps, still has it. What it sent before must not be stored any more: it has
// begun at the offset that was committed then.
func TestLateCommitOfAMemberThatJoinedAgainTakesNoOffsetBack(t *testing.T) {
	b := newBench(t)
	b.join("a", "t")
	b.assign(four)
	p := Partition{7, 0}
	before := b.member("a").epoch
	if got := b.commit("a", before, 1, 80, p); got != errcode.None {
		t.Fatal(got)
	}
	b.join("a", "t")
	if got := b.commit("a", before, 2, 100, p); got != errcode.StaleMemberEpoch {
		t.Errorf("a commit from before it joined again: %v", got)
	}
	if got := b.commit("a", b.member("a").epoch, 3, 85, p); got != errcode.None {
		t.Errorf("a commit from after it joined again: %v", got)
	}
	if got := b.m.groups["g"].offsets[p].offset; got != 85 {
		t.Errorf("the offset is %d, want 85", got)
	}
	if got := len(b.member("a").may()); got != 4 {
		t.Errorf("it may own %d partitions, it had 4", got)
	}
}

func TestEntriesOfAnOldCoordinatorChangeNothing(t *testing.T) {
	b := newBench(t)
	b.join("a", "t")
	b.assign(four)
	if got := b.open(2, 2); got != verdictOpened {
		t.Fatalf("verdict %d", got)
	}
	before := b.snapshot()
	for _, op := range []operation{
		joinOp("b", "", "t"),
		{Kind: opRemove, Group: "g", Member: "a", Epoch: b.member("a").epoch},
		{Kind: opDelete, Group: "g"},
		{Kind: opCommit, Group: "g", Member: "a", Epoch: b.member("a").epoch, Sequence: 1, Offsets: []commit{{Partition: Partition{7, 0}, Offset: 9}}},
	} {
		if r := b.update(entry{Epoch: 1, TimeMs: 5000, Ops: []operation{op}}); r.Value != verdictFenced {
			t.Errorf("%s of the old coordinator: verdict %d", op.Kind, r.Value)
		}
	}
	for _, epoch := range []int32{1, 2} {
		if got := b.open(epoch, 1); got != verdictStale {
			t.Errorf("epoch %d after 2: verdict %d", epoch, got)
		}
	}
	if !bytes.Equal(before, b.snapshot()) {
		t.Error("the state has changed")
	}
	if r, err := b.m.Update(statemachine.Entry{Cmd: []byte("nonsense")}); err != nil || r.Value != verdictUnknown {
		t.Errorf("nonsense: %d, %v", r.Value, err)
	}
}

func TestStaticMemberIsReplacedWithoutChangingTheOthers(t *testing.T) {
	b := newBench(t)
	b.must(joinOp("a", "one", "t"), joinOp("b", "two", "t"))
	b.assign(four)
	b.refuse(errcode.UnreleasedInstanceID, joinOp("c", "two", "t"))
	b.refuse(errcode.InvalidRequest, func() operation { b.join("d", "t"); return operation{Kind: opAway, Group: "g", Member: "d"} }())
	b.must(operation{Kind: opRemove, Group: "g", Member: "d", Epoch: -1})
	b.assign(four)
	had, others, epoch := b.member("b").may(), b.member("a").may(), b.member("a").epoch
	b.must(operation{Kind: opAway, Group: "g", Member: "b"}, joinOp("c", "two", "t"))
	if got := b.member("c").may(); !slices.Equal(got, had) || b.member("b") != nil {
		t.Fatalf("c may own %v, b had %v", got, had)
	}
	if !slices.Equal(b.member("a").may(), others) || b.member("a").epoch != epoch {
		t.Fatal("a was touched")
	}
	if code := b.commit("c", b.member("c").epoch-1, 1, 5, had[0]); code != errcode.StaleMemberEpoch {
		t.Errorf("a commit from before the partitions were c's: %v", code)
	}
}

func TestBoundsAreRefusedByName(t *testing.T) {
	b := newBench(t)
	for i := range protocol.GroupMembersMax {
		b.join(fmt.Sprint("m", i), "t")
	}
	b.refuse(errcode.GroupMaxSizeReached, joinOp("one too many", "", "t"))
	b.must(joinOp("m0", "", "t", "u")) // one that is there may change
	var offsets []commit
	for i := range protocol.GroupOffsetsMax {
		offsets = append(offsets, commit{Partition: Partition{9, int32(i)}})
	}
	store := operation{Kind: opStore, Group: "big", Offsets: offsets}
	b.must(store)
	b.refuse(errcode.GroupStateTooLarge, operation{Kind: opStore, Group: "big", Offsets: []commit{{Partition: Partition{10, 0}}}})
	b.must(operation{Kind: opStore, Group: "big", Offsets: offsets[:10]})
	for i := len(b.m.groups); i < groupsMax; i++ {
		b.m.groups[fmt.Sprint("filler", i)] = newGroup("filler")
	}
	b.refuse(errcode.GroupStateTooLarge, operation{Kind: opJoin, Group: "new", Member: "a", Joining: &joining{Topics: []string{"t"}}})
}

func TestEmptyGroupExpiresOnlyWhereNobodyUsedIt(t *testing.T) {
	b := newBench(t)
	b.join("a", "t")
	b.assign(four)
	b.commit("a", b.member("a").epoch, 1, 10, Partition{7, 1})
	b.refuse(errcode.NonEmptyGroup, operation{Kind: opDelete, Group: "g"})
	b.must(operation{Kind: opRemove, Group: "g", Member: "a", Epoch: -1})
	mark := b.m.groups["g"].emptySinceMs
	if mark == 0 {
		t.Fatal("no mark")
	}
	b.must(operation{Kind: opStore, Group: "g", Offsets: []commit{{Partition: Partition{7, 2}, Offset: 3}}})
	b.refuse(errcode.RebalanceInProgress, operation{Kind: opExpired, Group: "g", SinceMs: mark})
	if o := b.do(operation{Kind: opForget, Group: "g", Forget: []forgotten{{Topic: 7, Name: "t", Numbers: []int32{1}}}})[0]; o.Codes[0] != errcode.None {
		t.Fatal(o)
	}
	if got := len(b.m.groups["g"].offsets); got != 1 {
		t.Fatalf("%d offsets are left", got)
	}
	b.must(operation{Kind: opPurge, Group: "g", Gone: []uint64{7}})
	if g := b.m.groups["g"]; len(g.offsets) != 0 || len(g.seen) != 0 {
		t.Fatalf("%v %v is left of a topic that is gone", g.offsets, g.seen)
	}
	b.must(operation{Kind: opExpired, Group: "g", SinceMs: b.m.groups["g"].emptySinceMs})
	b.refuse(errcode.GroupIDNotFound, operation{Kind: opDelete, Group: "g"})
}

// chaos applies random operations, sensible and not.
type chaos struct {
	*bench
	random *rand.Rand
	topics []topicCount
}

func (c *chaos) id() string { return fmt.Sprint("m", c.random.IntN(6)) }

func (c *chaos) partition() Partition {
	t := c.topics[c.random.IntN(len(c.topics))]
	return Partition{t.ID, c.random.Int32N(t.Partitions)}
}

func (c *chaos) step() {
	g := c.m.groups["g"]
	id := c.id()
	var m *member
	if g != nil {
		m = g.members[id]
	}
	epoch := int32(1 + c.random.IntN(5))
	if m != nil && c.random.IntN(3) > 0 {
		epoch = m.epoch
	}
	switch c.random.IntN(12) {
	case 0, 1:
		instance := ""
		if c.random.IntN(2) == 0 {
			instance = fmt.Sprint("i", c.random.IntN(3))
		}
		c.do(joinOp(id, instance, []string{"t", "u"}[:1+c.random.IntN(2)]...))
	case 2, 3, 4:
		op := operation{Kind: opReport, Group: "g", Member: id, Epoch: epoch}
		if m != nil && c.random.IntN(2) == 0 {
			op.Owned = append(m.may(), m.revoking()...)[c.random.IntN(len(m.owned)+1):]
		}
		c.do(op)
	case 5:
		c.do(operation{Kind: opRemove, Group: "g", Member: id, Epoch: epoch})
	case 6:
		c.do(operation{Kind: opAway, Group: "g", Member: id})
	case 7, 8:
		if c.random.IntN(3) == 0 {
			c.topics[c.random.IntN(len(c.topics))].Partitions++
		}
		if g != nil && len(g.members) > 0 {
			c.assign(c.topics...)
		}
	case 9, 10:
		c.do(operation{Kind: opCommit, Group: "g", Member: id, Epoch: epoch, Sequence: int64(c.random.IntN(20)), Offsets: []commit{{Partition: c.partition(), Offset: c.random.Int64N(100)}}})
	default:
		c.do([]operation{{Kind: opDelete, Group: "g"}, {Kind: opStore, Group: "g", Offsets: []commit{{Partition: c.partition(), Offset: 3}}}}[c.random.IntN(2)])
	}
}

// check holds the invariants of the state, with what was before.
func (c *chaos) check(before map[Partition]string) map[Partition]string {
	c.t.Helper()
	now := map[Partition]string{}
	g := c.m.groups["g"]
	if g == nil {
		return now
	}
	for id, m := range g.members {
		if m.epoch > g.epoch || id != m.id {
			c.t.Fatalf("member %s is at epoch %d, its group at %d", id, m.epoch, g.epoch)
		}
		for p, o := range m.owned {
			if other, twice := now[p]; twice {
				c.t.Fatalf("%v belongs to %s and %s", p, other, id)
			}
			now[p] = id
			if o.granted > m.epoch || o.revoked > m.epoch || g.owners[p] != id {
				c.t.Fatalf("%v of %s: %+v at epoch %d, the index says %q", p, id, o, m.epoch, g.owners[p])
			}
			if was, owned := before[p]; owned && was != id && g.members[was] != nil && o.granted != m.epoch {
				c.t.Fatalf("%v went from %s to %s without a grant", p, was, id)
			}
		}
	}
	if len(now) != len(g.owners) || (g.emptySinceMs != 0) != (len(g.members) == 0) {
		c.t.Fatalf("%d owned, %d in the index; empty since %d with %d members", len(now), len(g.owners), g.emptySinceMs, len(g.members))
	}
	return now
}

func TestRandomOperationsKeepTheInvariantsOnEveryReplica(t *testing.T) {
	for seed := range uint64(60) {
		c := &chaos{
			bench: newBench(t), random: rand.New(rand.NewPCG(seed, 3)),
			topics: []topicCount{{ID: 7, Name: "t", Partitions: 5}, {ID: 8, Name: "u", Partitions: 3}},
		}
		before := map[Partition]string{}
		var half []byte
		at := 0
		for i := range 150 {
			if c.random.IntN(40) == 0 {
				c.open(c.epoch+1, uint64(1+c.random.IntN(3)))
			}
			c.step()
			before = c.check(before)
			if i == 75 {
				half, at = c.snapshot(), len(c.log)
			}
		}
		fresh, restored := newMachine(func(int32, uint64) {}), newMachine(func(int32, uint64) {})
		if err := restored.RecoverFromSnapshot(bytes.NewReader(half), nil, nil); err != nil {
			t.Fatal(err)
		}
		c.replay(fresh, 0)
		c.replay(restored, at)
	}
}

// replay applies the log from entry at on to another replica, which must answer
// the same and end in the same state.
func (b *bench) replay(m *machine, at int) {
	b.t.Helper()
	for i := at; i < len(b.log); i++ {
		r, err := m.Update(statemachine.Entry{Index: uint64(i + 1), Cmd: b.log[i]})
		if err != nil || !bytes.Equal(r.Data, b.results[i]) {
			b.t.Fatalf("entry %d: %v, %s, and here %s", i, err, b.results[i], r.Data)
		}
	}
	other := &bench{t: b.t, m: m}
	if got, want := other.snapshot(), b.snapshot(); !bytes.Equal(got, want) {
		b.t.Fatalf("the replicas differ:\n%s\n%s", want, got)
	}
}

func TestDamagedSnapshotIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "{", "newer": `{"version":2}`,
		"group twice":     `{"version":1,"groups":[{"name":"g","empty_since_ms":1},{"name":"g","empty_since_ms":1}]}`,
		"two owners":      `{"version":1,"groups":[{"name":"g","epoch":3,"members":[{"id":"a","topics":[],"owned":[{"t":1,"p":0,"granted":1}]},{"id":"b","topics":[],"owned":[{"t":1,"p":0,"granted":1}]}]}]}`,
		"member ahead":    `{"version":1,"groups":[{"name":"g","epoch":3,"members":[{"id":"a","topics":[],"epoch":4}]}]}`,
		"full and empty":  `{"version":1,"groups":[{"name":"g","epoch":3,"empty_since_ms":5,"members":[{"id":"a","topics":[]}]}]}`,
		"empty and unset": `{"version":1,"groups":[{"name":"g","epoch":3}]}`,
	} {
		if err := newMachine(func(int32, uint64) {}).RecoverFromSnapshot(bytes.NewReader([]byte(text)), nil, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
