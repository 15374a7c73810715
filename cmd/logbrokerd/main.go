// Command logbrokerd runs broker nodes: one (start), or a whole cluster on this
// machine (dev), or the seven leader failures to watch (demo). It turns flags into configuration and hands over to package
// broker. Start at newRoot.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"logbroker/internal/buildinfo"
	"logbroker/internal/cli"
)

// gcPercent is the garbage collector's target. Most of a broker's heap are
// buffers that live as long as a replica and hold no pointers: collecting costs
// little, and the default of 100 would let as much garbage lie as they are large.
// With 30 three brokers under full produce load take half the memory, for the
// same CPU time. Whoever sets GOGC knows better.
const gcPercent = 30

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	os.Exit(cli.Run(newRoot(), os.Args[1:], os.Stdout, os.Stderr))
}

func newRoot() *cobra.Command {
	root := cli.Group("logbrokerd", "A replicated, append-only message log broker",
		newStart(), newDev(), newDemo(), newConfig(), newStorage(), newVersion())
	root.Long = "logbrokerd runs a node of logbroker, a replicated, append-only message log broker.\n" +
		"Try it: logbrokerd dev"
	return root
}

func newVersion() *cobra.Command {
	var short bool
	cmd := &cobra.Command{
		Use: "version", Short: "Print version, revision and platform", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			info := buildinfo.Read()
			if short {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), info.Version)
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "logbrokerd %s (revision %s, %s, %s)\n", info.Version, info.Revision, info.Go, info.Platform)
			return err
		},
	}
	cmd.Flags().BoolVar(&short, "short", false, "print the version only")
	return cmd
}
