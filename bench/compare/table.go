package compare

import (
	"fmt"
	"io"
	"math"
	"slices"
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

// metrics are the figures that a row has at least.
func (d *Document) metrics() []Metric {
	return slices.DeleteFunc(Metrics(), func(m Metric) bool {
		return !slices.ContainsFunc(d.Rounds, func(r Row) bool { return m.Of(&r) != nil })
	})
}

// ratioMetrics are the figures whose ratios are shown.
func (d *Document) ratioMetrics() []Metric {
	var shown []Metric
	for _, m := range d.metrics() {
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

// what a row is named by.
func (d *Document) what() string {
	if d.Sweeps() {
		return "point"
	}
	return "system"
}

func (d *Document) figures() [][]string {
	head := []string{d.what()}
	for _, m := range d.metrics() {
		head = append(head, m.Title)
	}
	table := [][]string{head}
	for _, system := range d.Systems() {
		row := []string{system}
		for _, m := range d.metrics() {
			row = append(row, number(d.Of(system, m).Median))
		}
		table = append(table, row)
	}
	return table
}

func (d *Document) ratios() [][]string {
	head := []string{d.Settings.Subject + " against"}
	if d.Sweeps() {
		head[0] = "against " + d.Settings.Subject
	}
	for _, m := range d.ratioMetrics() {
		head = append(head, m.Title)
	}
	table := [][]string{append(head, "records/s per round")}
	for _, system := range d.Systems() {
		ratio, other := d.Ratios[system]
		if !other {
			continue
		}
		row := []string{system}
		for _, m := range d.ratioMetrics() {
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
	head := []string{"round", d.what()}
	for _, m := range d.metrics() {
		head = append(head, m.Title)
	}
	table := [][]string{append(head, "errors", "load average")}
	for i := range d.Rounds {
		r := &d.Rounds[i]
		row := []string{fmt.Sprint(r.Round), r.System}
		for _, m := range d.metrics() {
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
	case a >= 1000:
		return grouped(*v)
	case a >= 100:
		return fmt.Sprintf("%.0f", *v)
	case a >= 10:
		return fmt.Sprintf("%.1f", *v)
	case a >= 1:
		return fmt.Sprintf("%.2f", *v)
	}
	return fmt.Sprintf("%.3f", *v)
}

func (d *Document) figuresTitle() string {
	title := fmt.Sprintf("medians of %d rounds", d.Settings.Rounds)
	if !d.Sweeps() {
		title += fmt.Sprintf("; p50, p99, p99.9 at %g of each one's own records/s, alone = one record at a time", d.Settings.Spec.LatencyShare)
	}
	return title
}

// grouped writes a number of 1000 at least with its digits in groups of three.
func grouped(v float64) string {
	digits := fmt.Sprintf("%.0f", v)
	for at := len(digits) - 3; at > 0 && digits[at-1] != '-'; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// Print writes the tables for a terminal.
func (d *Document) Print(w io.Writer) error {
	t := d.Tables()
	err := printTables(w, titled{"every turn", t.Rounds}, titled{d.figuresTitle(), t.Figures}, titled{ratiosTitle, t.Ratios})
	for _, note := range t.Notes {
		if err == nil {
			_, err = fmt.Fprintln(w, note)
		}
	}
	return err
}

// PrintRatios writes the ratios alone.
func (d *Document) PrintRatios(w io.Writer) error {
	return printTables(w, titled{ratiosTitle, d.ratios()})
}

const ratiosTitle = "ratios of the same round: median (least … greatest)"

type titled struct {
	title string
	table [][]string
}

func printTables(w io.Writer, parts ...titled) error {
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
	return nil
}
