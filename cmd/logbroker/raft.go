package main

import (
	"context"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/protocol"
)

func newRaft(a *app) *cobra.Command {
	return cli.Group("raft", "Look at Raft groups", newRaftShow(a))
}

func newRaftShow(a *app) *cobra.Command {
	var again, topic bool
	cmd := &cobra.Command{
		Use: "show TOPIC/PARTITION | metadata | groups/N", Short: "Show role, term, leader, last, commit and applied index of every replica",
		Long: "Show role, term, leader, last, commit and applied index of every replica of a partition, of the metadata, or of\n" +
			"coordinator shard N of the consumer groups, counted from 0 (group describe -o wide tells which one a group is on).\n" +
			"What a node that cannot be reached would say is \"-\" (null in JSON), never zero.",
		Example: "  logbroker raft show orders/0 -w\n  logbroker raft show groups/2",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := raftRequest(args[0], topic)
			if err != nil {
				return err
			}
			if again {
				return a.watchRaft(cmd, r)
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				reply, err := b.ShowRaft(ctx, r)
				if err != nil {
					return err
				}
				return a.emit(reply, showRaft(reply))
			})
		},
	}
	cmd.Flags().BoolVarP(&again, "watch", "w", false, "print again whenever it changes")
	cmd.Flags().BoolVar(&topic, "topic", false, "take the name for TOPIC/PARTITION, also where the topic is called groups")
	return cmd
}

// raftRequest reads what is to be shown.
func raftRequest(name string, topic bool) (protocol.RaftShowRequest, error) {
	if topic {
		p, err := parsePartitionName(name)
		return protocol.RaftShowRequest{Topic: p.topic, Partition: p.partition}, err
	}
	r, ok := protocol.RaftShowOf(name)
	if !ok {
		return r, cli.Usage("%q is not TOPIC/PARTITION, like orders/0, nor metadata, nor groups/N", name)
	}
	return r, nil
}

func (a *app) watchRaft(cmd *cobra.Command, r protocol.RaftShowRequest) error {
	b, err := a.open(cmd.Context())
	if err != nil {
		return err
	}
	defer b.Close()
	return watch(cmd.Context(), a,
		func(ctx context.Context) (*protocol.RaftShowReply, error) {
			ctx, cancel := context.WithTimeout(ctx, a.globals.timeout)
			defer cancel()
			return b.ShowRaft(ctx, r)
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
