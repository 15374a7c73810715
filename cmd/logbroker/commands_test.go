package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"logbroker/internal/cli"
	"logbroker/internal/protocol"
)

func TestTopicCommandsKeepTheirJSONShapes(t *testing.T) {
	c := newFakeCluster()
	r := newRun(t, c, "")
	r.do("topic", "list", "-o", "json").want(0, "[]\n")
	r.do("topic", "create", "orders", "-p", "1", "-r", "3", "-c", "cleanup=delete", "-o", "json").want(0, `{
  "name": "orders",
  "id": 7,
  "replicas": 3,
  "config": {
    "cleanup": "delete"
  },
  "partitions": [
    {
      "partition": 0,
      "leader": 1,
      "preferred_leader": 1,
      "epoch": 4,
      "replicas": [
        1,
        2,
        3
      ],
      "log_start": 0,
      "high_watermark": 0,
      "size_bytes": 2048
    }
  ]
}
`)
	r.do("topic", "create", "orders").wantErr(1, "exists", "TOPIC_ALREADY_EXISTS")
	r.do("topic", "list", "-o", "json").want(0, "[\n  {\n    \"name\": \"orders\",\n    \"partitions\": 1,\n    \"replicas\": 3\n  }\n]\n")
	r.do("topic", "list").want(0, "NAME    PARTITIONS  REPLICAS\norders  1           3\n")
	r.do("topic", "list", "-o", "yaml").want(0, "- name: orders\n  partitions: 1\n  replicas: 3\n")
	r.do("topic", "describe", "orders").want(0, "NAME        orders\nREPLICAS    3\nPARTITIONS  1\ncleanup     delete\n\n"+
		"PARTITION  LEADER  EPOCH  REPLICAS  LOG-START  HIGH-WATERMARK  SIZE\n0          1       4      1,2,3     0          0               2.0 KiB\n")
	r.do("topic", "describe", "x").wantErr(3, `no such topic "x"; see: logbroker topic list`)
}

func TestTopicCommandsSendWhatIsAsked(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("t", 2)
	r := newRun(t, c, "")
	for args, want := range map[string]string{
		"topic create d -d -p 4":                  "create d 4 0 map[] true",
		"topic alter t -c a=b=c -c d=":            "alter t map[a:b=c d:]",
		"topic add-partitions t -p 5":             "add-partitions t 5",
		"topic add-partitions t -n 5":             "add-partitions t 7",
		"topic trim t -p 1 --offset 9 --yes":      "trim t 1 9",
		"topic trim t --offset end --yes":         "trim t -1 -1",
		"cluster transfer-leader t/1 2":           "transfer t/1 2",
		"cluster transfer-leader t/1 --to 3":      "transfer t/1 3",
		"cluster transfer-leader t/0":             "transfer t/0 0",
		"raft show metadata -o json --timeout 3s": `raft "" 0`,
		"raft show groups/2 -o json":              `raft of coordinator shard 2`,
	} {
		c.calls = nil
		c.raft = &protocol.RaftShowReply{}
		if r.do(strings.Fields(args)...); r.code != 0 || !slices.Contains(c.calls, want) {
			t.Errorf("%s: exit %d, calls %q, %s", args, r.code, c.calls, r.stderr.String())
		}
	}
	if c.topics["d"] != nil {
		t.Error("a dry run created a topic")
	}
}

func TestUsageErrorsExitWith2(t *testing.T) {
	c := newFakeCluster()
	for _, args := range []string{
		"nope", "topic nope", "topic lst", "topic list --nope", "topic list extra", "topic create", "topic create a b", "topic create a -p 0", "topic create a -r -1",
		"topic create a -c novalue", "topic create a -c x=1 -c x=2", "topic alter a", "topic add-partitions a", "topic add-partitions a -p 1 -n 1",
		"topic trim a", "topic trim a --offset -5", "topic trim a --offset 5 -p -1 --yes", "topic delete a", "topic trim a --offset 5", "topic list -o xml",
		"topic list --timeout 0s", "topic list --timeout 5", "raft show", "raft show a", "raft show groups", "raft show groups/-1", "raft show metadata/0/1", "raft show metadata --topic", "raft show a/x", "raft show /1", "raft show a/-1", "raft show a/0/1",
		"cluster transfer-leader t/1 0", "cluster transfer-leader t/1 2 --to 2", "cluster transfer-leader t/1 x",
		"cluster add-node", "cluster drain 1", "cluster remove-node 1", "group describe", "group seek g", "group seek g --to x", "group seek g --to end -p 1", "group seek g --to end -t a -p -1",
		"group delete", "group delete g", "debug bundle", "topic consume t -g a..b", "topic consume t -g g -p 1", "help nope", "completion nope", "generate nope", "generate systemd-unit --binary relative", "topic list --tls-cert x",
	} {
		if r := newRun(t, c, "").do(strings.Fields(args)...); r.code != cli.ExitUsage || r.stdout.Len() > 0 {
			t.Errorf("%s: exit %d, stdout %q, %s", args, r.code, r.stdout.String(), r.stderr.String())
		}
	}
	newRun(t, c, "").do("debug", "bundle").wantErr(2, "not built yet")
	newRun(t, c, "").do("topic", "lsit").wantErr(2, "did you mean list?")
}

func TestDeletesAskOnATerminal(t *testing.T) {
	for _, x := range []struct {
		answer   string
		terminal bool
		yes      bool
		code     int
		gone     bool
	}{{"y\n", true, false, 0, true}, {"n\n", true, false, 1, false}, {"", true, false, 1, false}, {"y\n", false, false, 2, false}, {"", false, true, 0, true}} {
		c := newFakeCluster()
		c.addTopic("a", 1)
		c.addTopic("b", 1)
		r := newRun(t, c, x.answer)
		r.app.stdinTerminal = x.terminal
		args := []string{"topic", "delete", "a", "b"}
		if x.yes {
			args = append(args, "--yes")
		}
		if r.do(args...); r.code != x.code || (c.topics["a"] == nil) != x.gone || (c.topics["b"] == nil) != x.gone {
			t.Errorf("%+v: exit %d, %s", x, r.code, r.stderr.String())
		}
	}
	newRun(t, newFakeCluster(), "").do("topic", "delete", "x", "--yes").wantErr(3, "no such topic")
}

func TestClusterCommandsKeepTheirJSONShapes(t *testing.T) {
	c := newFakeCluster()
	leader := uint64(2)
	c.info = &protocol.ClusterInfo{ClusterID: "id", ClusterName: "n", MetadataLeader: &leader, Nodes: []protocol.NodeInfo{{ID: 1, Alive: true, HTTP: "h:1"}}}
	c.rows = []protocol.PartitionRow{
		{Topic: "a", PartitionDescription: protocol.PartitionDescription{Leader: &leader}},
		{Topic: "b", UnderReplicated: true, PartitionDescription: protocol.PartitionDescription{Partition: 1, Leader: &leader}},
		{Topic: "c", PartitionDescription: protocol.PartitionDescription{Partition: 2}},
	}
	r := newRun(t, c, "")
	var info protocol.ClusterInfo
	if r.do("cluster", "info", "-o", "json"); json.Unmarshal(r.stdout.Bytes(), &info) != nil || *info.MetadataLeader != 2 || !strings.Contains(r.stdout.String(), `"client": []`) {
		t.Error(r.stdout.String())
	}
	r.do("cluster", "nodes").want(0, "NODE  ALIVE  LEADERS  REPLICAS  CLIENT  HTTP\n1     true   0        0         -       h:1\n")
	r.do("cluster", "balance-leaders", "-o", "json").want(0, "{\n  \"moves\": 2\n}\n")
	for args, want := range map[string]string{"": "abc", "--leaderless": "c", "--under-replicated": "b", "--leaderless --under-replicated": "bc"} {
		var rows []protocol.PartitionRow
		r.do(append([]string{"cluster", "partitions", "-o", "json"}, strings.Fields(args)...)...)
		if err := json.Unmarshal(r.stdout.Bytes(), &rows); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, row := range rows {
			got += row.Topic
		}
		if got != want || strings.Contains(r.stdout.String(), `"replicas": null`) {
			t.Errorf("%s: %s", args, r.stdout.String())
		}
	}
	c.rows = []protocol.PartitionRow{{Topic: "a", Joining: []uint64{3}, Fetching: []protocol.FetchProgress{{Node: 2, FetchedBytes: 1 << 20, FetchBytes: 3 << 20}}}}
	r.do("cluster", "partitions")
	for _, want := range []string{"a/0: node 2 has fetched 1.0 MiB of 3.0 MiB that it lacks\n", "a/0: the replica on node 3 is being replaced and does not vote yet\n"} {
		if !strings.Contains(r.stdout.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, r.stdout.String())
		}
	}
	c.rows = nil
	r.do("cluster", "partitions", "-o", "json", "--leaderless").want(0, "[]\n")
}

func TestHealthExitCodes(t *testing.T) {
	c := newFakeCluster()
	healthy, sick := &protocol.ClusterHealth{Healthy: true}, &protocol.ClusterHealth{Reasons: []string{"node 3 does not answer"}, UnderReplicated: []string{"a/0"}}
	r := newRun(t, c, "")
	c.health = func(int) (*protocol.ClusterHealth, error) { return healthy, nil }
	r.do("cluster", "health", "-o", "json").
		want(0, "{\n  \"healthy\": true,\n  \"reasons\": [],\n  \"leaderless\": [],\n  \"under_replicated\": []\n}\n")
	r.do("cluster", "health").want(0, "healthy\n")
	c.health = func(int) (*protocol.ClusterHealth, error) { return sick, nil }
	r.do("cluster", "health").want(3, "unhealthy\n  node 3 does not answer\n  under-replicated: a/0\n")
	r.do("cluster", "health", "-w", "-e", "--timeout", "50ms").wantErr(3, "waiting: node 3 does not answer")
	c.health = func(int) (*protocol.ClusterHealth, error) { return nil, errors.New("no answer") }
	r.do("cluster", "health", "-o", "json").
		want(3, "{\n  \"healthy\": false,\n  \"reasons\": [\n    \"no answer\"\n  ],\n  \"leaderless\": [],\n  \"under_replicated\": []\n}\n")
	c.looks = 0
	c.health = func(n int) (*protocol.ClusterHealth, error) {
		switch {
		case n < 3:
			return nil, errors.New("no answer")
		case n < 6:
			return sick, nil
		}
		return healthy, nil
	}
	r.do("cluster", "health", "-w", "-e", "-o", "yaml").want(0, "healthy: true\nreasons: []\nleaderless: []\nunder_replicated: []\n")
	r.wantErr(0, "waiting: no answer\nwaiting: node 3")
}

func TestHealthWithoutAClusterIsUnhealthy(t *testing.T) {
	r := newRun(t, newFakeCluster(), "")
	r.app.dial = func(context.Context, connection) (backend, error) { return nil, errors.New("no server") }
	r.do("cluster", "health").want(3, "unhealthy\n  no server\n")
	r.do("cluster", "info").wantErr(1, "no server")
	r.do("cluster", "health", "-w", "-e", "--timeout", "20ms").want(3, "unhealthy\n  no server\n")
}

func TestWatchPrintsOnlyChanges(t *testing.T) {
	c := newFakeCluster()
	a := newRun(t, c, "").app
	ctx, cancel := context.WithCancel(t.Context())
	looks, shown := 0, []int{}
	err := watch(ctx, a, func(context.Context) (int, error) {
		if looks++; looks == 4 {
			return 0, errors.New("for a moment")
		}
		return looks / 3, nil
	}, func(n int) error {
		if shown = append(shown, n); n == 3 {
			cancel()
		}
		return nil
	})
	if err != nil || !slices.Equal(shown, []int{0, 1, 2, 3}) {
		t.Fatal(err, shown)
	}
	if err := watch(t.Context(), a, func(context.Context) (int, error) { return 0, notFound("gone") }, nil); err == nil {
		t.Fatal("what does not exist cannot be watched")
	}
}

func TestRaftShowNeverPrintsZeroForUnknown(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("t", 1)
	role, n := "leader", uint64(5)
	c.raft = &protocol.RaftShowReply{Shard: 1001, Replicas: []protocol.RaftReplica{{Node: 1, Role: &role, Term: &n, Leader: &n, Last: &n, Commit: &n, Applied: &n}, {Node: 2}}}
	r := newRun(t, c, "")
	r.do("raft", "show", "t/0").want(0, "SHARD  NODE  ROLE    TERM  LEADER  LAST  COMMIT  APPLIED\n1001   1     leader  5     5       5     5       5\n1001   2     -       -     -       -     -       -\n")
	r.do("raft", "show", "t/0", "-o", "json")
	if !strings.Contains(r.stdout.String(), `"term": null`) || strings.Contains(r.stdout.String(), ": 0") {
		t.Fatal(r.stdout.String())
	}
	r.do("raft", "show", "x/0").wantErr(3, "does not exist")
	r.do("raft", "show", "groups/0", "--topic").wantErr(3, `topic "groups" does not exist`)
}

func TestConnectionSettingsHaveAnOrder(t *testing.T) {
	c := newFakeCluster()
	r := newRun(t, c, "")
	servers := func(args ...string) string {
		t.Helper()
		c.dials = nil
		if r.do(append([]string{"topic", "list"}, args...)...); r.code != 0 {
			t.Fatal(r.stderr.String())
		}
		return strings.Join(c.dials[0].servers, ",")
	}
	check := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	check(servers(), defaultServer)
	r.do("profile", "create", "one", "--server", "nats://one:1,nats://one:2")
	r.do("profile", "create", "two", "--server", "nats://two:1")
	check(servers(), "nats://one:1,nats://one:2")
	r.env[envProfile] = "two"
	check(servers(), "nats://two:1")
	r.env[envServer] = "nats://env:1, nats://env:2"
	check(servers(), "nats://env:1,nats://env:2")
	check(servers("--profile", "one"), "nats://one:1,nats://one:2")
	check(servers("--profile", "one", "--server", "nats://flag:1"), "nats://flag:1")
	r.do("topic", "list", "--profile", "three").wantErr(3, `no such profile "three"`)
}

func TestProfilesAreKeptInAFileOfTheirOwner(t *testing.T) {
	r := newRun(t, newFakeCluster(), "")
	r.do("profile", "list", "-o", "json").want(0, "[]\n")
	r.do("profile", "show").wantErr(3, "no profile is in use")
	r.do("profile", "create", "one", "--server", "nats://one:1", "--tls-ca", "/ca.pem", "-o", "json")
	r.do("profile", "create", "one").wantErr(1, "exists")
	r.do("profile", "create", "two", "--server", "nats://two:1")
	r.do("profile", "list").want(0, "NAME  CURRENT  SERVERS\none   *        nats://one:1\ntwo   -        nats://two:1\n")
	r.do("profile", "use", "two")
	r.do("profile", "show", "-o", "yaml").want(0, "name: two\ncurrent: true\nservers:\n  - nats://two:1\ntls:\n  ca: \"\"\n  cert: \"\"\n  key: \"\"\n")
	r.do("profile", "use", "three").wantErr(3, "no such profile")
	r.do("profile", "delete", "two").wantErr(2, "--yes")
	if r.do("profile", "delete", "two", "--yes"); r.code != 0 {
		t.Fatal(r.stderr.String())
	}
	dir, _ := r.app.configDir()
	file := filepath.Join(dir, "logbroker", "profiles.yaml")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	if err := os.WriteFile(file, []byte("profiles: {}\nsurprise: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.do("profile", "list").wantErr(1, "surprise")
}

func TestTLSFilesAreRead(t *testing.T) {
	r := newRun(t, newFakeCluster(), "")
	r.do("topic", "list", "--tls-ca", filepath.Join(t.TempDir(), "none.pem")).wantErr(1, "none.pem")
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.do("topic", "list", "--tls-ca", empty).wantErr(1, "no certificate")
	r.do("topic", "list", "--tls-cert", empty, "--tls-key", empty).wantErr(1, "--tls-cert")
}

// metricNames are the metrics that the broker exposes.
var metricNames = []string{
	"build_info", "partitions", "leadership_changes_total", "produce_records_total", "produce_bytes_total",
	"produce_duplicates_total", "fetch_records_total", "fetch_bytes_total", "request_duration_seconds", "raft_log_sync_duration_seconds",
	"raft_log_bytes", "segment_bytes", "consumer_group_lag", "consumer_group_members", "client_connections", "disk_free_bytes",
	"partition_log_start_offset", "partition_high_watermark_offset", "partition_size_bytes", "partition_has_leader",
}

func TestDashboardShowsTheBrokersMetricsAndNoOthers(t *testing.T) {
	r := newRun(t, newFakeCluster(), "").do("generate", "grafana-dashboard")
	var d dashboard
	if err := json.Unmarshal(r.stdout.Bytes(), &d); err != nil || r.code != 0 {
		t.Fatal(err, r.stderr.String())
	}
	used := map[string]bool{}
	for i, p := range d.Panels {
		if p.GridPos.X+p.GridPos.W > gridColumns || p.ID != i+1 {
			t.Errorf("%s lies at %+v", p.Title, p.GridPos)
		}
		for _, target := range p.Targets {
			if strings.Count(target.Expr, "(") != strings.Count(target.Expr, ")") {
				t.Errorf("%s: %s", p.Title, target.Expr)
			}
			for _, word := range strings.FieldsFunc(target.Expr, func(c rune) bool { return c != '_' && (c < 'a' || c > 'z') }) {
				if name, ours := strings.CutPrefix(word, "logbroker_"); ours {
					used[strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")] = true
				}
			}
		}
	}
	for _, name := range metricNames {
		if !used[name] {
			t.Errorf("no panel shows %s", name)
		}
		delete(used, name)
	}
	if len(used) > 0 {
		t.Errorf("the broker has no metrics %v", used)
	}
}

func TestPrometheusConfigNamesTheNodes(t *testing.T) {
	c := newFakeCluster()
	c.info = &protocol.ClusterInfo{Nodes: []protocol.NodeInfo{{HTTP: "10.0.0.1:9644"}, {HTTP: "10.0.0.2:9644"}, {}}}
	r := newRun(t, c, "").do("generate", "prometheus-config", "--detailed")
	var got prometheusConfig
	if err := yaml.Unmarshal(r.stdout.Bytes(), &got); err != nil || len(got.ScrapeConfigs) != 2 {
		t.Fatal(err, r.stdout.String())
	}
	if want := []string{"10.0.0.1:9644", "10.0.0.2:9644"}; !slices.Equal(got.ScrapeConfigs[0].Static[0].Targets, want) {
		t.Fatal(r.stdout.String())
	}
	c.dials = nil
	r.do("generate", "prometheus-config", "--targets", "https://a:1")
	if len(c.dials) > 0 || !strings.Contains(r.stdout.String(), "scheme: https") || !strings.Contains(r.stdout.String(), "'a:1'") {
		t.Fatal(r.stdout.String())
	}
	c.info = &protocol.ClusterInfo{}
	r.do("generate", "prometheus-config").wantErr(3, "--targets")
}

func TestSystemdUnitTakesItsPaths(t *testing.T) {
	r := newRun(t, newFakeCluster(), "").do("generate", "systemd-unit", "--user", "lb", "--data-dir", "/srv/lb")
	for _, want := range []string{"User=lb\n", "ReadWritePaths=/srv/lb\n", "ExecStart=/usr/local/bin/logbrokerd start -c /etc/logbroker/logbrokerd.yaml --storage.data_dir=/srv/lb\n", "ProtectSystem=strict\n"} {
		if !strings.Contains(r.stdout.String(), want) {
			t.Errorf("no %q in %s", want, r.stdout.String())
		}
	}
	if strings.ContainsAny(r.stdout.String(), "{}") {
		t.Error("a placeholder is left")
	}
}

func TestVersionAndCompletionWorkWithoutACluster(t *testing.T) {
	c := newFakeCluster()
	r := newRun(t, c, "")
	if r.do("version"); r.code != 0 || !strings.HasPrefix(r.stdout.String(), "logbroker ") {
		t.Error(r.stdout.String())
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if r.do("completion", shell); r.code != 0 || r.stdout.Len() < 100 {
			t.Errorf("%s: exit %d, %d bytes", shell, r.code, r.stdout.Len())
		}
	}
	if len(c.dials) > 0 {
		t.Error("a cluster was asked")
	}
}

func TestColourIsForTerminalsThatWantIt(t *testing.T) {
	c := newFakeCluster()
	c.health = func(int) (*protocol.ClusterHealth, error) { return &protocol.ClusterHealth{Healthy: true}, nil }
	r := newRun(t, c, "")
	r.app.stdoutTerminal = true
	r.do("cluster", "health").want(0, green+"healthy"+plain+"\n")
	r.do("cluster", "health", "--no-color").want(0, "healthy\n")
	r.env["NO_COLOR"] = "1"
	r.do("cluster", "health").want(0, "healthy\n")
}

func TestRequestsAreBoundByTheTimeout(t *testing.T) {
	c := newFakeCluster()
	r := newRun(t, c, "")
	r.app.dial = func(ctx context.Context, _ connection) (backend, error) {
		until, ok := ctx.Deadline()
		if !ok || time.Until(until) > 50*time.Millisecond {
			t.Error("no deadline")
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r.do("topic", "list", "--timeout", "50ms").wantErr(1, "no answer in time", "logbroker cluster health")
}
