package report

import (
	"fmt"
	"slices"
	"strings"

	"logbroker/bench/compare"
	"logbroker/bench/load"
)

// summaryMetrics are the figures of the summary, in its order.
func summaryMetrics() []compare.Metric {
	names := []string{"records_per_s", "consume_records_per_s", "cpu_s_per_million", "alone_p99_ms"}
	return slices.DeleteFunc(compare.Metrics(), func(m compare.Metric) bool { return !slices.Contains(names, m.Name) })
}

// summaryRows is a row per comparison and figure, a column per other system. It
// is the headings alone where there is no comparison.
func summaryRows(files []File) [][]string {
	var others []string
	for i := range files {
		for _, system := range files[i].Systems() {
			if _, other := files[i].Ratios[system]; other && files[i].compares() && !slices.Contains(others, system) {
				others = append(others, system)
			}
		}
	}
	head := []string{"work", "rounds", "figure"}
	for _, other := range others {
		head = append(head, "against "+other)
	}
	rows := [][]string{head}
	for i := range files {
		f := &files[i]
		if !f.compares() {
			continue
		}
		for _, m := range summaryMetrics() {
			row, any := []string{f.shortWork(), fmt.Sprint(f.Settings.Rounds), m.Title}, false
			for _, other := range others {
				spread := f.Ratios[other].Others[m.Name]
				row = append(row, withRounds(spread))
				any = any || spread.Median != nil
			}
			if any {
				rows = append(rows, row)
			}
		}
	}
	return rows
}

// shortWork tells a comparison from the others.
func (f *File) shortWork() string {
	s := f.spec()
	text := fmt.Sprintf("%d B %s, %s", s.RecordSize, s.Payload, s.Compression)
	if s.BatchBytes != load.Defaults().BatchBytes {
		text += fmt.Sprintf(", batches of %d KiB", s.BatchBytes>>10)
	}
	return text
}

// withRounds is a spread with the ratio of every round.
func withRounds(s compare.Spread) string {
	if s.Median == nil {
		return noCell
	}
	var each []string
	for _, v := range s.PerRound {
		if v == nil {
			each = append(each, noCell)
			continue
		}
		each = append(each, figure(*v))
	}
	return s.String() + ": " + strings.Join(each, " ")
}

// ceilingRows is a row per figure of the machine.
func ceilingRows(c *load.Ceiling) [][]string {
	rows := [][]string{{"what", "figure"}}
	for _, f := range c.Figures() {
		rows = append(rows, []string{f.What, figure(f.Value) + " " + f.Unit})
	}
	return rows
}

// ceilingLine is ceilingRows in a sentence.
func ceilingLine(c *load.Ceiling) string {
	var parts []string
	for _, row := range ceilingRows(c)[1:] {
		parts = append(parts, row[0]+" "+row[1])
	}
	return "The machine by itself, just before: " + strings.Join(parts, "; ") + "."
}
