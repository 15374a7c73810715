package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/proof/powerloss"
)

func newPowerLoss() *cobra.Command {
	var s shared
	var o powerloss.Options
	cmd := &cobra.Command{
		Use: "powerloss", Short: "Loss of power of one, two and all nodes", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Powers, o.Wrap = s.begin(cmd)
			if !o.Powers.Disks {
				fmt.Fprintln(cmd.OutOrStdout(), "skipped: the whole proof; as root with loop devices it can be made")
				return nil
			}
			o.Binary, o.Dir, o.Seed, o.Out, o.Commit = s.binary, s.dir, s.seed, cmd.OutOrStdout(), commit(cmd)
			return powerloss.Run(cmd.Context(), o)
		},
	}
	s.register(cmd)
	f := cmd.Flags()
	f.IntVar(&o.Cycles, "cycles", 24, "how many losses of power")
	f.StringVar(&o.State, "state", "", "file to go on from and to write after each leg of 24 cycles")
	f.IntVar(&o.Rate, "rate", 2500, "records of 4 KiB a second")
	return cmd
}
