package e2e

import (
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cli runs logbroker against server and demands the exit code.
func cli(t testing.TB, code int, server string, in io.Reader, args ...string) ran {
	t.Helper()
	got := run(t, 2*patience, in, logbroker(), append([]string{"--server", server, "--timeout", patience.String()}, args...)...)
	if got.code != code {
		t.Fatalf("logbroker %s: exit code %d, want %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), got.code, code,
			tail(got.stdout, 10), tail(got.stderr, 10))
	}
	return got
}

// decode reads JSON that a command printed.
func decode[T any](t testing.TB, text string) T {
	t.Helper()
	var out T
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("no JSON of that shape: %v\n%s", err, tail(text, 20))
	}
	return out
}

type healthReply struct {
	Healthy         *bool    `json:"healthy"`
	Reasons         []string `json:"reasons"`
	Leaderless      []string `json:"leaderless"`
	UnderReplicated []string `json:"under_replicated"`
}

type raftReply struct {
	Shard    uint64 `json:"shard"`
	Replicas []struct {
		Node    uint64  `json:"node"`
		Role    *string `json:"role"`
		Term    *uint64 `json:"term"`
		Leader  *uint64 `json:"leader"`
		Last    *uint64 `json:"last"`
		Commit  *uint64 `json:"commit"`
		Applied *uint64 `json:"applied"`
	} `json:"replicas"`
}

func TestHealthAndRaftShowTellAKilledNodeFromAHealthyCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "")
	server := strings.Join(c.urls(), ",")
	cli(t, 0, server, nil, "topic", "create", "orders", "-p", "3")
	cli(t, 0, server, strings.NewReader("a\nb\nc\n"), "topic", "produce", "orders")
	cli(t, 0, server, nil, "cluster", "health", "-w", "-e")
	if h := decode[healthReply](t, cli(t, 0, server, nil, "cluster", "health", "-o", "json").stdout); h.Healthy == nil || !*h.Healthy || len(h.Reasons) != 0 {
		t.Errorf("health of a healthy cluster: %+v", h)
	}
	wantLeaderAndFollowers(t, cli(t, 0, server, nil, "raft", "show", "orders/0", "-o", "json").stdout)

	c.nodes[1].kill()
	server = strings.Join([]string{c.nodes[0].url(), c.nodes[2].url()}, ",")
	await(t, 15*time.Second, "health reports the killed node", func() (bool, string) {
		got := run(t, 15*time.Second, nil, logbroker(), "--server", server, "cluster", "health", "-o", "json")
		if got.code != 3 {
			return false, "exit code " + strconv.Itoa(got.code) + " " + got.stdout + got.stderr
		}
		h := decode[healthReply](t, got.stdout)
		return h.Healthy != nil && !*h.Healthy && len(h.UnderReplicated) == 3, got.stdout
	})
	if got := cli(t, 3, server, nil, "cluster", "health", "-w", "-e", "--timeout", "1s"); got.took > 5*time.Second {
		t.Errorf("health -w -e --timeout 1s took %s", got.took)
	}
	shown := decode[raftReply](t, cli(t, 0, server, nil, "raft", "show", "orders/0", "-o", "json").stdout)
	for _, r := range shown.Replicas {
		if unknown := r.Role == nil && r.Term == nil && r.Last == nil && r.Commit == nil && r.Applied == nil; unknown != (r.Node == 2) {
			t.Errorf("raft show with node 2 killed: %+v", r)
		}
	}
	c.nodes[1].start(t)
	cli(t, 0, server, nil, "cluster", "health", "-w", "-e", "--timeout", "60s")
}

func wantLeaderAndFollowers(t *testing.T, text string) {
	t.Helper()
	shown, roles := decode[raftReply](t, text), map[string]int{}
	for _, r := range shown.Replicas {
		if r.Role == nil || r.Term == nil || r.Leader == nil || r.Last == nil || r.Commit == nil || r.Applied == nil {
			t.Fatalf("raft show leaves something out: %s", text)
		}
		roles[*r.Role]++
		if *r.Term == 0 || *r.Last < *r.Commit || *r.Commit < *r.Applied || *r.Leader != *shown.Replicas[0].Leader {
			t.Errorf("raft show contradicts itself: %s", text)
		}
	}
	if shown.Shard == 0 || roles["leader"] != 1 || roles["follower"] != 2 {
		t.Errorf("raft show: shard %d, roles %v", shown.Shard, roles)
	}
}

func TestExitCodesTellUsageNotFoundAndFailureApart(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--any-port", "--ephemeral", "--nodes", "1")
	server := d.told.Servers[0]
	cli(t, 0, server, nil, "topic", "create", "orders")
	for _, c := range []struct {
		name string
		code int
		in   string
		args []string
		want string // in the error
	}{
		{"unknown command", 2, "", []string{"topic", "desribe"}, "describe"},
		{"unknown flag", 2, "", []string{"topic", "list", "--nonsense"}, "nonsense"},
		{"missing argument", 2, "", []string{"topic", "describe"}, ""},
		{"command not built", 2, "", []string{"debug", "bundle"}, "not built"},
		{"bad group name", 2, "", []string{"topic", "consume", "orders", "-g", "a b"}, "group name"},
		{"empty group name", 2, "", []string{"topic", "consume", "orders", "-g", ""}, "group name"},
		{"partitions of a group member", 2, "", []string{"topic", "consume", "orders", "-g", "g", "-p", "0"}, "-p"},
		{"long group name", 2, "", []string{"topic", "consume", "orders", "-g", strings.Repeat("g", 250)}, "249"},
		{"session without a group", 2, "", []string{"topic", "consume", "orders", "--session-timeout", "5s"}, "-g"},
		{"short session", 2, "", []string{"topic", "consume", "orders", "-g", "g", "--session-timeout", "1ms"}, "between 1s"},
		{"bad name of a group", 2, "", []string{"group", "describe", "a b"}, "group name"},
		{"empty name of a group", 2, "", []string{"group", "delete", "", "--yes"}, "group name"},
		{"bad name of a group to move", 2, "", []string{"group", "seek", "a..b", "--to", "start", "-t", "orders"}, "group name"},
		{"group not found", 3, "", []string{"group", "describe", "nothing"}, "logbroker group list"},
		{"delete no group", 3, "", []string{"group", "delete", "nothing", "--yes"}, "logbroker group list"},
		{"move no group", 3, "", []string{"group", "seek", "nothing", "--to", "start"}, "logbroker group list"},
		{"move a group in no topic", 3, "", []string{"group", "seek", "g", "--to", "start", "-t", "nothing"}, "logbroker topic list"},
		{"move a group beyond the end", 1, "", []string{"group", "seek", "g", "--to", "1", "-t", "orders"}, "OFFSET_OUT_OF_RANGE"},
		{"a group consumes no topic", 3, "", []string{"topic", "consume", "nothing", "-g", "g"}, "nothing"},
		{"unknown codec", 2, "x\n", []string{"topic", "produce", "orders", "-z", "brotli"}, "brotli"},
		{"topic not found", 3, "", []string{"topic", "describe", "nothing"}, "nothing"},
		{"produce to no topic", 3, "x\n", []string{"topic", "produce", "nothing"}, "nothing"},
		{"consume from no topic", 3, "", []string{"topic", "consume", "nothing", "-e"}, "nothing"},
		{"delete no topic", 3, "", []string{"topic", "delete", "nothing", "--yes"}, "nothing"},
		{"raft of no topic", 3, "", []string{"raft", "show", "nothing/0"}, "nothing"},
		{"topic exists", 1, "", []string{"topic", "create", "orders"}, "orders"},
		{"bad topic name", 1, "", []string{"topic", "create", "a b"}, ""},
		{"bad setting", 1, "", []string{"topic", "create", "new", "-c", "retention_age=7"}, "retention_age"},
		{"more replicas than nodes", 1, "", []string{"topic", "create", "new", "-r", "3"}, ""},
		{"line does not match", 1, "a\tb\nno tab\n", []string{"topic", "produce", "orders", "-f", `%k\t%v\n`}, "line 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := cli(t, c.code, server, strings.NewReader(c.in), c.args...)
			if !strings.HasPrefix(lastLine(got.stderr), "error: ") || !strings.Contains(got.stderr, c.want) {
				t.Errorf("stderr does not name %q in a line that begins with error:\n%s", c.want, got.stderr)
			}
		})
	}
	d.stop(t, syscallTerm, drainTimeout)
	if got := cli(t, 1, server, nil, "topic", "list"); got.took > 5*time.Second || !strings.Contains(got.stderr, "logbrokerd dev") {
		t.Errorf("with no server, after %s: %s", got.took, got.stderr)
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
