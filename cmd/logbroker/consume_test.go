package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/internal/cli"
	"logbroker/internal/errcode"
	"logbroker/producer"
)

// ackAtOnce is a sender for benchmarks.
type ackAtOnce struct{}

func (ackAtOnce) SendAsync(_ context.Context, _ producer.Record, done func(producer.Receipt, error)) {
	done(producer.Receipt{Topic: "t", Offset: 1}, nil)
}
func (ackAtOnce) Close(context.Context) error { return nil }

// threeParts is a topic with 0, 3 and 5000 records.
func threeParts() *fakeCluster {
	c := newFakeCluster()
	t := c.addTopic("events", 3)
	for i := range 3 {
		t.add(1, []byte("k"), fmt.Appendf(nil, "one-%d", i))
	}
	for i := range 5000 {
		t.add(2, nil, fmt.Appendf(nil, "two-%d", i))
	}
	return c
}

func TestConsumeExitsAtTheEndsSeenAtStartAndKeepsTheOrder(t *testing.T) {
	r := newRun(t, threeParts(), "").do("topic", "consume", "events", "--from", "start", "-e", "-f", `%p %o %v\n`)
	if r.code != 0 {
		t.Fatal(r.code, r.stderr.String())
	}
	next := map[string]int{}
	names := map[string]string{"1": "one", "2": "two"}
	for line := range strings.Lines(r.stdout.String()) {
		p := strings.Fields(line)[0]
		if want := fmt.Sprintf("%s %d %s-%d\n", p, next[p], names[p], next[p]); line != want {
			t.Fatalf("%q, want %q", line, want)
		}
		next[p]++
	}
	if next["1"] != 3 || next["2"] != 5000 {
		t.Fatal(next)
	}
}

func TestConsumeOfEmptyPartitionsEndsAtOnce(t *testing.T) {
	newRun(t, threeParts(), "").do("topic", "consume", "events", "-p", "0", "-e").want(0, "")
	newRun(t, threeParts(), "").do("topic", "consume", "events", "--from", "end", "-e").want(0, "")
}

func TestConsumePrintsJSONLinesByDefault(t *testing.T) {
	want := `{"topic":"events","partition":1,"offset":0,"timestamp":1000,"key":"k","value":"one-0","headers":[]}` + "\n"
	newRun(t, threeParts(), "").do("topic", "consume", "events", "-p", "1", "-n", "1").want(0, want)
	newRun(t, threeParts(), "").do("topic", "consume", "events", "-p", "1", "-n", "1", "-o", "json").want(0, want)
}

func TestConsumeStopsAfterExactlyNRecords(t *testing.T) {
	for _, n := range []int{1, 4, 4096, 5003} {
		r := newRun(t, threeParts(), "").do("topic", "consume", "events", "-n", fmt.Sprint(n), "-f", `%v\n`)
		if got := strings.Count(r.stdout.String(), "\n"); r.code != 0 || got != n {
			t.Fatalf("-n %d: %d records, exit %d, %s", n, got, r.code, r.stderr.String())
		}
	}
}

func TestConsumeTailsUntilInterrupted(t *testing.T) {
	for _, x := range []struct {
		args string
		code int
	}{{"-f %v\\n", 0}, {"-f %v\\n -n 10000", 1}} {
		c := threeParts()
		r := newRun(t, c, "")
		seen := make(chan struct{})
		r.app.stdout = writerFunc(func(p []byte) (int, error) {
			if strings.Contains(string(p), "late") {
				close(seen)
			}
			return len(p), nil
		})
		go func() {
			s := newFakeSender(c)
			s.SendAsync(t.Context(), producer.Record{Topic: "events", Value: []byte("late")}, func(producer.Receipt, error) {})
			<-seen
			if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
				t.Error(err)
			}
		}()
		if r.do(append([]string{"topic", "consume", "events"}, strings.Fields(x.args)...)...); r.code != x.code {
			t.Fatalf("%s: exit %d, %s", x.args, r.code, r.stderr.String())
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestConsumeEndsQuietlyWhenNobodyReads(t *testing.T) {
	r := newRun(t, threeParts(), "")
	r.app.stdout = failingWriter{cli.ErrOutputClosed}
	if r.do("topic", "consume", "events"); r.code != 0 || r.stderr.Len() > 0 {
		t.Fatal(r.code, r.stderr.String())
	}
	r.app.stdout = failingWriter{errors.New("disk full")}
	r.do("topic", "consume", "events").wantErr(1, "disk full")
}

func TestConsumeEndsWhenWhatItWaitsForIsTrimmed(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("events", 1).start[0] = 10
	consuming := &consuming{app: newRun(t, c, "").app, topic: "events", conn: connection{timeout: time.Second}}
	if !consuming.trimmed(t.Context(), span{partition: 0, start: 2, end: 10}) {
		t.Fatal("nothing before offset 10 can be read any more")
	}
	if consuming.trimmed(t.Context(), span{partition: 0, start: 2, end: 11}) {
		t.Fatal("offset 10 can still be read")
	}
}

func TestConsumeReportsTheErrorOfOnePartition(t *testing.T) {
	c := threeParts()
	r := newRun(t, c, "")
	r.app.newReader = func(_ context.Context, _ connection, p partitionName, _ ...consumer.Option) (recordReader, error) {
		if p.partition == 1 {
			return nil, errcode.New(errcode.OffsetOutOfRange, "gone")
		}
		return &fakeReader{c: c, name: p}, nil
	}
	r.do("topic", "consume", "events").wantErr(1, "events/1: OFFSET_OUT_OF_RANGE: gone")
}

func TestConsumeRefusesWhatItCannotDo(t *testing.T) {
	for args, code := range map[string]int{
		"events -g group -p 1": 2, "nope -g group": 3, "events --from x": 2, "events -n 0": 2, "events -f %v --binary": 2, "events -f %v -o json": 2, "events -o yaml": 2,
		"events -o table": 2, "events -f %q": 2, "events -p -1": 2, "": 2, "nope": 3, "events -p 3": 3, "events -p 1 --from 4": 1, "events -p 1 --from 3 -e": 0,
	} {
		r := newRun(t, threeParts(), "").do(append([]string{"topic", "consume"}, strings.Fields(args)...)...)
		if r.code != code {
			t.Errorf("%s: exit %d, %s", args, r.code, r.stderr.String())
		}
	}
	newRun(t, threeParts(), "").do("topic", "consume", "nope").wantErr(3, `no such topic "nope"; see: logbroker topic list`)
}

func TestSpansFindTheOffsetsToRead(t *testing.T) {
	c := newFakeCluster()
	topic := c.addTopic("t", 1)
	for range 10 {
		topic.add(0, nil, nil)
	}
	topic.start[0] = 2 // offsets 2 to 9, timestamps 1002 to 1009
	a := &app{now: func() time.Time { return time.UnixMilli(1010) }}
	for from, want := range map[string]span{
		"start": {start: 2, policy: consumer.RangeEarliest}, "end": {start: 10, policy: consumer.RangeLatest}, "5": {start: 5}, "10": {start: 10},
		"+0": {start: 2}, "+3": {start: 5}, "+100": {start: 10}, "-0": {start: 10}, "-3": {start: 7}, "-100": {start: 2},
		"@1006": {start: 6}, "@2000": {start: 10}, "@1970-01-01T00:00:01.004Z": {start: 4}, "@-2ms": {start: 8},
	} {
		p, err := parseStartPoint(from)
		if err != nil {
			t.Errorf("%s: %v", from, err)
			continue
		}
		for _, exit := range []bool{false, true} {
			want.end = -1
			if exit {
				want.end = 10
			}
			got, err := (&consuming{app: a, topic: "t", partitions: []int32{0}, from: p, exitAtEnd: exit}).spans(t.Context(), c)
			if err != nil || got[0] != want {
				t.Errorf("--from %s: %+v %v, want %+v", from, got, err, want)
			}
		}
	}
	for _, from := range []string{"1", "11"} {
		p, _ := parseStartPoint(from)
		if _, err := (&consuming{app: a, topic: "t", partitions: []int32{0}, from: p}).spans(t.Context(), c); errcode.Of(err) != errcode.OffsetOutOfRange {
			t.Errorf("--from %s: %v", from, err)
		}
	}
}

func TestStartPointsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, from := range []string{"", "x", "+", "-", "--3", "++3", "+-3", "1.5", "@", "@x", "@-", "@-5", "@2026-01-02", "@-1", "start "} {
		if p, err := parseStartPoint(from); err == nil {
			t.Errorf("--from %q is taken: %+v", from, p)
		}
	}
}

// manyRecords is a reader for benchmarks that never ends.
type manyRecords struct{ records []consumer.Record }

func (m manyRecords) Poll(context.Context, int) ([]consumer.Record, error) { return m.records, nil }
func (manyRecords) Close() error                                           { return nil }

func BenchmarkConsume(b *testing.B) {
	m := manyRecords{make([]consumer.Record, 1000)}
	for i := range m.records {
		m.records[i] = consumer.Record{
			Topic: "events", Offset: int64(i), Timestamp: time.UnixMilli(1700000000000), Key: []byte("package-name"),
			Value: []byte("some text of a line that is about eighty bytes long, more or less...."),
		}
	}
	a := &app{newReader: func(context.Context, connection, partitionName, ...consumer.Option) (recordReader, error) {
		return m, nil
	}}
	records := 0
	for b.Loop() {
		const n = 1_000_000
		ctx, cancel := context.WithCancelCause(b.Context())
		c := &consuming{app: a, conn: connection{timeout: time.Minute}, topic: "events", limited: true, out: newStream(io.Discard, nil), cancel: cancel}
		c.left.Store(n)
		if err := c.readAll(ctx, []span{{end: -1}, {partition: 1, end: -1}}); err != nil {
			b.Fatal(err)
		}
		if err := c.out.close(); err != nil || c.read.Load() != n {
			b.Fatal(err, c.read.Load())
		}
		records += n
	}
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
}
