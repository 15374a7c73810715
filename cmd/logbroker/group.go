package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

func newGroupCommands(a *app) *cobra.Command {
	return cli.Group("group", "List, describe, move and delete consumer groups",
		newGroupList(a), newGroupDescribe(a), newGroupSeek(a), newGroupDelete(a))
}

func newGroupList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the consumer groups", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				reply, err := b.ListGroups(ctx)
				if err != nil {
					return err
				}
				if n := len(reply.Unreachable); n > 0 {
					a.note("%d coordinator shards cannot be reached, their groups are missing; see: logbroker cluster health", n)
				}
				return a.emit(&reply.Groups, func(t *table) {
					t.row("GROUP", "STATE", "MEMBERS", "TOPICS", "COORDINATOR")
					for _, g := range reply.Groups {
						t.row(g.Group, g.State, g.Members, g.Topics, g.Coordinator)
					}
				})
			})
		},
	}
}

// groupView is a group as -o json prints it.
type groupView struct {
	Group       string                   `json:"group"`
	State       string                   `json:"state"`
	Coordinator uint64                   `json:"coordinator"`
	Shard       string                   `json:"shard"`
	GroupEpoch  int32                    `json:"group_epoch"`
	Assignor    string                   `json:"assignor"`
	Members     []protocol.GroupMember   `json:"members"`
	TotalLag    int64                    `json:"total_lag"`
	Incomplete  bool                     `json:"incomplete"` // the lag of some partition is not known
	Topics      []protocol.GroupTopicLag `json:"topics"`
	Partitions  []groupPartitionView     `json:"partitions"`
	Problems    []protocol.GroupProblem  `json:"problems"`
}

// groupPartitionView has nulls where a value is not known.
type groupPartitionView struct {
	Topic         string  `json:"topic"`
	Partition     int32   `json:"partition"`
	Committed     *int64  `json:"committed"`
	LogStart      *int64  `json:"log_start"`
	HighWatermark *int64  `json:"high_watermark"`
	Lag           *int64  `json:"lag"`
	Member        *string `json:"member"`
	ClientID      *string `json:"client_id"`
	Host          *string `json:"host"`
	Metadata      string  `json:"metadata,omitempty"`
	CommitTimeMs  int64   `json:"commit_time_ms,omitempty"`
}

func viewGroup(d *protocol.GroupDescription) *groupView {
	v := &groupView{
		Group: d.Group, State: d.State, Coordinator: d.Coordinator, Shard: d.Shard, GroupEpoch: d.GroupEpoch, Assignor: d.Assignor,
		Members: d.Members, TotalLag: d.TotalLag, Incomplete: d.Incomplete, Topics: d.Topics, Problems: d.Problems,
	}
	for _, p := range d.Partitions {
		v.Partitions = append(v.Partitions, groupPartitionView{
			Topic: p.Topic, Partition: p.Partition, Committed: p.Committed, LogStart: p.LogStart, HighWatermark: p.LogEnd, Lag: p.Lag,
			Member: orNil(p.MemberID), ClientID: orNil(p.ClientID), Host: orNil(p.Host), Metadata: p.Metadata, CommitTimeMs: p.CommitTimeMs,
		})
	}
	return v
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func newGroupDescribe(a *app) *cobra.Command {
	var perTopic, again bool
	cmd := &cobra.Command{
		Use: "describe GROUP", Short: "Show a group's members, committed offsets and lag",
		Long: "Show a group's members, committed offsets and lag. The lag of a partition of which nothing is committed\n" +
			"is counted from its log start. What is not known just now is \"-\" (null in JSON), never zero.",
		Example: "  logbroker group describe billing\n  logbroker group describe billing -t -w   # lag per topic, again whenever it changes",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			look := func(ctx context.Context, b backend) (*groupView, error) {
				d, err := b.DescribeGroup(ctx, args[0])
				if err != nil {
					return nil, aboutGroup(err, args[0])
				}
				return viewGroup(d), nil
			}
			show := showGroup
			if perTopic {
				show = showTopicLag
			}
			if again {
				return a.watchGroup(cmd, look, show)
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				v, err := look(ctx, b)
				if err != nil {
					return err
				}
				return a.emit(v, show(v))
			})
		},
	}
	cmd.Flags().BoolVarP(&perTopic, "lag-per-topic", "t", false, "show one line per topic, not per partition")
	cmd.Flags().BoolVarP(&again, "watch", "w", false, "print again whenever it changes")
	return cmd
}

func (a *app) watchGroup(cmd *cobra.Command, look func(context.Context, backend) (*groupView, error), show func(*groupView) func(*table)) error {
	b, err := a.open(cmd.Context())
	if err != nil {
		return err
	}
	defer b.Close()
	first := true
	return watch(cmd.Context(), a,
		func(ctx context.Context) (*groupView, error) {
			ctx, cancel := context.WithTimeout(ctx, a.globals.timeout)
			defer cancel()
			return look(ctx, b)
		},
		func(v *groupView) error {
			return a.emitEach(v, func(t *table) {
				if !first {
					t.printf("\n")
				}
				first = false
				show(v)(t)
			})
		})
}

func (t *table) groupHead(v *groupView) {
	lag := strconv.FormatInt(v.TotalLag, 10)
	if v.Incomplete {
		lag += " (and what is not known)"
	}
	t.row("GROUP", v.Group)
	t.row("COORDINATOR", v.Coordinator)
	if t.wide {
		t.row("SHARD", v.Shard)
	}
	t.row("STATE", v.State)
	t.row("BALANCER", v.Assignor)
	t.row("MEMBERS", len(v.Members))
	t.row("TOTAL-LAG", lag)
	for _, p := range v.Problems {
		t.row("PROBLEM", strings.TrimSpace(p.Topic+" "+p.Message))
	}
	t.printf("\n")
}

// showGroup prints the columns of rpk group describe.
func showGroup(v *groupView) func(*table) {
	return func(t *table) {
		t.groupHead(v)
		t.row("TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-START-OFFSET", "LOG-END-OFFSET", "LAG", "MEMBER-ID", "CLIENT-ID", "HOST")
		for _, p := range v.Partitions {
			t.row(p.Topic, p.Partition, p.Committed, p.LogStart, p.HighWatermark, p.Lag, p.Member, p.ClientID, p.Host)
		}
	}
}

func showTopicLag(v *groupView) func(*table) {
	return func(t *table) {
		t.groupHead(v)
		t.row("TOPIC", "LAG")
		for _, topic := range v.Topics {
			lag := strconv.FormatInt(topic.Lag, 10)
			if topic.Incomplete {
				lag = ">=" + lag
			}
			t.row(topic.Topic, lag)
		}
	}
}

func newGroupDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "delete GROUP...", Short: "Delete groups without members, and their committed offsets", Args: cli.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.confirm(fmt.Sprintf("Delete consumer group %s and what is committed?", strings.Join(args, ", "))); err != nil {
				return err
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				for _, name := range args {
					if err := b.DeleteGroup(ctx, name); err != nil {
						return aboutGroup(err, name)
					}
					a.note("deleted group %q", name)
				}
				return nil
			})
		},
	}
}

// aboutGroup puts the error of a request that names a group.
func aboutGroup(err error, group string) error {
	switch errcode.Of(err) {
	case errcode.GroupIDNotFound:
		return notFound("no such group %q; see: logbroker group list", group)
	case errcode.NonEmptyGroup:
		return fmt.Errorf("group %q has members; stop them first; see: logbroker group describe %s (%w)", group, group, err)
	case errcode.InvalidGroupID:
		return &cli.ExitError{Code: cli.ExitUsage, Err: errors.New(readable(err))}
	}
	return err
}

// seekFlags are the flags of seek as typed.
type seekFlags struct {
	to         string
	topics     []string
	partitions []int32
	dryRun     bool
}

func newGroupSeek(a *app) *cobra.Command {
	var flags seekFlags
	cmd := &cobra.Command{
		Use: "seek GROUP --to start|end|OFFSET|@TIME", Short: "Move the committed offsets of a group that has no members",
		Long: "Move the committed offsets of a group that has no members, all or none: of all partitions of the topics\n" +
			"of which it has committed something, or of the named ones. --to: start, end, an offset, +N (after the start),\n" +
			"-N (before the end), @TIME (RFC 3339, ms since 1970, or @-15m).",
		Example: "  logbroker group seek billing --to start --dry-run\n  logbroker group seek billing --to @-1h --topic orders\n  logbroker group seek billing --to 4711 --topic orders -p 3",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := flags.check()
			if err != nil {
				return err
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				s := seeking{app: a, b: b, group: args[0], to: to, flags: flags}
				return aboutGroup(s.run(ctx), args[0])
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.to, "to", "", "where to move to (required)")
	f.StringSliceVarP(&flags.topics, "topic", "t", nil, "topics to move in, also such as the group has not read (default: those it has committed)")
	f.Int32SliceVarP(&flags.partitions, "partition", "p", nil, "partitions of the one topic named (default: all)")
	f.BoolVarP(&flags.dryRun, "dry-run", "d", false, "check the request and print the result, change nothing")
	return cmd
}

func (f *seekFlags) check() (startPoint, error) {
	to, err := parseStartPoint(f.to)
	if err != nil {
		return to, cli.Usage("--to %q: use start, end, an offset, +N after the start, -N before the end, or @TIME like @2026-01-02T15:04:05Z or @-15m", f.to)
	}
	if len(f.partitions) > 0 && len(f.topics) != 1 {
		return to, cli.Usage("-p needs exactly one --topic")
	}
	slices.Sort(f.partitions)
	f.partitions = slices.Compact(f.partitions)
	if len(f.partitions) > 0 && f.partitions[0] < 0 {
		return to, cli.Usage("-p %d: there are no negative partitions", f.partitions[0])
	}
	return to, nil
}

// seeking is one run of seek.
type seeking struct {
	app   *app
	b     backend
	group string
	to    startPoint
	flags seekFlags
}

// seekRow is one line of what seek prints.
type seekRow struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Prior     *int64 `json:"prior_offset"`
	Current   int64  `json:"current_offset"`
}

func (s *seeking) run(ctx context.Context) error {
	topics, prior, err := s.committed(ctx)
	if err != nil {
		return err
	}
	request := protocol.GroupSeekRequest{Group: s.group, DryRun: s.flags.dryRun}
	rows := []seekRow{}
	for _, topic := range topics {
		offsets, err := s.targets(ctx, topic)
		if err != nil {
			return err
		}
		for _, o := range offsets {
			row := seekRow{Topic: topic, Partition: o.Partition, Current: o.Offset}
			if at, some := prior[partitionName{topic, o.Partition}]; some {
				row.Prior = &at
			}
			rows = append(rows, row)
		}
		request.Offsets = append(request.Offsets, offsets...)
	}
	reply, err := s.b.SeekGroup(ctx, request)
	if err != nil {
		return err
	}
	if err := refusals(reply); err != nil {
		return err
	}
	if s.flags.dryRun {
		s.app.note("dry run: the offsets would be these, nothing was changed")
	}
	return s.app.emit(&rows, func(t *table) {
		t.row("TOPIC", "PARTITION", "PRIOR-OFFSET", "CURRENT-OFFSET")
		for _, r := range rows {
			t.row(r.Topic, r.Partition, r.Prior, r.Current)
		}
	})
}

// committed returns the topics to move in, and what is committed now.
func (s *seeking) committed(ctx context.Context) (topics []string, prior map[partitionName]int64, err error) {
	committed, err := s.b.GroupOffsets(ctx, s.group)
	if err != nil && (errcode.Of(err) != errcode.GroupIDNotFound || len(s.flags.topics) == 0) {
		return nil, nil, err
	}
	prior = map[partitionName]int64{}
	topics = s.flags.topics
	for _, o := range committed {
		prior[partitionName{o.Topic, o.Partition}] = o.Offset
		if len(s.flags.topics) == 0 {
			topics = append(topics, o.Topic)
		}
	}
	slices.Sort(topics)
	topics = slices.Compact(topics)
	if len(topics) == 0 {
		if _, err := s.b.DescribeGroup(ctx, s.group); err != nil {
			return nil, nil, err // a group that does not exist has no offsets either
		}
		return nil, nil, fmt.Errorf("group %q has committed nothing; name what to move with --topic", s.group)
	}
	return topics, prior, nil
}

// targets finds the offsets to move to in one topic.
func (s *seeking) targets(ctx context.Context, topic string) ([]protocol.CommittedOffset, error) {
	meta, err := s.b.Topic(ctx, topic)
	if err != nil {
		return nil, aboutTopic(err, topic)
	}
	c := &consuming{app: s.app, topic: topic, partitions: s.flags.partitions, from: s.to}
	if err := c.choose(meta); err != nil {
		return nil, err
	}
	spans, err := c.spans(ctx, s.b)
	if err != nil {
		return nil, err
	}
	var out []protocol.CommittedOffset
	for _, span := range spans {
		out = append(out, protocol.CommittedOffset{Topic: topic, TopicID: meta.ID, Partition: span.partition, Offset: span.start})
	}
	return out, nil
}

// refusals joins what was refused per partition.
func refusals(reply *protocol.CommitReply) error {
	var errs []error
	for _, r := range reply.Results {
		if r.Error != nil {
			errs = append(errs, fmt.Errorf("%s: %w", partitionName{r.Topic, r.Partition}, r.Error.Err()))
		}
	}
	return errors.Join(errs...)
}
