package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"logbroker/broker"
	"logbroker/config"
	"logbroker/internal/buildinfo"
	"logbroker/internal/cli"
)

func newStart() *cobra.Command {
	var flags configFlags
	var readyFile string
	cmd := &cobra.Command{
		Use: "start", Short: "Run one broker node until SIGTERM", Long: "Run one broker node until SIGTERM.\n" + keyFlagsHelp,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load(cmd)
			if err != nil {
				return err
			}
			return runNode(cmd, c, readyFile)
		},
	}
	flags.register(cmd.Flags())
	cmd.Flags().StringVar(&readyFile, "ready-file", "", "write addresses and pid as JSON to this file once the node is ready")
	return cmd
}

// runNode runs one node until ctx ends or the node fails.
func runNode(cmd *cobra.Command, c config.Config, readyFile string) error {
	began := time.Now()
	logger := newLogger(cmd.ErrOrStderr(), c.Log).With("node", c.Cluster.NodeID)
	node, err := broker.New(broker.Options{Config: c, Logger: logger})
	if err != nil {
		return err
	}
	if err := node.Start(cmd.Context()); err != nil {
		return stopped(node, c, err)
	}
	info := node.Info()
	var ready readyInfo
	ready.add(info, os.Getpid())
	if err := ready.write(readyFile); err != nil {
		return stopped(node, c, err)
	}
	logger.Info("ready", "version", buildinfo.Read().Version, "client", info.ClientURL, "http", info.HTTPURL, "raft", info.RaftAddr,
		"data_dir", info.DataDir, "ready_in", time.Since(began).Round(time.Millisecond).String())
	<-cmd.Context().Done()
	return stopped(node, c, nil)
}

// stopped stops the node within the drain time-out and returns the first error.
func stopped(node *broker.Broker, c config.Config, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.Shutdown.DrainTimeout)
	defer cancel()
	if err := node.Stop(ctx); cause == nil && err != nil {
		return fmt.Errorf("stopping: %w", err)
	}
	return cause
}
