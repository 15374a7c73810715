package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"logbroker/bench/compare"
	"logbroker/bench/load"
	"logbroker/internal/cli"
	"logbroker/internal/units"
)

// sweepRounds is how often every point has its turn where nothing is said: one
// round says little on a machine that others use too.
const sweepRounds = 3

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
	sweep.Long = "Run the same load at several points in turn, A B A B …, each on a fresh cluster, and print a row for each: records produced per\n" +
		"second and what they cost, latency at that rate, and records read per second; at last, every point against the first of the\n" +
		"same round."
	return sweep
}

func newSweepOver(d dimension) *cobra.Command {
	f := &flags{}
	var values string
	var rounds int
	cmd := &cobra.Command{
		Use: d.name, Short: d.short,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			points, err := f.points(cmd, d, strings.Split(values, ","))
			if err != nil {
				return err
			}
			if rounds < 1 {
				return cli.Usage("--rounds %d: use 1 or more", rounds)
			}
			return f.runSweep(cmd, d, points, rounds)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&values, "values", d.values, "the points, with commas")
	cmd.Flags().IntVar(&rounds, "rounds", sweepRounds, "how often every point has its turn")
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

// runSweep takes the points in turn, A B A B …: a machine that is slow for a
// while is slow for all of them.
func (f *flags) runSweep(cmd *cobra.Command, d dimension, points []point, rounds int) error {
	header := newDocument(cmd, "sweep "+d.name)
	out, stderr := cmd.OutOrStdout(), cmd.ErrOrStderr()
	printMachine(stderr, header)
	if err := f.measureCeiling(cmd, header, points[0].spec); err != nil {
		return err
	}
	var turns []load.Turn
	var err error
	fmt.Fprintf(out, sweepHead, d.name, "round", "records/s", "MB/s", "CPU-s/M", "disk B/B", "RSS MB", "p50 ms", "p99 ms", "read/s", "read MB/s")
	for n := 0; n < rounds*len(points) && err == nil && cmd.Context().Err() == nil; n++ {
		p := points[n%len(points)]
		var turn load.Turn
		turn, err = f.runTurn(cmd, p.spec)
		turn.Point, turn.Round = p.name, n/len(points)+1
		if len(turn.Phases) > 0 {
			turns = append(turns, turn)
			printRow(out, &turn)
		}
		if err == nil {
			err = failures(&turn)
		}
		if err != nil {
			err = fmt.Errorf("%s, round %d: %w", p.name, turn.Round, err)
		}
	}
	if len(turns) == 0 {
		return err
	}
	doc := compare.SummarizeSweep(*header, turns)
	if len(points) > 1 || rounds > 1 {
		err = errors.Join(err, doc.PrintRatios(out))
	}
	return errors.Join(err, f.files.write(cmd, &doc.Document, &doc))
}

const (
	sweepHead = "%-12s %5s %12s %9s %9s %9s %8s %8s %9s %12s %10s\n"
	sweepRow  = "%-12s %5d %12.0f %9.1f %9.2f %9.2f %8.0f %8.2f %9.2f"
)

func printRow(w io.Writer, t *load.Turn) {
	_, value, _ := strings.Cut(t.Point, "=")
	r := t.Phases[0]
	fmt.Fprintf(w, sweepRow, value, t.Round, r.RecordsPerS, r.MBPerS, r.CPUSPerMillion, r.DiskBytesPerByte, float64(r.RSSBytesMax)/1e6, r.P50Ms, r.P99Ms)
	if len(t.Phases) > 1 {
		fmt.Fprintf(w, " %12.0f %10.1f", t.Phases[1].RecordsPerS, t.Phases[1].MBPerS)
	}
	fmt.Fprintln(w)
}
