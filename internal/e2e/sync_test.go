package e2e

import (
	"bufio"
	"cmp"
	"flag"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"logbroker/internal/units"
)

// syncSize is what BenchmarkPartitionSync sends in an op: make sync-time.
var syncSize = flag.String("sync.size", "256MiB", "bytes that BenchmarkPartitionSync sends in an op")

// BenchmarkPartitionSync sends random data at full speed to three nodes, and says
// for how long the syncs of their partitions' state held up what they applied, as all
// three tell it in logbroker_partition_sync_duration_seconds, and how long the disk
// took for them, beside the applying (logbroker_partition_save_duration_seconds).
func BenchmarkPartitionSync(b *testing.B) {
	var size units.ByteSize
	if err := size.UnmarshalText([]byte(*syncSize)); err != nil {
		b.Fatal(err)
	}
	c := startCluster(b, "log: {level: warn}")
	admin := dial(b, c.urls()...)
	createTopic(b, admin, "full", speedPartitions)
	awaitSpread(b, admin, "full", 30*time.Second)
	var total time.Duration
	for b.Loop() {
		began := time.Now()
		fillRandom(b, c.nodes[0].url(), "full", int64(size))
		total += time.Since(began)
	}
	syncs, saves := histogram{}, histogram{}
	for _, n := range c.nodes {
		page := awaitHTTP(b, "http://"+n.http+"/metrics", 200)
		syncs.add(b, page, "logbroker_partition_sync_duration_seconds")
		saves.add(b, page, "logbroker_partition_save_duration_seconds")
	}
	b.ReportMetric(syncs.count(), "syncs")
	b.ReportMetric(1000*syncs.quantile(0.5), "p50-ms")
	b.ReportMetric(1000*syncs.quantile(0.99), "p99-ms")
	b.ReportMetric(1000*saves.quantile(0.5), "disk-p50-ms")
	b.ReportMetric(1000*saves.quantile(0.99), "disk-p99-ms")
	b.ReportMetric(float64(size)*float64(b.N)/1e6/total.Seconds(), "MB/s")
	b.ReportMetric(0, "ns/op")
}

// histogram is how many observations were at most a bound.
type histogram map[float64]float64

// add adds the histogram of that name in a page of metrics.
func (h histogram) add(t testing.TB, page, name string) {
	t.Helper()
	for s := bufio.NewScanner(strings.NewReader(page)); s.Scan(); {
		rest, ok := strings.CutPrefix(s.Text(), name+`_bucket{le="`)
		if !ok {
			continue
		}
		text, value, _ := strings.Cut(rest, `"} `)
		bound, errB := strconv.ParseFloat(text, 64)
		n, errN := strconv.ParseFloat(value, 64)
		if errB != nil || errN != nil {
			t.Fatalf("cannot read %q", s.Text())
		}
		h[bound] += n
	}
	if h.count() == 0 {
		t.Fatal(fmt.Errorf("no %s on the page", name))
	}
}

func (h histogram) count() float64 { return h[math.Inf(1)] }

// quantile is as precise as the bounds are close; what is above the last of them
// counts as that.
func (h histogram) quantile(q float64) float64 {
	bounds := []float64{}
	for x := range h {
		bounds = append(bounds, x)
	}
	slices.SortFunc(bounds, cmp.Compare[float64])
	below, last := 0.0, 0.0
	for _, x := range bounds {
		if n := h[x]; n >= q*h.count() {
			if math.IsInf(x, 1) {
				return last
			}
			return last + (x-last)*(q*h.count()-below)/(n-below)
		}
		below, last = h[x], x
	}
	return last
}
