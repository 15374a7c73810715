package metadata

import (
	"strings"
	"testing"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/units"
)

func TestParseTopicConfig(t *testing.T) {
	got, err := ParseTopicConfig(testConfig(), map[string]string{
		"retention_age": "90m", "retention_bytes": "1GB", "max_batch_bytes": "64KiB",
		"segment_bytes": "65536", "segment_age": " 1h30m ", "cleanup": "delete",
	})
	want := TopicConfig{
		RetentionAge: 90 * time.Minute, RetentionBytes: 1e9, MaxBatchBytes: 64 << 10,
		SegmentBytes: 65536, SegmentAge: 90 * time.Minute, Cleanup: "delete",
	}
	if err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
	if got, err := ParseTopicConfig(testConfig(), nil); err != nil || got != testConfig() {
		t.Fatalf("got %+v, %v", got, err)
	}
	if got, err := ParseTopicConfig(want, map[string]string{"retention_bytes": "-1", "retention_age": "0s"}); err != nil || got.RetentionBytes != -1 || got.RetentionAge != 0 {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestParseTopicConfigRefuses(t *testing.T) {
	for _, c := range []struct {
		name, value string
		code        errcode.Code
		says        string
	}{
		{"retention", "1h", errcode.InvalidConfig, "cleanup, max_batch_bytes, retention_age, retention_bytes, segment_age, segment_bytes"},
		{"retention_age", "30", errcode.InvalidConfig, "unit"},
		{"retention_age", "-1h", errcode.InvalidConfig, "too short"},
		{"segment_age", "0s", errcode.InvalidConfig, "too short"},
		{"segment_age", "", errcode.InvalidConfig, "unit"},
		{"retention_bytes", "-2", errcode.InvalidConfig, "negative size"},
		{"retention_bytes", "0", errcode.InvalidConfig, "out of bounds"},
		{"retention_bytes", "9999999TiB", errcode.InvalidConfig, "larger than a size can be"},
		{"segment_bytes", "KiB", errcode.InvalidConfig, "not a size"},
		{"segment_bytes", "1.5GiB", errcode.InvalidConfig, "not a size"},
		{"segment_bytes", "2GiB", errcode.InvalidConfig, "out of bounds"},
		{"max_batch_bytes", "2MiB", errcode.InvalidConfig, "1KiB to 1MiB"},
		{"cleanup", "compact", errcode.NotImplemented, "not built"},
		{"cleanup", "shred", errcode.InvalidConfig, "use delete"},
	} {
		_, err := ParseTopicConfig(testConfig(), map[string]string{c.name: c.value})
		if errcode.Of(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s=%q: %v", c.name, c.value, err)
		}
	}
}

func TestTopicConfigMapReadsBack(t *testing.T) {
	for _, c := range []TopicConfig{
		testConfig(),
		{RetentionAge: 1500 * time.Millisecond, RetentionBytes: 1000, MaxBatchBytes: 1025, SegmentBytes: 3 << 20, SegmentAge: 10 * time.Minute, Cleanup: "delete"},
		{RetentionAge: 0, RetentionBytes: 1 << 40, MaxBatchBytes: 1 << 10, SegmentBytes: 1 << 10, SegmentAge: time.Millisecond, Cleanup: "delete"},
	} {
		got, err := ParseTopicConfig(TopicConfig{}, c.Map())
		if err != nil || got != c {
			t.Errorf("%v: got %+v, %v", c.Map(), got, err)
		}
	}
	m := testConfig().Map()
	if m["retention_age"] != "168h" || m["segment_bytes"] != "256MiB" || m["retention_bytes"] != "-1" {
		t.Errorf("%v", m)
	}
	if got := units.FormatDuration(10 * time.Minute); got != "10m" {
		t.Errorf("10 minutes print as %s", got)
	}
}
