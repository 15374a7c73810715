package compare

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"logbroker/bench/load"
)

// Tables are the comparison in rows of cells, the first row the headings.
type Tables struct {
	Figures [][]string // a row per system: medians over the rounds
	Ratios  [][]string // a row per other system: medians with least and greatest
	Rounds  [][]string // a row per turn: the ratio of every round can be seen
	// Notes are sentences about turns that failed, records that failed, and
	// rates that were not kept up.
	Notes []string
}

// ratioMetrics are the figures whose ratios are shown.
func ratioMetrics() []Metric {
	var shown []Metric
	for _, m := range Metrics() {
		switch m.Name {
		case "records_per_s", "cpu_s_per_million", "p99_ms", "alone_p99_ms", "consume_records_per_s":
			shown = append(shown, m)
		}
	}
	return shown
}

// Tables returns the document's tables.
func (d *Document) Tables() Tables {
	return Tables{Figures: d.figures(), Ratios: d.ratios(), Rounds: d.rounds(), Notes: d.notes()}
}

func (d *Document) figures() [][]string {
	head := []string{"system"}
	for _, m := range Metrics() {
		head = append(head, m.Title)
	}
	table := [][]string{head}
	for _, system := range d.Systems() {
		row := []string{system}
		for _, m := range Metrics() {
			row = append(row, number(d.Of(system, m).Median))
		}
		table = append(table, row)
	}
	return table
}

func (d *Document) ratios() [][]string {
	head := []string{d.Settings.Subject + " against"}
	for _, m := range ratioMetrics() {
		head = append(head, m.Title)
	}
	table := [][]string{append(head, "records/s per round")}
	for _, system := range d.Systems() {
		ratio, other := d.Ratios[system]
		if !other {
			continue
		}
		row := []string{system}
		for _, m := range ratioMetrics() {
			row = append(row, ratio.Others[m.Name].String())
		}
		var each []string
		for _, v := range ratio.PerRound {
			each = append(each, number(v))
		}
		table = append(table, append(row, strings.Join(each, " ")))
	}
	return table
}

func (d *Document) rounds() [][]string {
	head := []string{"round", "system"}
	for _, m := range Metrics() {
		head = append(head, m.Title)
	}
	table := [][]string{append(head, "errors", "load average")}
	for i := range d.Rounds {
		r := &d.Rounds[i]
		row := []string{fmt.Sprint(r.Round), r.System}
		for _, m := range Metrics() {
			cell := number(m.Of(r))
			if r.Failed != "" {
				cell = "failed"
			}
			row = append(row, cell)
		}
		table = append(table, append(row, fmt.Sprint(r.Errors), fmt.Sprintf("%.1f", r.LoadAverage)))
	}
	return table
}

func (d *Document) notes() []string {
	var notes []string
	for i := range d.Rounds {
		r := &d.Rounds[i]
		if r.Failed != "" {
			notes = append(notes, fmt.Sprintf("round %d, %s: FAILED: %s", r.Round, r.System, r.Failed))
		}
		if r.Errors > 0 {
			notes = append(notes, fmt.Sprintf("round %d, %s: %d records failed or have an unknown outcome, the first: %s", r.Round, r.System, r.Errors, r.FirstError))
		}
		if due := d.due(r); r.Unsent*100 > due {
			notes = append(notes, fmt.Sprintf("round %d, %s: %d of %d records of phase latency could not be sent in time: its percentiles are too low", r.Round, r.System, r.Unsent, due))
		}
	}
	return notes
}

// due is how many records of phase latency should have been sent. A few that are
// late at its end are no news.
func (d *Document) due(r *Row) int64 {
	if r.Turn == nil || *r.Turn >= len(d.Turns) {
		return 0
	}
	phases := d.Turns[*r.Turn].Phases
	for i := range phases {
		if phases[i].Phase == load.PhaseLatency {
			return phases[i].Records + phases[i].Errors + phases[i].Unsent
		}
	}
	return 0
}

// String is the median with the least and the greatest in parentheses.
func (s Spread) String() string {
	if s.Median == nil {
		return missingCell
	}
	return fmt.Sprintf("%s (%s … %s)", number(s.Median), number(s.Min), number(s.Max))
}

const missingCell = "–"

// number writes three digits, or all before the point.
func number(v *float64) string {
	if v == nil {
		return missingCell
	}
	switch a := math.Abs(*v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", *v)
	case a >= 10:
		return fmt.Sprintf("%.1f", *v)
	case a >= 1:
		return fmt.Sprintf("%.2f", *v)
	}
	return fmt.Sprintf("%.3f", *v)
}

// Print writes the tables for a terminal.
func (d *Document) Print(w io.Writer) error {
	t := d.Tables()
	parts := []struct {
		title string
		table [][]string
	}{
		{"every turn", t.Rounds},
		{fmt.Sprintf("medians of %d rounds; p50, p99, p99.9 at %g of each one's own records/s, alone = one record at a time", d.Settings.Rounds, d.Settings.Spec.LatencyShare), t.Figures},
		{"ratios of the same round: median (least … greatest)", t.Ratios},
	}
	for _, part := range parts {
		if _, err := fmt.Fprintf(w, "\n%s\n", part.title); err != nil {
			return err
		}
		columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, row := range part.table {
			fmt.Fprintln(columns, strings.Join(row, "\t"))
		}
		if err := columns.Flush(); err != nil {
			return err
		}
	}
	for _, note := range t.Notes {
		if _, err := fmt.Fprintln(w, note); err != nil {
			return err
		}
	}
	return nil
}
