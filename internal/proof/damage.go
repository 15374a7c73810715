package main

import (
	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/proof/damage"
)

func newDamage() *cobra.Command {
	var s shared
	var o damage.Options
	cmd := &cobra.Command{
		Use: "damage", Short: "Damage of every file of a node, in every way, on leader and follower", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Binary, o.Dir, o.Out, o.Commit = s.binary, s.dir, cmd.OutOrStdout(), commit(cmd)
			s.begin(cmd) // brings up the network that the nodes use
			return damage.Run(cmd.Context(), o)
		},
	}
	s.place(cmd)
	cmd.Flags().StringVar(&o.Only, "only", "", "only the cells with this in their name, such as marker or \"/ bit flip /\"")
	cmd.Flags().StringVar(&o.State, "state", "", "file to go on from and to write after each cell")
	return cmd
}
