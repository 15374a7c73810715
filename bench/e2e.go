package main

import (
	"github.com/spf13/cobra"

	"logbroker/bench/load"
	"logbroker/internal/cli"
)

func newE2E() *cobra.Command {
	f := &flags{}
	cmd := &cobra.Command{
		Use: "e2e", Short: "Measure from sending a record to its delivery at a consumer group",
		Long: "Send records while a consumer group reads them, and say how long each took from the time at which it was to be sent until it was delivered.\n" +
			"Give it a --target-rate: without one, the producers run ahead of the group, and what is measured is the queue.",
		Example: "  bench e2e --target-rate 20000 --consumers 2",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			spec, err := f.complete(cmd, load.PhaseE2E)
			if err != nil {
				return err
			}
			return f.runOne(cmd, spec)
		},
	}
	f.register(cmd)
	return cmd
}
