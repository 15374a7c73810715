package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/protocol"
)

func newTopic(a *app) *cobra.Command {
	return cli.Group("topic", "Create, list, describe, change and delete topics; produce and consume records",
		newTopicCreate(a), newTopicList(a), newTopicDescribe(a), newTopicDelete(a), newTopicAlter(a),
		newTopicAddPartitions(a), newTopicTrim(a), newProduce(a), newConsume(a))
}

func newTopicCreate(a *app) *cobra.Command {
	var (
		partitions int32
		replicas   int
		settings   []string
		dryRun     bool
	)
	cmd := &cobra.Command{
		Use: "create TOPIC", Short: "Create a topic; returns when every partition has a leader",
		Example: "  logbroker topic create orders -p 6 -r 3 -c retention_age=24h",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := parseSettings(settings)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("partitions") && partitions < 1 || replicas < 0 {
				return cli.Usage("-p %d -r %d: a topic has at least one partition and one replica", partitions, replicas)
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				d, err := b.CreateTopic(ctx, protocol.TopicCreateRequest{
					Name: args[0], Partitions: partitions, Replicas: replicas, Config: config, DryRun: dryRun, RequestID: rand.Text(),
				})
				if err != nil {
					return err
				}
				if dryRun {
					a.note("dry run: topic %q would be created like this, nothing was changed", args[0])
				}
				return a.showTopic(d)
			})
		},
	}
	cmd.Flags().Int32VarP(&partitions, "partitions", "p", 0, "number of partitions (default: the cluster's)")
	cmd.Flags().IntVarP(&replicas, "replicas", "r", 0, "replicas of each partition (default: the cluster's)")
	cmd.Flags().StringArrayVarP(&settings, "config", "c", nil, "topic setting as `key=value`; repeatable")
	cmd.Flags().BoolVarP(&dryRun, "dry-run", "d", false, "check the request and print the result, change nothing")
	return cmd
}

// parseSettings reads key=value pairs.
func parseSettings(pairs []string) (map[string]string, error) {
	out := map[string]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" {
			return nil, cli.Usage("-c %q: write it as key=value, like -c retention_age=24h", pair)
		}
		if _, twice := out[key]; twice {
			return nil, cli.Usage("-c %s is given twice", key)
		}
		out[key] = value
	}
	return out, nil
}

func newTopicList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the topics", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				reply, err := b.ListTopics(ctx)
				if err != nil {
					return err
				}
				return a.emit(&reply.Topics, func(t *table) {
					t.row("NAME", "PARTITIONS", "REPLICAS")
					for _, topic := range reply.Topics {
						t.row(topic.Name, topic.Partitions, topic.Replicas)
					}
				})
			})
		},
	}
}

func newTopicDescribe(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "describe TOPIC", Short: "Show a topic's settings and the state of its partitions", Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				d, err := b.DescribeTopic(ctx, args[0])
				if err != nil {
					return aboutTopic(err, args[0])
				}
				return a.showTopic(d)
			})
		},
	}
}

func (a *app) showTopic(d *protocol.TopicDescription) error {
	return a.emit(d, func(t *table) {
		t.row("NAME", d.Name)
		t.row("REPLICAS", d.Replicas)
		t.row("PARTITIONS", len(d.Partitions))
		for _, key := range slices.Sorted(maps.Keys(d.Config)) {
			t.row(key, d.Config[key])
		}
		t.printf("\n")
		t.partitionHead("PARTITION")
		for _, p := range d.Partitions {
			t.partition(p, p.Partition)
		}
	})
}

func (t *table) partitionHead(first ...any) {
	head := append(first, "LEADER", "EPOCH", "REPLICAS", "LOG-START", "HIGH-WATERMARK", "SIZE")
	if t.wide {
		head = append(head, "PREFERRED")
	}
	t.row(head...)
}

func (t *table) partition(p protocol.PartitionDescription, first ...any) {
	cells := append(first, p.Leader, p.Epoch, p.Replicas, p.LogStart, p.HighWatermark, t.size(p.SizeBytes))
	if t.wide {
		cells = append(cells, p.PreferredLeader)
	}
	t.row(cells...)
}

func newTopicDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "delete TOPIC...", Short: "Delete topics and their records", Args: cli.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.confirm(fmt.Sprintf("Delete %s and all records?", quoted(args))); err != nil {
				return err
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				for _, name := range args {
					if err := b.DeleteTopic(ctx, name); err != nil {
						return aboutTopic(err, name)
					}
					a.note("deleted topic %q", name)
				}
				return nil
			})
		},
	}
}

func quoted(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strconv.Quote(n)
	}
	if len(out) == 1 {
		return "topic " + out[0]
	}
	return "topics " + strings.Join(out, ", ")
}

func newTopicAlter(a *app) *cobra.Command {
	var settings []string
	cmd := &cobra.Command{
		Use: "alter TOPIC -c key=value", Short: "Change a topic's settings",
		Example: "  logbroker topic alter orders -c retention_bytes=10GiB -c max_batch_bytes=512KiB",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := parseSettings(settings)
			if err != nil {
				return err
			}
			if len(config) == 0 {
				return cli.Usage("nothing to change: give at least one -c key=value; see: logbroker topic describe %s", args[0])
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				d, err := b.AlterTopic(ctx, args[0], config)
				if err != nil {
					return aboutTopic(err, args[0])
				}
				return a.showTopic(d)
			})
		},
	}
	cmd.Flags().StringArrayVarP(&settings, "config", "c", nil, "topic setting as `key=value`; repeatable")
	return cmd
}

func newTopicAddPartitions(a *app) *cobra.Command {
	var total, more int32
	cmd := &cobra.Command{
		Use: "add-partitions TOPIC (-p TOTAL | -n MORE)", Short: "Give a topic more partitions (keys then map to other partitions)",
		Example: "  logbroker topic add-partitions orders -p 12   # twelve in all\n  logbroker topic add-partitions orders -n 3    # three more",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (total > 0) == (more > 0) {
				return cli.Usage("say how many: either -p TOTAL or -n MORE")
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				want := total
				if more > 0 {
					d, err := b.DescribeTopic(ctx, args[0])
					if err != nil {
						return aboutTopic(err, args[0])
					}
					want = int32(len(d.Partitions)) + more
				}
				d, err := b.AddPartitions(ctx, args[0], want)
				if err != nil {
					return aboutTopic(err, args[0])
				}
				return a.showTopic(d)
			})
		},
	}
	cmd.Flags().Int32VarP(&total, "partitions", "p", 0, "number of partitions the topic shall have")
	cmd.Flags().Int32VarP(&more, "num", "n", 0, "number of partitions to add")
	return cmd
}

func newTopicTrim(a *app) *cobra.Command {
	var (
		partition int32
		to        string
	)
	cmd := &cobra.Command{
		Use: "trim TOPIC --offset N|end", Short: "Delete the records before an offset",
		Example: "  logbroker topic trim orders -p 2 --offset 10000\n  logbroker topic trim orders --offset end    # everything, in all partitions",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			offset, err := trimOffset(to)
			if err != nil {
				return err
			}
			where := "all partitions"
			if partition >= 0 {
				where = fmt.Sprintf("partition %d", partition)
			} else if cmd.Flags().Changed("partition") {
				return cli.Usage("-p %d: there are no negative partitions", partition)
			}
			if err := a.confirm(fmt.Sprintf("Delete the records of topic %q before offset %s in %s?", args[0], to, where)); err != nil {
				return err
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				reply, err := b.TrimTopic(ctx, args[0], partition, offset)
				if err != nil {
					return err
				}
				return a.emit(&reply.Partitions, func(t *table) {
					t.row("PARTITION", "LOG-START")
					for _, p := range reply.Partitions {
						t.row(p.Partition, p.LogStart)
					}
				})
			})
		},
	}
	cmd.Flags().Int32VarP(&partition, "partition", "p", -1, "partition (default: all)")
	cmd.Flags().StringVar(&to, "offset", "", "first offset to keep, or end for none")
	return cmd
}

// trimOffset reads --offset; end is -1, the high watermark.
func trimOffset(to string) (int64, error) {
	if to == "end" {
		return -1, nil
	}
	offset, err := strconv.ParseInt(to, 10, 64)
	if err != nil || offset < 0 {
		return 0, cli.Usage("--offset %q: give the first offset to keep, or end", to)
	}
	return offset, nil
}
