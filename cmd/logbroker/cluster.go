package main

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/protocol"
)

func newCluster(a *app) *cobra.Command {
	return cli.Group("cluster", "Show the cluster's nodes, health and partitions; move leaderships",
		newClusterInfo(a), newHealth(a), newClusterNodes(a), newClusterPartitions(a), newTransferLeader(a), newBalanceLeaders(a),
		notBuilt("add-node", "Add a node (not built yet)", "logbroker cluster add-node"),
		notBuilt("drain NODE", "Move everything off a node (not built yet)", "logbroker cluster drain"),
		notBuilt("remove-node NODE", "Remove a node for good (not built yet)", "logbroker cluster remove-node"))
}

func newClusterInfo(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "info", Short: "Show the cluster's identity, size and nodes", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				info, err := b.ClusterInfo(ctx)
				if err != nil {
					return err
				}
				return a.emit(info, func(t *table) {
					t.row("CLUSTER", info.ClusterName)
					t.row("ID", info.ClusterID)
					t.row("VERSION", info.Version)
					t.row("METADATA LEADER", info.MetadataLeader)
					t.row("TOPICS", info.Topics)
					t.row("PARTITIONS", info.Partitions)
					t.printf("\n")
					t.nodes(info.Nodes)
				})
			})
		},
	}
}

func newClusterNodes(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "nodes", Short: "List the nodes", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				info, err := b.ClusterInfo(ctx)
				if err != nil {
					return err
				}
				return a.emit(&info.Nodes, func(t *table) { t.nodes(info.Nodes) })
			})
		},
	}
}

func (t *table) nodes(nodes []protocol.NodeInfo) {
	head := []any{"NODE", "ALIVE", "LEADERS", "REPLICAS", "CLIENT", "HTTP"}
	if t.wide {
		head = append(head, "RAFT", "RACK", "VERSION")
	}
	t.row(head...)
	for _, n := range nodes {
		cells := []any{n.ID, n.Alive, n.Leaders, n.Replicas, strings.Join(n.Client, ","), n.HTTP}
		if t.wide {
			cells = append(cells, n.Raft, n.Rack, n.Version)
		}
		t.row(cells...)
	}
}

func newClusterPartitions(a *app) *cobra.Command {
	var leaderless, underReplicated bool
	cmd := &cobra.Command{
		Use: "partitions", Short: "List the partitions of all topics",
		Long: "List the partitions of all topics. With both filters, a partition that either of them matches is listed.",
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				reply, err := b.Partitions(ctx)
				if err != nil {
					return err
				}
				rows := reply.Partitions
				if leaderless || underReplicated {
					rows = slices.DeleteFunc(rows, func(r protocol.PartitionRow) bool {
						wanted := leaderless && r.Leader == nil || underReplicated && r.UnderReplicated
						return !wanted
					})
				}
				return a.emit(&rows, func(t *table) {
					t.partitionHead("TOPIC", "PARTITION", "COMPLETE")
					for _, r := range rows {
						t.partition(r.PartitionDescription, r.Topic, r.Partition, !r.UnderReplicated)
					}
					for _, r := range rows {
						for _, node := range r.Joining {
							t.printf("%s/%d: the replica on node %d is being replaced and does not vote yet\n", r.Topic, r.Partition, node)
						}
						for _, f := range r.Fetching {
							t.printf("%s/%d: node %d has fetched %s of %s that it lacks\n", r.Topic, r.Partition, f.Node, bytesText(f.FetchedBytes), bytesText(f.FetchBytes))
						}
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&leaderless, "leaderless", false, "only partitions without a leader")
	cmd.Flags().BoolVar(&underReplicated, "under-replicated", false, "only partitions with a replica that is missing or far behind")
	return cmd
}

func newTransferLeader(a *app) *cobra.Command {
	var to uint64
	cmd := &cobra.Command{
		Use: "transfer-leader TOPIC/PARTITION [NODE]", Short: "Move a partition's leadership to another replica's node",
		Example: "  logbroker cluster transfer-leader orders/0 2",
		Args:    cli.Args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePartitionName(args[0])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				node, err := strconv.ParseUint(args[1], 10, 64)
				if err != nil || node == 0 || cmd.Flags().Changed("to") {
					return cli.Usage("%q is not a node id (or --to is given too); see: logbroker cluster nodes", args[1])
				}
				to = node
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				if err := b.TransferLeader(ctx, p.topic, p.partition, to); err != nil {
					return err
				}
				if to == 0 {
					a.note("%s: leadership was handed to another replica", p)
				} else {
					a.note("%s: leadership was handed to node %d", p, to)
				}
				return nil
			})
		},
	}
	cmd.Flags().Uint64Var(&to, "to", 0, "`node` that shall lead (default: any other replica's)")
	return cmd
}

func newBalanceLeaders(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "balance-leaders", Short: "Spread leaderships evenly over the nodes, a few moves at a time", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				reply, err := b.BalanceLeaders(ctx)
				if err != nil {
					return err
				}
				return a.emit(reply, func(t *table) { t.printf("%d leaderships have to move\n", reply.Moves) })
			})
		},
	}
}
