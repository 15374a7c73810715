package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/protocol"
)

const (
	// readyTimeout bounds the start of a node or a cluster on a busy machine.
	readyTimeout = 2 * time.Minute
	// drainTimeout is shutdown.drain_timeout's default.
	drainTimeout = 30 * time.Second
)

// node is one `logbrokerd start` with a configuration file.
type node struct {
	id      int
	dataDir string
	file    string // configuration
	ready   string // ready file

	client, routes, raft, http string
	*process                   // nil before start
	told                       readyFile
}

// settings are what a test may want to be different in one node's file.
type settings struct {
	clusterName string
	founders    []string
	seeds       []string
	more        string // further lines of YAML
}

// newNode gives node id ports and a directory below dir. Nothing is started.
func newNode(t testing.TB, dir string, id int) *node {
	first := freePorts(t, 4)
	base := filepath.Join(dir, fmt.Sprintf("node-%d", id))
	return &node{
		id: id, dataDir: base, file: base + ".yaml", ready: base + ".ready.json",
		client: loopback(first), routes: loopback(first + 1), raft: loopback(first + 2), http: loopback(first + 3),
	}
}

// configure writes n's configuration file.
func (n *node) configure(t testing.TB, s settings) {
	t.Helper()
	if s.clusterName == "" {
		s.clusterName = "e2e"
	}
	text := fmt.Sprintf(`cluster: {name: %q, node_id: %d, founders: [%s], seeds: [%s]}
storage: {data_dir: %q}
client: {listen: %q}
nats_cluster: {listen: %q}
raft: {listen: %q}
http: {listen: %q}
%s`, s.clusterName, n.id, strings.Join(s.founders, ", "), strings.Join(s.seeds, ", "), n.dataDir, n.client, n.routes, n.raft, n.http, s.more)
	if err := os.WriteFile(n.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts n and does not wait.
func (n *node) start(t testing.TB) {
	t.Helper()
	_ = os.Remove(n.ready) // there is none the first time
	n.process = launchProcess(t, fmt.Sprintf("node %d", n.id), nil, logbrokerd(), "start", "-c", n.file, "--ready-file", n.ready)
}

func (n *node) awaitReady(t testing.TB) {
	t.Helper()
	n.told = awaitReady(t, n.process, n.ready, readyTimeout)
}

func (n *node) url() string { return "nats://" + n.client }

// refused starts n and demands that it ends soon with code, and one line that
// holds all of texts.
func (n *node) refused(t testing.TB, code int, texts ...string) {
	t.Helper()
	got := run(t, 5*time.Second, nil, logbrokerd(), "start", "-c", n.file)
	wantOneError(t, got, code, texts...)
}

// wantOneError demands the exit code, nothing on stdout, and one error as the
// last line of stderr. Lines of the log (JSON, as stderr is no terminal) may
// come before it.
func wantOneError(t testing.TB, got ran, code int, texts ...string) {
	t.Helper()
	if got.code != code {
		t.Errorf("exit code %d, want %d", got.code, code)
	}
	if got.stdout != "" {
		t.Errorf("stdout is for data, but has %q", got.stdout)
	}
	lines := strings.Split(strings.TrimRight(got.stderr, "\n"), "\n")
	for _, line := range lines[:len(lines)-1] {
		if !strings.HasPrefix(line, "{") {
			t.Errorf("more than one line: %q", line)
		}
	}
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "error: ") {
		t.Errorf("the last line is %q, want one that begins with error:", last)
	}
	for _, text := range texts {
		if !strings.Contains(last, text) {
			t.Errorf("the error does not name %q: %s", text, last)
		}
	}
	if t.Failed() {
		t.Logf("stderr:\n%s", tail(got.stderr, 20))
	}
}

// cluster is three nodes.
type cluster struct{ nodes []*node }

// newCluster prepares three founders. Nothing is started.
func newCluster(t testing.TB, more string) *cluster {
	t.Helper()
	dir, c := t.TempDir(), &cluster{}
	founders := []string{}
	for id := 1; id <= 3; id++ {
		n := newNode(t, dir, id)
		c.nodes, founders = append(c.nodes, n), append(founders, n.raft)
	}
	for _, n := range c.nodes {
		n.configure(t, settings{founders: founders, more: more})
	}
	return c
}

// startCluster returns three nodes that are ready.
func startCluster(t testing.TB, more string) *cluster {
	t.Helper()
	c := newCluster(t, more)
	for _, n := range c.nodes {
		n.start(t)
	}
	c.awaitReady(t)
	return c
}

func (c *cluster) awaitReady(t testing.TB) {
	t.Helper()
	for _, n := range c.nodes {
		n.awaitReady(t)
	}
}

func (c *cluster) urls() []string {
	urls := []string{}
	for _, n := range c.nodes {
		urls = append(urls, n.url())
	}
	return urls
}

func (c *cluster) dirs() []string {
	dirs := []string{}
	for _, n := range c.nodes {
		dirs = append(dirs, n.dataDir)
	}
	return dirs
}

// stop stops all nodes at once by SIGTERM; each must exit with 0.
func (c *cluster) stop(t testing.TB) {
	t.Helper()
	for _, n := range c.nodes {
		n.signal(t, syscall.SIGTERM)
	}
	for _, n := range c.nodes {
		if code := n.ended(t, drainTimeout); code != 0 {
			t.Errorf("%s exited with %d after SIGTERM, want 0", n.name, code)
		}
	}
}

// dial returns a control connection that ends with the test.
func dial(t testing.TB, servers ...string) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := client.Dial(ctx, servers, client.Options{Name: "e2e"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func createTopic(t testing.TB, c *client.Client, name string, partitions int32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.Admin().CreateTopic(ctx, protocol.TopicCreateRequest{Version: protocol.ControlVersion, Name: name, Partitions: partitions}); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
}

// describe returns nil and why where the cluster does not say just now.
func describe(t testing.TB, c *client.Client, topic string) (*protocol.TopicDescription, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	d, err := c.Admin().DescribeTopic(ctx, topic)
	if err != nil {
		return nil, err.Error()
	}
	return d, ""
}

// leadersOf counts the partitions each node leads; 0 stands for those without.
func leadersOf(d *protocol.TopicDescription) map[uint64]int {
	count := map[uint64]int{1: 0, 2: 0, 3: 0}
	for _, p := range d.Partitions {
		if p.Leader == nil {
			count[0]++
		} else {
			count[*p.Leader]++
		}
	}
	return count
}

// awaitSpread waits until the three nodes lead equally many partitions of
// topic, give or take one, and every replica is there.
func awaitSpread(t testing.TB, c *client.Client, topic string, timeout time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	await(t, timeout, "leadership of "+topic+" is spread and all is healthy", func() (bool, string) {
		d, why := describe(t, c, topic)
		if d == nil {
			return false, why
		}
		count := leadersOf(d)
		least, most := min(count[1], count[2], count[3]), max(count[1], count[2], count[3])
		if count[0] > 0 || most-least > 1 {
			return false, fmt.Sprint("leaders per node ", count)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		health, err := c.Admin().ClusterHealth(ctx)
		if err != nil {
			return false, err.Error()
		}
		return health.Healthy, fmt.Sprint("health ", health.Reasons)
	})
	return time.Since(began)
}

// inParallel runs f for each of 0 to n-1 at once and waits.
func inParallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
