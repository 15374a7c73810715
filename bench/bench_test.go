package main

import (
	"bytes"
	"encoding/csv"
	"strings"
	"testing"
	"time"

	"logbroker/bench/load"
	"logbroker/internal/cli"
)

// parsed runs complete on the flags of args, as produce does.
func parsed(t *testing.T, args ...string) (load.Spec, error) {
	t.Helper()
	f, cmd := &flags{}, newConsume()
	cmd.ResetFlags()
	f.register(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return f.complete(cmd, load.PhaseProduce)
}

func TestFlagsBecomeTheSpec(t *testing.T) {
	s, err := parsed(t, "--record-size", "1KB", "--payload", "json", "--keys", "9", "--topics", "2", "--partitions", "4", "--producers", "3",
		"--consumers", "5", "--batch-size", "64KiB", "--linger", "2.5ms", "--compression", "lz4", "--records", "1000", "--target-rate", "10", "--seed", "7",
		"--embedded", "2", "--set", "raft.rtt=20ms")
	if err != nil {
		t.Fatal(err)
	}
	want := load.Defaults()
	want.Phases, want.RecordSize, want.Payload, want.Keys, want.Topics, want.Partitions = []string{load.PhaseProduce}, 1000, "json", 9, 2, 4
	want.Producers, want.Consumers, want.BatchBytes, want.LingerMs, want.Compression = 3, 5, 64<<10, 2.5, "lz4"
	want.Records, want.TargetRate, want.Seed, want.Duration, want.Warmup, want.Replicas = 1000, 10, 7, 0, 0, 2
	want.Options = map[string]string{"nodes": "2", "set.raft.rtt": "20ms"}
	if got, expected := jsonOf(t, s), jsonOf(t, want); got != expected {
		t.Errorf("got  %s\nwant %s", got, expected)
	}
}

func jsonOf(t *testing.T, s load.Spec) string {
	t.Helper()
	var b bytes.Buffer
	if err := writeJSON(&b, &load.Document{Turns: []load.Turn{{Spec: s}}}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestWrongFlagsAreUsageErrorsInOneLine(t *testing.T) {
	for _, args := range []string{
		"--payload xml", "--record-size 3", "--compression brotli", "--linger soon", "--batch-size 2MiB", "--buffer 1KiB", "--max-in-flight 0",
		"--records 0", "--records 5 --duration 3s", "--partitions 0", "--embedded 0", "--embedded 1 --replicas 3", "--embedded 3 --server nats://h:1",
		"--in-process --server nats://h:1", "--broker /nowhere/logbrokerd", "--topic orders", "--set raft.rtt", "--set a=b --server nats://h:1",
	} {
		var out bytes.Buffer
		code := cli.Run(newRoot(), append([]string{"produce"}, strings.Fields(args)...), &out, &out)
		if said := out.String(); code != cli.ExitUsage || strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "error: ") {
			t.Errorf("%s: exit code %d\n%s", args, code, said)
		}
	}
}

func TestFilesHoldEveryPhase(t *testing.T) {
	d := &load.Document{Command: "produce", At: time.UnixMilli(1795416249000)}
	d.Add(load.Turn{System: "logbroker", StartedAt: d.At.Add(2 * time.Second), Phases: []load.Result{
		{Phase: "produce", Seconds: 2, MaxMs: 7.5, Histogram: "HISTx", CPUSeconds: 1, Series: []load.Sample{{AtS: 1, Seconds: 1, Records: 5, MB: 0.25, P99Ms: 3}, {AtS: 2, Seconds: 1, Records: 6}}},
		{Phase: "consume", Seconds: 1, CPUSeconds: 2, Series: []load.Sample{{AtS: 1, Seconds: 1, Records: 11}}},
	}})
	var b bytes.Buffer
	if err := writeCSV(&b, d); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil || len(rows) != 4 || strings.Join(rows[1], " ") != "logbroker  produce 1.000 1.000 5 0.250 3.000" {
		t.Errorf("%v, %v", rows, err)
	}
	b.Reset()
	if err := writeHDR(&b, d); err != nil {
		t.Fatal(err)
	}
	if text := b.String(); !strings.Contains(text, "\nTag=produce,2.000,2.000,7.500,HISTx\n") || strings.Contains(text, "Tag=consume") {
		t.Errorf("%s", text)
	}
	if d.CPUSeconds != 3 {
		t.Errorf("%g CPU-s in all, want 3", d.CPUSeconds)
	}
}

func TestSweepChecksEveryPointFirst(t *testing.T) {
	var out bytes.Buffer
	if code := cli.Run(newRoot(), []string{"sweep", "size", "--values", "128,3", "--broker", binaries}, &out, &out); code != cli.ExitUsage {
		t.Errorf("exit code %d\n%s", code, out.String())
	}
	f, cmd := &flags{}, newConsume()
	cmd.ResetFlags()
	f.register(cmd)
	points, err := f.points(cmd, dimensions()[1], []string{"1", "5"})
	if err != nil {
		t.Fatal(err)
	}
	if points[0].spec.Options[optionNodes] != "1" || points[1].spec.Options[optionNodes] != "5" || points[0].spec.Replicas != 1 || points[1].spec.Replicas != 3 {
		t.Errorf("%+v", points)
	}
}
