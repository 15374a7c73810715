package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"logbroker/internal/cli"
	"logbroker/internal/errcode"
	"logbroker/producer"
)

func stored(c *fakeCluster, topic string, partition int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, r := range c.topics[topic].stored[partition] {
		key := "null"
		if r.Key != nil {
			key = fmt.Sprintf("%q", r.Key)
		}
		out = append(out, fmt.Sprintf("%s=%s", key, r.Value))
	}
	return strings.Join(out, " ")
}

func TestProducePrintsWhereEveryRecordIs(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("events", 2)
	r := newRun(t, c, "a\n\nc")
	r.do("topic", "produce", "events", "-p", "1").
		want(0, "Produced to partition 1 at offset 0.\nProduced to partition 1 at offset 1.\nProduced to partition 1 at offset 2.\n")
	if got := stored(c, "events", 1); got != "null=a null= null=c" {
		t.Fatal(got)
	}
	if r.stderr.Len() > 0 {
		t.Fatalf("stderr is not a terminal, and holds %q", r.stderr.String())
	}
}

func TestProduceJSONIsOneLineARecord(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("events", 1)
	newRun(t, c, "7 a\n8 b\n").do("topic", "produce", "events", "-f", `%d %v`, "-o", "json").
		want(0, `{"topic":"events","partition":0,"offset":0,"timestamp":7}`+"\n"+`{"topic":"events","partition":0,"offset":1,"timestamp":8}`+"\n")
}

func TestProduceTellsEmptyKeysFromNone(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("events", 1)
	newRun(t, c, "\tv\nk\tw\n").do("topic", "produce", "events", "-f", `%k\t%v\n`, "-q").want(0, "")
	newRun(t, c, "x\n").do("topic", "produce", "events", "-k", "", "-q").want(0, "")
	newRun(t, c, "y\n").do("topic", "produce", "events", "-q").want(0, "")
	newRun(t, c, "gone\n").do("topic", "produce", "events", "-f", "%k", "-q").want(0, "")
	if got := stored(c, "events", 0); got != `""=v "k"=w ""=x null=y "gone"=` {
		t.Fatal(got)
	}
	if c.topics["events"].stored[0][4].Value != nil {
		t.Fatal("without a value in the format, the value is null")
	}
}

func TestProduceTakesHeadersTopicsAndPartitionsFromTheLine(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("a", 2)
	c.addTopic("b", 2)
	newRun(t, c, "a 1 x:1,y:2 v\nb 0  w\n").do("topic", "produce", "-f", "%t %p %h %v", "-H", "all:z", "-q").want(0, "")
	if got := c.topics["a"].stored[1][0].Headers; len(got) != 3 || got[0].Key != "all" || got[2].Key != "y" || string(got[2].Value) != "2" {
		t.Fatal(got)
	}
	if got := c.topics["b"].stored[0][0]; len(got.Headers) != 1 || string(got.Value) != "w" {
		t.Fatal(got)
	}
}

func TestProduceEndsAtALineThatDoesNotMatchAfterSendingTheRest(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("events", 1)
	r := newRun(t, c, "k\tv\nk\tw\nno tab\nk\tx\n").do("topic", "produce", "events", "-f", `%k\t%v\n`)
	r.wantErr(1, "line 3", `%k\t%v\n`)
	if got := stored(c, "events", 0); got != `"k"=v "k"=w` || strings.Count(r.stdout.String(), "\n") != 2 {
		t.Fatal(got, r.stdout.String())
	}
}

func TestProduceNamesARecordThatIsTooLargeAndLosesNothingElse(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("events", 1)
	c.refuse = func(r producer.Record) error {
		if len(r.Value) > 1<<20 {
			return fmt.Errorf("%w: much (%w)", producer.ErrRecordTooLarge, errcode.New(errcode.MessageTooLarge, ""))
		}
		return nil
	}
	input := "a\n" + strings.Repeat("x", 2<<20) + "\nb\n" + strings.Repeat("y", 9<<20) + "\nc\n"
	r := newRun(t, c, input).do("topic", "produce", "events", "-q")
	r.wantErr(1, "line 2: ", "line 4: ", "MESSAGE_TOO_LARGE", "2 records were not acked, 3 were")
	if got := stored(c, "events", 0); got != "null=a null=b null=c" {
		t.Fatal(got)
	}
}

func TestProduceStopsReadingWhenRecordsCannotBeDelivered(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("events", 1)
	c.refuse = func(producer.Record) error { return producer.ErrDeliveryTimeout }
	in, w := io.Pipe() // never ends
	defer w.Close()
	go io.WriteString(w, "a\n")
	r := newRun(t, c, "")
	r.stdin = in
	r.do("topic", "produce", "events").wantErr(1, "line 1: the record was not stored")
}

func TestProduceSendsWhatWasReadOnInterrupt(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("events", 1)
	grown := c.grown
	in, w := io.Pipe()
	defer w.Close()
	go func() {
		io.WriteString(w, "a\n")
		<-grown
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
			t.Error(err)
		}
	}()
	r := newRun(t, c, "")
	r.stdin = in
	r.do("topic", "produce", "events").want(0, "Produced to partition 0 at offset 0.\n")
}

func TestProduceNeedsTheTopicOrCreatesIt(t *testing.T) {
	c := newFakeCluster()
	newRun(t, c, "a\n").do("topic", "produce", "events").
		wantErr(3, `no such topic "events"; create it with: logbroker topic create events, or add --create`)
	newRun(t, c, "a\n").do("topic", "produce", "events", "--create").want(0, "Produced to partition 0 at offset 0.\n")
	newRun(t, c, "b\n").do("topic", "produce", "events", "--create").want(0, "Produced to partition 0 at offset 1.\n")
	newRun(t, c, "b\n").do("topic", "produce", "events", "-p", "5").wantErr(3, "partitions 0 to 0, not 5")
}

func TestProduceGoesOnWhenNobodyReadsItsAcks(t *testing.T) {
	c := newFakeCluster()
	c.addTopic("events", 1)
	r := newRun(t, c, strings.Repeat("line\n", 20_000))
	r.app.stdout = failingWriter{cli.ErrOutputClosed}
	if r.do("topic", "produce", "events"); r.code != 0 || len(c.topics["events"].stored[0]) != 20_000 {
		t.Fatal(r.code, r.stderr.String())
	}
	r.app.stdout = failingWriter{errors.New("disk full")}
	r.stdin = strings.NewReader("x\n")
	r.do("topic", "produce", "events").wantErr(1, "writing acks: disk full")
}

func TestProduceRefusesFlagsThatContradict(t *testing.T) {
	c := newFakeCluster()
	for _, args := range []string{"", "x -f %t\\n", "x -k a -f %k", "x -p 1 -f %p", "x -p -1", "x -H novalue", "x -z lzma", "x -o yaml", "x y", "x -f %o%v"} {
		r := newRun(t, c, "").do(append([]string{"topic", "produce"}, strings.Fields(args)...)...)
		if r.code != cli.ExitUsage {
			t.Errorf("%s: exit %d, %s", args, r.code, r.stderr.String())
		}
	}
	if len(c.dials) > 0 {
		t.Error("a usage error came after the connection")
	}
}

func TestProgressShowsCountAndRateOnATerminalOnly(t *testing.T) {
	if got := progressLine("acked", 1234567, 5000, 2*time.Second); got != "1,234,567 records acked, 2,500/s" {
		t.Error(got)
	}
	c := newFakeCluster()
	c.addTopic("events", 1)
	for _, x := range []struct {
		stdout, stderr, quiet, want bool
	}{{false, true, false, true}, {true, true, true, true}, {true, true, false, false}, {false, false, false, false}} {
		r := newRun(t, c, "a\nb\n")
		r.app.stdoutTerminal, r.app.stderrTerminal = x.stdout, x.stderr
		args := []string{"topic", "produce", "events"}
		if x.quiet {
			args = append(args, "-q")
		}
		if got := strings.Contains(r.do(args...).stderr.String(), "2 records acked"); got != x.want {
			t.Errorf("%+v: stderr %q", x, r.stderr.String())
		}
	}
}

func BenchmarkProduce(b *testing.B) {
	input := strings.Repeat("package-name\tsome text of a line that is about eighty bytes long, more or less....\n", 100_000)
	records := 0
	for b.Loop() {
		a := &app{stdin: strings.NewReader(input), stdout: io.Discard, stderr: io.Discard, now: time.Now}
		f, err := parseInputFormat(`%k\t%v\n`)
		if err != nil {
			b.Fatal(err)
		}
		p := &producing{app: a, format: f, topic: "t", known: map[string]bool{}, acks: newStream(io.Discard, nil)}
		p.sender = ackAtOnce{}
		if err := p.sendAll(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := p.acks.close(); err != nil {
			b.Fatal(err)
		}
		records += int(p.acked.Load())
	}
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
}
