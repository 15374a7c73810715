package report

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"logbroker/bench/compare"
	"logbroker/bench/load"
)

// The lines between which UpdateMarkdown writes. What stands outside is left as
// it is.
const (
	markdownBegin = "<!-- bench report: begin. Written by go run ./bench report --markdown, not by hand. -->"
	markdownEnd   = "<!-- bench report: end -->"
)

// Markdown returns the tables of all files with everything that is needed to
// read and to repeat them: machine, date, commit, commands, settings and what
// they mean.
func Markdown(files []File) string {
	var b strings.Builder
	if rows := summaryRows(files); len(rows) > 1 {
		b.WriteString("## Summary of the comparisons\n\nlogbroker's figure divided by the other's in the same round: median (least … greatest), then every round.\n\n")
		writeTable(&b, rows)
	}
	for i := range files {
		f := &files[i]
		fmt.Fprintf(&b, "## %s\n\n", f.work())
		fmt.Fprintf(&b, "```\n%s\n```\n\n", f.commandLine())
		fmt.Fprintf(&b, "%s, commit `%s`, on %s.\n\n", f.At.UTC().Format(time.DateTime+" UTC"), f.GitRef, f.machine())
		if c := f.Ceiling; c != nil {
			fmt.Fprintf(&b, "%s\n\n", ceilingLine(c))
		}
		if f.hasRounds() {
			t := f.Tables()
			fmt.Fprintf(&b, "Ratios of the same round, median (least … greatest) of %d rounds:\n\n", f.Settings.Rounds)
			writeTable(&b, t.Ratios)
			b.WriteString("Medians:\n\n")
			writeTable(&b, t.Figures)
			for _, note := range t.Notes {
				fmt.Fprintf(&b, "- %s\n", note)
			}
			if len(t.Notes) > 0 {
				b.WriteString("\n")
			}
		} else {
			writeTable(&b, resultRows(f))
		}
	}
	b.WriteString("## What the columns mean\n\n")
	writeTable(&b, columnMeanings())
	b.WriteString("## What was done, and the settings\n\n")
	for i := range files {
		writeSettings(&b, &files[i])
	}
	return strings.TrimSpace(b.String()) + "\n"
}

// UpdateMarkdown puts Markdown's text into a file: between its marks where it has
// them, as the whole file where it does not exist yet.
func UpdateMarkdown(name string, files []File) error {
	text := markdownBegin + "\n\n" + Markdown(files) + "\n" + markdownEnd
	old, err := os.ReadFile(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		old = []byte("# Performance\n\n" + markdownBegin + markdownEnd + "\n")
	case err != nil:
		return fmt.Errorf("cannot read the document: %w", err)
	}
	before, rest, begins := bytes.Cut(old, []byte(markdownBegin))
	_, after, ends := bytes.Cut(rest, []byte(markdownEnd))
	if !begins || !ends {
		return fmt.Errorf("%s does not have the two lines to write between; put them in:\n%s\n%s", name, markdownBegin, markdownEnd)
	}
	whole := append(append(bytes.Clone(before), text...), after...)
	if err := os.WriteFile(name, whole, 0o644); err != nil {
		return fmt.Errorf("cannot write the document: %w", err)
	}
	return nil
}

func writeTable(b *strings.Builder, rows [][]string) {
	for i, row := range rows {
		b.WriteString("|")
		for _, cell := range row {
			b.WriteString(" " + strings.ReplaceAll(cell, "|", "\\|") + " |")
		}
		b.WriteString("\n")
		if i == 0 {
			b.WriteString("|" + strings.Repeat("---|", len(row)) + "\n")
		}
	}
	b.WriteString("\n")
}

func columnMeanings() [][]string {
	rows := [][]string{{"column", "meaning"}}
	for _, m := range compare.Metrics() {
		rows = append(rows, []string{m.Title, m.Meaning})
	}
	return append(rows,
		[]string{"the machine by itself", "measured just before the first turn, a few tenths of a second each: what no broker on it can exceed"},
		[]string{"phase", "produce: sent as fast as it goes, or at the target rate; consume: all of it read from the start; e2e: produced to delivered at a consumer group; tailed: sent at the latency share of what produce reached (half; 1: as fast as it goes), while a group reads along; joined: the same, while a second group reads everything from the start"},
		[]string{"errors", "records that failed or have an unknown outcome"})
}

// writeSettings writes what was done and what every system says of itself.
func writeSettings(b *strings.Builder, f *File) {
	fmt.Fprintf(b, "### %s: `bench %s`\n\n", f.Name, f.Command)
	writeTable(b, specRows(f.spec()))
	for _, s := range f.settings() {
		fmt.Fprintf(b, "%s; an ack means: %s.\n\n", s.System, s.Durability)
		rows := [][]string{{"setting", "value"}}
		for _, r := range s.Rows {
			rows = append(rows, []string{r[0], r[1]})
		}
		writeTable(b, rows)
	}
}

// specRows says what each setting of the load is and means.
func specRows(s load.Spec) [][]string {
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	rows := [][]string{
		{"setting", "value", "meaning"},
		{"phases", strings.Join(s.Phases, ", "), "what is done, in this order, on one freshly started cluster"},
		{"record size", fmt.Sprintf("%d B", s.RecordSize), "of a value, without its key"},
		{"payload", s.Payload, "random: no codec shrinks it; json: events, about 6:1 under zstd"},
		{"keys", strconv.Itoa(s.Keys), "different keys; 0: records have none and go to partitions in turn"},
		{"topics × partitions", fmt.Sprintf("%d × %d", s.Topics, s.Partitions), "of JetStream each partition is a stream, of raw dragonboat a shard"},
		{"replicas", strconv.Itoa(s.Replicas), "of each partition; 0: three, or as many as there are brokers"},
		{"producers, consumers", fmt.Sprintf("%d, %d", s.Producers, s.Consumers), "clients with connections of their own"},
		{"batch size, linger", fmt.Sprintf("%d B, %s", s.BatchBytes, linger(s.LingerMs)), "when a producer sends a batch; JetStream has no batches of this kind"},
		{"compression", s.Compression, "of batches, by the producer; JetStream and raw dragonboat have none"},
		{"warm-up", number(float64(s.Warmup)) + " s", "of every phase that sends; not part of any figure"},
		{"seed", strconv.FormatUint(s.Seed, 10), "of payload and keys"},
	}
	if s.Records > 0 {
		rows = append(rows, []string{"records", strconv.FormatInt(s.Records, 10), "sent in every phase that sends"})
	} else {
		rows = append(rows, []string{"duration", number(float64(s.Duration)) + " s", "of every phase that sends"})
	}
	if s.TargetRate > 0 {
		rows = append(rows, []string{"target rate", number(s.TargetRate) + " records/s", "over all producers; latencies run from the intended send time"})
	}
	return rows
}

func linger(ms float64) string {
	if ms < 0 {
		return "adaptive"
	}
	return strconv.FormatFloat(ms, 'g', -1, 64) + " ms"
}
