package main

import (
	"github.com/spf13/cobra"

	"logbroker/bench/load"
	"logbroker/internal/cli"
)

func newConsume() *cobra.Command {
	f := &flags{}
	cmd := &cobra.Command{
		Use: "consume", Short: "Read from the start what was produced before",
		Long: "Produce first, then read all of it from the start with a reader per partition. With --topic, read what that topic holds.\n" +
			"The clock runs from before the readers connect to the last record.",
		Example: "  bench consume --records 5000000 --record-size 128\n  bench consume --server nats://127.0.0.1:4222 --topic orders",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			phases := []string{load.PhaseProduce, load.PhaseConsume}
			if f.topic != "" {
				phases = phases[1:]
			}
			spec, err := f.complete(cmd, phases...)
			if err != nil {
				return err
			}
			return f.runOne(cmd, spec)
		},
	}
	f.register(cmd)
	return cmd
}
