// Command logbroker is the client command line of logbroker: topics, records in
// and out, the cluster's state, and files that help to run it. It speaks to
// brokers through internal/client, producer and consumer and holds no broker
// code; running one is logbrokerd.
//
// Start at newRoot, then app (what commands share), then produce.go and
// consume.go, the two that move data.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"logbroker/internal/buildinfo"
	"logbroker/internal/cli"
)

func main() {
	// A write to a closed pipe must be an error that commands end with, not a
	// signal that kills a producer with records under way.
	signal.Ignore(syscall.SIGPIPE)
	a := newApp()
	os.Exit(cli.Run(newRoot(a), os.Args[1:], a.stdout, a.stderr))
}

func newRoot(a *app) *cobra.Command {
	root := cli.Group("logbroker", "The client of logbroker, a replicated, append-only message log",
		newTopic(a), newCluster(a), newRaft(a), newGroupCommands(a), newProfile(a), newDebug(), newGenerate(a), newVersion(a))
	root.Long = "logbroker talks to a logbroker cluster: it creates topics, produces and consumes records, and shows the cluster's state.\n" +
		"No cluster yet? Start one on this machine: logbrokerd dev"
	a.globals.register(root.PersistentFlags())
	root.SetIn(a.stdin)
	return root
}

func newVersion(a *app) *cobra.Command {
	var short bool
	cmd := &cobra.Command{
		Use: "version", Short: "Print version, revision and platform of this command", Args: cli.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			info := buildinfo.Read()
			if short {
				_, err := fmt.Fprintln(a.stdout, info.Version)
				return err
			}
			return a.emit(&info, func(t *table) {
				t.printf("logbroker %s (revision %s, %s, %s)\n", info.Version, info.Revision, info.Go, info.Platform)
			})
		},
	}
	cmd.Flags().BoolVar(&short, "short", false, "print the version only")
	return cmd
}

func newDebug() *cobra.Command {
	return cli.Group("debug", "Collect what a bug report needs (not built yet)",
		notBuilt("bundle", "Collect logs, metrics and state into one file (not built yet)", "logbroker debug bundle"))
}

// notBuilt is a command that only says that it does not exist yet, whatever its
// arguments and flags.
func notBuilt(use, short, what string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs,
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
		RunE:               func(*cobra.Command, []string) error { return cli.NotBuilt(what) },
	}
}
