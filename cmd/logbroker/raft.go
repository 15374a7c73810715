package main

import (
	"context"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/protocol"
)

// metadataShard is what raft show calls the metadata's own Raft group.
const metadataShard = "metadata"

func newRaft(a *app) *cobra.Command {
	return cli.Group("raft", "Look at Raft groups", newRaftShow(a))
}

func newRaftShow(a *app) *cobra.Command {
	var again bool
	cmd := &cobra.Command{
		Use: "show TOPIC/PARTITION | metadata", Short: "Show role, term, leader, last, commit and applied index of every replica",
		Long: "Show role, term, leader, last, commit and applied index of every replica of a partition, or of the metadata.\n" +
			"What a node that cannot be reached would say is \"-\" (null in JSON), never zero.",
		Example: "  logbroker raft show orders/0 -w",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var p partitionName
			if args[0] != metadataShard {
				var err error
				if p, err = parsePartitionName(args[0]); err != nil {
					return err
				}
			}
			if again {
				return a.watchRaft(cmd, p)
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				reply, err := b.ShowRaft(ctx, p.topic, p.partition)
				if err != nil {
					return err
				}
				return a.emit(reply, showRaft(reply))
			})
		},
	}
	cmd.Flags().BoolVarP(&again, "watch", "w", false, "print again whenever it changes")
	return cmd
}

func (a *app) watchRaft(cmd *cobra.Command, p partitionName) error {
	b, err := a.open(cmd.Context())
	if err != nil {
		return err
	}
	defer b.Close()
	return watch(cmd.Context(), a,
		func(ctx context.Context) (*protocol.RaftShowReply, error) {
			ctx, cancel := context.WithTimeout(ctx, a.globals.timeout)
			defer cancel()
			return b.ShowRaft(ctx, p.topic, p.partition)
		},
		func(reply *protocol.RaftShowReply) error { return a.emitEach(reply, showRaft(reply)) })
}

func showRaft(reply *protocol.RaftShowReply) func(*table) {
	return func(t *table) {
		t.row("SHARD", "NODE", "ROLE", "TERM", "LEADER", "LAST", "COMMIT", "APPLIED")
		for _, r := range reply.Replicas {
			t.row(reply.Shard, r.Node, r.Role, r.Term, r.Leader, r.Last, r.Commit, r.Applied)
		}
	}
}
