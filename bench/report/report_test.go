package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"logbroker/bench/compare"
	"logbroker/bench/load"
)

func result(t *testing.T, name string, rate float64) load.Result {
	t.Helper()
	h := hdr.New(1, 1_000_000, 3)
	for i := int64(1); i <= 2000; i++ {
		if err := h.RecordValue(i); err != nil {
			t.Fatal(err)
		}
	}
	encoded, err := h.Encode(hdr.V2CompressedEncodingCookieBase)
	if err != nil {
		t.Fatal(err)
	}
	return load.Result{
		Phase: name, Records: 2000, RecordsPerS: rate, MBPerS: rate / 1e3, P50Ms: 1, P99Ms: 1.98, Histogram: string(encoded),
		PerProcess: []load.ProcessUse{{PID: 1}}, CPUSPerMillion: 7,
		Series: []load.Sample{{AtS: 1, Seconds: 1, Records: int64(rate)}, {AtS: 2, Seconds: 1, Records: int64(rate)}},
	}
}

func turn(t *testing.T, system string, rate float64) load.Turn {
	return load.Turn{
		System: system, Spec: load.Defaults(), Settings: map[string]string{"<colour>": "a & b"}, Durability: "fsync",
		Phases: []load.Result{result(t, load.PhaseProduce, rate), result(t, load.PhaseLatency, rate/2)},
	}
}

// files is a comparison with a failed turn, and a sweep.
func files(t *testing.T) []File {
	header := load.Document{Command: "compare", Args: []string{"compare", "--json", "/tmp/x.json", "--rounds=2"}, GitRef: "abc123", At: time.Unix(1e9, 0)}
	plan := compare.Plan{Spec: load.Defaults(), Rounds: 2}
	row := func(round int, system string, rate float64) compare.Row {
		return compare.Row{Round: round, System: system, RecordsPerS: &rate, P99Ms: &rate}
	}
	rows := []compare.Row{
		{Round: 1, System: "logbroker", Failed: "no <disk>"},
		row(1, "jetstream_always", 100), row(2, "logbroker", 400), row(2, "jetstream_always", 200),
	}
	turns := []load.Turn{turn(t, "jetstream_always", 100), turn(t, "logbroker", 400), turn(t, "jetstream_always", 200)}
	sweep := File{Name: "sweep"}
	sweep.Format, sweep.Command = load.DocumentFormat, "sweep partitions"
	for _, point := range []string{"partitions=6", "partitions=60"} {
		one := turn(t, "logbroker", 300)
		one.Point = point
		sweep.Turns = append(sweep.Turns, one)
	}
	return []File{{Name: "cmp", Document: compare.Summarize(header, "logbroker", plan, rows, turns)}, sweep}
}

// wellFormed reads the page as XML, which is stricter than HTML, and counts
// elements; it also fails on anything the page would fetch.
func wellFormed(t *testing.T, pageBytes []byte) map[string]int {
	t.Helper()
	count := make(map[string]int)
	d := xml.NewDecoder(bytes.NewReader(pageBytes))
	d.Entity = xml.HTMLEntity
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return count
		}
		if err != nil {
			t.Fatal(err)
		}
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		count[element.Name.Local]++
		for _, a := range element.Attr {
			outside := a.Name.Local == "src" || a.Name.Local == "href" && !strings.HasPrefix(a.Value, "#")
			if outside || strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
				t.Errorf("<%s %s=%q>", element.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
}

func TestThePageStandsAloneAndHasEverySeries(t *testing.T) {
	var out bytes.Buffer
	if err := WriteHTML(&out, files(t)); err != nil {
		t.Fatal(err)
	}
	count := wellFormed(t, out.Bytes())
	if count["script"]+count["link"]+count["img"] > 0 {
		t.Errorf("the page fetches: %v", count)
	}
	text := out.String()
	if strings.Contains(text, "@import") || strings.Contains(text, "url(") || strings.Contains(text, "ZgotmplZ") {
		t.Error("the page's style fetches, or the template refused a value")
	}
	// Lines: throughput has one per turn, 3 + 2; each of two latency phases one per
	// system or point, 2 × (2 + 2).
	if want := 3 + 2 + 2*4; count["path"] != want {
		t.Errorf("%d lines, want %d", count["path"], want)
	}
	// Bars: of the comparison records/s and p99, of the sweep records/s and CPU, two
	// each.
	if count["rect"] != 8 {
		t.Errorf("%d bars, want 8", count["rect"])
	}
	for _, want := range []string{
		"jetstream_always", "partitions=60", "prefers-color-scheme: dark", "p99.9", "abc123",
		"round 1, logbroker: FAILED: no &lt;disk&gt;", "a &amp; b", "go run ./bench compare --rounds=2<", "2.00 (2.00 … 2.00)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

func TestThroughputLeavesOutTheCrumbOfAnInterval(t *testing.T) {
	f := files(t)[1]
	phases := f.Turns[0].Phases
	phases[0].Series = append(phases[0].Series, load.Sample{AtS: 2.001, Seconds: 0.001, Records: 900})
	if line := f.throughputCharts()[0].Lines[0]; strings.Count(line.Path, " L") != 1 {
		t.Errorf("%+v", line)
	}
}

func TestALatencyChartBeginsAtTheLeastLatency(t *testing.T) {
	h := hdr.New(1, 1e6, 3)
	for i := int64(500); i < 600; i++ {
		if err := h.RecordValue(i); err != nil {
			t.Fatal(err)
		}
	}
	encoded, err := h.Encode(hdr.V2CompressedEncodingCookieBase)
	if err != nil {
		t.Fatal(err)
	}
	one := load.Turn{Phases: []load.Result{{Phase: load.PhaseAlone, Histogram: string(encoded)}}}
	_, y, err := percentiles(series{turns: []*load.Turn{&one}}, load.PhaseAlone)
	if err != nil || len(y) == 0 || y[0] != 0.5 {
		t.Errorf("%v, %v", y, err)
	}
}

func TestADamagedHistogramIsAnError(t *testing.T) {
	all := files(t)
	all[1].Turns[0].Phases[0].Histogram = "HISTFAAA" + strings.Repeat("A", 40)
	if err := WriteHTML(io.Discard, all); err == nil {
		t.Error("no error")
	}
}

func TestReadTakesWhatBenchWroteAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	f, err := Read(write("one.json", files(t)[0].Document))
	if err != nil || f.Name != "one" || len(f.Rounds) != 4 || len(f.Turns) != 3 || f.GitRef != "abc123" {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := Read(write("other.json", map[string]string{"format": "x"})); err == nil || !strings.Contains(err.Error(), "other.json") {
		t.Errorf("another format: %v", err)
	}
	if _, err := Read(filepath.Join(dir, "none.json")); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestMarkdownIsWrittenBetweenItsMarks(t *testing.T) {
	name := filepath.Join(t.TempDir(), "PERFORMANCE.md")
	if err := UpdateMarkdown(name, files(t)); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, want := range []string{
		"# Performance\n", "| jetstream_always | 2.00 (2.00 … 2.00) |", "FAILED: no <disk>", "abc123", "2001-09-09 01:46:40 UTC",
		"go run ./bench compare --rounds=2\n", "| partitions=60 | produce | 300 |", "an ack means: fsync.", "| payload | random |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the document does not say %q:\n%s", want, text)
		}
	}
	if err := os.WriteFile(name, []byte("By hand, before.\n"+text+"By hand, after.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := UpdateMarkdown(name, files(t)[:1]); err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(again); !strings.HasPrefix(s, "By hand, before.\n") || !strings.HasSuffix(s, "By hand, after.\n") || strings.Contains(s, "partitions=60") {
		t.Errorf("the document after the second time:\n%s", s)
	}
	if err := os.WriteFile(name, []byte("no marks"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := UpdateMarkdown(name, files(t)); err == nil || !strings.Contains(err.Error(), markdownBegin) {
		t.Errorf("without marks: %v", err)
	}
}

func TestScales(t *testing.T) {
	labels := func(s scale) string {
		var all []string
		for _, k := range s.ticks {
			all = append(all, fmt.Sprintf("%s@%.2f", k.label, k.at))
		}
		return strings.Join(all, " ")
	}
	for _, c := range []struct {
		name  string
		scale scale
		want  string
	}{
		{"linear", linear(92000), "0@0.00 25k@0.25 50k@0.50 75k@0.75 100k@1.00"},
		{"nothing", linear(0), "0@0.00 1@1.00"},
		{"logarithmic", logarithmic(0.4, 80), "0.1@0.00 1@0.33 10@0.67 100@1.00"},
		{"nines", nines(4), "p0@0.00 p90@0.25 p99@0.50 p99.9@0.75 p99.99@1.00"},
	} {
		if got := labels(c.scale); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := brief(137502) + " " + brief(9999) + " " + brief(3651832); got != "137.5k 9,999 3.652M" {
		t.Errorf("brief figures %s", got)
	}
	if got := figure(1234567.8) + " " + figure(0.0123) + " " + figure(-2500); got != "1,234,568 0.012 -2,500" {
		t.Errorf("figures %s", got)
	}
}
