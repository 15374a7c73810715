package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/consumer"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/producer"
)

// stream sends records one after the other until end, whatever comes of them.
type stream struct {
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex // guards what follows
	acked map[string]int64
	sent  int
	codes map[errcode.Code]int // of the failures
}

func startStream(c *Cluster, topic string) *stream {
	ctx, stop := context.WithCancel(context.Background())
	s := &stream{stop: stop, done: make(chan struct{}), acked: map[string]int64{}, codes: map[errcode.Code]int{}}
	p := c.produce(producer.WithDeliveryTimeout(waitTimeout))
	go func() {
		defer close(s.done)
		for ctx.Err() == nil {
			s.mu.Lock()
			s.sent++
			value := fmt.Sprint("record ", s.sent)
			s.mu.Unlock()
			r, err := p.Send(context.Background(), producer.Record{Topic: topic, Value: []byte(value)})
			s.mu.Lock()
			if err == nil {
				s.acked[value] = r.Offset
			} else {
				s.codes[errcode.Of(err)]++
			}
			s.mu.Unlock()
		}
	}()
	return s
}

func (s *stream) counts() (sent, acked, failed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.codes {
		failed += n
	}
	return s.sent, len(s.acked), failed
}

func (s *stream) end() {
	s.stop()
	<-s.done
}

// groupReader is a member of a group that goes on whatever happens, until end.
type groupReader struct {
	c    *consumer.Consumer
	done chan struct{}

	mu    sync.Mutex // guards given
	given []string
}

func startGroup(c *Cluster, group, topic string) *groupReader {
	c.tb.Helper()
	member, err := consumer.New(within(c.tb, waitTimeout), c.URLs(), group, []string{topic}, consumer.FromEarliest(), consumer.WithAutoCommit(20*time.Millisecond))
	if err != nil {
		c.tb.Fatal(err)
	}
	g := &groupReader{c: member, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		for {
			records, err := member.Poll(context.Background(), 100)
			if err != nil {
				if !errors.Is(err, consumer.ErrClosed) {
					c.tb.Errorf("the group's member: %v", err)
				}
				return
			}
			g.mu.Lock()
			for i := range records {
				g.given = append(g.given, string(records[i].Value))
			}
			g.mu.Unlock()
			member.Mark(records...)
		}
	}()
	return g
}

func (g *groupReader) has(value string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(g.given, value)
}

func (g *groupReader) end(t *testing.T) {
	t.Helper()
	if err := g.c.Close(); err != nil {
		t.Error(err)
	}
	<-g.done
}

// since returns what it was given from the first of some values on, without
// repetitions.
func (g *groupReader) since(values []string) (out []string) {
	for i, v := range g.given {
		if slices.Contains(values, v) {
			for _, v := range g.given[i:] {
				if !slices.Contains(out, v) {
					out = append(out, v)
				}
			}
			return out
		}
	}
	return nil
}

// A producer and a group go on while their topic is deleted and made again.
func TestTopicMadeAnewUnderItsNameIsAnotherTopic(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	first := c.CreateTopic("again", 1, 3, nil)
	s, g := startStream(c, "again"), startGroup(c, "readers", "again")
	acks := func(more int) {
		t.Helper()
		_, before, _ := s.counts()
		c.WaitFor("records are acked", func() bool { _, acked, _ := s.counts(); return acked >= before+more })
	}
	acks(50)
	c.WaitFor("the group has offsets of the old topic", func() bool { return c.committed("readers")[part{"again", 0}] > 0 })
	if err := c.Client().Admin().DeleteTopic(within(t, waitTimeout), "again"); err != nil {
		t.Fatal(err)
	}
	c.WaitFor("records are refused", func() bool { _, _, failed := s.counts(); return failed > 0 })
	s.mu.Lock()
	old := maps.Clone(s.acked)
	s.mu.Unlock()
	second := c.CreateTopic("again", 1, 3, nil)
	if second.ID == first.ID {
		t.Fatal("the new topic has the old one's id")
	}
	acks(50)
	s.end()
	if len(s.codes) == 0 {
		t.Error("nothing was refused")
	}
	for code, n := range s.codes {
		if code != errcode.UnknownTopicID && code != errcode.UnknownTopicOrPartition {
			t.Errorf("%d records were refused with %v", n, code)
		}
	}
	stored := c.readAll("again", 0)
	for offset, value := range stored {
		if _, before := old[value]; before {
			t.Errorf("%q of the deleted topic is in the new one", value)
		}
		if at, ok := s.acked[value]; ok && at != int64(offset) {
			t.Errorf("%q was acked at offset %d and is at %d", value, at, offset)
		}
	}
	lost := 0
	for value := range s.acked {
		if _, before := old[value]; !before && !slices.Contains(stored, value) {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d acked records of the new topic are lost", lost)
	}
	last := stored[len(stored)-1]
	c.WaitFor("the group is given the new topic's last record", func() bool { return g.has(last) })
	c.WaitFor("the group has committed it", func() bool { return c.committed("readers")[part{"again", 0}] == int64(len(stored)) })
	g.end(t)
	if got := g.since(stored); !slices.Equal(got, stored) {
		t.Errorf("the group was given %d records from the first of the new topic on, which holds %d: %.200q", len(got), len(stored), got)
	}
	t.Logf("%d records acked before, %d after, refused %v, the group was given %d in all", len(old), len(stored), s.codes, len(g.given))
}

func TestAlterAndMorePartitionsTakeEffectWhileProducing(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	c.CreateTopic("grows", 2, 3, nil)
	s := startStream(c, "grows")
	admin := c.Client().Admin()
	described, err := admin.AddPartitions(within(t, waitTimeout), "grows", 5)
	if err != nil || len(described.Partitions) != 5 {
		t.Fatalf("%+v, %v", described, err)
	}
	altered, err := admin.AlterTopic(within(t, waitTimeout), "grows", map[string]string{"max_batch_bytes": "2KiB"})
	if err != nil || altered.Config["max_batch_bytes"] != "2KiB" {
		t.Fatalf("%+v, %v", altered, err)
	}
	for _, id := range c.IDs() { // a node answers from its own copy
		node := c.ClientOf(id)
		c.WaitFor("every node knows", func() bool {
			m := call(c, "metadata", func(ctx context.Context) (*protocol.MetadataReply, error) { return node.Metadata(ctx, "grows") })
			return len(m.Topics) == 1 && len(m.Topics[0].Partitions) == 5 && m.Topics[0].MaxBatchBytes == 2<<10
		})
	}
	p := c.produce()
	for partition := range int32(5) {
		r, err := p.Send(within(t, waitTimeout), producer.Record{Topic: "grows", Partition: &partition, Value: []byte("x")})
		if err != nil || r.Partition != partition {
			t.Fatalf("partition %d: %+v, %v", partition, r, err)
		}
	}
	_, err = p.Send(within(t, waitTimeout), producer.Record{Topic: "grows", Value: slices.Repeat([]byte("0123456789abcdef"), 200)})
	if !errors.Is(err, producer.ErrRecordTooLarge) {
		t.Errorf("a record above the altered max_batch_bytes: %v", err)
	}
	s.end()
	if len(s.codes) != 0 {
		t.Errorf("the running producer's records were refused: %v", s.codes)
	}
}

// segments returns the log segments of a node's replicas of a shard from the
// one that holds offset start on, by name, as digests. Older ones go when each
// node gets to it.
func (c *Cluster) segments(node, shard uint64, start int64) map[string]string {
	c.tb.Helper()
	files, err := filepath.Glob(filepath.Join(c.DataDir(node), "partitions", fmt.Sprintf("%d-*", shard), "log-*", "*.log"))
	if err != nil {
		c.tb.Fatal(err)
	}
	slices.Sort(files)
	out := map[string]string{}
	for i, f := range files {
		if i+1 < len(files) && baseOffset(c, files[i+1]) <= start {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			continue // removed meanwhile
		}
		out[filepath.Base(f)] = fmt.Sprintf("%d bytes, %x", len(data), sha256.Sum256(data))
	}
	return out
}

// baseOffset is what a segment's file is named by.
func baseOffset(c *Cluster, file string) int64 {
	c.tb.Helper()
	base, err := strconv.ParseInt(strings.TrimSuffix(filepath.Base(file), ".log"), 10, 64)
	if err != nil {
		c.tb.Fatal(err)
	}
	return base
}

// shards returns the shards of a topic's partitions.
func (c *Cluster) shards(topic string, partitions int) []uint64 {
	c.tb.Helper()
	out := make([]uint64, partitions)
	for i := range out {
		out[i] = call(c, "raft show", func(ctx context.Context) (*protocol.RaftShowReply, error) {
			return c.Client().Admin().ShowRaft(ctx, protocol.RaftShowRequest{Topic: topic, Partition: int32(i)})
		}).Shard
	}
	return out
}

func TestRetentionBySizeAndTrimLeaveTheSameSegmentsOnEveryReplica(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	topic := c.CreateTopic("kept", 1, 3, map[string]string{"segment_bytes": "16KiB", "retention_bytes": "64KiB"})
	shard := c.shards("kept", 1)[0]
	p := c.produce(producer.WithCompression(producer.None), producer.WithBatchBytes(2<<10))
	value := []byte(strings.Repeat("v", 900))
	for range 300 {
		p.SendAsync(context.Background(), producer.Record{Topic: "kept", Value: value}, nil)
	}
	if err := p.Flush(within(t, waitTimeout)); err != nil {
		t.Fatal(err)
	}
	conns := map[uint64]*nats.Conn{}
	for _, id := range c.IDs() {
		conns[id] = c.dial(id)
	}
	starts := func() []int64 {
		out := []int64{}
		for _, id := range c.IDs() {
			r, err := fetchRaw(conns[id], protocol.FetchFromSubject(id, "kept", 0), protocol.FetchRequest{TopicID: topic.ID, Epoch: -1, Offset: 299, MaxBytes: 1}, waitTimeout)
			if err != nil || r.Code != errcode.None {
				return nil
			}
			out = append(out, r.LogStart)
		}
		return slices.Compact(out)
	}
	alike := func() bool {
		s := starts()
		if len(s) != 1 {
			return false
		}
		one := c.segments(1, shard, s[0])
		return len(one) > 0 && maps.Equal(one, c.segments(2, shard, s[0])) && maps.Equal(one, c.segments(3, shard, s[0]))
	}
	c.WaitFor("retention has moved the log start on all replicas", func() bool {
		s := starts()
		return len(s) == 1 && s[0] > 100
	})
	defer func() {
		if t.Failed() {
			for _, id := range c.IDs() {
				t.Logf("node %d: %v", id, c.segments(id, shard, 0))
			}
		}
	}()
	c.WaitFor("the replicas have the same segments", alike)
	retained := starts()[0]
	trimmed, err := c.Client().Admin().TrimTopic(within(t, waitTimeout), "kept", 0, 290)
	if err != nil || trimmed.Partitions[0].LogStart != 290 {
		t.Fatalf("%+v, %v", trimmed, err)
	}
	c.WaitFor("the trim is on all replicas", func() bool { s := starts(); return len(s) == 1 && s[0] == 290 })
	c.WaitFor("the replicas have the same segments after the trim", alike)
	if got := len(c.readAll("kept", 0)); got != 10 {
		t.Errorf("%d records are read after the trim, want 10", got)
	}
	t.Logf("log start %d after retention, segments %d", retained, len(c.segments(1, shard, retained)))
}

func TestFilesOfADeletedTopicAreGoneAlsoFromANodeThatWasDown(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	c.CreateTopic("kept", 1, 3, nil)
	c.CreateTopic("deleted", 2, 3, nil)
	shards := c.shards("deleted", 2)
	kept := c.shards("kept", 1)[0]
	p := c.produce()
	for range 20 {
		if _, err := p.Send(within(t, waitTimeout), producer.Record{Topic: "deleted", Value: []byte("v")}); err != nil {
			t.Fatal(err)
		}
	}
	files := func(node uint64, shards ...uint64) int {
		n := 0
		for _, shard := range shards {
			found, err := filepath.Glob(filepath.Join(c.DataDir(node), "partitions", fmt.Sprintf("%d-*", shard)))
			if err != nil {
				t.Fatal(err)
			}
			n += len(found)
		}
		return n
	}
	for _, id := range c.IDs() {
		if files(id, shards...) != len(shards) {
			t.Fatalf("node %d has %d directories of %d shards", id, files(id, shards...), len(shards))
		}
	}
	c.Stop(3)
	if err := c.Client().Admin().DeleteTopic(within(t, waitTimeout), "deleted"); err != nil {
		t.Fatal(err)
	}
	c.WaitFor("the files are gone from the nodes that run", func() bool { return files(1, shards...)+files(2, shards...) == 0 })
	if files(3, shards...) != len(shards) {
		t.Fatal("the files of the stopped node went by themselves")
	}
	c.Restart(3)
	c.WaitFor("the files are gone from the node that was down", func() bool { return files(3, shards...) == 0 })
	for _, id := range c.IDs() {
		if files(id, kept) != 1 {
			t.Errorf("node %d lost the files of the topic that stays", id)
		}
	}
	c.WaitHealthy()
}
