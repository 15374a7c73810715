package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/consumer"
)

// The size at which consumer groups are measured: every group reads the whole
// topic, so there are scaleGroups × scalePartitions owned partitions.
const (
	scaleMembers    = 1000
	scaleGroups     = 100
	scalePartitions = 60
	scaleTopic      = "scale"
	// scaleSteady is how long CPU time is taken of a cluster at rest.
	scaleSteady = 20 * time.Second
	// scaleDialling is how many members are started at a time.
	scaleDialling = 64
	// scaleAttempts is how often a member tries to join.
	scaleAttempts = 3
)

// startScale starts three broker processes and a topic of scalePartitions.
func startScale(b *testing.B) *dev {
	b.Helper()
	d := startDev(b, "--processes", "--ephemeral", "--any-port", "--http.pprof=true")
	c := dial(b, d.told.Servers...)
	createTopic(b, c, scaleTopic, scalePartitions)
	awaitSpread(b, c, scaleTopic, 60*time.Second)
	return d
}

// usage is what the broker processes together have used and hold.
type usage struct {
	cpuSeconds float64
	rssMiB     int
	at         time.Time
}

func (d *dev) usage(b *testing.B) usage {
	b.Helper()
	u := usage{at: time.Now()}
	for _, n := range d.told.Nodes {
		u.cpuSeconds += cpuSeconds(b, n.PID)
		u.rssMiB += residentMiB(b, n.PID)
	}
	return u
}

// cores is how many cores were busy from before to u.
func (u usage) cores(before usage) float64 {
	return (u.cpuSeconds - before.cpuSeconds) / u.at.Sub(before.at).Seconds()
}

// steady is what the brokers use while nothing is asked of them.
func (d *dev) steady(b *testing.B) (cores float64, rssMiB int) {
	b.Helper()
	before := d.usage(b)
	<-time.After(scaleSteady)
	after := d.usage(b)
	return after.cores(before), after.rssMiB
}

// loadAverage is what the machine does beside, for the reader of the figures.
func loadAverage(b *testing.B) string {
	b.Helper()
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		b.Skip("no /proc: ", err)
	}
	return strings.Join(strings.Fields(string(raw))[:3], " ")
}

// groupName names the group of a member: ten members to a group.
func groupName(member int) string { return fmt.Sprintf("scale-%03d", member%scaleGroups) }

// BenchmarkGroupsSettle is 1,000 members of package consumer in 100 groups over
// 60 partitions: how long until all have joined, each with connections of its
// own, and until every partition has its owner in every group; and what the
// three broker processes then use beyond what they used before. The topic is idle. Run it with -benchtime=1x; make groups-scale does.
func BenchmarkGroupsSettle(b *testing.B) {
	d := startScale(b)
	idleCores, idleRSS := d.steady(b)
	load := loadAverage(b)
	var owned atomic.Int64
	count := func(by int64) consumer.Callback {
		return func(_ context.Context, _ *consumer.Consumer, list []consumer.TopicPartition) {
			owned.Add(by * int64(len(list)))
		}
	}
	members := make([]*consumer.Consumer, scaleMembers)
	before, own := d.usage(b), cpuSeconds(b, os.Getpid())
	dialling := make(chan struct{}, scaleDialling)
	b.ResetTimer()
	inParallel(scaleMembers, func(i int) {
		dialling <- struct{}{}
		defer func() { <-dialling }()
		join := func() (*consumer.Consumer, error) {
			return consumer.New(b.Context(), d.told.Servers, groupName(i), []string{scaleTopic}, consumer.FromEarliest(),
				consumer.WithOnAssigned(count(1)), consumer.WithOnRevoked(count(-1)), consumer.WithOnLost(count(-1)))
		}
		c, err := join()
		for n := 1; err != nil && n < scaleAttempts; n++ { // a machine that stands still lets connections time out
			c, err = join()
		}
		if err != nil {
			b.Error("member ", i, ": ", err)
			return
		}
		members[i] = c
	})
	if b.Failed() {
		b.FailNow()
	}
	joined := b.Elapsed()
	await(b, time.Minute, "every member owns its share", func() (bool, string) {
		return owned.Load() == scaleGroups*scalePartitions && shared(members), fmt.Sprint(owned.Load(), " owned")
	})
	settled := b.Elapsed()
	b.StopTimer()
	b.ReportMetric(d.usage(b).cpuSeconds-before.cpuSeconds, "brokers-cpu-s")
	b.ReportMetric(cpuSeconds(b, os.Getpid())-own, "members-cpu-s")
	cores, rss := d.steady(b)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(joined.Seconds(), "joined-s")
	b.ReportMetric(settled.Seconds(), "settled-s")
	b.ReportMetric(idleCores, "idle-cores")
	b.ReportMetric(cores-idleCores, "more-cores")
	b.ReportMetric(float64(idleRSS), "idle-MiB")
	b.ReportMetric(float64(rss-idleRSS), "more-MiB")
	b.Logf("load average before %s, after %s", load, loadAverage(b))
	closeAll(members)
}

// shared reports whether all members own equally many partitions.
func shared(members []*consumer.Consumer) bool {
	for _, c := range members {
		if len(c.Positions()) != scaleGroups*scalePartitions/scaleMembers {
			return false
		}
	}
	return true
}

// closeAll ends the members; the cluster goes with them.
func closeAll(members []*consumer.Consumer) {
	inParallel(len(members), func(i int) { _ = members[i].Close() }) // nothing was read, so nothing is lost
}
