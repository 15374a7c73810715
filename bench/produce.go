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
		Example: "  bench produce --record-size 128 --payload json\n  bench produce --target-rate 20000 --duration 30s --json result.json\n  bench produce --then latency,alone,consume",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			phases := append([]string{load.PhaseProduce}, then...)
			if i := slices.IndexFunc(then, func(p string) bool { return p == load.PhaseProduce || p == load.PhaseE2E }); i >= 0 {
				return cli.Usage("--then %s: use latency, alone or consume", strings.Join(then, ","))
			}
			spec, err := f.complete(cmd, phases...)
			if err != nil {
				return err
			}
			return f.runOne(cmd, spec)
		},
	}
	f.register(cmd)
	cmd.Flags().StringSliceVar(&then, "then", nil,
		"phases that follow on the same cluster: latency (at half the rate reached), alone (one record at a time), consume (read it all)")
	return cmd
}
