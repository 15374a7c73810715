package load

import (
	"fmt"
	"io"
	"time"
)

// Live returns a Progress that shows the phase on one line of a terminal, which
// is written over.
func Live(w io.Writer) Progress {
	width := 0
	return func(t Tick) {
		line := liveLine(t)
		fmt.Fprintf(w, "\r%-*s", width, line)
		width = max(width, len(line))
	}
}

// EndLive ends the line that Live has written.
func EndLive(w io.Writer) { fmt.Fprintln(w) }

func liveLine(t Tick) string {
	phase := t.Phase
	if t.Warmup {
		phase += " (warm-up)"
	}
	line := fmt.Sprintf("%s %s: %d records, %.0f records/s, %.1f MB/s", phase, t.At.Round(time.Second), t.Records, t.RecordsPerS, t.MBPerS)
	if t.P99Ms > 0 {
		line += fmt.Sprintf(", p99 %.2f ms", t.P99Ms)
	}
	return line
}
