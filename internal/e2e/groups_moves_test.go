package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

const (
	// commitsResumeMax is how long commits may pause after the coordinator's
	// node was killed.
	commitsResumeMax = 3 * time.Second
	// calmSession is longer than that: a member that hears of no coordinator for
	// a whole session must take itself for fenced.
	calmSession = 8 * time.Second
	// discoverMax is how soon new partitions must be assigned.
	discoverMax = 5 * time.Second
)

func TestGroupMembersComeAndGo(t *testing.T) {
	t.Parallel()
	c := startCluster(t, groupSettings)
	admin := dial(t, c.urls()...)
	for _, topic := range []string{"stopped", "scaled", "calm"} {
		createTopic(t, admin, topic, groupPartitions)
	}
	awaitSpread(t, admin, "calm", spreadMax)
	t.Run("while all nodes run", func(t *testing.T) {
		t.Run("a stopped member", func(t *testing.T) {
			t.Parallel()
			stopMember(t, c, admin)
		})
		t.Run("one three two members", func(t *testing.T) {
			t.Parallel()
			scaleGroup(t, c, admin)
		})
		t.Run("two members join at once", func(t *testing.T) {
			t.Parallel()
			joinAtOnce(t, c, admin)
		})
	})
	t.Run("kill of the coordinator", func(t *testing.T) { killCoordinator(t, c, admin) })
}

// stopMember stops a member for longer than its session and resumes it.
func stopMember(t *testing.T, c *cluster, admin *client.Client) {
	load, l := startLoadOf(t, c.urls(), "stopped", groupBurst), &ledger{}
	z := startMemberProcess(t, l, c.urls(), "stopped", "stopped")
	awaitStable(t, admin, "stopped", 1)
	l.awaitShares(t, 10*time.Second, map[string]int{"process": groupPartitions})
	other := startMember(t, l, c.urls(), "stopped", "stopped", "other")
	awaitOwned(t, 10*time.Second, groupPartitions/2, []*member{other}, groupPartitions/2)
	held := l.awaitShares(t, 10*time.Second, map[string]int{"process": 6, "other": 6})
	before := memberOf(t, awaitStable(t, admin, "stopped", 2), z.id(t))

	z.signal(t, syscall.SIGUSR1)
	z.awaitSaid(t, "holding")
	load.mark()
	load.awaitAcks(t, groupPartitions, 20, 10*time.Second) // so that it has something to commit
	began := time.Now()
	z.signal(t, syscall.SIGSTOP)
	took := l.awaitMoved(t, groupSession+10*time.Second, "process", held["process"], began)
	t.Logf("SIGSTOP: the last partition moved after %s", took.Round(time.Millisecond))
	if took > groupSession+movedMax+load.stood() {
		t.Errorf("SIGSTOP: the last partition moved after %s, want at most %s", took, groupSession+movedMax)
	}
	at := committed(t, admin, "stopped")
	refusals := map[errcode.Code]int{}
	for _, p := range held["process"] {
		refusals[wantCommitRefused(t, admin, before, p, at[p]+1)]++
	}

	z.signal(t, syscall.SIGCONT)
	z.awaitSaid(t, "woken, commit:")
	z.awaitSaid(t, "lost "+spaced(held["process"]))
	awaitOwned(t, 10*time.Second, groupPartitions/2, []*member{other}, groupPartitions/2)
	l.awaitShares(t, 10*time.Second, map[string]int{"process": 6, "other": 6})
	t.Logf("resumed: %s", z.line(t, "woken, commit:"))
	for p, now := range committed(t, admin, "stopped") {
		if now < at[p] {
			t.Errorf("the committed offset of partition %d went back from %d to %d", p, at[p], now)
		}
	}
	for p := range int32(groupPartitions) { // some of them are its own again, with another epoch
		refusals[wantCommitRefused(t, admin, before, p, at[p])]++
	}
	t.Logf("commits by the member that was fenced: %v", refusals)
	load.finish(t)
	awaitDelivered(t, l, ends(t, admin, "stopped", groupPartitions))
	z.stop(t, syscall.SIGTERM, 5*time.Second)
	other.drain(t)
	wantCommitted(t, committed(t, admin, "stopped"), ends(t, admin, "stopped", groupPartitions))
}

// memberProcess is a member in a process of its own.
type memberProcess struct{ *process }

func startMemberProcess(t testing.TB, l *ledger, servers []string, group, topic string) memberProcess {
	t.Helper()
	heard := &lines{each: func(line string) {
		var partition int32
		var offset int64
		if n, _ := fmt.Sscanf(line, "r %d %d", &partition, &offset); n == 2 {
			l.add("process", partition, offset)
		}
	}}
	return memberProcess{launchHeard(t, "process", nil, heard, os.Args[0], memberCommand, strings.Join(servers, ","), group, topic)}
}

// line returns the last line that begins with start.
func (p memberProcess) line(t testing.TB, start string) string {
	t.Helper()
	last := ""
	for line := range strings.Lines(p.stdout.String()) {
		if strings.HasPrefix(line, start) {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

func (p memberProcess) awaitSaid(t testing.TB, start string) {
	t.Helper()
	await(t, 10*time.Second, "the process says "+strconv.Quote(start), func() (bool, string) {
		return p.line(t, start) != "", p.line(t, "lost")
	})
}

func (p memberProcess) id(t testing.TB) string {
	t.Helper()
	p.awaitSaid(t, "id ")
	return strings.TrimPrefix(p.line(t, "id "), "id ")
}

func spaced(partitions []int32) string {
	return strings.Trim(fmt.Sprint(partitions), "[]")
}

func memberOf(t testing.TB, d *protocol.GroupDescription, id string) protocol.GroupMember {
	t.Helper()
	for _, m := range d.Members {
		if m.MemberID == id {
			return m
		}
	}
	t.Fatalf("group %s has no member %s: %+v", d.Group, id, d.Members)
	return protocol.GroupMember{}
}

// wantCommitRefused commits as a member that is gone.
func wantCommitRefused(t testing.TB, c *client.Client, was protocol.GroupMember, partition int32, offset int64) errcode.Code {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var reply protocol.CommitReply
	err := c.Group(ctx, protocol.VerbGroupCommit, "stopped", protocol.CommitRequest{
		Version: protocol.ControlVersion, Group: "stopped", MemberID: was.MemberID, MemberEpoch: was.Epoch, Sequence: 1 << 40,
		Offsets: []protocol.CommittedOffset{{Topic: "stopped", TopicID: was.Assignment[0].TopicID, Partition: partition, Offset: offset}},
	}, &reply)
	if err == nil && len(reply.Results) == 1 {
		err = reply.Results[0].Error.Err()
	}
	switch code := errcode.Of(err); code {
	case errcode.UnknownMemberID, errcode.FencedMemberEpoch, errcode.StaleMemberEpoch, errcode.PartitionNotOwned:
		return code
	default:
		t.Errorf("a commit of partition %d by a member that was fenced is answered with %v", partition, err)
		return code
	}
}

// scaleGroup takes a group from one member to three, adds partitions, and goes
// on with two members.
func scaleGroup(t *testing.T, c *cluster, admin *client.Client) {
	load, l := startLoadOf(t, c.urls(), "scaled", groupBurst), &ledger{}
	members := []*member{startMember(t, l, c.urls(), "scaled", "scaled", "one")}
	awaitOwned(t, 10*time.Second, groupPartitions, members, 12)
	for _, step := range []struct {
		name  string
		sizes []int
		moves int
	}{{"two", []int{6, 6}, 6}, {"three", []int{4, 4, 4}, 4}} {
		began := time.Now()
		members = append(members, startMember(t, l, c.urls(), "scaled", "scaled", step.name))
		awaitOwned(t, 10*time.Second, groupPartitions, members, step.sizes...)
		awaitStable(t, admin, "scaled", len(members))
		wantMoves(t, members, began, step.moves)
	}

	began := time.Now()
	load.mark()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := admin.Admin().AddPartitions(ctx, "scaled", groupPartitions+3); err != nil {
		t.Fatal(err)
	}
	awaitOwned(t, 10*time.Second, groupPartitions+3, members, 5, 5, 5)
	took := time.Since(began)
	t.Logf("three more partitions: assigned after %s", took.Round(time.Millisecond))
	if took > discoverMax+load.stood() {
		t.Errorf("new partitions were assigned after %s, want at most %s", took, discoverMax)
	}
	wantMoves(t, members, began, 3)

	began = time.Now()
	leaver, left := members[1], members[1].owned()
	members = slices.Delete(members, 1, 2)
	leaver.drain(t)
	awaitOwned(t, 10*time.Second, groupPartitions+3, members, 7, 8)
	awaitStable(t, admin, "scaled", 2)
	t.Logf("a member left: its %d partitions are with the others after %s", len(left), time.Since(began).Round(time.Millisecond))
	wantMoves(t, members, began, len(left))

	load.finish(t)
	all := ends(t, admin, "scaled", groupPartitions+3)
	maps.DeleteFunc(all, func(_ int32, end int64) bool { return end == 0 }) // the producer need not have seen the new ones
	awaitDelivered(t, l, all)
	if repeated := l.verify(t, all, "", nil); repeated != 0 {
		t.Errorf("%d records came twice though everybody left in good order", repeated)
	}
}

// joinAtOnce takes a group from one member to three in one change: the second
// one comes while what the first one is to have is still on its way.
func joinAtOnce(t *testing.T, c *cluster, admin *client.Client) {
	l := &ledger{}
	members := make([]*member, 3)
	members[0] = startMember(t, l, c.urls(), "at-once", "calm", "one")
	awaitOwned(t, 10*time.Second, groupPartitions, members[:1], 12)
	letGo := members[0].keep()
	defer letGo()
	began := time.Now()
	members[1] = startMember(t, l, c.urls(), "at-once", "calm", "two")
	await(t, 10*time.Second, "the first is asked to give something up", func() (bool, string) {
		told := members[0].history(began)
		return told != "[]", told
	})
	members[2] = startMember(t, l, c.urls(), "at-once", "calm", "three")
	letGo()
	awaitOwned(t, 10*time.Second, groupPartitions, members, 4, 4, 4)
	awaitStable(t, admin, "at-once", 3)
	for _, m := range members {
		t.Logf("%s was told %s", m.name, m.history(began))
	}
	wantMoves(t, members, began, 8)
	for _, m := range members {
		m.drain(t)
	}
}

// wantMoves demands that from began on no partition was given to somebody
// twice, that as many were as must be, and that nobody gave up more.
func wantMoves(t testing.TB, members []*member, began time.Time, want int) {
	t.Helper()
	given, taken := map[int32]int{}, map[int32]int{}
	for _, m := range members {
		for _, n := range m.since(began) {
			for _, p := range n.partitions {
				if n.kind == "assigned" {
					given[p]++
				} else {
					taken[p]++
				}
			}
		}
	}
	for p, n := range given {
		if n > 1 || taken[p] > 1 {
			t.Errorf("partition %d moved %d times in one change", p, n)
		}
	}
	t.Logf("%d members: %d partitions were given, %d taken", len(members), len(given), len(taken))
	if len(given) != want {
		t.Errorf("%d partitions were given to somebody, want %d", len(given), want)
	}
	for p := range taken {
		if given[p] == 0 {
			t.Errorf("partition %d was taken and given to nobody", p)
		}
	}
}

// killCoordinator kills the node that coordinates a group.
func killCoordinator(t *testing.T, c *cluster, admin *client.Client) {
	load, l := startLoadOf(t, c.urls(), "calm", groupBurst), &ledger{}
	members := []*member{}
	var mu sync.Mutex
	inParallel(3, func(i int) {
		m := startMember(t, l, c.urls(), "calm", "calm", fmt.Sprint("member ", i+1), consumer.WithSessionTimeout(calmSession))
		mu.Lock()
		defer mu.Unlock()
		members = append(members, m)
	})
	awaitOwned(t, 10*time.Second, groupPartitions, members, 4, 4, 4)
	before := awaitStable(t, admin, "calm", 3)
	t.Logf("three members joined at once: %s %s %s", members[0].history(time.Time{}), members[1].history(time.Time{}), members[2].history(time.Time{}))
	load.mark()
	load.awaitAcks(t, groupPartitions, 50, 10*time.Second)
	elsewhere := ledElsewhere(t, admin, "calm", before.Coordinator)

	atKill := load.stalls.Mark()
	began := time.Now()
	c.nodes[before.Coordinator-1].kill()
	for _, m := range members {
		await(t, 10*time.Second, m.name+" commits again", func() (bool, string) {
			_, ok := m.commitPause(began)
			return ok, fmt.Sprint(m.refused)
		})
	}
	load.mark()
	load.awaitAcks(t, groupPartitions, 100, 20*time.Second)
	after := awaitStable(t, admin, "calm", 3)
	stood := load.stalls.Stood(atKill)
	for _, m := range members {
		pause, _ := m.commitPause(began)
		owned := slices.Sorted(maps.Keys(m.owned()))
		kept := slices.DeleteFunc(slices.Clone(owned), func(p int32) bool { return !elsewhere[p] })
		_, all := l.gaps(m.name, owned, began)
		_, others := l.gaps(m.name, kept, began)
		t.Logf("%s: longest time without a commit %s; without a record of some partition %s, of those led by a living node %s", m.name,
			pause.Round(time.Millisecond), all.Round(time.Millisecond), others.Round(time.Millisecond))
		if pause > commitsResumeMax+stood {
			t.Errorf("%s could not commit for %s, want at most %s", m.name, pause, commitsResumeMax)
		}
		if told := m.history(began); told != "[]" {
			t.Errorf("%s was told %s, but nothing should move", m.name, told)
		}
	}
	if after.GroupEpoch != before.GroupEpoch || after.Coordinator == before.Coordinator {
		t.Errorf("the group is at epoch %d on node %d, and was at %d on node %d", after.GroupEpoch, after.Coordinator, before.GroupEpoch, before.Coordinator)
	}
	load.finish(t)
	all := ends(t, admin, "calm", groupPartitions)
	awaitDelivered(t, l, all)
	if repeated := l.verify(t, all, "", nil); repeated != 0 {
		t.Errorf("%d records came twice though nothing moved", repeated)
	}
	for _, m := range members {
		m.drain(t)
	}
	wantCommitted(t, committed(t, admin, "calm"), all)
}

// ledElsewhere returns the partitions of topic that node does not lead.
func ledElsewhere(t testing.TB, c *client.Client, topic string, node uint64) map[int32]bool {
	t.Helper()
	d, why := describe(t, c, topic)
	if d == nil {
		t.Fatal(why)
	}
	out := map[int32]bool{}
	for _, p := range d.Partitions {
		if p.Leader != nil && *p.Leader != node {
			out[p.Partition] = true
		}
	}
	return out
}
