package main

import (
	"time"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/proof/overload"
	"logbroker/internal/units"
)

func newOverload() *cobra.Command {
	var s shared
	var o overload.Options
	memory, disk := units.ByteSize(1<<30), units.ByteSize(8<<20)
	cmd := &cobra.Command{
		Use: "overload", Short: "Ten times the load that the disks allow, with bounded memory", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Powers, _ = s.begin(cmd)
			o.Binary, o.Dir, o.Seed, o.Out, o.Commit = s.binary, s.dir, s.seed, cmd.OutOrStdout(), commit(cmd)
			o.MemoryBytes, o.DiskBytes = int64(memory), int64(disk)
			return overload.Run(cmd.Context(), o)
		},
	}
	s.register(cmd)
	f := cmd.Flags()
	f.DurationVar(&o.Duration, "duration", 2*time.Minute, "how long there is too much load in all")
	f.DurationVar(&o.LegMax, "leg", 5*time.Minute, "how long one cluster lives; then its replicas are read and judged")
	f.StringVar(&o.State, "state", "", "file to go on from and to write after each leg")
	f.TextVar(&memory, "memory", memory, "what the process of a node may hold")
	f.TextVar(&disk, "disk", disk, "what the disk of a node writes in a second; the last node's half of it")
	f.IntVar(&o.Idle, "idle", 10_000, "idle connections beside it")
	f.IntVar(&o.Stalled, "stalled", 1000, "consumers beside it that ask for 4 MiB and read nothing")
	f.Int32Var(&o.Partitions, "partitions", 12, "partitions of the topic")
	return cmd
}
