package load

import (
	"math"
	"testing"
	"time"
)

func TestMergedHistogramsGiveThePercentilesOfAll(t *testing.T) {
	all := newHistogram()
	for part := range 4 {
		h := newHistogram()
		for i := 1; i <= 2500; i++ {
			record(h, time.Duration(part*2500+i)*time.Millisecond)
		}
		if dropped := all.Merge(h); dropped != 0 {
			t.Fatalf("%d dropped", dropped)
		}
	}
	var r Result
	if err := r.setLatencies(all); err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]float64{
		"avg": {r.AvgMs, 5000}, "p50": {r.P50Ms, 5000}, "p95": {r.P95Ms, 9500}, "p99": {r.P99Ms, 9900}, "p99.9": {r.P999Ms, 9990}, "max": {r.MaxMs, 10_000},
	} {
		if math.Abs(pair[0]-pair[1]) > pair[1]/500 {
			t.Errorf("%s = %.1f ms, want %.1f", name, pair[0], pair[1])
		}
	}
	again, err := r.Latencies()
	if err != nil || again.TotalCount() != 10_000 || percentileMs(again, 99) != r.P99Ms {
		t.Errorf("decoded: %d values, p99 %.1f, %v", again.TotalCount(), percentileMs(again, 99), err)
	}
}

func TestWhatLiesOutsideTheRangeIsCountedAtItsEnd(t *testing.T) {
	h := newHistogram()
	record(h, -time.Second)
	record(h, time.Hour)
	if h.TotalCount() != 2 || h.Min() > 1 || h.Max() < latencyMax {
		t.Errorf("%d values, %d to %d µs", h.TotalCount(), h.Min(), h.Max())
	}
}

func TestKafkaLine(t *testing.T) {
	r := Result{
		Phase: PhaseProduce, Records: 50000, RecordsPerS: 31230.48, MBPerS: 29.781, Histogram: "x",
		AvgMs: 703.59, MaxMs: 1060, P50Ms: 744, P95Ms: 1029, P99Ms: 1051, P999Ms: 1058.5,
	}
	want := "50000 records sent, 31230.5 records/sec (29.78 MB/sec), 703.59 ms avg latency, 1060.00 ms max latency, 744.00 ms 50th, 1029.00 ms 95th, 1051.00 ms 99th, 1058.50 ms 99.9th."
	if got := r.KafkaLine(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r = Result{Phase: PhaseConsume, Records: 7, RecordsPerS: 3.5, MBPerS: 1}
	if got, want := r.KafkaLine(), "7 records received, 3.5 records/sec (1.00 MB/sec)."; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
