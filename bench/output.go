package main

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"logbroker/bench/load"
	"logbroker/internal/cli"
)

// outputFiles are where results go beside the terminal. "-" is stdout.
type outputFiles struct{ json, csv, hdr, cpuProfile string }

func (o *outputFiles) register(fs *pflag.FlagSet) {
	fs.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile of the clients, which is this process, to this file")
	fs.StringVar(&o.json, "json", "", "write settings, machine and results to this file (-: stdout)")
	fs.StringVar(&o.csv, "csv", "", "write the seconds of every phase to this file")
	fs.StringVar(&o.hdr, "hdr", "", "write the latencies to this file, as a HdrHistogram log")
}

// write writes the files that were asked for. whole is what goes into the JSON
// file: d, or a document that holds d and more.
func (o *outputFiles) write(cmd *cobra.Command, d *load.Document, whole any) error {
	return errors.Join(
		writeFile(cmd, o.json, func(w io.Writer) error { return writeJSON(w, whole) }),
		writeFile(cmd, o.csv, func(w io.Writer) error { return writeCSV(w, d) }),
		writeFile(cmd, o.hdr, func(w io.Writer) error { return writeHDR(w, d) }),
	)
}

func writeFile(cmd *cobra.Command, name string, write func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	if name == "-" {
		return write(cmd.OutOrStdout())
	}
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("cannot write the results: %w", err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}

func writeJSON(w io.Writer, document any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(document)
}

// writeCSV writes a row per sample.
func writeCSV(w io.Writer, d *load.Document) error {
	c := csv.NewWriter(w)
	rows := [][]string{{"system", "point", "phase", "at_s", "seconds", "records", "mb", "p99_ms"}}
	number := func(f float64) string { return strconv.FormatFloat(f, 'f', 3, 64) }
	for _, t := range d.Turns {
		for _, r := range t.Phases {
			for _, s := range r.Series {
				rows = append(rows, []string{
					t.System, t.Point, r.Phase, number(s.AtS), number(s.Seconds), strconv.FormatInt(s.Records, 10), number(s.MB), number(s.P99Ms),
				})
			}
		}
	}
	return c.WriteAll(rows)
}

// writeHDR writes a histogram per phase, tagged with its name, in the format of
// HdrHistogram's log (source: HdrHistogram, HistogramLogWriter 1.3): tag, start
// and length in seconds, maximum in milliseconds, histogram.
func writeHDR(w io.Writer, d *load.Document) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "#[Histogram log format version 1.3]\n#logbroker bench %s, values in microseconds\n", d.Command)
	fmt.Fprintf(out, "#[StartTime: %.3f (seconds since epoch), %s]\n", float64(d.At.UnixMilli())/1000, d.At.UTC().Format(time.RFC3339))
	fmt.Fprintln(out, `"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"`)
	for _, t := range d.Turns {
		for _, r := range t.Phases {
			if r.Histogram != "" {
				fmt.Fprintf(out, "Tag=%s,%.3f,%.3f,%.3f,%s\n", tag(t, r), t.StartedAt.Sub(d.At).Seconds(), r.Seconds, r.MaxMs, r.Histogram)
			}
		}
	}
	return out.Flush()
}

// tag names a histogram; commas and blanks would end it.
func tag(t load.Turn, r load.Result) string {
	if t.Point == "" {
		return r.Phase
	}
	return r.Phase + "/" + t.Point
}

// printCost notes on stderr what a phase cost, where brokers are ours.
func printCost(w io.Writer, r *load.Result) {
	if len(r.PerProcess) > 0 {
		fmt.Fprintf(w, "  brokers: %.2f CPU-s (%.2f per million records), %.2f bytes to disk per payload byte, %.0f MB memory\n",
			r.CPUSeconds, r.CPUSPerMillion, r.DiskBytesPerByte, float64(r.RSSBytesMax)/1e6)
	}
	fmt.Fprintf(w, "  client: %.2f CPU-s\n", r.ClientCPUSeconds)
	if r.Unsent > 0 {
		fmt.Fprintf(w, "  %d records whose time had come were not sent: the rate is more than the cluster takes\n", r.Unsent)
	}
	if r.ReadPerS > 0 {
		fmt.Fprintf(w, "  the group that read from the start meanwhile got %.0f records/s\n", r.ReadPerS)
	}
	if r.Duplicates > 0 {
		fmt.Fprintf(w, "  %d records came more than once\n", r.Duplicates)
	}
}

// printMachine notes on stderr what the figures hold for.
func printMachine(w io.Writer, d *load.Document) {
	m := d.Machine
	fmt.Fprintf(w, "%s, %d cores, %s, load average %.2f before; commit %s\n", m.CPU, m.Cores, m.Kernel, m.LoadAverage[0], d.GitRef)
}

// printCeiling notes on stderr what no broker on this machine can exceed.
func printCeiling(w io.Writer, c *load.Ceiling) {
	fmt.Fprintf(w, "the machine by itself: disk %.0f MB/s, 64 KiB write and fdatasync p50 %.2f ms, zstd %.0f MB/s at %.1f:1, CRC-32C %.0f MB/s, copy %.0f MB/s, loopback %.0f MB/s\n",
		c.DiskWriteMBPerS, c.SyncP50Ms, c.ZstdMBPerS, c.ZstdRatio, c.CRC32CMBPerS, c.CopyMBPerS, c.LoopbackMBPerS)
}

// printTurn prints Kafka's line of every phase on stdout, and what it cost on
// stderr.
func printTurn(stdout, stderr io.Writer, t *load.Turn) error {
	if t.Interrupted {
		fmt.Fprintln(stderr, "interrupted; this is what was measured until then")
	}
	for i := range t.Phases {
		r := &t.Phases[i]
		fmt.Fprintf(stderr, "%s:\n", r.Phase)
		printCost(stderr, r)
		if _, err := fmt.Fprintln(stdout, r.KafkaLine()); err != nil {
			return err
		}
	}
	if line := t.Beside().String(); line != "" {
		fmt.Fprintln(stderr, line)
	}
	return nil
}

// failures is the error that says how many records were lost on the way.
func failures(t *load.Turn) error {
	for _, r := range t.Phases {
		if r.Errors > 0 {
			return fmt.Errorf("phase %s: %d records failed, the first one: %s", r.Phase, r.Errors, r.FirstError)
		}
	}
	return nil
}

// profile starts the CPU profile, if one is wanted, and returns what ends it.
func (o *outputFiles) profile() (stop func() error, err error) {
	if o.cpuProfile == "" {
		return func() error { return nil }, nil
	}
	file, err := os.Create(o.cpuProfile)
	if err == nil {
		err = pprof.StartCPUProfile(file)
	}
	if err != nil {
		return nil, cli.Usage("cannot write the CPU profile: %w", err)
	}
	return func() error {
		pprof.StopCPUProfile()
		return file.Close()
	}, nil
}
