package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"logbroker/bench/load"
)

// TestMain lets Run start this binary as the process of a turn.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "turn" {
		os.Exit(fakeTurn(os.Args[2], os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// fakeTurn answers as a system that makes 1000 records/s (fast), 250 (slow),
// that fails, hangs, or ends without a word.
func fakeTurn(name string, in io.Reader, out io.Writer) int {
	var spec load.Spec
	if err := json.NewDecoder(in).Decode(&spec); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 2
	}
	if err := os.WriteFile(spec.Dir+"/data", []byte("x"), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	rate := map[string]float64{"fast": 1000, "slow": 250}[name]
	switch name {
	case "failing":
		fmt.Fprintln(os.Stderr, "error: the disk is full")
		return 1
	case "hanging":
		select {}
	case "silent":
		return 0
	}
	turn := load.Turn{System: name, Spec: spec, Settings: map[string]string{"colour": name}, Durability: "none"}
	for _, phase := range spec.Phases {
		turn.Phases = append(turn.Phases, load.Result{
			Phase: phase, Records: 10, RecordsPerS: rate, MBPerS: rate / 1000, P50Ms: 1000 / rate, P99Ms: 2000 / rate,
			CPUSPerMillion: 500 / rate, PerProcess: []load.ProcessUse{{PID: 1}},
		})
	}
	_ = json.NewEncoder(out).Encode(turn)
	return 0
}

func entrant(name string, without ...string) Entrant {
	return Entrant{System: name, Path: os.Args[0], Args: []string{"turn", name}, Without: without}
}

func fakePlan(t *testing.T, entrants ...Entrant) Plan {
	spec := load.Defaults()
	spec.Phases = []string{load.PhaseProduce, load.PhaseLatency, load.PhaseConsume}
	return Plan{Spec: spec, Entrants: entrants, Rounds: 2, Dir: t.TempDir(), TurnTimeout: 2 * time.Minute}
}

func TestRunTakesTurnsInOrderAndLeavesNoData(t *testing.T) {
	plan := fakePlan(t, entrant("fast"), entrant("slow", load.PhaseConsume))
	var order []string
	plan.Before = func(round int, system string) { order = append(order, fmt.Sprint(round, system)) }
	rows, turns, err := Run(t.Context(), plan)
	if err != nil || len(rows) != 4 || len(turns) != 4 {
		t.Fatalf("%d rows, %d turns, %v", len(rows), len(turns), err)
	}
	if got := strings.Join(order, " "); got != "1fast 1slow 2fast 2slow" {
		t.Errorf("order %s", got)
	}
	for _, r := range rows {
		if r.Failed != "" {
			t.Errorf("%s failed: %s", r.System, r.Failed)
		}
		if (r.ConsumeRecordsPerS == nil) != (r.System == "slow") {
			t.Errorf("%s: consume %v", r.System, r.ConsumeRecordsPerS)
		}
	}
	left, err := os.ReadDir(plan.Dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestTurnsThatFailAreRowsThatSayWhy(t *testing.T) {
	plan := fakePlan(t, entrant("fast"), entrant("failing"), entrant("silent"),
		Entrant{System: "liar", Path: os.Args[0], Args: []string{"turn", "slow"}}, Entrant{System: "absent", Path: "/nonexistent"})
	plan.Rounds = 1
	rows, turns, err := Run(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "the disk is full", "reading its turn", `of system "slow"`, "cannot start"} {
		if !strings.Contains(rows[i].Failed, want) || (want == "") != (rows[i].Failed == "") {
			t.Errorf("%s: failed %q, want %q", rows[i].System, rows[i].Failed, want)
		}
		if want != "" && rows[i].RecordsPerS != nil {
			t.Errorf("%s failed and has figures", rows[i].System)
		}
	}
	d := Summarize(load.Document{}, "fast", plan, rows, turns)
	if r := d.Ratios["failing"]; r.Median != nil || r.FailedRounds != 1 {
		t.Errorf("ratio to a system that failed: %+v", r)
	}
	var out bytes.Buffer
	if err := d.Print(&out); err != nil || !strings.Contains(out.String(), "round 1, failing: FAILED: ") {
		t.Errorf("%v: the tables do not say what failed:\n%s", err, out.String())
	}
}

func TestATurnThatHangsFails(t *testing.T) {
	plan := fakePlan(t, entrant("hanging"))
	plan.Rounds, plan.TurnTimeout = 1, 20*time.Millisecond
	rows, _, err := Run(t.Context(), plan)
	if err != nil || len(rows) != 1 || !strings.Contains(rows[0].Failed, "not done after 20ms") {
		t.Errorf("rows %+v, error %v", rows, err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	plan := fakePlan(t, entrant("fast"), entrant("hanging"))
	plan.Before = func(_ int, system string) {
		if system == "hanging" {
			time.AfterFunc(50*time.Millisecond, cancel)
		}
	}
	rows, _, err := Run(ctx, plan)
	if !errors.Is(err, context.Canceled) || len(rows) != 2 || rows[0].Failed != "" || rows[1].Failed == "" {
		t.Errorf("rows %+v, error %v", rows, err)
	}
}

func TestATurnWithoutAPhaseOrWithoutRecordsHasFailed(t *testing.T) {
	spec := load.Spec{Phases: []string{load.PhaseProduce, load.PhaseAlone}}
	turn := load.Turn{System: "a", Spec: spec, Phases: []load.Result{{Phase: load.PhaseProduce, Records: 1}}}
	if row := newRow(1, Entrant{System: "a"}, &turn, nil); !strings.Contains(row.Failed, "phase alone is missing") {
		t.Errorf("failed %q", row.Failed)
	}
	turn.Phases = append(turn.Phases, load.Result{Phase: load.PhaseAlone, FirstError: "no leader"})
	if row := newRow(1, Entrant{System: "a"}, &turn, nil); !strings.Contains(row.Failed, "no leader") {
		t.Errorf("failed %q", row.Failed)
	}
	if _, err := decodeTurn([]byte(`{"interrupted":true}`), nil); err == nil {
		t.Error("an interrupted turn counts")
	}
}

// rows of two systems with these records/s; a negative one is a turn that failed.
func rowsOf(a, b []float64) []Row {
	var rows []Row
	for i := range a {
		for name, rate := range map[string]float64{"a": a[i], "b": b[i]} {
			r := Row{Round: i + 1, System: name, RecordsPerS: pointer(rate)}
			if rate < 0 {
				r.Failed, r.RecordsPerS = "broken", nil
			}
			rows = append(rows, r)
		}
	}
	return rows
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	for _, c := range []struct {
		name             string
		a, b             []float64
		median, min, max float64 // 0: none
		failed           int
	}{
		{"odd", []float64{100, 200, 300}, []float64{50, 50, 50}, 4, 2, 6, 0},
		{"even", []float64{100, 200, 300, 400}, []float64{100, 100, 100, 100}, 2.5, 1, 4, 0},
		// The medians' ratio would be 200/200 = 1.
		{"paired", []float64{100, 200, 900}, []float64{200, 100, 300}, 2, 0.5, 3, 0},
		{"failed rounds", []float64{100, -1, 300}, []float64{100, 100, -1}, 1, 1, 1, 2},
		{"nothing to divide by", []float64{100}, []float64{0}, 0, 0, 0, 0},
		{"all failed", []float64{-1}, []float64{100}, 0, 0, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := ratioOf(rowsOf(c.a, c.b), "a", "b")
			if value(r.Median) != c.median || value(r.Min) != c.min || value(r.Max) != c.max || r.FailedRounds != c.failed {
				t.Errorf("median %v min %v max %v failed %d, want %+v", value(r.Median), value(r.Min), value(r.Max), r.FailedRounds, c)
			}
			if len(r.PerRound) != len(c.a) {
				t.Errorf("%d rounds, want %d", len(r.PerRound), len(c.a))
			}
		})
	}
}

func value(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}

func TestJSONHasTheShapeThatScriptsRelyOn(t *testing.T) {
	d := Summarize(load.Document{Host: "h", GitRef: "abc"}, "a", Plan{Rounds: 2}, rowsOf([]float64{100, -1}, []float64{50, 50}), nil)
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Format, Host string
		Settings     map[string]any
		Rounds       []map[string]any
		Ratios       map[string]struct {
			Median, Min, Max float64
			Consume          struct{ Median *float64 } `json:"consume_records_per_s"`
		}
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if got.Format != DocumentFormat || got.Host != "h" || len(got.Settings) == 0 || got.Ratios["b"].Median != 2 || got.Ratios["b"].Consume.Median != nil {
		t.Errorf("%s", raw)
	}
	for _, row := range got.Rounds {
		for _, name := range []string{"system", "records_per_s", "mb_per_s", "cpu_s_per_million", "disk_bytes_per_byte", "p50_ms", "p99_ms", "p999_ms"} {
			if v, there := row[name]; !there || row["failed"] != nil && name != "system" && v != nil {
				t.Errorf("%s = %v in %v", name, v, row)
			}
		}
	}
	var again Document
	if err := json.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	if value(again.Ratios["b"].Median) != 2 || value(again.Ratios["b"].Others["records_per_s"].Max) != 2 || again.Ratios["b"].FailedRounds != 1 {
		t.Errorf("read back: %+v", again.Ratios["b"])
	}
}

func TestTablesShowMediansSpreadAndEveryRound(t *testing.T) {
	d := Summarize(load.Document{}, "a", Plan{Rounds: 3}, rowsOf([]float64{100, 200, 300}, []float64{50, 50, 50}), nil)
	tables := d.Tables()
	find := func(table [][]string, first string) string {
		for _, row := range table {
			if row[0] == first {
				return strings.Join(row, "|")
			}
		}
		return ""
	}
	if got := find(tables.Figures, "a"); got != "a|200" {
		t.Errorf("figures %s", got)
	}
	if got := find(tables.Ratios, "b"); got != "b|4.00 (2.00 … 6.00)|2.00 4.00 6.00" {
		t.Errorf("ratios %s", got)
	}
	if len(tables.Rounds) != 7 {
		t.Errorf("%d rows of rounds, want a heading and 6", len(tables.Rounds))
	}
}

func TestASweepSetsEveryPointAgainstTheFirstOfTheSameRound(t *testing.T) {
	var turns []load.Turn
	for round, rates := range [][]float64{{100, 80}, {200, 100}, {50, 45}} {
		for i, point := range []string{"partitions=6", "partitions=60"} {
			turns = append(turns, load.Turn{
				Point: point, Round: round + 1, Spec: load.Spec{Phases: []string{load.PhaseProduce}},
				Phases: []load.Result{{Phase: load.PhaseProduce, Records: 1, RecordsPerS: rates[i]}},
			})
		}
	}
	d := SummarizeSweep(load.Document{Format: load.DocumentFormat}, turns)
	if r := d.Ratios["partitions=60"]; value(r.Median) != 0.8 || value(r.Min) != 0.5 || value(r.Max) != 0.9 || len(d.Ratios) != 1 || len(d.Turns) != 6 {
		t.Errorf("ratios %+v", d.Ratios)
	}
	var out bytes.Buffer
	if err := d.Print(&out); err != nil || !strings.Contains(out.String(), "against partitions=6") || !strings.Contains(out.String(), "0.800 0.500 0.900") {
		t.Errorf("%v:\n%s", err, out.String())
	}
	turns[3].Interrupted = true
	if d = SummarizeSweep(load.Document{}, turns[:4]); d.Ratios["partitions=60"].FailedRounds != 1 || value(d.Ratios["partitions=60"].Median) != 0.8 {
		t.Errorf("an interrupted turn counts: %+v", d.Ratios)
	}
}

func TestNotesTellOfErrorsAndOfRatesThatWereNotKept(t *testing.T) {
	late := func(unsent int64) Document {
		spec := load.Spec{Phases: []string{load.PhaseLatency}}
		turn := load.Turn{System: "a", Spec: spec, Phases: []load.Result{{Phase: load.PhaseLatency, Records: 1000, Unsent: unsent, Errors: 1, FirstError: "no ack"}}}
		row := newRow(1, Entrant{System: "a"}, &turn, nil)
		row.Turn = pointer(0)
		return Summarize(load.Document{}, "a", Plan{Rounds: 1}, []Row{row}, []load.Turn{turn})
	}
	d := late(5)
	if notes := d.Tables().Notes; len(notes) != 1 || !strings.Contains(notes[0], "1 records failed") || !strings.Contains(notes[0], "no ack") {
		t.Errorf("notes %q", notes)
	}
	d = late(500)
	if notes := d.Tables().Notes; len(notes) != 2 || !strings.Contains(notes[1], "500 of 1501 records") {
		t.Errorf("notes %q", notes)
	}
}

func TestNumbersKeepThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{0.0123: "0.012", 1.234: "1.23", 12.34: "12.3", 123456.7: "123,457", -1234: "-1,234", 1e6: "1,000,000"} {
		if got := number(&v); got != want {
			t.Errorf("%g is written %s, want %s", v, got, want)
		}
	}
}
