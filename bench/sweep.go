package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"logbroker/bench/load"
	"logbroker/internal/cli"
	"logbroker/internal/units"
)

// dimension is what a sweep changes from point to point.
type dimension struct {
	name, short string
	values      string // where none are given
	apply       func(f *flags, n int64)
}

func dimensions() []dimension {
	return []dimension{
		{"partitions", "How cost grows with the number of partitions", "1,6,24,60", func(f *flags, n int64) { f.spec.Partitions = int(n) }},
		{"brokers", "How cost grows with the number of brokers", "1,3,5", func(f *flags, n int64) { f.embedded = int(n) }},
		{"size", "How cost grows with the size of records", "128,1KiB,16KiB", func(f *flags, n int64) { f.recordSize = units.ByteSize(n) }},
		{"producers", "How throughput grows with the number of producers", "1,2,4", func(f *flags, n int64) { f.spec.Producers = int(n) }},
		{"consumers", "How throughput grows with the number of consumers", "1,2,4", func(f *flags, n int64) { f.spec.Consumers = int(n) }},
	}
}

func newSweep() *cobra.Command {
	var commands []*cobra.Command
	for _, d := range dimensions() {
		commands = append(commands, newSweepOver(d))
	}
	sweep := cli.Group("sweep", "The same load at several points: how cost grows", commands...)
	sweep.Long = "Run the same load at several points, each on a fresh cluster, and print a row for each: records produced per second and what\n" +
		"they cost, latency at that rate, and records read per second."
	return sweep
}

func newSweepOver(d dimension) *cobra.Command {
	f := &flags{}
	var values string
	cmd := &cobra.Command{
		Use: d.name, Short: d.short,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			points, err := f.points(cmd, d, strings.Split(values, ","))
			if err != nil {
				return err
			}
			return f.runSweep(cmd, d, points)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&values, "values", d.values, "the points, with commas")
	return cmd
}

// point is one row of a sweep.
type point struct {
	name string
	spec load.Spec
}

// points turns values into specs. All of them are checked before the first runs.
func (f *flags) points(cmd *cobra.Command, d dimension, values []string) ([]point, error) {
	flag := map[string]string{"brokers": "embedded", "size": "record-size"}[d.name]
	if flag == "" {
		flag = d.name
	}
	if cmd.Flags().Changed(flag) {
		return nil, cli.Usage("--%s is what this sweep changes: use --values", flag)
	}
	if d.name == "brokers" && cmd.Flags().Changed("server") {
		return nil, cli.Usage("sweep brokers starts the brokers itself: leave out --server")
	}
	var points []point
	for _, value := range values {
		n, err := units.ParseByteSize(value)
		if err != nil || n < 1 {
			return nil, cli.Usage("--values %s: %q is not a number of at least 1", strings.Join(values, ","), value)
		}
		d.apply(f, int64(n))
		spec, err := f.complete(cmd, load.PhaseProduce, load.PhaseConsume)
		if err != nil {
			return nil, err
		}
		points = append(points, point{d.name + "=" + value, spec})
	}
	return points, nil
}

func (f *flags) runSweep(cmd *cobra.Command, d dimension, points []point) error {
	doc := newDocument(cmd, "sweep "+d.name)
	printMachine(cmd.ErrOrStderr(), doc)
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, sweepHead, d.name, "records/s", "MB/s", "CPU-s/M", "disk B/B", "RSS MB", "p50 ms", "p99 ms", "read/s", "read MB/s")
	for _, p := range points {
		turn, err := f.runTurn(cmd, p.spec)
		if turn.Point = p.name; len(turn.Phases) > 0 {
			doc.Add(turn)
			printRow(out, &turn)
		}
		if err == nil {
			err = failures(&turn)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if turn.Interrupted {
			break
		}
	}
	return f.files.write(cmd, doc)
}

const (
	sweepHead = "%-12s %12s %9s %9s %9s %8s %8s %9s %12s %10s\n"
	sweepRow  = "%-12s %12.0f %9.1f %9.2f %9.2f %8.0f %8.2f %9.2f"
)

func printRow(w io.Writer, t *load.Turn) {
	_, value, _ := strings.Cut(t.Point, "=")
	r := t.Phases[0]
	fmt.Fprintf(w, sweepRow, value, r.RecordsPerS, r.MBPerS, r.CPUSPerMillion, r.DiskBytesPerByte, float64(r.RSSBytesMax)/1e6, r.P50Ms, r.P99Ms)
	if len(t.Phases) > 1 {
		fmt.Fprintf(w, " %12.0f %10.1f", t.Phases[1].RecordsPerS, t.Phases[1].MBPerS)
	}
	fmt.Fprintln(w)
}
