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

// devNodesMax bounds --nodes: more make no sense on one machine.
const devNodesMax = 9

type devOptions struct {
	flags     configFlags
	nodes     int
	dataDir   string
	ephemeral bool
	anyPort   bool
	processes bool
	readyFile string
}

func newDev() *cobra.Command {
	o := &devOptions{}
	cmd := &cobra.Command{
		Use: "dev", Short: "Run a whole cluster on this machine, on loopback",
		Long: "Run a whole cluster on this machine, on loopback, until Ctrl-C.\n" + keyFlagsHelp,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.flags.register(cmd.Flags())
	f := cmd.Flags()
	f.IntVar(&o.nodes, "nodes", 3, "number of nodes")
	f.StringVar(&o.dataDir, "data-dir", config.Default().Storage.DataDir, "directory that holds one data directory per node")
	f.BoolVar(&o.ephemeral, "ephemeral", false, "use a temporary directory and remove it at the end")
	f.BoolVar(&o.anyPort, "any-port", false, "take free ports instead of the standard ones")
	f.BoolVar(&o.processes, "processes", false, "run every node as a process of its own")
	f.StringVar(&o.readyFile, "ready-file", "", "write addresses and pids as JSON to this file once the cluster is ready")
	return cmd
}

func (o *devOptions) run(cmd *cobra.Command) error {
	if o.nodes < 1 || o.nodes > devNodesMax {
		return cli.Usage("--nodes %d: use 1 to %d", o.nodes, devNodesMax)
	}
	if o.ephemeral && cmd.Flags().Changed("data-dir") {
		return cli.Usage("--ephemeral and --data-dir exclude each other")
	}
	base, err := o.flags.load(cmd)
	if err != nil {
		return err
	}
	if !cmd.Flags().Changed("log.level") && os.Getenv(config.EnvPrefix+"_LOG_LEVEL") == "" {
		base.Log.Level = "warn" // the summary on stdout is what a person wants to see
	}
	if o.ephemeral {
		if o.dataDir, err = os.MkdirTemp("", "logbroker-dev-"); err != nil {
			return fmt.Errorf("cannot make a temporary directory: %w", err)
		}
		defer func() {
			if err := os.RemoveAll(o.dataDir); err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %v\n", err)
			}
		}()
	}
	if o.processes {
		return o.runProcesses(cmd, base)
	}
	return o.runInProcess(cmd, base)
}

// runInProcess runs all nodes in this process.
func (o *devOptions) runInProcess(cmd *cobra.Command, base config.Config) error {
	began := time.Now()
	logger := newLogger(cmd.ErrOrStderr(), base.Log)
	local, err := broker.StartLocal(cmd.Context(), broker.LocalOptions{
		Nodes: o.nodes, Dir: o.dataDir, AnyPort: o.anyPort, Base: base, Logger: logger,
	})
	if err != nil {
		return err
	}
	var ready readyInfo
	for _, info := range local.Infos() {
		ready.add(info, os.Getpid())
	}
	if err := o.announce(cmd, ready, time.Since(began)); err != nil {
		return stopLocal(local, base, err)
	}
	<-cmd.Context().Done()
	return stopLocal(local, base, nil)
}

func stopLocal(local *broker.Local, base config.Config, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), base.Shutdown.DrainTimeout)
	defer cancel()
	if err := local.Stop(ctx); cause == nil && err != nil {
		return fmt.Errorf("stopping: %w", err)
	}
	return cause
}

// announce writes the ready file and tells a person what is there and what to
// type next.
func (o *devOptions) announce(cmd *cobra.Command, ready readyInfo, took time.Duration) error {
	if err := ready.write(o.readyFile); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "logbroker %s, %d nodes, data in %s\n", buildinfo.Read().Version, len(ready.Nodes), o.dataDir)
	for i, n := range ready.Nodes {
		fmt.Fprintf(out, "  node %d  clients %s  http %s  raft %s", n.ID, ready.Servers[i], ready.HTTP[i], ready.Raft[i])
		if o.processes {
			fmt.Fprintf(out, "  pid %d", n.PID)
		}
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, "ready in %d ms\n", took.Milliseconds())
	server := ""
	if o.anyPort {
		server = "--server " + ready.Servers[0] + " "
	}
	_, err := fmt.Fprintf(out, "next: echo hello | go run ./cmd/logbroker %stopic produce events --create   (Ctrl-C stops the cluster)\n", server)
	return err
}
