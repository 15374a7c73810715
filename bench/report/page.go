package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"time"

	"logbroker/bench/compare"
	"logbroker/bench/load"
)

//go:embed page.gohtml
var pageText string

// page is what page.gohtml shows.
type page struct {
	Sections []section
}

// section is one file.
type section struct {
	ID, Title, Work, Command, Machine, Commit, At string
	Tables                                        []table
	Notes                                         []string
	Charts                                        []chart
	Settings                                      []settingsOf
}

type table struct {
	Title string
	Head  []string
	Rows  [][]string
}

// settingsOf is what one system said of itself.
type settingsOf struct {
	System, Durability string
	Rows               [][2]string
}

// WriteHTML writes one page about all files: it needs no other file, no script
// and no network. Errors: the writer's; a file with a damaged histogram.
func WriteHTML(w io.Writer, files []File) error {
	t, err := template.New("page").Parse(pageText)
	if err != nil {
		return fmt.Errorf("the page's template: %w", err)
	}
	var p page
	for i := range files {
		s, err := newSection(&files[i], fmt.Sprintf("file-%d", i+1))
		if err != nil {
			return err
		}
		p.Sections = append(p.Sections, s)
	}
	return t.Execute(w, p)
}

func newSection(f *File, id string) (section, error) {
	s := section{
		ID: id, Title: f.Name + ": bench " + f.Command, Work: f.work(), Command: f.commandLine(), Machine: f.machine(),
		Commit: f.GitRef, At: f.At.UTC().Format(time.RFC3339), Settings: f.settings(),
	}
	if f.hasRounds() {
		t := f.Tables()
		s.Tables = []table{
			newTable("Ratios of the same round: median (least … greatest)", t.Ratios),
			newTable(fmt.Sprintf("Medians of %d rounds", f.Settings.Rounds), t.Figures),
		}
		if f.compares() {
			s.Tables = append(s.Tables, newTable("Every turn", t.Rounds))
		}
		s.Notes = t.Notes
	}
	if !f.compares() {
		s.Tables = append(s.Tables, newTable("Results", resultRows(f)))
	}
	if c := f.Ceiling; c != nil {
		s.Tables = append(s.Tables, newTable("What the machine does by itself, measured before", ceilingRows(c)))
	}
	s.Charts = append(f.barCharts(), f.throughputCharts()...)
	latencies, err := f.latencyCharts()
	s.Charts = append(s.Charts, latencies...)
	return s, err
}

func newTable(title string, rows [][]string) table {
	return table{Title: title, Head: rows[0], Rows: rows[1:]}
}

// machine is one line about the machine and how busy it was.
func (f *File) machine() string {
	m := f.Machine
	return fmt.Sprintf("%s, %d cores, %.0f GiB, %s, %s, load average %.1f before", m.CPU, m.Cores, float64(m.MemoryBytes)/(1<<30), m.Kernel, m.Go, m.LoadAverage[0])
}

func (f *File) settings() []settingsOf {
	said := make(map[string]compare.SystemSettings)
	maps.Copy(said, f.Settings.Systems)
	for i := range f.Turns {
		if t := &f.Turns[i]; said[t.System].Settings == nil {
			said[t.System] = compare.SystemSettings{Durability: t.Durability, Settings: t.Settings}
		}
	}
	var all []settingsOf
	for _, system := range slices.Sorted(maps.Keys(said)) {
		one := settingsOf{System: system, Durability: said[system].Durability}
		for _, name := range slices.Sorted(maps.Keys(said[system].Settings)) {
			one.Rows = append(one.Rows, [2]string{name, said[system].Settings[name]})
		}
		all = append(all, one)
	}
	return all
}

// resultRows is a row per phase of every turn.
func resultRows(f *File) [][]string {
	rows := [][]string{{"turn", "phase", "records/s", "MB/s", "CPU-s/million", "disk B/B", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "max ms", "errors"}}
	for i := range f.Turns {
		t := &f.Turns[i]
		name := t.System
		if t.Point != "" {
			name = t.Point
		}
		if f.hasRounds() && t.Round > 0 {
			name += fmt.Sprintf(", round %d", t.Round)
		}
		for j := range t.Phases {
			rows = append(rows, append([]string{name}, resultCells(&t.Phases[j])...))
		}
	}
	return rows
}

const noCell = "–"

func resultCells(r *load.Result) []string {
	cells := []string{r.Phase, figure(r.RecordsPerS), figure(r.MBPerS), noCell, noCell}
	if len(r.PerProcess) > 0 {
		cells[3], cells[4] = figure(r.CPUSPerMillion), figure(r.DiskBytesPerByte)
	}
	if r.Histogram == "" {
		cells = append(cells, noCell, noCell, noCell, noCell, noCell)
	} else {
		cells = append(cells, figure(r.P50Ms), figure(r.P95Ms), figure(r.P99Ms), figure(r.P999Ms), figure(r.MaxMs))
	}
	return append(cells, fmt.Sprint(r.Errors))
}
