package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"logbroker/bench/load"
	"logbroker/internal/cli"
)

func TestCompareRefusesWhatItDoesNotDo(t *testing.T) {
	for _, args := range []string{
		"--rounds 0", "--systems nats", "--systems jetstream_always", "--systems logbroker,logbroker", "--peer redis=h:1", "--peer kafka=",
		"--server nats://h:1", "--in-process", "--embedded 5", "--csv x", "--target-rate 5", "--records 5", "--phases e2e", "--phases latency",
		"--option path", "--option colour=red", "--payload xml",
	} {
		var out bytes.Buffer
		code := cli.Run(newRoot(), append([]string{"compare"}, strings.Fields(args)...), &out, &out)
		if said := out.String(); code != cli.ExitUsage || strings.Count(said, "\n") != 1 {
			t.Errorf("%s: exit code %d\n%s", args, code, said)
		}
	}
}

func TestCompareSaysWhoDoesWhat(t *testing.T) {
	c := &comparison{}
	cmd := newCompare()
	cmd.ResetFlags()
	c.register(cmd)
	c.registerComparison(cmd)
	if err := cmd.ParseFlags([]string{"--peer", "kafka=h:9092", "--option", "path=async"}); err != nil {
		t.Fatal(err)
	}
	spec, err := c.completeComparison(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if len(spec.Phases) != 4 || spec.Duration.Duration() != compareDuration || spec.Warmup.Duration() != compareWarmup || spec.Replicas != 3 || spec.Options["path"] != "async" {
		t.Errorf("spec %+v", spec)
	}
	entrants, err := c.entrants("self", "peers")
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, e := range entrants {
		said = append(said, strings.Join(append([]string{e.System, e.Path}, e.Args...), " "))
	}
	want := "logbroker self driver; jetstream_always peers jetstream --sync always; jetstream_default peers jetstream --sync default; " +
		"raw_dragonboat peers dragonboat; kafka peers kafka --broker h:9092"
	if got := strings.Join(said, "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestReportWritesThePageAndTheDocument(t *testing.T) {
	dir := t.TempDir()
	result := filepath.Join(dir, "result.json")
	raw, err := json.Marshal(load.Document{Format: load.DocumentFormat, Command: "produce", Turns: []load.Turn{{System: "logbroker", Phases: []load.Result{{Phase: "produce", RecordsPerS: 1234}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(result, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (int, string) {
		var out bytes.Buffer
		return cli.Run(newRoot(), append([]string{"report"}, args...), &out, &out), out.String()
	}
	if code, said := run(result, "--output", "-"); code != cli.ExitOK || !strings.Contains(said, "1,234") || !strings.HasPrefix(said, "<!DOCTYPE html>") {
		t.Errorf("exit code %d: %s", code, said)
	}
	document := filepath.Join(dir, "PERFORMANCE.md")
	if code, said := run(result, "--markdown", document); code != cli.ExitOK || said != "" {
		t.Errorf("exit code %d: %s", code, said)
	}
	if text, err := os.ReadFile(document); err != nil || !strings.Contains(string(text), "1,234") {
		t.Errorf("%v: %s", err, text)
	}
	for _, args := range [][]string{nil, {filepath.Join(dir, "none.json")}, {result, "--output", dir}} {
		if code, said := run(args...); code == cli.ExitOK || strings.Count(said, "\n") != 1 {
			t.Errorf("%v: exit code %d: %s", args, code, said)
		}
	}
}
