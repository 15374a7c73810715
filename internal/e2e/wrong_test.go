package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// oneNode founds a cluster of one node, and stops it again unless running.
func oneNode(t *testing.T, running bool) *node {
	t.Helper()
	n := newNode(t, t.TempDir(), 1)
	n.configure(t, settings{})
	n.start(t)
	n.awaitReady(t)
	if !running {
		n.stop(t, syscall.SIGTERM, drainTimeout)
	}
	return n
}

// editIdentity changes a field of both copies of n's node.json.
func editIdentity(t *testing.T, n *node, field string, value any) {
	t.Helper()
	for _, dir := range []string{n.dataDir, filepath.Join(n.dataDir, "raft")} {
		path := filepath.Join(dir, "node.json")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fields := map[string]any{}
		if err := json.Unmarshal(raw, &fields); err != nil {
			t.Fatal(err)
		}
		fields[field] = value
		if raw, err = json.Marshal(fields); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// keepOnly removes all of dir but the file keep.
func keepOnly(t *testing.T, dir, keep string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != keep {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAWrongStartOfAKnownNodeIsOneLineThatSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, n *node)
		want  []string
	}{
		{"wrong cluster name", func(t *testing.T, n *node) { n.configure(t, settings{clusterName: "other"}) }, []string{`"e2e"`, `"other"`, "cluster.name"}},
		{"wrong node id", func(t *testing.T, n *node) { n.id = 2; n.configure(t, settings{}) }, []string{"node 1", "cluster.node_id 2"}},
		{"newer format version", func(t *testing.T, n *node) { editIdentity(t, n, "format", 99) }, []string{"node.json", "format 99", "newer"}},
		{"Raft directory deleted", func(t *testing.T, n *node) {
			if err := os.RemoveAll(filepath.Join(n.dataDir, "raft")); err != nil {
				t.Fatal(err)
			}
		}, []string{"raft", "must not vote again"}},
		{
			"Raft log deleted, identity left", func(t *testing.T, n *node) { keepOnly(t, filepath.Join(n.dataDir, "raft"), "node.json") },
			[]string{"raft", "must not vote again"},
		},
		{"data directory emptied, Raft directory elsewhere", func(t *testing.T, n *node) {
			elsewhere := n.dataDir + "-raft"
			if err := os.Rename(filepath.Join(n.dataDir, "raft"), elsewhere); err != nil {
				t.Fatal(err)
			}
			keepOnly(t, n.dataDir, "")
			n.configureRaftDir(t, elsewhere)
		}, []string{"is empty", "Raft log of node 1"}},
		{"identity damaged", func(t *testing.T, n *node) {
			if err := os.WriteFile(filepath.Join(n.dataDir, "node.json"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"node.json", "damaged"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := oneNode(t, false)
			c.spoil(t, n)
			n.refused(t, 1, c.want...)
			n.refused(t, 1, c.want...) // also the second time
		})
	}
}

// configureRaftDir is configure with a Raft directory of its own.
func (n *node) configureRaftDir(t testing.TB, dir string) {
	t.Helper()
	n.configure(t, settings{})
	raw, err := os.ReadFile(n.file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(raw), "storage: {", "storage: {raft_dir: "+dir+", ", 1)
	if err := os.WriteFile(n.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSomeoneElsesDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	t.Run("not of logbroker", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, t.TempDir(), 1)
		n.configure(t, settings{})
		if err := os.MkdirAll(n.dataDir, 0o755); err != nil {
			t.Fatal(err)
		}
		photo := filepath.Join(n.dataDir, "photo.jpg")
		if err := os.WriteFile(photo, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		n.refused(t, 1, n.dataDir, "photo.jpg", "empty one")
		if _, err := os.Stat(photo); err != nil {
			t.Error("the file is gone:", err)
		}
	})
	t.Run("of another cluster's node with the same name and id", func(t *testing.T) {
		t.Parallel()
		ours, theirs := oneNode(t, true), oneNode(t, false)
		theirs.configure(t, settings{founders: []string{theirs.raft, ours.raft}})
		theirs.refused(t, 1, theirs.dataDir, "another cluster", ours.raft)
	})
	t.Run("two nodes' directories mixed", func(t *testing.T) {
		t.Parallel()
		a, b := oneNode(t, false), oneNode(t, false)
		a.configureRaftDir(t, filepath.Join(b.dataDir, "raft"))
		a.refused(t, 1, "mixed up")
	})
}

func TestANewNodeThatDoesNotFitARunningClusterIsRefused(t *testing.T) {
	t.Parallel()
	running := oneNode(t, true)
	for _, c := range []struct {
		name     string
		id       int
		settings settings
		want     []string
	}{
		{"wrong cluster name as founder", 2, settings{clusterName: "other", founders: []string{running.raft}}, []string{`"e2e"`, `"other"`, "cluster.name"}},
		{"wrong cluster name through a seed", 2, settings{clusterName: "other", seeds: []string{running.raft}}, []string{`"e2e"`, `"other"`, "cluster.name"}},
		{"duplicate node id as founder", 1, settings{founders: []string{running.raft}}, []string{"node 1", running.raft, "cluster.node_id"}},
		{"duplicate node id through a seed", 1, settings{seeds: []string{running.raft}}, []string{"node 1", "another data directory"}},
		{"founder of a cluster founded without it", 2, settings{founders: []string{running.raft}}, []string{"founded without node 2", "cluster.seeds"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, t.TempDir(), c.id)
			if len(c.settings.founders) > 0 {
				c.settings.founders = append([]string{n.raft}, c.settings.founders...)
			}
			n.configure(t, c.settings)
			n.refused(t, 1, c.want...)
		})
	}
}

func TestTwoFoundersWithTheSameNodeIDAreBothRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := newNode(t, filepath.Join(dir, "a"), 1), newNode(t, filepath.Join(dir, "b"), 1)
	for _, n := range []*node{a, b} {
		if err := os.MkdirAll(filepath.Dir(n.file), 0o755); err != nil {
			t.Fatal(err)
		}
		n.configure(t, settings{founders: []string{a.raft, b.raft}})
	}
	a.start(t) // waits for b
	awaitHTTP(t, "http://"+a.http+"/livez", 200)
	b.refused(t, 1, "node 1", "cluster.node_id")
}

func TestALockedDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	running := oneNode(t, true)
	second := newNode(t, t.TempDir(), 1)
	second.dataDir = running.dataDir
	second.configure(t, settings{})
	second.refused(t, 1, running.dataDir, "another process")
}

func TestABusyPortIsNamedWithItsKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key  string
		addr func(n *node) *string
	}{
		{"client.listen", func(n *node) *string { return &n.client }},
		{"nats_cluster.listen", func(n *node) *string { return &n.routes }},
		{"raft.listen", func(n *node) *string { return &n.raft }},
		{"http.listen", func(n *node) *string { return &n.http }},
	} {
		t.Run(c.key, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			n := newNode(t, t.TempDir(), 1)
			*c.addr(n) = l.Addr().String()
			n.configure(t, settings{})
			n.refused(t, 1, c.key, *c.addr(n), "in use")
		})
	}
}

func TestAWrongConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, more string
		code       int
		want       []string
	}{
		{"unknown key", "leaders: {balanc: true}", 1, []string{"leaders.balanc ", "leaders.balance"}},
		{"setting that is not built", "kafka: {enabled: true}", 2, []string{"kafka.enabled", "not built yet"}},
		{"clean-up that is not built", "topic_defaults: {cleanup: compact}", 2, []string{"topic_defaults.cleanup"}},
		{"duration without a unit", "shutdown: {drain_timeout: 30}", 1, []string{"drain_timeout", "unit"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, t.TempDir(), 1)
			n.configure(t, settings{more: c.more})
			n.refused(t, c.code, c.want...)
			got := run(t, readyTimeout, nil, logbrokerd(), "config", "check", "-c", n.file)
			wantOneError(t, got, c.code, c.want...)
		})
	}
}
