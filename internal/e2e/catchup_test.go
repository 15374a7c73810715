package e2e

import (
	"bufio"
	"context"
	"flag"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/units"
	"logbroker/producer"
)

var (
	// catchUpSize is what the follower of BenchmarkCatchUp misses: make catchup.
	catchUpSize = flag.String("catchup.size", "256MiB", "bytes that the follower of BenchmarkCatchUp misses")
	// catchUpTurn is how long the producer is measured before.
	catchUpTurn = flag.Duration("catchup.turn", 6*time.Second, "how long BenchmarkCatchUp measures the producer with three complete replicas")
	// catchUpLoad and catchUpRate say how much is sent meanwhile.
	catchUpLoad = flag.Float64("catchup.load", 0.5, "share of the greatest produce rate at which BenchmarkCatchUp produces")
	catchUpRate = flag.Float64("catchup.rate", 32, "greatest MB/s at which BenchmarkCatchUp produces; storage.catch_up_bytes_per_second is 64MiB")
)

const (
	// fetchedMost is what a follower may fetch for each byte that it lacked, and
	// producedLeast what is to be acked meanwhile for each byte acked before.
	fetchedMost   = 1.05
	producedLeast = 0.8
	// fetchRests is for how long nothing is fetched where a follower is complete.
	fetchRests = 3 * time.Second
)

// BenchmarkCatchUp kills a follower that has a tenth of a partition, sends the rest
// without it, and starts it again while a producer goes on sending at a steady rate.
//
// missed-MB is what was appended while it was away, meanwhile-MB what was appended
// after that until it had all, fetched-MB what it got from its peers, and
// fetched/lacked that by the sum of the other two: what it had before it must not
// fetch. full-MB/s is what a producer gets that sends as fast as it goes,
// before-MB/s and during-MB/s what one gets at the steady rate: with three complete
// replicas, and while the follower fetches. It fails where either is not what is
// promised. That the source may die meanwhile, and that a replica which lost one
// segment fetches one, is tested in package partitions.
func BenchmarkCatchUp(b *testing.B) {
	var size units.ByteSize
	if err := size.UnmarshalText([]byte(*catchUpSize)); err != nil {
		b.Fatal(err)
	}
	c := startCluster(b, "log: {level: warn}")
	createTopic(b, dial(b, c.urls()...), "behind", 1)
	awaitLed(b, c.nodes[0].url(), "behind")
	fillRandom(b, c.nodes[0].url(), "behind", int64(size)/10)

	full := startSender(b, c.urls(), 0)
	fullRate := full.over(func() { <-time.After(*catchUpTurn / 2) })
	full.stop()
	rate := min(fullRate**catchUpLoad, *catchUpRate)
	s := startSender(b, c.urls(), rate)
	before := s.over(func() { <-time.After(*catchUpTurn) })
	s.stop()

	leader, follower := c.ends(b, "behind")
	admin := dial(b, leader.url())
	had := sizeOf(b, admin, "behind")
	follower.kill()
	fillRandom(b, leader.url(), "behind", int64(size))
	missed := sizeOf(b, admin, "behind") - had
	s = startSender(b, []string{leader.url()}, rate)
	defer s.stop()
	follower.start(b)
	follower.awaitReady(b)
	await(b, patience, "the follower fetches", func() (bool, string) { return fetchedBytes(follower) > 0, "nothing fetched" })
	fetched, during, total := s.untilFetched(b, follower, func() int64 { return sizeOf(b, admin, "behind") })

	lacked := total - had
	b.ReportMetric(float64(missed)/1e6, "missed-MB")
	b.ReportMetric(float64(lacked-missed)/1e6, "meanwhile-MB")
	b.ReportMetric(fetched/1e6, "fetched-MB")
	b.ReportMetric(fetched/float64(lacked), "fetched/lacked")
	b.ReportMetric(fullRate, "full-MB/s")
	b.ReportMetric(before, "before-MB/s")
	b.ReportMetric(during, "during-MB/s")
	b.ReportMetric(during/before, "during/before")
	b.ReportMetric(0, "ns/op")
	if fetched > fetchedMost*float64(lacked) || fetched < float64(missed)/2 {
		b.Errorf("the follower lacked %d bytes and fetched %.0f", lacked, fetched)
	}
	if during < producedLeast*before {
		b.Errorf("%.1f MB/s were acked while the follower fetched, %.1f before", during, before)
	}
}

// ends returns the node that leads partition 0 of topic, and one that follows.
func (c *cluster) ends(b *testing.B, topic string) (leader, follower *node) {
	b.Helper()
	d, why := describe(b, dial(b, c.urls()...), topic)
	if d == nil || d.Partitions[0].Leader == nil {
		b.Fatal("no leader: ", why)
	}
	at := *d.Partitions[0].Leader
	return c.nodes[at-1], c.nodes[at%3]
}

// sizeOf returns the bytes in partition 0 of topic, as its leader says.
func sizeOf(b *testing.B, admin *client.Client, topic string) (size int64) {
	b.Helper()
	await(b, patience, "the partition's size", func() (bool, string) {
		d, why := describe(b, admin, topic)
		if d == nil || d.Partitions[0].Leader == nil {
			return false, why
		}
		size = d.Partitions[0].SizeBytes
		return true, ""
	})
	return size
}

// fetchedBytes is what n says it fetched; 0 where it does not answer.
func fetchedBytes(n *node) float64 {
	_, page, err := get("http://" + n.http + "/metrics")
	if err != nil {
		return 0
	}
	for s := bufio.NewScanner(strings.NewReader(page)); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), "logbroker_segments_fetched_bytes_total "); ok {
			n, _ := strconv.ParseFloat(text, 64) // else 0: asked again
			return n
		}
	}
	return 0
}

// sender sends random records to the topic "behind".
type sender struct {
	acked  atomic.Int64 // bytes of values
	cancel context.CancelFunc
	ended  chan struct{} // closed by the sending goroutine, which stop ends
	p      *producer.Producer
}

// startSender sends rate MB/s, 0 as fast as it goes.
func startSender(b *testing.B, servers []string, rate float64) *sender {
	b.Helper()
	p, err := producer.New(b.Context(), servers, producer.WithCompression(producer.None), producer.WithDeliveryTimeout(10*time.Minute))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	s := &sender{cancel: cancel, ended: make(chan struct{}), p: p}
	go func() { // ends with ctx
		defer close(s.ended)
		s.send(ctx, rate)
	}()
	return s
}

func (s *sender) send(ctx context.Context, rate float64) {
	values, began := randomRecords(4096), time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		due := time.Duration(float64(i) * speedRecordBytes / 1e6 / rate * float64(time.Second))
		if ahead := due - time.Since(began); rate > 0 && ahead > time.Millisecond {
			<-time.After(ahead)
		}
		s.p.SendAsync(ctx, producer.Record{Topic: "behind", Value: values[i%len(values)]}, func(_ producer.Receipt, err error) {
			if err == nil {
				s.acked.Add(speedRecordBytes)
			}
		})
	}
}

// over returns the MB/s that were acked while do ran.
func (s *sender) over(do func()) float64 {
	from, began := s.acked.Load(), time.Now()
	do()
	return perSecond(s.acked.Load()-from, began, time.Now())
}

// untilFetched returns what follower fetched until it had all, the MB/s that were
// acked until then, and the size that the partition had then.
func (s *sender) untilFetched(b *testing.B, follower *node, size func() int64) (fetched, acked float64, total int64) {
	b.Helper()
	from, began, last := s.acked.Load(), time.Now(), time.Now()
	await(b, 10*time.Minute, "all is fetched", func() (bool, string) {
		if now := fetchedBytes(follower); now > fetched {
			fetched, last, total = now, time.Now(), size()
			acked = perSecond(s.acked.Load()-from, began, last)
		}
		return time.Since(last) > fetchRests, strconv.FormatFloat(fetched, 'f', 0, 64)
	})
	return fetched, acked, total
}

// perSecond is in MB.
func perSecond(bytes int64, from, to time.Time) float64 {
	return float64(bytes) / 1e6 / to.Sub(from).Seconds()
}

// stop ends it; what is on its way does not matter.
func (s *sender) stop() {
	s.cancel()
	<-s.ended
	_ = s.p.Close(context.Background())
}
