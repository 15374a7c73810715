// Command peers runs the systems that logbroker is compared with, under the
// load of package bench/load: NATS JetStream, raw dragonboat and Kafka. It is a
// module of its own, so that the product's go.mod does not grow by them.
//
// Each of the commands jetstream, dragonboat and kafka is one turn: it reads a
// load.Spec from stdin, starts what it measures (Kafka is never started, only
// connected to), and writes a load.Turn to stdout. The hidden commands
// nats-server and raft-node are the broker processes: this binary again.
//
// Start at jetstream.go, raft.go or kafka.go: each holds one load.System.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"logbroker/bench/load"
	"logbroker/internal/cli"
)

func main() {
	os.Exit(cli.Run(newRoot(), os.Args[1:], os.Stdout, os.Stderr))
}

func newRoot() *cobra.Command {
	var sync, broker string
	jetstream := driverCommand("jetstream", "NATS JetStream, three nodes", func() load.System { return &jetStreamSystem{sync: sync} })
	jetstream.Flags().StringVar(&sync, "sync", syncDefault, "sync_interval of the servers: default (two minutes) or always")
	kafka := driverCommand("kafka", "a Kafka cluster that runs already", func() load.System { return &kafkaSystem{broker: broker} })
	kafka.Flags().StringVar(&broker, "broker", "127.0.0.1:9092", "HOST:PORT of one of its brokers")
	return cli.Group("peers", "The systems that logbroker is compared with",
		jetstream,
		driverCommand("dragonboat", "Raft alone: three nodes whose state machine only appends", func() load.System { return &raftSystem{} }),
		kafka, natsServerCommand(), raftNodeCommand())
}

// driverCommand is a command that does one turn on what newSystem makes.
func driverCommand(name, short string, newSystem func() load.System) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short + ": reads a load.Spec from stdin, writes a load.Turn to stdout", Args: cli.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if code := load.DriverMain(newSystem()); code != cli.ExitOK {
				return &cli.ExitError{Code: code}
			}
			return nil
		},
	}
}
