package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/protocol"
	"logbroker/producer"
)

const (
	// commitsFor is how long commits are measured, after commitsWarmup.
	commitsFor    = 10 * time.Second
	commitsWarmup = 2 * time.Second
	// commitsWanted is the rate of the open loop, in partition offsets a second.
	commitsWanted = 20_000
	// commitsEnd is how many records each partition has: nothing beyond can be
	// committed. After so many commits a member goes on with the same offset.
	commitsEnd = 1000
)

// committer is a member that does nothing but commit: what package consumer
// sends, without the records. It has a connection of its own, as a consumer has.
type committer struct {
	client   *client.Client
	group    string
	id       string
	epoch    int32
	sequence int64
	owned    []protocol.TopicPartitions
}

// beat sends a heartbeat that the coordinator may hold for wait, and takes what
// it is given.
func (m *committer) beat(ctx context.Context, wait time.Duration) error {
	req := protocol.HeartbeatRequest{
		Version: protocol.ControlVersion, Group: m.group, MemberID: m.id, MemberEpoch: m.epoch, Topics: []string{scaleTopic}, Owned: m.owned,
		SessionTimeoutMs: protocol.GroupSessionTimeoutMaxMs, WaitMs: wait.Milliseconds(),
	}
	var reply protocol.HeartbeatReply
	err := m.client.GroupOnce(ctx, client.GroupCall{Verb: protocol.VerbGroupHeartbeat, Group: m.group, Request: req, Reply: &reply, Hold: wait})
	if err == nil {
		m.epoch, m.owned = reply.MemberEpoch, reply.Assignment
	}
	return err
}

func (m *committer) size() (n int) {
	for _, t := range m.owned {
		n += len(t.Partitions)
	}
	return n
}

// commit commits an offset of each partition owned; it repeats as consumers do.
func (m *committer) commit(ctx context.Context) error {
	m.sequence++
	req := protocol.CommitRequest{Version: protocol.ControlVersion, Group: m.group, MemberID: m.id, MemberEpoch: m.epoch, Sequence: m.sequence}
	for _, t := range m.owned {
		for _, p := range t.Partitions {
			req.Offsets = append(req.Offsets, protocol.CommittedOffset{Topic: t.Topic, TopicID: t.TopicID, Partition: p, Offset: min(m.sequence, commitsEnd)})
		}
	}
	var reply protocol.CommitReply
	if err := m.client.Group(ctx, protocol.VerbGroupCommit, m.group, req, &reply); err != nil {
		return err
	}
	for _, r := range reply.Results {
		if r.Error != nil {
			return fmt.Errorf("%s/%d: %s", r.Topic, r.Partition, r.Error.Message)
		}
	}
	return nil
}

// fillPartitions appends commitsEnd records to every partition.
func fillPartitions(b *testing.B, servers []string) {
	b.Helper()
	p, err := producer.New(b.Context(), servers)
	if err != nil {
		b.Fatal(err)
	}
	for i := range scalePartitions * commitsEnd {
		record := producer.Record{Topic: scaleTopic, Partition: new(int32(i % scalePartitions)), Value: []byte("x")}
		p.SendAsync(b.Context(), record, func(_ producer.Receipt, err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	if err := p.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// joinCommitters has scaleMembers join, and returns once all of them own their
// share.
func joinCommitters(b *testing.B, servers []string) []*committer {
	b.Helper()
	members := make([]*committer, scaleMembers)
	dialling := make(chan struct{}, scaleDialling)
	var settled atomic.Int64
	inParallel(scaleMembers, func(i int) {
		dialling <- struct{}{}
		c, err := client.Dial(b.Context(), servers, client.Options{Name: "committer"})
		<-dialling
		if err != nil {
			b.Error(err)
			return
		}
		b.Cleanup(c.Close)
		m := &committer{client: c, group: groupName(i), id: fmt.Sprintf("m-%04d", i)}
		members[i] = m
		for has := false; !b.Failed() && settled.Load() < scaleMembers && b.Context().Err() == nil; {
			if err := m.beat(b.Context(), time.Second); err != nil && !client.Retriable(err) {
				b.Error(err)
			}
			if now := m.size() == scaleGroups*scalePartitions/scaleMembers; now != has {
				has = now
				settled.Add(map[bool]int64{true: 1, false: -1}[now])
			}
		}
	})
	if b.Failed() {
		b.FailNow()
	}
	return members
}

// times are how long commits took, of one measurement.
type times struct {
	mu     sync.Mutex
	took   []time.Duration // guarded by mu
	failed []error         // guarded by mu
	begin  time.Time       // what was due before does not count
}

func (t *times) add(due, done time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case due.Before(t.begin):
	case err != nil:
		t.failed = append(t.failed, err)
	default:
		t.took = append(t.took, done.Sub(due))
	}
}

// report prints the distribution and returns the number of commits, each of
// several offsets.
func (t *times) report(b *testing.B, took time.Duration) int {
	b.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.took) == 0 || len(t.failed) > 0 {
		b.Fatalf("%d commits were done and %d failed: %v", len(t.took), len(t.failed), t.failed[:min(len(t.failed), 3)])
	}
	slices.Sort(t.took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	rate := float64(len(t.took)) / took.Seconds()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(rate, "commits/s")
	b.ReportMetric(rate*scaleGroups*scalePartitions/scaleMembers, "offsets/s")
	b.ReportMetric(ms(t.took[len(t.took)/2]), "p50-ms")
	b.ReportMetric(ms(t.took[len(t.took)*99/100]), "p99-ms")
	b.ReportMetric(ms(t.took[len(t.took)-1]), "max-ms")
	return len(t.took)
}

// BenchmarkGroupsCommit is the members of BenchmarkGroupsSettle committing six
// partitions each. closed: so many commits are in flight, the next begins when
// one is answered. open: commits are due at a rate of 20,000 offsets a second,
// and their time counts from when they were due. Run it with -benchtime=1x.
func BenchmarkGroupsCommit(b *testing.B) {
	d := startScale(b)
	fillPartitions(b, d.told.Servers)
	members := joinCommitters(b, d.told.Servers)
	for _, inFlight := range []int{32, 128} {
		b.Run(fmt.Sprint("closed", inFlight), func(b *testing.B) {
			d.measureCommits(b, func(t *times, end time.Time) { commitClosed(b.Context(), members, inFlight, t, end) })
		})
	}
	b.Run("open", func(b *testing.B) {
		d.measureCommits(b, func(t *times, end time.Time) { commitOpen(b.Context(), members, t, end) })
	})
}

// measureCommits runs work, which commits until the time it is given, and
// reports what came of it and what the brokers used.
func (d *dev) measureCommits(b *testing.B, work func(t *times, end time.Time)) {
	b.Helper()
	t := &times{begin: time.Now().Add(commitsWarmup)}
	var before usage
	var own float64
	time.AfterFunc(commitsWarmup, func() { // done long before work is
		before, own = d.usage(b), cpuSeconds(b, os.Getpid())
	})
	work(t, t.begin.Add(commitsFor))
	took := time.Since(t.begin)
	after := d.usage(b)
	commits := float64(t.report(b, took))
	b.ReportMetric(1e6*(after.cpuSeconds-before.cpuSeconds)/commits, "brokers-cpu-µs/commit")
	b.ReportMetric(1e6*(cpuSeconds(b, os.Getpid())-own)/commits, "members-cpu-µs/commit")
	b.ReportMetric(float64(after.rssMiB), "MiB")
	b.Logf("load average %s", loadAverage(b))
}

func commitClosed(ctx context.Context, members []*committer, inFlight int, t *times, end time.Time) {
	inParallel(inFlight, func(w int) {
		for i := w; time.Now().Before(end); i += inFlight {
			if i >= len(members) {
				i = w
			}
			due := time.Now()
			err := members[i].commit(ctx)
			t.add(due, time.Now(), err)
		}
	})
}

func commitOpen(ctx context.Context, members []*committer, t *times, end time.Time) {
	const perCommit = scaleGroups * scalePartitions / scaleMembers
	every := time.Second * perCommit * time.Duration(len(members)) / commitsWanted // of one member
	start := time.Now()
	inParallel(len(members), func(i int) {
		due := start.Add(every * time.Duration(i) / time.Duration(len(members)))
		timer := time.NewTimer(time.Until(due))
		defer timer.Stop()
		for ; due.Before(end); due = due.Add(every) {
			timer.Reset(time.Until(due))
			<-timer.C
			err := members[i].commit(ctx)
			t.add(due, time.Now(), err)
		}
	})
}
