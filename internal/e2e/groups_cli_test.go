package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// groupReply is what `group describe -o json` prints.
type groupReply struct {
	Group      string           `json:"group"`
	State      string           `json:"state"`
	Members    []map[string]any `json:"members"`
	TotalLag   *int64           `json:"total_lag"`
	Partitions []struct {
		Topic         string  `json:"topic"`
		Partition     int32   `json:"partition"`
		Committed     *int64  `json:"committed"`
		LogStart      *int64  `json:"log_start"`
		HighWatermark *int64  `json:"high_watermark"`
		Lag           *int64  `json:"lag"`
		Member        *string `json:"member"`
	} `json:"partitions"`
}

func describeByCLI(t testing.TB, server, group string) groupReply {
	t.Helper()
	return decode[groupReply](t, cli(t, 0, server, nil, "group", "describe", group, "-o", "json").stdout)
}

func TestGroupCommandsShowMoveAndDeleteGroups(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--any-port", "--ephemeral", "--nodes", "1", "--groups.session_timeout", "20s", "--groups.heartbeat_interval", "500ms")
	server := d.told.Servers[0]
	cli(t, 0, server, nil, "topic", "create", "orders", "-p", "3")
	if got := cli(t, 0, server, nil, "group", "list", "-o", "json").stdout; strings.TrimSpace(got) != "[]" {
		t.Errorf("a list of no groups is %s", got)
	}
	for _, args := range [][]string{{"group", "describe", "g"}, {"group", "delete", "g", "--yes"}} {
		if got := cli(t, 3, server, nil, args...); !strings.Contains(got.stderr, `"g"`) {
			t.Errorf("%v of no group: %s", args, got.stderr)
		}
	}
	cli(t, 0, server, numbers(0, 90), "topic", "produce", "orders", "-f", `%k\t%v\n`)
	first := consumeAll(t, server)
	if len(first) != 90 {
		t.Errorf("the group read %d of 90 records", len(first))
	}
	if again := consumeAll(t, server); len(again) != 0 {
		t.Errorf("the group read %d records a second time", len(again))
	}
	wantGroup(t, describeByCLI(t, server, "g"), "empty", 90, 90)
	cli(t, 0, server, numbers(90, 100), "topic", "produce", "orders", "-f", `%k\t%v\n`)
	wantGroup(t, describeByCLI(t, server, "g"), "empty", 90, 100)

	cli(t, 0, server, nil, "group", "seek", "g", "--to", "start", "--dry-run")
	wantGroup(t, describeByCLI(t, server, "g"), "empty", 90, 100)
	cli(t, 0, server, nil, "group", "seek", "g", "--to", "end")
	wantGroup(t, describeByCLI(t, server, "g"), "empty", 100, 100)
	cli(t, 0, server, nil, "group", "seek", "g", "--to", "start")
	wantGroup(t, describeByCLI(t, server, "g"), "empty", 0, 100)
	if got := cli(t, 1, server, nil, "group", "seek", "g", "--to", "1000"); !strings.Contains(got.stderr, "error: ") {
		t.Errorf("a seek beyond the end: %s", got.stderr)
	}
	groupWithAMember(t, server)

	cli(t, 0, server, nil, "group", "delete", "g", "--yes")
	cli(t, 3, server, nil, "group", "describe", "g")
	if all := consumeAll(t, server); len(all) != 100 {
		t.Errorf("a group that was deleted read %d of 100 records", len(all))
	}
	d.stop(t, syscallTerm, drainTimeout)
}

// groupWithAMember looks at group g, which has to read 100 records, while it has
// a member.
func groupWithAMember(t *testing.T, server string) {
	t.Helper()
	l := &ledger{}
	p := startConsuming(t, l, server, "g", "orders", "only")
	await(t, 10*time.Second, "the member has read all", func() (bool, string) {
		n := len(l.snapshot())
		return n == 100, fmt.Sprint(n)
	})
	type row struct {
		Group   string `json:"group"`
		State   string `json:"state"`
		Members int    `json:"members"`
	}
	list := decode[[]row](t, cli(t, 0, server, nil, "group", "list", "-o", "json").stdout)
	if !slices.Equal(list, []row{{"g", "stable", 1}}) {
		t.Errorf("the list of groups is %+v", list)
	}
	if shown := describeByCLI(t, server, "g"); shown.State != "stable" || len(shown.Members) != 1 || shown.Partitions[0].Member == nil || *shown.Partitions[0].Member != shown.Members[0]["member_id"] {
		t.Errorf("a group with a member: %+v", shown)
	}
	text := cli(t, 0, server, nil, "group", "describe", "g").stdout
	const columns = "TOPIC PARTITION CURRENT-OFFSET LOG-START-OFFSET LOG-END-OFFSET LAG MEMBER-ID CLIENT-ID HOST"
	if !slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool { return strings.Join(strings.Fields(line), " ") == columns }) {
		t.Errorf("group describe has no line %s:\n%s", columns, text)
	}
	if text := cli(t, 0, server, nil, "group", "describe", "g", "-t").stdout; !strings.Contains(text, "orders") {
		t.Errorf("group describe -t:\n%s", text)
	}
	for _, args := range [][]string{{"group", "seek", "g", "--to", "end"}, {"group", "delete", "g", "--yes"}} {
		if got := cli(t, 1, server, nil, args...); !strings.Contains(got.stderr, "members") {
			t.Errorf("%v of a group with a member: %s", args, got.stderr)
		}
	}
	p.stop(t, syscallTerm, 5*time.Second)
	wantGroup(t, describeByCLI(t, server, "g"), "empty", 100, 100)
	staticMember(t, server)
}

// staticMember runs two members under one instance id at the same time.
func staticMember(t *testing.T, server string) {
	t.Helper()
	heard := make(chan string, 1000)
	consume := []string{"topic", "consume", "orders", "-g", "static", "--instance-id", "one", "--session-timeout", "20s", "--commit-interval", "50ms", "-f", `%v\n`}
	p := launchHeard(t, "first", nil, &lines{each: func(line string) { heard <- line }}, logbroker(), slices.Concat([]string{"--server", server}, consume)...)
	<-heard
	if got := cli(t, 1, server, nil, append(consume, "--timeout", "3s")...); !strings.Contains(got.stderr, "UNRELEASED_INSTANCE_ID") || got.stdout != "" {
		t.Errorf("a second member with one instance id: %s", got.stderr)
	}
	await(t, 10*time.Second, "the commits of the first member", func() (bool, string) {
		lag := *describeByCLI(t, server, "static").TotalLag
		return lag == 0, fmt.Sprint(lag)
	})
	p.stop(t, syscallTerm, 5*time.Second)
	if again := strings.Fields(cli(t, 0, server, nil, append(consume, "-e")...).stdout); len(again) != 0 {
		t.Errorf("its successor read %d records again", len(again))
	}
}

// wantGroup demands what is committed of all three partitions together, and
// that the lag says what is left.
func wantGroup(t testing.TB, g groupReply, state string, committed, end int64) {
	t.Helper()
	var at, high, lag int64
	for _, p := range g.Partitions {
		if p.Committed == nil || p.HighWatermark == nil || p.LogStart == nil || p.Lag == nil {
			t.Fatalf("something of a partition is not known: %+v", p)
		}
		if *p.Lag != *p.HighWatermark-*p.Committed || p.Topic != "orders" {
			t.Errorf("the lag of a partition contradicts it: %+v", p)
		}
		at, high, lag = at+*p.Committed, high+*p.HighWatermark, lag+*p.Lag
	}
	if g.Group != "g" || g.State != state || len(g.Members) != 0 || len(g.Partitions) != 3 || at != committed || high != end || g.TotalLag == nil || *g.TotalLag != lag {
		t.Errorf("group describe says %+v; want it %s, with %d of %d committed", g, state, committed, end)
	}
}

// consumeAll reads to the end as group g.
func consumeAll(t testing.TB, server string) []string {
	t.Helper()
	return strings.Fields(cli(t, 0, server, nil, "topic", "consume", "orders", "-g", "g", "-e", "-f", `%v\n`).stdout)
}

// numbers returns lines "key N<tab>N".
func numbers(from, to int) *strings.Reader {
	var text strings.Builder
	for n := from; n < to; n++ {
		fmt.Fprintf(&text, "key %d\t%d\n", n, n)
	}
	return strings.NewReader(text.String())
}
