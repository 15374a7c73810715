package metrics

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"logbroker/internal/errcode"
)

func names(t *testing.T, g prometheus.Gatherer) map[string]bool {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, f := range families {
		got[f.GetName()] = true
	}
	return got
}

func TestEveryMetricIsOnItsPageUnderItsName(t *testing.T) {
	b := New()
	b.Observe(func() Node {
		return Node{
			Partitions: map[string]int{"leader": 2}, SyncBounds: []time.Duration{time.Millisecond}, SyncCounts: []uint64{3}, SyncCount: 4,
			Replicas: []Replica{{Topic: "orders", Partition: 1, HighWatermark: 9, HasLeader: true}},
		}
	})
	b.ObserveGroups(func() []Group {
		return []Group{{Name: "workers", Members: 2, Lag: []TopicLag{{Topic: "orders", Lag: 7}}}}
	})
	b.GroupRebalanced()
	b.OffsetsCommitted(3)
	b.LeadershipChanged()
	b.Request("produce", errcode.None, time.Millisecond)
	b.Produced("orders", 10, 1000, false)
	b.Produced("orders", 10, 1000, true)
	b.Fetched(5, 500)
	page := names(t, b.Registry)
	for _, want := range []string{
		"build_info", "partitions", "leadership_changes_total", "produce_records_total", "produce_bytes_total", "produce_duplicates_total",
		"fetch_records_total", "fetch_bytes_total", "request_duration_seconds", "raft_log_sync_duration_seconds", "raft_log_bytes",
		"segment_bytes", "client_connections", "disk_free_bytes", "disk_reserve_reached",
		"damage_found_total", "scrubbed_bytes_total", "segments_missing_bytes", "segments_fetched_bytes_total", "segments_given_bytes_total",
		"segments_repaired_total", "replicas_replaced_total",
		"consumer_group_lag", "consumer_group_members", "group_rebalances_total", "offset_commits_total",
	} {
		if !page["logbroker_"+want] {
			t.Errorf("logbroker_%s is not on the page", want)
		}
	}
	detailed := names(t, b.Detailed)
	for _, want := range []string{"log_start_offset", "high_watermark_offset", "size_bytes", "has_leader"} {
		if !detailed["logbroker_partition_"+want] {
			t.Errorf("logbroker_partition_%s is not on the detailed page", want)
		}
	}
	if got := testutil.ToFloat64(b.produceRecords.WithLabelValues("orders")); got != 10 {
		t.Errorf("a duplicate was counted as stored: %v records", got)
	}
}

func TestTheTopicLabelIsBounded(t *testing.T) {
	b := New()
	for i := range topicsMax + 50 {
		b.Produced(fmt.Sprintf("t%d", i), 1, 1, false)
	}
	if n := testutil.CollectAndCount(b.produceRecords); n != topicsMax+1 {
		t.Fatalf("%d label values, want %d and one for the rest", n, topicsMax)
	}
}

func TestForeignMetricsAreParsedNotPasted(t *testing.T) {
	f := Foreign(func(w io.Writer) { io.WriteString(w, "raft_x{shard=\"1\"} 3\nraft_a 1\n") })
	families, err := f.Gather()
	if err != nil || len(families) != 2 || families[0].GetName() != "raft_a" {
		t.Fatalf("%v, %v", families, err)
	}
	if _, err := Foreign(func(w io.Writer) { io.WriteString(w, "not a metric\n") }).Gather(); err == nil || !strings.Contains(err.Error(), "foreign") {
		t.Fatalf("garbage was passed on: %v", err)
	}
}

func BenchmarkRequestAndProduced(b *testing.B) {
	m := New()
	b.ReportAllocs()
	for b.Loop() {
		m.Request("produce", errcode.None, time.Millisecond)
		m.Produced("orders", 100, 65536, false)
	}
}
