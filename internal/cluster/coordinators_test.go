package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"logbroker/config"
	"logbroker/consumer"
	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/stall"
	"logbroker/producer"
)

// groupShards is groups.coordinator_shards of the tests.
const groupShards = 4

func (c *Cluster) showRaft(name string) *protocol.RaftShowReply {
	c.tb.Helper()
	r, ok := protocol.RaftShowOf(name)
	if !ok {
		c.tb.Fatalf("%q names no Raft group", name)
	}
	return call(c, "raft show "+name, func(ctx context.Context) (*protocol.RaftShowReply, error) { return c.Client().Admin().ShowRaft(ctx, r) })
}

// coordinators returns how many coordinator shards each founder that runs leads,
// and whether all are led and the shares differ by one at most.
func (c *Cluster) coordinators() (led map[uint64]int, even bool) {
	c.tb.Helper()
	led = map[uint64]int{}
	for _, id := range c.Running() {
		led[id] = 0
	}
	for i := range groupShards {
		leaders := 0
		for _, r := range c.showRaft(protocol.GroupShardName(i)).Replicas {
			if r.Role != nil && *r.Role == "leader" {
				led[r.Node]++
				leaders++
			}
		}
		if leaders != 1 {
			return led, false
		}
	}
	least, most := groupShards, 0
	for _, n := range led {
		least, most = min(least, n), max(most, n)
	}
	return led, most-least <= 1
}

// pulse is one group's member that commits and sends heartbeats all the time.
type pulse struct {
	m      *groupMember
	stalls *stall.Meter
	mu     sync.Mutex // guards what follows
	offset int64      // last acked
	last   stall.Mark
	worst  time.Duration
	errs   []error
}

// pulseRecords is how many records each partition has that a pulse commits.
const pulseRecords = 1000

// beatAndCommit goes on until ctx ends.
func (p *pulse) beatAndCommit(ctx context.Context, parts []part) {
	for round := int64(1); ctx.Err() == nil; round++ {
		err, offset := p.m.try(), min(round, pulseRecords)
		for _, code := range p.m.commit(offset, parts...) {
			if code != errcode.None && err == nil {
				err = fmt.Errorf("commit %d: %v", offset, code)
			}
		}
		p.mu.Lock()
		p.worst, p.last = max(p.worst, p.stalls.Since(p.last)), p.stalls.Mark()
		if err != nil {
			p.errs = append(p.errs, err)
		} else {
			p.offset = offset
		}
		p.mu.Unlock()
	}
}

// gap returns the longest time between two rounds since the last call, less what
// the machine stood still.
func (p *pulse) gap() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	worst := max(p.worst, p.stalls.Since(p.last))
	p.worst = 0
	return worst
}

// groupOn returns the name of a group on coordinator shard i.
func groupOn(i int) string {
	for n := 0; ; n++ {
		if name := fmt.Sprint("group-", n); protocol.GroupShard(name, groupShards) == i {
			return name
		}
	}
}

// Each founder leads its share of the coordinator shards, after the start and
// again after a node was away; the members of the groups that move notice a
// short wait and nothing else.
func TestCoordinatorsAreSpreadAgainAfterARestartAndMembersDoNotNotice(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: func(f *config.Config) {
		quickGroups(f)
		f.Groups.SessionTimeout = time.Minute
		f.Leaders.Interval = balanceInterval
	}})
	c.WaitFor("coordinators are spread after the start", func() bool { _, even := c.coordinators(); return even })
	c.CreateTopic("paced", 2, 3, nil)
	filler := c.produce()
	for i := range int32(2 * pulseRecords) {
		filler.SendAsync(t.Context(), producer.Record{Topic: "paced", Partition: new(i % 2), Value: []byte("x")}, nil)
	}
	if err := filler.Flush(within(t, waitTimeout)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	pulses, stalls := []*pulse{}, stall.Start(t)
	for i := range groupShards {
		p := &pulse{m: c.member(groupOn(i), "m", "paced"), stalls: stalls, last: stalls.Mark()}
		settle(c, 2, p.m)
		pulses = append(pulses, p)
	}
	epochs := []int32{}
	for _, p := range pulses {
		epochs = append(epochs, p.m.last.GroupEpoch)
		running.Go(func() { p.beatAndCommit(ctx, []part{{"paced", 0}, {"paced", 1}}) })
	}
	c.Stop(2)
	c.WaitFor("the two others coordinate all", func() bool { _, even := c.coordinators(); return even })
	for _, p := range pulses {
		p.gap()
	}
	c.Restart(2)
	began := time.Now()
	c.WaitFor("the node that returned coordinates its share", func() bool { led, even := c.coordinators(); return even && led[2] > 0 })
	led, _ := c.coordinators()
	t.Logf("coordinators %v, %v after the return", led, time.Since(began).Round(time.Millisecond))
	gaps := []time.Duration{}
	for _, p := range pulses {
		gaps = append(gaps, p.gap())
	}
	stop()
	running.Wait()
	t.Logf("longest time of a member without an acked heartbeat and commit while coordinators moved, per shard: %v", gaps)
	if worst := slices.Max(gaps); worst > 3*time.Second {
		t.Errorf("a member went without a commit for %v", worst)
	}
	for i, p := range pulses {
		if len(p.errs) > 0 {
			t.Errorf("%s: %v", p.m.group, p.errs)
		}
		if p.m.last.GroupEpoch != epochs[i] || len(p.m.owned) != 2 {
			t.Errorf("%s was rebalanced: epoch %d → %d, owns %v", p.m.group, epochs[i], p.m.last.GroupEpoch, p.m.owned)
		}
		if got := c.committed(p.m.group); got[part{"paced", 0}] < p.offset {
			t.Errorf("%s: %v is committed, %d was acked", p.m.group, got, p.offset)
		}
	}
	c.WaitHealthy()
}

// A node that came later holds no replicas of the coordinator shards. What only
// reaches that node can use groups all the same.
func TestALaterNodeServesGroups(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quickGroups})
	c.CreateTopic("jobs", 3, 3, nil)
	if err := c.Join(4, 1, nil); err != nil {
		t.Fatal(err)
	}
	for i := range groupShards {
		c.WaitFor("every replica of "+protocol.GroupShardName(i)+" answers", func() bool {
			replicas := c.showRaft(protocol.GroupShardName(i)).Replicas
			answers := len(replicas) == 3
			for at, r := range replicas {
				answers = answers && r.Node == uint64(at+1) && r.Applied != nil && *r.Applied > 0 && *r.Applied <= *r.Last
			}
			return answers
		})
	}
	if shown := c.showRaft("metadata"); shown.Shard != 1 || len(shown.Replicas) != 4 {
		t.Errorf("the metadata: %+v", shown)
	}
	p := c.produce()
	for i := range 30 {
		if _, err := p.Send(within(t, waitTimeout), producer.Record{Topic: "jobs", Partition: new(int32(i % 3)), Value: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	url := []string{c.Info(4).ClientURL}
	member, err := consumer.New(within(t, waitTimeout), url, "later", []string{"jobs"}, consumer.FromEarliest())
	if err != nil {
		t.Fatal(err)
	}
	for got := 0; got < 30; {
		records, err := member.Poll(within(t, waitTimeout), 100)
		if err != nil {
			t.Fatal(err)
		}
		got += len(records)
		member.Mark(records...)
	}
	if err := member.Commit(within(t, waitTimeout)); err != nil {
		t.Fatal(err)
	}
	only, err := client.Dial(within(t, waitTimeout), url, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer only.Close()
	var list *protocol.GroupListReply
	c.WaitFor("every coordinator tells the later node in time", func() bool {
		list, err = only.Admin().ListGroups(within(t, waitTimeout))
		return err != nil || len(list.Unreachable) == 0
	})
	if err != nil || len(list.Groups) != 1 || list.Groups[0].Members != 1 {
		t.Errorf("list through the later node: %+v, %v", list, err)
	}
	d, err := only.Admin().DescribeGroup(within(t, waitTimeout), "later")
	if err != nil || len(d.Members) != 1 || d.TotalLag != 0 || d.Coordinator == 0 || d.Coordinator == 4 {
		t.Errorf("describe through the later node: %+v, %v", d, err)
	}
	if want := protocol.GroupShardName(protocol.GroupShard("later", groupShards)); err == nil && d.Shard != want {
		t.Errorf("the group is on %q, not %q", d.Shard, want)
	}
	if body := c.get(4, "/api/v1/groups/later"); !strings.Contains(body, `"total_lag":0`) {
		t.Errorf("describe by HTTP of the later node: %s", body)
	}
	if body := c.get(4, "/api/v1/raft?shard=groups/1"); !strings.Contains(body, `"shard":3`) {
		t.Errorf("raft by HTTP of the later node: %s", body)
	}
	if err := member.Close(); err != nil {
		t.Error(err)
	}
}

// get returns what a node's HTTP port answers.
func (c *Cluster) get(id uint64, path string) string {
	c.tb.Helper()
	reply, err := http.Get(c.Info(id).HTTPURL + path)
	if err != nil {
		c.tb.Fatal(err)
	}
	body, err := io.ReadAll(reply.Body)
	if err := reply.Body.Close(); err != nil {
		c.tb.Fatal(err)
	}
	if err != nil {
		c.tb.Fatal(err)
	}
	return string(body)
}

// With two of three founders gone every group request is answered within 5 s by
// name, at first by a coordinator that does not know yet, later by a node that
// knows of no leader; and health names what has none.
func TestWithoutMajorityGroupRequestsAreRefusedByName(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: func(f *config.Config) { quickGroups(f); quietLeaders(f) }})
	c.CreateTopic("alone", 2, 3, nil)
	m := c.member("g", "m", "alone")
	settle(c, 2, m)
	if codes := m.commit(0, part{"alone", 0}); codes[0] != errcode.None {
		t.Fatal(codes)
	}
	left := m.last.Coordinator
	nc := c.dial(left)
	c.Stop(left%3+1, (left+1)%3+1)
	began := time.Now()
	requests := map[string]any{
		protocol.VerbGroupHeartbeat: protocol.HeartbeatRequest{Group: "g", MemberID: "m", MemberEpoch: m.epoch, Topics: []string{"alone"}},
		protocol.VerbGroupCommit: protocol.CommitRequest{
			Group: "g", MemberID: "m", MemberEpoch: m.epoch, Sequence: 100, Offsets: []protocol.CommittedOffset{{Topic: "alone"}},
		},
		protocol.VerbGroupFetchOffsets: protocol.FetchOffsetsRequest{Group: "g"},
		protocol.VerbGroupDescribe:     protocol.GroupRequest{Group: "g"},
		protocol.VerbGroupDelete:       protocol.GroupRequest{Group: "g"},
	}
	const longer = 5 * time.Second // than a node without a leader speaks of it by itself
	stalls := stall.Start(t)
	var running sync.WaitGroup
	for verb, request := range requests {
		data, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			seen := map[errcode.Code]int{}
			for last := errcode.None; time.Since(began) < longer || last != errcode.CoordinatorNotAvailable; {
				asked := stalls.Mark()
				reply, err := nc.Request(protocol.GroupSubject(verb, "g"), data, 10*time.Second)
				if took := stalls.Since(asked); err != nil || took > 5*time.Second && !raceEnabled {
					t.Errorf("%s: answered after %v: %v", verb, took, err)
					return
				}
				code, ok := codeOf("", reply.Data)
				acked := code == errcode.None && verb != protocol.VerbGroupHeartbeat
				if !ok || acked {
					t.Errorf("%s without a majority: %s", verb, reply.Data)
					return
				}
				seen[code]++
				last = code
				<-time.After(20 * time.Millisecond)
			}
			t.Logf("%s: %v", verb, seen)
		})
	}
	running.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	only, err := client.Dial(ctx, []string{c.Info(left).ClientURL}, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer only.Close()
	health, err := only.Admin().ClusterHealth(ctx)
	if err != nil || health.Healthy {
		t.Fatalf("%+v, %v", health, err)
	}
	all := strings.Join(health.Reasons, "; ")
	for _, want := range []string{"the metadata has no leader", "groups/0", "groups/3"} {
		if !strings.Contains(all, want) {
			t.Errorf("the reasons %q do not name %q", all, want)
		}
	}
	shown, err := only.Admin().ShowRaft(ctx, protocol.RaftShowRequest{GroupShard: new(int32(2))})
	if err != nil || len(shown.Replicas) != 3 || shown.Shard != 4 {
		t.Fatalf("%+v, %v", shown, err)
	}
	for _, r := range shown.Replicas {
		if known := r.Role != nil; known != (r.Node == left) || r.Leader != nil {
			t.Errorf("without a majority: %+v", r)
		}
	}
	if _, err := only.Admin().ShowRaft(ctx, protocol.RaftShowRequest{GroupShard: new(int32(groupShards))}); errcode.Of(err) != errcode.UnknownTopicOrPartition {
		t.Errorf("a shard that does not exist: %v", err)
	}
}
