package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/config"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// onePart is a topic of one partition of which the test knows every attempt.
type onePart struct {
	c     *Cluster
	topic *protocol.TopicDescription
	conn  *nats.Conn // to the leader
	sent  int
	acked []string
	// refused holds what was refused for the disk reserve, which is definite.
	refused []string
}

func (c *Cluster) onePart(name string, settings map[string]string) *onePart {
	c.tb.Helper()
	p := &onePart{c: c, topic: c.CreateTopic(name, 1, 3, settings)}
	p.conn = c.dial(c.WaitLeader(name, 0))
	c.waitAnswered(p.conn, name, 0)
	return p
}

// try sends one record, padded to size bytes at least, and returns the code.
func (p *onePart) try(size int) errcode.Code {
	p.c.tb.Helper()
	p.sent++
	value := fmt.Sprintf("record %d %s", p.sent, strings.Repeat("x", size))
	r, err := produceRaw(p.conn, p.topic.Name, 0, produceRequest(p.topic.ID, -1, "", batchOf(p.c.tb, value)), waitTimeout)
	switch {
	case err != nil:
		return errcode.RequestTimedOut
	case r.Code == errcode.None:
		p.acked = append(p.acked, value)
	case r.Code == errcode.DiskReserve:
		p.refused = append(p.refused, value)
	}
	return r.Code
}

// check reads the partition: what was acked is there from the log start on,
// what was refused is not.
func (p *onePart) check() {
	p.c.tb.Helper()
	there := map[string]bool{}
	for _, v := range p.c.readAll(p.topic.Name, 0) {
		there[v] = true
	}
	for _, v := range p.acked {
		if !there[v] {
			p.c.tb.Errorf("%.20q was acked and is not there", v)
		}
	}
	for _, v := range p.refused {
		if there[v] {
			p.c.tb.Errorf("%.20q was refused and is there", v)
		}
	}
}

func (c *Cluster) health() *protocol.ClusterHealth {
	c.tb.Helper()
	return call(c, "cluster health", c.Client().Admin().ClusterHealth)
}

func TestBelowTheDiskReserveOfAnyReplicaProduceIsRefusedAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	const reserve = 64 * config.MiB
	var free [5]atomic.Uint64 // by node
	for i := range free {
		free[i].Store(uint64(10 * reserve))
	}
	c := Start(t, Options{Nodes: 4, FreeBytes: func(node uint64) uint64 { return free[node].Load() }, Configure: func(f *config.Config) {
		quietLeaders(f)
		longSessions(f)
		f.Storage.MinFreeBytes = reserve
	}})
	p := c.onePart("full", nil)
	c.WaitFor("a record is acked", func() bool { return p.try(0) == errcode.None })
	m := c.member("g", "m", "full")
	settle(c, 1, m)
	holders := c.Describe("full").Partitions[0].Replicas
	for _, id := range holders { // the leader among them
		free[id].Store(uint64(reserve) - 1)
		c.WaitFor("produce is refused by name", func() bool { return p.try(0) == errcode.DiskReserve })
		want := fmt.Sprintf("node %d is below its disk reserve", id)
		if h := c.health(); h.Healthy || !slices.ContainsFunc(h.Reasons, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("health does not say that %s: %+v", want, h)
		}
		p.check() // reads go on
		if codes := m.commit(1, part{"full", 0}); codes[0] != errcode.None {
			t.Errorf("commit of a group: %v", codes)
		}
		call(c, "create a topic", func(ctx context.Context) (*protocol.TopicDescription, error) {
			return c.Client().Admin().CreateTopic(ctx, protocol.TopicCreateRequest{Name: fmt.Sprint("while-", id), Partitions: 1, Replicas: 3})
		})
		free[id].Store(uint64(reserve) + uint64(reserve)/8)
		c.WaitFor("produce is taken again", func() bool { return p.try(0) == errcode.None })
	}
	for _, id := range c.IDs() {
		if slices.Contains(holders, id) {
			continue
		}
		free[id].Store(0)
		c.WaitFor("the cluster has heard of the full disk", func() bool { return len(c.health().Reasons) > 0 })
		if code := p.try(0); code != errcode.None {
			t.Errorf("%v, though only a node without a replica is full", code)
		}
	}
	p.check()
}

// A flipped bit in a follower's old segment, which nobody reads, is found by the
// scrub; health and metrics name it, and the partition goes on.
// TestDamageThatAScrubFindsIsNamedAndRepairedFromAPeer damages a follower, which
// repairs itself, and the only replica of another topic, which cannot.
func TestDamageThatAScrubFindsIsNamedAndRepairedFromAPeer(t *testing.T) {
	t.Parallel()
	log := &damageLog{}
	c := Start(t, Options{Log: log.see, Configure: func(f *config.Config) {
		quietLeaders(f)
		f.Storage.ScrubInterval = 100 * time.Millisecond
	}})
	segments := map[string]string{"segment_bytes": "16KiB"}
	p, lone := c.onePart("old", segments), &onePart{c: c, topic: c.CreateTopic("lone", 1, 1, segments)}
	loneNode := c.WaitLeader("lone", 0)
	lone.conn = c.dial(loneNode)
	c.waitAnswered(lone.conn, "lone", 0)
	for len(p.acked) < 20 || len(lone.acked) < 20 {
		p.try(4 << 10)
		lone.try(4 << 10)
	}
	node := c.WaitLeader("old", 0)%3 + 1
	damaged := c.damageASegment("old", node)
	c.WaitFor("the follower has repaired itself", func() bool {
		return strings.Contains(c.metrics(node), "logbroker_segments_repaired_total 1")
	})
	for _, want := range []string{"logbroker_damage_found_total 1\n", "logbroker_segments_missing_bytes 0\n"} {
		if !strings.Contains(c.metrics(node), want) {
			t.Errorf("the metrics page does not say %q", want)
		}
	}
	if strings.Contains(c.metrics(node), "logbroker_segments_fetched_bytes_total 0\n") {
		t.Error("the metrics page does not count the bytes that were fetched")
	}
	log.only(t, node, damaged)
	acked := len(p.acked)
	c.WaitFor("the partition goes on", func() bool { return p.try(0) == errcode.None && len(p.acked) > acked })
	p.check()
	c.WaitFor("all is healthy again", func() bool { return c.health().Healthy })

	file := c.damageASegment("lone", loneNode)
	want := fmt.Sprintf("the replica of lone/0 on node %d is damaged: %s", loneNode, file)
	c.WaitFor("health names what nobody can repair", func() bool {
		return slices.ContainsFunc(c.health().Reasons, func(s string) bool { return strings.HasPrefix(s, want) })
	})
	if page := c.metrics(loneNode); !strings.Contains(page, `logbroker_partitions{state="damaged"} 1`) {
		t.Error("the metrics page does not show the damaged replica")
	}
	log.only(t, loneNode, file)
}

// damageLog collects the lines by which nodes name damage.
type damageLog struct {
	mu    sync.Mutex // guards lines
	lines map[uint64][]string
}

func (l *damageLog) see(node uint64, r slog.Record) {
	if !strings.HasPrefix(r.Message, "damage found") {
		return
	}
	line := ""
	r.Attrs(func(a slog.Attr) bool { line += a.String() + " "; return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines == nil {
		l.lines = map[uint64][]string{}
	}
	l.lines[node] = append(l.lines[node], line)
}

// only requires that a node's last such line says what is wrong and where, in file,
// and that it is the only one about it.
func (l *damageLog) only(t *testing.T, node uint64, file string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	about := 0
	for _, line := range l.lines[node] {
		if strings.Contains(line, "file="+file) {
			about++
		}
	}
	if n := len(l.lines[node]); about != 1 || !regexp.MustCompile(`position=\d+ reason=\S+`).MatchString(l.lines[node][n-1]) {
		t.Errorf("of %s node %d says %q", file, node, l.lines[node])
	}
}

// damageASegment flips bits in the second segment of a node's replica.
func (c *Cluster) damageASegment(topic string, node uint64) (file string) {
	c.tb.Helper()
	shard := c.shards(topic, 1)[0]
	var files []string
	c.WaitFor("there are sealed segments", func() bool {
		var err error
		files, err = filepath.Glob(filepath.Join(c.DataDir(node), "partitions", fmt.Sprintf("%d-*", shard), "log-*", "*.log"))
		return err == nil && len(files) > 3
	})
	slices.Sort(files)
	f, err := os.OpenFile(files[1], os.O_RDWR, 0)
	if err != nil {
		c.tb.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff, 0, 0xff, 0}, 3000); err != nil { // of a run of x
		c.tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		c.tb.Fatal(err)
	}
	return files[1]
}

// metrics returns a node's metrics page.
func (c *Cluster) metrics(id uint64) string {
	c.tb.Helper()
	response, err := http.Get(c.Info(id).HTTPURL + "/metrics")
	if err != nil {
		c.tb.Fatal(err)
	}
	page, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		c.tb.Fatal(err)
	}
	return string(page)
}
