package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/internal/cli"
	"logbroker/internal/protocol"
)

func TestConsumeInAGroupGoesOnWhereItEnded(t *testing.T) {
	c := threeParts()
	r := newRun(t, c, "")
	r.do("topic", "consume", "events", "-g", "g", "-n", "2", "-f", `%p %o\n`).want(0, "1 0\n1 1\n")
	r.do("topic", "consume", "events", "-g", "g", "-n", "3", "-f", `%p %o\n`).want(0, "1 2\n2 0\n2 1\n")
	r.do("topic", "consume", "events", "-g", "g", "-e", "-f", `%p %o\n`)
	if n := strings.Count(r.stdout.String(), "\n"); r.code != 0 || n != 4998 {
		t.Fatal(r.code, n, r.stderr.String())
	}
	r.do("topic", "consume", "events", "-g", "g", "-e").want(0, "")
	c.topics["events"].add(0, []byte("k"), []byte("late"))
	r.do("topic", "consume", "events", "-g", "g", "-n", "1").want(0, `{"topic":"events","partition":0,"offset":0,"timestamp":1000,"key":"k","value":"late","headers":[]}`+"\n")
}

// member makes consume -g use a reader that the test looks at.
func (r *run) member(c *fakeCluster) *fakeGroupReader {
	g := newFakeGroupReader(c, "g", "events")
	r.app.newConsumer = func(context.Context, connection, string, string, ...consumer.Option) (groupReader, error) {
		return g, nil
	}
	return g
}

func TestConsumeInAGroupMarksOnlyWhatWasWritten(t *testing.T) {
	r := newRun(t, threeParts(), "")
	g := r.member(r.c)
	r.app.stdout = writerFunc(func(p []byte) (int, error) {
		n := strings.Count(string(p), "\n")
		if len(g.events) == 4 {
			return 0, errors.New("disk full")
		}
		g.events = append(g.events, fmt.Sprint("write ", n))
		return len(p), nil
	})
	r.do("topic", "consume", "events", "-g", "g", "-f", `%v\n`).wantErr(1, "disk full")
	if want := []string{"write 3", "mark 3", "write 1000", "mark 1000"}; !slices.Equal(g.events, want) || !g.ended {
		t.Fatalf("%q, drained %v", g.events, g.ended)
	}
	r = newRun(t, threeParts(), "")
	g = r.member(r.c)
	r.app.stdout = failingWriter{cli.ErrOutputClosed}
	if r.do("topic", "consume", "events", "-g", "g"); r.code != 0 || r.stderr.Len() > 0 || len(g.events) > 0 || !g.ended {
		t.Fatal(r.code, r.stderr.String(), g.events)
	}
}

func TestConsumeInAGroupDrainsWhenItIsTerminated(t *testing.T) {
	for _, x := range []struct {
		args string
		code int
	}{{"-f %v\\n", 0}, {"-f %v\\n -n 100000", 1}} {
		r := newRun(t, threeParts(), "")
		g := r.member(r.c)
		written := 0
		r.app.stdout = writerFunc(func(p []byte) (int, error) {
			if written += strings.Count(string(p), "\n"); written == 5003 {
				if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
					t.Error(err)
				}
			}
			return len(p), nil
		})
		if r.do(append([]string{"topic", "consume", "events", "-g", "g"}, strings.Fields(x.args)...)...); r.code != x.code || !g.ended {
			t.Fatalf("%s: exit %d, %s", x.args, r.code, r.stderr.String())
		}
		if at := r.c.groups["g"][partitionName{"events", 2}]; at != 5000 {
			t.Fatal(at)
		}
	}
}

func TestConsumeToTheEndLooksAtWhatOthersRead(t *testing.T) {
	c := threeParts()
	r := newRun(t, c, "")
	g := r.member(c)
	g.owned = []int32{1}
	waits := 0
	r.app.dial = func(context.Context, connection) (backend, error) {
		if waits++; waits == 3 { // another member gets there
			c.commit("g", "events", 2, 5000)
		}
		return c, nil
	}
	r.do("topic", "consume", "events", "-g", "g", "-e", "-f", `%v\n`).want(0, "one-0\none-1\none-2\n")
	if waits < 3 {
		t.Fatal(waits)
	}
}

func TestFromOfAGroupAppliesOnlyWhereNothingIsCommitted(t *testing.T) {
	c := threeParts()
	c.commit("g", "events", 1, 1)
	g := newFakeGroupReader(c, "g", "events")
	from, err := parseStartPoint("-2")
	if err != nil {
		t.Fatal(err)
	}
	x := &consuming{app: newRun(t, c, "").app, topic: "events", group: "g", from: from, conn: connection{timeout: time.Second}}
	assigned := []consumer.TopicPartition{{Topic: "events", Partition: 1}, {Topic: "events", Partition: 2}}
	if err := x.seekFresh(t.Context(), g, assigned); err != nil || g.at[1] != 1 || g.at[2] != 4998 {
		t.Fatal(err, g.at)
	}
}

func describedGroup() *protocol.GroupDescription {
	at, start, end, lag := int64(40), int64(0), int64(42), int64(2)
	return &protocol.GroupDescription{
		Group: "g", State: protocol.GroupStable, GroupEpoch: 3, Assignor: "uniform", Coordinator: 2, TotalLag: 2, Incomplete: true,
		Members: []protocol.GroupMember{{MemberID: "m-1", ClientID: "app", Host: "h"}},
		Partitions: []protocol.GroupPartition{
			{Topic: "a", Partition: 0, Committed: &at, LogStart: &start, LogEnd: &end, Lag: &lag, MemberID: "m-1", ClientID: "app", Host: "h"},
			{Topic: "a", Partition: 1},
		},
		Topics: []protocol.GroupTopicLag{{Topic: "a", Lag: 2, Incomplete: true}},
	}
}

func TestGroupDescribePrintsTheColumnsOfRpk(t *testing.T) {
	c := newFakeCluster()
	r := newRun(t, c, "")
	r.do("group", "describe", "g").wantErr(3, `no such group "g"; see: logbroker group list`)
	c.described = describedGroup()
	c.looks = 0
	head := "GROUP        g\nCOORDINATOR  2\nSTATE        stable\nBALANCER     uniform\nMEMBERS      1\nTOTAL-LAG    2 (and what is not known)\n\n"
	r.do("group", "describe", "g").want(0, head+
		"TOPIC  PARTITION  CURRENT-OFFSET  LOG-START-OFFSET  LOG-END-OFFSET  LAG  MEMBER-ID  CLIENT-ID  HOST\n"+
		"a      0          40              0                 42              2    m-1        app        h\n"+
		"a      1          -               -                 -               -    -          -          -\n")
	r.do("group", "describe", "g", "-t").want(0, head+"TOPIC  LAG\na      >=2\n")
	c.looks = 0
	r.do("group", "describe", "g", "-o", "json")
	var got struct {
		Group      string `json:"group"`
		State      string `json:"state"`
		TotalLag   int64  `json:"total_lag"`
		Members    []any  `json:"members"`
		Partitions []map[string]any
	}
	if err := json.Unmarshal(r.stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Group != "g" || got.State != "stable" || got.TotalLag != 2 || len(got.Members) != 1 || len(got.Partitions) != 2 {
		t.Fatalf("%+v", got)
	}
	for _, name := range []string{"committed", "log_start", "high_watermark", "lag", "member"} {
		if v, there := got.Partitions[1][name]; !there || v != nil {
			t.Errorf("%s is %v, want null", name, v)
		}
	}
	if p := got.Partitions[0]; p["committed"] != 40.0 || p["high_watermark"] != 42.0 || p["lag"] != 2.0 || p["member"] != "m-1" {
		t.Errorf("%v", p)
	}
}

func TestGroupDescribeWatches(t *testing.T) {
	c := newFakeCluster()
	c.described = describedGroup()
	r := newRun(t, c, "")
	seen := 0
	r.app.stdout = writerFunc(func(p []byte) (int, error) {
		if seen++; seen == 3 {
			if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
				t.Error(err)
			}
		}
		return len(p), nil
	})
	if r.do("group", "describe", "g", "-w", "-t"); r.code != 0 || seen < 3 {
		t.Fatal(r.code, seen, r.stderr.String())
	}
}

func TestGroupListAndDelete(t *testing.T) {
	c := newFakeCluster()
	r := newRun(t, c, "")
	r.do("group", "list", "-o", "json").want(0, "[]\n")
	c.commit("a", "t", 0, 1)
	c.commit("busy", "t", 0, 1)
	r.do("group", "list").want(0, "GROUP  STATE  MEMBERS  TOPICS  COORDINATOR\na      empty  0        1       2\nbusy   empty  0        1       2\n")
	r.do("group", "delete", "a").wantErr(2, "--yes")
	r.do("group", "delete", "x", "--yes").wantErr(3, `no such group "x"`)
	r.do("group", "delete", "busy", "--yes").wantErr(1, "has members; stop them first", "NON_EMPTY_GROUP")
	r.do("group", "delete", "a", "--yes").wantErr(0, `deleted group "a"`)
	if c.groups["a"] != nil {
		t.Fatal("it is still there")
	}
}

func TestGroupSeekComputesTheOffsets(t *testing.T) {
	c := threeParts()
	c.commit("g", "events", 1, 2)
	c.commit("g", "gone", 0, 2)
	c.commit("busy", "events", 1, 2)
	r := newRun(t, c, "")
	r.do("group", "seek", "g", "--to", "start").wantErr(3, `no such topic "gone"`)
	delete(c.groups["g"], partitionName{"gone", 0})
	r.do("group", "seek", "g", "--to", "end", "--dry-run").want(0, "TOPIC   PARTITION  PRIOR-OFFSET  CURRENT-OFFSET\nevents  0          -             0\nevents  1          2             3\nevents  2          -             5000\n")
	for args, want := range map[string]string{
		"g --to end -d":                 "seek g events/2 5000 true",
		"g --to start":                  "seek g events/1 0 false",
		"g --to 2 -t events -p 1":       "seek g events/1 2 false",
		"new --to @1004 -t events -p 2": "seek new events/2 4 false",
		"g --to -5":                     "seek g events/2 4995 false",
	} {
		c.calls = nil
		if r.do(append([]string{"group", "seek"}, strings.Fields(args)...)...); r.code != 0 || !slices.Contains(c.calls, want) {
			t.Errorf("%s: exit %d, %q, %s", args, r.code, c.calls, r.stderr.String())
		}
	}
	c.calls = nil
	r.do("group", "seek", "g", "--to", "4").wantErr(1, "OFFSET_OUT_OF_RANGE")
	r.do("group", "seek", "nope", "--to", "start").wantErr(3, `no such group "nope"`)
	r.do("group", "seek", "busy", "--to", "start").wantErr(1, "has members; stop them first")
	if len(c.calls) > 0 {
		t.Error(c.calls)
	}
	r.do("group", "seek", "g", "--to", "start", "-o", "json", "-t", "events", "-p", "1").want(0, "[\n  {\n    \"topic\": \"events\",\n    \"partition\": 1,\n    \"prior_offset\": 2,\n    \"current_offset\": 0\n  }\n]\n")
}

func TestConsumeInAGroupPassesOnHowToBeAMember(t *testing.T) {
	for args, want := range map[string][]string{
		"": {},
		"--session-timeout 5s --commit-interval 250ms --instance-id one": {"WithSessionTimeout", "WithAutoCommit", "WithInstanceID"},
	} {
		r := newRun(t, threeParts(), "")
		var passed string
		r.app.newConsumer = func(ctx context.Context, _ connection, group, topic string, opts ...consumer.Option) (groupReader, error) {
			// A reader takes none of them, and names them.
			_, err := consumer.NewReader(ctx, nil, topic, 0, opts...)
			passed = err.Error()
			return newFakeGroupReader(r.c, group, topic), nil
		}
		r.do(append([]string{"topic", "consume", "events", "-g", "g", "-n", "1", "-f", `%o\n`}, strings.Fields(args)...)...).want(0, "0\n")
		for _, option := range []string{"WithSessionTimeout", "WithAutoCommit", "WithInstanceID"} {
			if strings.Contains(passed, option) != slices.Contains(want, option) {
				t.Errorf("%q passes on: %s", args, passed)
			}
		}
	}
}

func TestBadGroupArgumentsAreUsageErrorsThatSayWhatToDo(t *testing.T) {
	long := strings.Repeat("g", 250)
	for _, x := range []struct {
		args string
		code int
		want string
	}{
		{"topic consume events --group=", 2, "group name is empty"},
		{"topic consume events -g " + long, 2, "249"},
		{"topic consume events -g a..b", 2, "group name"},
		{"topic consume events -g a\x01b", 2, "group name"},
		{"topic consume nope -g g", 3, "see: logbroker topic list"},
		{"topic consume events -g g -p 1", 2, "leave out -p"},
		{"topic consume events --session-timeout 5s", 2, "-g"},
		{"topic consume events --commit-interval 5s", 2, "-g"},
		{"topic consume events --instance-id a", 2, "-g"},
		{"topic consume events -g g --session-timeout 999ms", 2, "between 1s and 30m0s"},
		{"topic consume events -g g --session-timeout 31m", 2, "between 1s and 30m0s"},
		{"topic consume events -g g --session-timeout 5", 2, "session-timeout"},
		{"topic consume events -g g --commit-interval 0s", 2, "at least 10ms"},
		{"topic consume events -g g --instance-id=", 2, "1 to 249 bytes"},
		{"topic consume events -g g --instance-id " + long, 2, "1 to 249 bytes"},
		{"group describe nope", 3, "see: logbroker group list"},
		{"group delete nope --yes", 3, "see: logbroker group list"},
		{"group seek g", 2, "--to"},
		{"group seek g --to sideways", 2, "--to"},
		{"group seek g --to start -p 0", 2, "--topic"},
		{"group seek g --to start -t nope", 3, "see: logbroker topic list"},
		{"group seek g --to start -t events -p 7", 3, "see: logbroker topic describe events"},
		{"group seek g --to start -t events -p -1", 2, "negative"},
		{"group seek nope --to start", 3, "see: logbroker group list"},
		{"group seek g --to 9 -t events", 1, "OFFSET_OUT_OF_RANGE"},
	} {
		r := newRun(t, threeParts(), "")
		r.do(strings.Split(x.args, " ")...)
		if r.code != x.code || !strings.Contains(r.stderr.String(), x.want) || r.stdout.Len() > 0 {
			t.Errorf("%q: exit %d, %s%s; want %d, %q", x.args, r.code, r.stdout.String(), r.stderr.String(), x.code, x.want)
		}
	}
}
