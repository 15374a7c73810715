package cluster

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"

	"logbroker/consumer"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/producer"
)

// logStarts asks every node for the log start offset of its own replica, and
// returns the different answers; none where a replica has not come as far as the
// leader just was.
func (c *Cluster) logStarts(conns map[uint64]*nats.Conn, topic *protocol.TopicDescription) []int64 {
	c.tb.Helper()
	end := c.Describe(topic.Name).Partitions[0].HighWatermark
	var out []int64
	for _, id := range c.IDs() {
		r, err := fetchRaw(conns[id], protocol.FetchFromSubject(id, topic.Name, 0), protocol.FetchRequest{TopicID: topic.ID, Epoch: -1, Offset: end, MaxBytes: 1}, waitTimeout)
		if err != nil || r.Code != errcode.None {
			return nil
		}
		out = append(out, r.LogStart)
	}
	return slices.Compact(out)
}

// Retention, trims and hand-overs of the leadership while a producer is at full
// speed: the replicas end with the same log, and what is left of it is what was
// acked. Readers that were overtaken get what they chose.
func TestRetentionAndTrimUnderLoadLeaveTheReplicasAlike(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	topic := c.CreateTopic("busy", 1, 3, map[string]string{"segment_bytes": "256KiB", "retention_bytes": "2MiB"})
	shard := c.shards("busy", 1)[0]
	conns := map[uint64]*nats.Conn{}
	for _, id := range c.IDs() {
		conns[id] = c.dial(id)
	}
	l := startLoad(c, "busy", 0, 10, 1024, producer.WithBatchBytes(16<<10), producer.WithCompression(producer.None))
	leader := c.WaitLeader("busy", 0)
	trimmed := int64(0)
	for range 4 {
		before := trimmed
		c.WaitFor("retention moves the log start", func() bool {
			s := c.logStarts(conns, topic)
			if len(s) == 0 {
				return false
			}
			trimmed = slices.Max(s)
			return trimmed > before+2000
		})
		end := c.Describe("busy").Partitions[0].HighWatermark
		if r, err := c.Client().Admin().TrimTopic(within(t, waitTimeout), "busy", 0, end-100); err != nil || r.Partitions[0].LogStart < end-100 {
			t.Fatalf("trim to %d: %+v, %v", end-100, r, err)
		}
		trimmed = end - 100
		leader = leader%3 + 1
		c.Transfer("busy", 0, leader)
	}
	l.end(t)
	c.WaitFor("retention has no more to take, and the replicas are alike", func() bool {
		s := c.logStarts(conns, topic)
		if len(s) != 1 || s[0] < trimmed {
			return false
		}
		one := c.segments(1, shard, s[0])
		return len(one) > 0 && retained(one) < 2<<20 && maps.Equal(one, c.segments(2, shard, s[0])) && maps.Equal(one, c.segments(3, shard, s[0]))
	})
	start := c.logStarts(conns, topic)[0]
	checkRest(t, c, l, start)
	if _, err := c.read("busy", 0, consumer.FromOffset(start-1)).Poll(within(t, waitTimeout), 1); errcode.Of(err) != errcode.OffsetOutOfRange {
		t.Errorf("a reader behind the log start: %v", err)
	}
	r := c.read("busy", 0, consumer.FromOffset(start-1), consumer.WithRange(consumer.RangeEarliest))
	if got, err := r.Poll(within(t, waitTimeout), 1); err != nil || len(got) == 0 || got[0].Offset != start {
		t.Errorf("a reader that goes on at the log start: %+v, %v", got, err)
	}
	t.Logf("%d records sent, the log start ended at %d", l.count(), start)
}

// retained is how many bytes would be left without the oldest of segments: where
// that is less than retention_bytes, retention takes nothing.
func retained(segments map[string]string) int64 {
	var total, size int64
	for i, name := range slices.Sorted(maps.Keys(segments)) {
		if _, err := fmt.Sscanf(segments[name], "%d bytes", &size); err == nil && i > 0 {
			total += size
		}
	}
	return total
}

// checkRest reads from the log start on: every record that was acked there is
// there, once, at its offset.
func checkRest(t *testing.T, c *Cluster, l *load, start int64) {
	t.Helper()
	want := map[int64]uint64{} // record by offset
	for n, offset := range l.offsets {
		if offset >= start {
			want[offset] = uint64(n)
		}
	}
	r := c.read("busy", 0, consumer.FromEarliest())
	for end := r.HighWatermark(); r.Position() < end; {
		records, err := r.Poll(within(t, waitTimeout), 1000)
		if err != nil {
			t.Fatal(err)
		}
		for i := range records {
			n, acked := want[records[i].Offset]
			if got := binary.BigEndian.Uint64(records[i].Value); acked && got != n {
				t.Fatalf("record %d was acked at offset %d, where record %d is", n, records[i].Offset, got)
			}
			delete(want, records[i].Offset)
		}
	}
	if len(want) > 0 {
		t.Errorf("%d acked records above the log start are lost", len(want))
	}
}
