package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"logbroker/consumer"
	"logbroker/internal/cli"
	"logbroker/internal/protocol"
)

// consumeFlags are the flags of consume as typed.
type consumeFlags struct {
	from       string
	count      int64
	group      string
	partitions []int32
	format     string
	exitAtEnd  bool
	binary     bool
	membership membershipFlags
}

func newConsume(a *app) *cobra.Command {
	var flags consumeFlags
	cmd := &cobra.Command{
		Use: "consume TOPIC", Short: "Print records, by default from the start of all partitions, and what comes",
		Long: "Print records as JSON lines, or by -f. The order within a partition is kept.\n\n" +
			"--from: start, end, an offset, +N (after the start), -N (before the end), @TIME (RFC 3339, ms since 1970, or @-15m).\n" +
			"-g: a record is committed only after its line was written; --from then applies only where nothing is committed.\n" +
			"With --instance-id the partitions of a member that ended wait for its next run, as long as the session time-out.\n" +
			"-f verbs: %t topic, %p partition, %o offset, %k key, %v value, %h headers as k:v,k:v, %d timestamp in ms;\n" +
			"escapes: \\t \\n \\r \\\\ \\xHH. Nothing is added: write the \\n.\n" +
			"In JSON, bytes that are not UTF-8 come as key_base64 and value_base64.",
		Example: "  logbroker topic consume events --from start -e\n  logbroker topic consume orders -g billing\n  logbroker topic consume orders --from @-1h -f '%k\\t%v\\n'",
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.newConsuming(cmd, &flags, args[0])
			if err != nil {
				return err
			}
			return c.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.from, "from", "start", "where to begin")
	f.Int64VarP(&flags.count, "num", "n", 0, "end after so many records (default: never)")
	f.StringVarP(&flags.group, "group", "g", "", "read as a member of this consumer `group`, which shares the partitions and commits how far it got")
	f.Int32SliceVarP(&flags.partitions, "partition", "p", nil, "partitions to read (default: all)")
	f.StringVarP(&flags.format, "format", "f", "", "how a record is printed (default: JSON lines)")
	f.BoolVarP(&flags.exitAtEnd, "exit-at-end", "e", false, "end at the high watermarks of now")
	f.BoolVar(&flags.binary, "binary", false, "in JSON, give keys and values as base64, always")
	flags.membership.add(f)
	return cmd
}

// consuming is one run of consume.
type consuming struct {
	app        *app
	conn       connection
	topic      string
	group      string // "": none
	membership []consumer.Option
	partitions []int32 // nil: all
	from       startPoint
	exitAtEnd  bool
	format     *recordFormat // nil: JSON
	binary     bool
	// left counts down the records of -n; limited says that there is an -n.
	left    atomic.Int64
	limited bool

	out    *stream
	read   atomic.Int64
	cancel context.CancelCauseFunc // ends every partition
}

// errEnough ends the other partitions when -n records were read.
var errEnough = errors.New("enough records")

// newConsuming checks argument and flags.
func (a *app) newConsuming(cmd *cobra.Command, flags *consumeFlags, topic string) (*consuming, error) {
	set := cmd.Flags().Changed
	c := &consuming{app: a, topic: topic, exitAtEnd: flags.exitAtEnd, binary: flags.binary, limited: set("num")}
	c.left.Store(flags.count)
	if c.limited && flags.count < 1 {
		return nil, cli.Usage("-n %d: it must be at least 1", flags.count)
	}
	var err error
	if err = c.checkGroup(flags, set); err != nil {
		return nil, err
	}
	if c.from, err = parseStartPoint(flags.from); err != nil {
		return nil, err
	}
	if err = c.setOutput(flags, set("format")); err != nil {
		return nil, err
	}
	slices.Sort(flags.partitions)
	c.partitions = slices.Compact(flags.partitions)
	if len(c.partitions) > 0 && c.partitions[0] < 0 {
		return nil, cli.Usage("-p %d: there are no negative partitions", c.partitions[0])
	}
	c.conn, err = a.connection()
	return c, err
}

// setOutput takes -f, -o and --binary.
func (c *consuming) setOutput(flags *consumeFlags, formatted bool) (err error) {
	if formatted {
		if c.format, err = parseFormat(flags.format); err != nil {
			return err
		}
	}
	switch o := c.app.globals.output; {
	case o != outputDefault && o != outputJSON:
		return cli.Usage("consume prints -o json or by -f, not -o %s", o)
	case formatted && (o == outputJSON || flags.binary):
		return cli.Usage("-f prints text; leave out -o json and --binary")
	}
	return nil
}

func (c *consuming) run(ctx context.Context) error {
	if c.group != "" {
		return c.runGroup(ctx)
	}
	spans, err := c.plan(ctx)
	if err != nil {
		return explain(err)
	}
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.cancel = cancel
	c.out = newStream(c.app.stdout, func(err error) { cancel(err) })
	progress := c.app.startProgress(!c.app.stdoutTerminal, "read", &c.read)
	err = c.readAll(reading, spans)
	outErr := c.out.close()
	progress.close()
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = nil // interrupted, which is how a tail ends
	}
	switch {
	case outErr != nil:
		return outErr
	case err != nil:
		return explain(err)
	case ctx.Err() != nil && (c.exitAtEnd || c.limited):
		return fmt.Errorf("interrupted after %d records", c.read.Load())
	}
	return nil
}

// plan finds what to read, under --timeout.
func (c *consuming) plan(ctx context.Context) (spans []span, err error) {
	err = c.onTopic(ctx, func(ctx context.Context, b backend, meta *protocol.TopicMetadata) error {
		if err := c.choose(meta); err != nil {
			return err
		}
		spans, err = c.spans(ctx, b)
		return err
	})
	return spans, err
}

// onTopic connects, looks the topic up and calls use, all under --timeout.
func (c *consuming) onTopic(ctx context.Context, use func(context.Context, backend, *protocol.TopicMetadata) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.conn.timeout)
	defer cancel()
	b, err := c.app.dial(ctx, c.conn)
	if err != nil {
		return err
	}
	defer b.Close()
	meta, err := b.Topic(ctx, c.topic)
	if err != nil {
		return aboutTopic(err, c.topic)
	}
	return use(ctx, b, meta)
}

// choose takes all partitions where none is named, and refuses those that are
// not there.
func (c *consuming) choose(meta *protocol.TopicMetadata) error {
	n := int32(len(meta.Partitions))
	if len(c.partitions) == 0 {
		for p := range n {
			c.partitions = append(c.partitions, p)
		}
	}
	if n == 0 {
		return fmt.Errorf("topic %q has no partitions yet; try again", c.topic)
	}
	if most := c.partitions[len(c.partitions)-1]; most >= n {
		return notFound("topic %q has partitions 0 to %d, not %d; see: logbroker topic describe %s", c.topic, n-1, most, c.topic)
	}
	return nil
}

// readAll reads the partitions at the same time, each by a goroutine, and waits
// for them. The first error ends them all.
func (c *consuming) readAll(ctx context.Context, spans []span) error {
	var all sync.WaitGroup
	for _, s := range spans {
		if s.empty() {
			continue
		}
		all.Go(func() {
			if err := c.readPartition(ctx, s, len(spans)); err != nil {
				c.cancel(fmt.Errorf("%s: %w", partitionName{c.topic, s.partition}, err))
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, errEnough) {
		return err
	}
	return nil
}

// Bounds of reading: records of one call, and memory over all partitions.
const (
	pollMax          = 4096
	prefetchBytesAll = 32 << 20
	prefetchBytesMin = 64 << 10
)

// readPartition reads one partition until its span or ctx ends. An end of ctx
// is no error.
func (c *consuming) readPartition(ctx context.Context, s span, partitions int) error {
	prefetch := min(consumer.DefaultPrefetchBytes, max(prefetchBytesAll/partitions, prefetchBytesMin))
	opening, cancel := context.WithTimeout(ctx, c.conn.timeout)
	r, err := c.app.newReader(opening, c.conn, partitionName{c.topic, s.partition},
		consumer.FromOffset(s.start), consumer.WithRange(s.policy), consumer.WithPrefetchBytes(prefetch))
	cancel()
	if err != nil {
		return ignoreEnd(ctx, err)
	}
	defer r.Close() //nolint:errcheck // nothing is lost by a reader that does not close well
	var text []byte
	for {
		records, err := c.poll(ctx, r, s)
		if err != nil || len(records) == 0 {
			return ignoreEnd(ctx, err)
		}
		ended := false
		if s.end >= 0 {
			ended = records[len(records)-1].Offset >= s.end-1
			records = before(records, s.end)
		}
		text = c.append(text[:0], c.claim(records))
		if err := c.out.write(text); err != nil {
			return ignoreEnd(ctx, err)
		}
		if c.limited && c.left.Load() <= 0 {
			c.cancel(errEnough)
		}
		if ended || isEnded(ctx) {
			return nil
		}
	}
}

// ignoreEnd returns err unless ctx has ended, of which it may be a consequence.
func ignoreEnd(ctx context.Context, err error) error {
	if isEnded(ctx) {
		return nil
	}
	return err
}

func isEnded(ctx context.Context) bool { return ctx.Err() != nil }

// trimmedCheck is how long a partition that has an end may be silent before it
// is looked up whether the records up to there are still in the log.
const trimmedCheck = 2 * time.Second

// poll returns the next records, at least one; nil when there will be none
// before the span's end because retention or a trim removed them.
func (c *consuming) poll(ctx context.Context, r recordReader, s span) ([]consumer.Record, error) {
	if s.end < 0 {
		return r.Poll(ctx, pollMax)
	}
	for {
		limited, cancel := context.WithTimeout(ctx, trimmedCheck)
		records, err := r.Poll(limited, pollMax)
		cancel()
		if len(records) > 0 || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return records, err
		}
		if c.trimmed(ctx, s) {
			return nil, nil
		}
	}
}

// trimmed reports whether the log starts at or after the end of s. Not being
// able to ask says nothing: the reader goes on.
func (c *consuming) trimmed(ctx context.Context, s span) bool {
	ctx, cancel := context.WithTimeout(ctx, c.conn.timeout)
	defer cancel()
	b, err := c.app.dial(ctx, c.conn)
	if err != nil {
		return false
	}
	defer b.Close()
	reply, err := b.Offsets(ctx, c.topic, s.partition, protocol.TimestampEarliest)
	return err == nil && reply.Offset >= s.end
}

// before returns the records whose offset is below end.
func before(records []consumer.Record, end int64) []consumer.Record {
	n := len(records)
	for n > 0 && records[n-1].Offset >= end {
		n--
	}
	return records[:n]
}

// claim takes as many of the records as -n still wants.
func (c *consuming) claim(records []consumer.Record) []consumer.Record {
	n := int64(len(records))
	if c.limited {
		n = max(0, min(n, n+c.left.Add(-n)))
	}
	c.read.Add(n)
	return records[:n]
}

func (c *consuming) append(dst []byte, records []consumer.Record) []byte {
	for i := range records {
		if c.format != nil {
			dst = c.format.append(dst, &records[i])
		} else {
			dst = appendRecordJSON(dst, &records[i], c.binary)
		}
	}
	return dst
}
