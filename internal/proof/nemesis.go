package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"logbroker/bench/procs"
	"logbroker/internal/cli"
	"logbroker/internal/proof/nemesis"
	"logbroker/internal/proof/testbed"
)

// shared are the flags that proofs have in common.
type shared struct {
	binary, dir string
	seed        uint64
	noSync      bool
}

// place registers which broker is tried, and where.
func (s *shared) place(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.binary, "binary", "bin/logbrokerd", "the broker to try")
	f.StringVar(&s.dir, "dir", "bin/proof-data", "directory for the nodes' data; what is there of the run is replaced")
}

func (s *shared) register(cmd *cobra.Command) {
	s.place(cmd)
	f := cmd.Flags()
	f.Uint64Var(&s.seed, "seed", 0, "same seed, same schedule; 0: the time")
	f.BoolVar(&s.noSync, "without-fsync", false, "let every fsync of the nodes do nothing: the proof must fail")
}

// begin resolves what the flags leave open and says what cannot be done here.
func (s *shared) begin(cmd *cobra.Command) (powers testbed.Powers, wrap []string) {
	if s.seed == 0 {
		s.seed = uint64(time.Now().UnixNano())
	}
	powers = testbed.Discover()
	if text := powers.Skipped(); text != "" {
		fmt.Fprintln(cmd.OutOrStdout(), text)
	}
	if s.noSync {
		wrap = testbed.WithoutSync()
	}
	return powers, wrap
}

func commit(cmd *cobra.Command) string {
	checkout, err := procs.Checkout()
	if err != nil {
		return "unknown"
	}
	return procs.GitRef(cmd.Context(), checkout)
}

func newNemesis() *cobra.Command {
	var s shared
	var o nemesis.Options
	var proxy bool
	cmd := &cobra.Command{
		Use: "nemesis", Short: "Faults at random, one after the other", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Powers, o.Wrap = s.begin(cmd)
			o.Powers.Proxy = o.Powers.Proxy || proxy
			o.Binary, o.Dir, o.Seed, o.Out, o.Commit = s.binary, s.dir, s.seed, cmd.OutOrStdout(), commit(cmd)
			return nemesis.Run(cmd.Context(), o)
		},
	}
	s.register(cmd)
	f := cmd.Flags()
	f.DurationVar(&o.Duration, "duration", 3*time.Minute, "how long faults happen in all")
	f.DurationVar(&o.LegMax, "leg", 5*time.Minute, "how long one cluster lives; then its replicas are read and judged")
	f.StringVar(&o.State, "state", "", "file to go on from and to write after each leg")
	f.IntVar(&o.Rate, "rate", 6000, "records a second")
	f.DurationVar(&o.Patience, "delivery-timeout", 2*time.Minute, "of the patient producers; every second one gives up after 2 s")
	f.BoolVar(&proxy, "proxy", false, "cut by a proxy, as where there are no network namespaces")
	f.StringVar(&o.Only, "only", "", "this kind of fault and no other")
	return cmd
}
