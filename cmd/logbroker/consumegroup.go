package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/pflag"

	"logbroker/consumer"
	"logbroker/internal/cli"
	"logbroker/internal/protocol"
)

// groupReader is what consume -g needs of a *consumer.Consumer.
type groupReader interface {
	Poll(ctx context.Context, max int) ([]consumer.Record, error)
	Mark(records ...consumer.Record)
	Positions() []consumer.Position
	Seek(p consumer.TopicPartition, offset int64) error
	Pause(partitions ...consumer.TopicPartition) error
	Drain(ctx context.Context) error
}

// endCheck is how long a group may be silent before it is looked up whether it
// has read up to the ends of -e.
const endCheck = 200 * time.Millisecond

// membershipFlags are the flags of consume that go with -g alone.
type membershipFlags struct {
	sessionTimeout, commitInterval time.Duration
	instanceID                     string
}

// Names of the membershipFlags.
const (
	flagSessionTimeout = "session-timeout"
	flagCommitInterval = "commit-interval"
	flagInstanceID     = "instance-id"
)

func (m *membershipFlags) add(f *pflag.FlagSet) {
	f.DurationVar(&m.sessionTimeout, flagSessionTimeout, 0, "with -g: after which silence of this process its partitions go to others (default: the brokers' groups.session_timeout)")
	f.DurationVar(&m.commitInterval, flagCommitInterval, consumer.DefaultAutoCommit, "with -g: time between two commits")
	f.StringVar(&m.instanceID, flagInstanceID, "", "with -g: be a static member under this `id`, which no other member has")
}

// options returns what the flags that were set make of the membership.
func (m *membershipFlags) options(set func(name string) bool) (out []consumer.Option, err error) {
	const (
		sessionMin, sessionMax = protocol.GroupSessionTimeoutMinMs * time.Millisecond, protocol.GroupSessionTimeoutMaxMs * time.Millisecond
		commitMin              = 10 * time.Millisecond
	)
	if set(flagSessionTimeout) {
		if m.sessionTimeout < sessionMin || m.sessionTimeout > sessionMax {
			return nil, cli.Usage("--%s %s: it must lie between %s and %s", flagSessionTimeout, m.sessionTimeout, sessionMin, sessionMax)
		}
		out = append(out, consumer.WithSessionTimeout(m.sessionTimeout))
	}
	if set(flagCommitInterval) {
		if m.commitInterval < commitMin {
			return nil, cli.Usage("--%s %s: it must be at least %s", flagCommitInterval, m.commitInterval, commitMin)
		}
		out = append(out, consumer.WithAutoCommit(m.commitInterval))
	}
	if set(flagInstanceID) {
		if n := len(m.instanceID); n == 0 || n > protocol.GroupMemberNameMax || strings.ContainsFunc(m.instanceID, unicode.IsControl) {
			return nil, cli.Usage("--%s %q: it must have 1 to %d bytes and no control characters", flagInstanceID, m.instanceID, protocol.GroupMemberNameMax)
		}
		out = append(out, consumer.WithInstanceID(m.instanceID))
	}
	return out, nil
}

// checkGroup checks -g and the flags that go with it.
func (c *consuming) checkGroup(flags *consumeFlags, set func(name string) bool) (err error) {
	if !set("group") {
		for _, name := range []string{flagSessionTimeout, flagCommitInterval, flagInstanceID} {
			if set(name) {
				return cli.Usage("--%s is for members of a group; name it with -g", name)
			}
		}
		return nil
	}
	if err := protocol.ValidateGroupName(flags.group); err != nil {
		return cli.Usage("-g: %s", readable(err))
	}
	if len(flags.partitions) > 0 {
		return cli.Usage("-g shares the partitions among the group's members; leave out -p")
	}
	c.group = flags.group
	c.membership, err = flags.membership.options(set)
	return err
}

// runGroup reads as a member of a consumer group. A record is marked, and so
// committed, only after its line was written to stdout.
func (c *consuming) runGroup(ctx context.Context) error {
	ends, err := c.groupEnds(ctx)
	if err != nil {
		return explain(err)
	}
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.cancel = cancel
	joining, joined := context.WithTimeout(reading, c.conn.timeout)
	g, err := c.app.newConsumer(joining, c.conn, c.group, c.topic, c.groupOptions()...)
	joined()
	if err != nil {
		return explain(ignoreInterrupt(ctx, err))
	}
	progress := c.app.startProgress(!c.app.stdoutTerminal, "read", &c.read)
	err = c.readGroup(reading, g, ends)
	progress.close()
	// The context of the command may have ended: leaving has its own.
	leaving, left := context.WithTimeout(context.WithoutCancel(ctx), c.conn.timeout)
	defer left()
	drainErr := g.Drain(leaving)
	if cause := context.Cause(reading); err == nil && ctx.Err() == nil && cause != nil {
		err = cause
	}
	switch {
	case err != nil:
		return explain(err)
	case drainErr != nil:
		return explain(fmt.Errorf("the last records may come again: %w", drainErr))
	case ctx.Err() != nil && (c.exitAtEnd || c.limited):
		return fmt.Errorf("interrupted after %d records", c.read.Load())
	}
	return nil
}

// ignoreInterrupt drops an error that comes of an interrupt.
func ignoreInterrupt(ctx context.Context, err error) error {
	if isEnded(ctx) {
		return nil
	}
	return err
}

// groupEnds returns the high watermarks of now with -e, and looks whether the
// topic exists in any case.
func (c *consuming) groupEnds(ctx context.Context) (ends map[int32]span, err error) {
	err = c.onTopic(ctx, func(ctx context.Context, b backend, meta *protocol.TopicMetadata) error {
		if !c.exitAtEnd {
			return nil
		}
		all := &consuming{app: c.app, topic: c.topic, exitAtEnd: true}
		if err := all.choose(meta); err != nil {
			return err
		}
		spans, err := all.spans(ctx, b)
		ends = make(map[int32]span, len(spans))
		for _, s := range spans {
			ends[s.partition] = s
		}
		return err
	})
	return ends, err
}

func (c *consuming) groupOptions() []consumer.Option {
	opts := append([]consumer.Option{
		consumer.WithRange(consumer.RangeEarliest), consumer.WithMaxPrefetchBytes(prefetchBytesAll), consumer.WithOnLost(c.noteLost),
	}, c.membership...)
	switch c.from.kind {
	case startBegin:
		return append(opts, consumer.FromEarliest())
	case startEnd:
		return append(opts, consumer.FromLatest())
	}
	return append(opts, consumer.FromEarliest(), consumer.WithOnAssigned(
		func(ctx context.Context, g *consumer.Consumer, assigned []consumer.TopicPartition) {
			if err := c.seekFresh(ctx, g, assigned); err != nil {
				c.cancel(err)
			}
		}))
}

// noteLost tells that records come again.
func (c *consuming) noteLost(_ context.Context, _ *consumer.Consumer, lost []consumer.TopicPartition) {
	c.app.note("%d partitions were lost: this process was silent for longer than the session time-out, and what it had not committed comes again", len(lost))
}

// seekFresh moves the partitions of which nothing is committed to where --from
// says.
func (c *consuming) seekFresh(ctx context.Context, g groupReader, assigned []consumer.TopicPartition) error {
	ctx, cancel := context.WithTimeout(ctx, c.conn.timeout)
	defer cancel()
	mine := make(map[consumer.TopicPartition]bool, len(assigned))
	for _, p := range assigned {
		mine[p] = true
	}
	fresh := &consuming{app: c.app, topic: c.topic, from: c.from}
	for _, p := range g.Positions() {
		if mine[p.TopicPartition] && p.Committed < 0 {
			fresh.partitions = append(fresh.partitions, p.Partition)
		}
	}
	if len(fresh.partitions) == 0 {
		return nil
	}
	b, err := c.app.dial(ctx, c.conn)
	if err != nil {
		return err
	}
	defer b.Close()
	spans, err := fresh.spans(ctx, b)
	if err != nil {
		return err
	}
	for _, s := range spans {
		// An error says that the partition is on its way to another member.
		_ = g.Seek(consumer.TopicPartition{Topic: c.topic, Partition: s.partition}, s.start)
	}
	return nil
}

// readGroup prints records and marks them until ctx ends, which is no error,
// or enough was read.
func (c *consuming) readGroup(ctx context.Context, g groupReader, ends map[int32]span) error {
	var text []byte
	for {
		records, err := c.pollGroup(ctx, g)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		if ends != nil {
			records = beforeEnds(records, ends)
		}
		if len(records) > 0 {
			text = c.append(text[:0], records)
			if _, err := c.app.stdout.Write(text); err != nil {
				return err
			}
			g.Mark(records...)
			c.read.Add(int64(len(records)))
			if c.left.Add(-int64(len(records))) <= 0 && c.limited {
				return nil
			}
		}
		if ends != nil && c.pauseEnded(g, ends) && c.groupEnded(ctx, g, ends) {
			return nil
		}
	}
}

// pollGroup returns the next records; none when -e has something to look up.
func (c *consuming) pollGroup(ctx context.Context, g groupReader) ([]consumer.Record, error) {
	most := pollMax
	if c.limited {
		most = int(min(pollMax, c.left.Load()))
	}
	if !c.exitAtEnd {
		return g.Poll(ctx, most)
	}
	limited, cancel := context.WithTimeout(ctx, endCheck)
	defer cancel()
	records, err := g.Poll(limited, most)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = nil
	}
	return records, err
}

// beforeEnds drops the records that lie behind the ends. They are not marked
// either: the group's next member gets them.
func beforeEnds(records []consumer.Record, ends map[int32]span) []consumer.Record {
	out := records[:0]
	for _, r := range records {
		if r.Offset < ends[r.Partition].end {
			out = append(out, r)
		}
	}
	return out
}

// pauseEnded pauses the partitions that are read up to their ends, and reports
// whether all that this member owns are.
func (c *consuming) pauseEnded(g groupReader, ends map[int32]span) bool {
	all := true
	for _, p := range g.Positions() {
		switch {
		case p.Offset < ends[p.Partition].end:
			all = false
		case !p.Paused:
			_ = g.Pause(p.TopicPartition) // or it is not ours any more
		}
	}
	return all
}

// groupEnded reports whether the group has read the topic up to the ends: this
// member what it owns, others, by what they committed, the rest. Not being able
// to ask says nothing.
func (c *consuming) groupEnded(ctx context.Context, g groupReader, ends map[int32]span) bool {
	ctx, cancel := context.WithTimeout(ctx, c.conn.timeout)
	defer cancel()
	read := make(map[int32]int64)
	for _, p := range g.Positions() {
		read[p.Partition] = p.Offset
	}
	if len(read) < len(ends) {
		if err := c.readByOthers(ctx, read); err != nil {
			return false
		}
	}
	for p, s := range ends {
		if at, some := read[p]; !s.empty() && (!some || at < s.end) {
			return false
		}
	}
	return true
}

// readByOthers adds what is committed of partitions that are not in read.
func (c *consuming) readByOthers(ctx context.Context, read map[int32]int64) error {
	b, err := c.app.dial(ctx, c.conn)
	if err != nil {
		return err
	}
	defer b.Close()
	offsets, err := b.GroupOffsets(ctx, c.group)
	for _, o := range offsets {
		if _, mine := read[o.Partition]; o.Topic == c.topic && !mine {
			read[o.Partition] = o.Offset
		}
	}
	return err
}
