package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"logbroker/bench/load"
	"logbroker/internal/cli"
)

func newProduce() *cobra.Command {
	f := &flags{}
	var then []string
	cmd := &cobra.Command{
		Use: "produce", Short: "Send records, as fast as it goes or at a rate",
		Long: "Send records, as fast as it goes or at --target-rate, and say how many were acked per second and how long each took.\n" +
			"With a rate, latency is measured from the time at which a record should have been sent.",
		Example: "  bench produce --record-size 128 --payload json\n  bench produce --target-rate 20000 --duration 30s --json result.json\n  bench produce --then latency,alone,consume\n" +
			"  bench produce --duration 5s --then tailed,joined,tailed,joined",
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			phases := append([]string{load.PhaseProduce}, then...)
			if i := slices.IndexFunc(then, func(p string) bool { return p == load.PhaseProduce || p == load.PhaseE2E }); i >= 0 {
				return cli.Usage("--then %s: use latency, alone, consume, tailed or joined", strings.Join(then, ","))
			}
			spec, err := f.complete(cmd, phases...)
			if err != nil {
				return err
			}
			return f.runOne(cmd, spec)
		},
	}
	f.register(cmd)
	cmd.Flags().Float64Var(&f.spec.LatencyShare, "latency-share", f.spec.LatencyShare,
		"share of the rate reached at which latency, tailed and joined send; 1: tailed and joined send as fast as it goes")
	cmd.Flags().StringSliceVar(&then, "then", nil,
		"phases that follow on the same cluster: latency (at half the rate reached), alone (one record at a time), consume (read it all), "+
			"tailed (as latency, while a consumer group reads along), joined (and a second group reads everything from the start)")
	return cmd
}
