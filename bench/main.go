// Command bench says how fast logbroker is: it starts a cluster of broker
// processes (or connects to one), puts a load on it through the public producer
// and consumer, and prints what came out and what it cost. It is not part of the
// product, and holds no broker code.
//
// Start at newRoot, then flags.go (what a load is), then system.go (logbroker as
// a load.System). The load itself and its measurement are package load.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"logbroker/bench/load"
	"logbroker/internal/cli"
)

func main() {
	// A closed pipe must not end the process: it still has brokers to stop.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(cli.Run(newRoot(), os.Args[1:], cli.Output{File: os.Stdout}, cli.Output{File: os.Stderr}))
}

func newRoot() *cobra.Command {
	root := cli.Group("bench", "How fast logbroker is, and what that costs",
		newProduce(), newConsume(), newE2E(), newSweep(), newCompare(), newReport(), newDriver())
	root.Long = "bench measures logbroker: records and bytes per second, latencies, and the CPU, memory and disk that the brokers need.\n" +
		"It starts a cluster of its own on this machine unless --server names one. Try it: go run ./bench produce"
	return root
}

// newDriver is how other processes run one turn on logbroker.
func newDriver() *cobra.Command {
	return &cobra.Command{
		Use: "driver", Short: "Read a spec as JSON from stdin, run it on logbroker, write the result as JSON to stdout",
		Hidden: true, Args: cli.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if code := load.DriverMain(newSystem()); code != cli.ExitOK {
				return &cli.ExitError{Code: code}
			}
			return nil
		},
	}
}
