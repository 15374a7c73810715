package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"logbroker/internal/cli"
	"logbroker/internal/failures"
	"logbroker/internal/stall"
)

func runDemo(o *demoOptions, stdin io.Reader, args ...string) (code int, out, notes string) {
	var stdout, stderr bytes.Buffer
	cmd := newDemoOf(o)
	cmd.SetIn(stdin)
	code = cli.Run(cmd, args, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

// enters is an input of Enter after Enter, which counts them.
type enters int

func (e *enters) Read(b []byte) (int, error) {
	*e++
	b[0] = '\n'
	return 1, nil
}

// demoMax is how long a scenario may take.
const demoMax = 30 * time.Second

func TestDemoTellsAScenarioAndItsOutcome(t *testing.T) {
	input := enters(0)
	stalls := stall.Start(t)
	began := stalls.Mark()
	code, out, notes := runDemo(&demoOptions{}, &input, "--scenario", "2", "--pause")
	if took := stalls.Since(began); took > demoMax {
		t.Errorf("it took %v", took)
	}
	if code != cli.ExitOK {
		t.Fatalf("exit %d: %s%s", code, out, notes)
	}
	for _, want := range []string{"Scenario 2", "A  leader", "A  down", "order-1 ?", "order-1 ✓", "1 without an answer", "Outcome: right.", " 0 lost, 0 duplicated; the batch lies at offset"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if steps := strings.Count(notes, "Enter: on"); steps < 5 || int(input) != steps {
		t.Errorf("it paused %d times, and waited for %d Enters", steps, input)
	}
}

// demoLine is a line of -o json: a step or the outcome.
type demoLine struct {
	Step     int    `json:"step"`
	Event    string `json:"event"`
	Replicas []struct {
		Node               uint64
		Role               string
		Term, Last, Commit uint64
		Tail               []failures.Entry
	}
	Client *struct{ Sent, Acked, Unknown int }

	Scenario                        int
	OK                              *bool `json:"ok"`
	Stored, Acked, Lost, Duplicated int
	Offsets                         []int64
}

func demoLines(t *testing.T, out string) (lines []demoLine) {
	t.Helper()
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var l demoLine
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	return lines
}

func TestDemoOfABrokenBrokerFails(t *testing.T) {
	for _, broken := range []bool{false, true} {
		code, out, notes := runDemo(&demoOptions{cluster: failures.Options{NoDeduplication: broken}}, strings.NewReader(""), "--scenario", "3", "-o", "json")
		lines := demoLines(t, out)
		if len(lines) < 5 {
			t.Fatalf("exit %d, %d lines: %s", code, len(lines), notes)
		}
		for i, l := range lines[:len(lines)-1] {
			if l.Step != i+1 || l.Event == "" || len(l.Replicas) != 3 || l.Client == nil || l.OK != nil {
				t.Errorf("step %d is %+v", i+1, l)
			}
		}
		last := lines[len(lines)-1]
		if last.OK == nil || last.Scenario != 3 {
			t.Fatalf("the last line is %+v", last)
		}
		right := code == cli.ExitOK && *last.OK && last.Duplicated == 0 && last.Stored == last.Acked && len(last.Offsets) == 1 && last.Offsets[0] == int64(last.Stored-1)
		wrong := code == cli.ExitFailure && !*last.OK && last.Duplicated == 1 && last.Stored == last.Acked+1
		if broken && !wrong || !broken && !right {
			t.Errorf("brokers without de-duplication: %t, exit %d, outcome %+v", broken, code, last)
		}
	}
}

func TestDemoRefusesWhatThereIsNot(t *testing.T) {
	for _, args := range [][]string{{"--scenario", "8"}, {"--scenario", "-1"}, {"-o", "xml"}, {"more"}} {
		if code, _, notes := runDemo(&demoOptions{}, strings.NewReader(""), args...); code != cli.ExitUsage || notes == "" {
			t.Errorf("%v: exit %d, %q", args, code, notes)
		}
	}
}
