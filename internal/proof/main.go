// Command proof tries to make logbroker lose data: it starts clusters of real
// processes, does them harm while records are produced through the producer
// library, and judges with package history what the clients saw and what every
// replica holds on its disk. It is not part of the product.
//
// Start at newRoot; what the machine can do to a node is package testbed.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/proof/testbed"
)

func main() {
	signal.Ignore(syscall.SIGPIPE) // it still has nodes to stop
	if code, done := testbed.Isolate(); done {
		os.Exit(code)
	}
	os.Exit(cli.Run(newRoot(), os.Args[1:], os.Stdout, os.Stderr))
}

func newRoot() *cobra.Command {
	root := cli.Group("proof", "Try to make logbroker lose data", newNemesis(), newPowerLoss(), newDamage(), newOverload())
	root.Long = "proof starts clusters of logbrokerd processes, does them harm while records are produced, and judges\n" +
		"what was acked against what every replica holds in the end. See the Makefile for how it is run."
	return root
}
