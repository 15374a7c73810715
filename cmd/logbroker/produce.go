package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/producer"
)

// produceFlags are the flags of produce as typed.
type produceFlags struct {
	key       string
	partition int32
	headers   []string
	format    string
	codec     string
	create    bool
	quiet     bool
}

func newProduce(a *app) *cobra.Command {
	var flags produceFlags
	cmd := &cobra.Command{
		Use: "produce [TOPIC]", Short: "Send records from stdin, one a line",
		Long: "Send records from stdin, one a line, and print where each was stored.\n\n" +
			"-f says how a line is split: at the first occurrence of what stands between the verbs.\n" +
			"Verbs: %k key, %v value, %p partition, %t topic (instead of the argument), %h headers as k:v,k:v, %d timestamp in ms.\n" +
			"Escapes: \\t \\n \\r \\\\ \\xHH. What follows the last verb ends a record; without that a newline does.\n" +
			"A record without %k and -k has a null key; an empty %k is an empty key.\n\n" +
			"Exits 0 only if every record was stored. A line that does not fit -f ends it after everything before was sent;\n" +
			"a record that is too large is named and left out. Ctrl-C sends what was read and ends.",
		Example: "  logbroker topic produce events --create < events.txt\n" +
			"  logbroker topic produce orders -f '%k\\t%v\\n' -z zstd -o json < orders.tsv",
		Args: cli.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, opts, err := a.newProducing(cmd, &flags, args)
			if err != nil {
				return err
			}
			return p.run(cmd.Context(), opts)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&flags.key, "key", "k", "", "key of every record")
	f.Int32VarP(&flags.partition, "partition", "p", 0, "partition of every record (default: by key)")
	f.StringArrayVarP(&flags.headers, "header", "H", nil, "header `k:v` of every record; repeatable")
	f.StringVarP(&flags.format, "format", "f", `%v\n`, "how a line is split")
	f.StringVarP(&flags.codec, "compression", "z", "zstd", "none, gzip, snappy, lz4 or zstd")
	f.BoolVar(&flags.create, "create", false, "create the topic with the cluster's defaults if it does not exist")
	f.BoolVarP(&flags.quiet, "quiet", "q", false, "do not print where records were stored")
	return cmd
}

// producing is one run of produce.
type producing struct {
	app       *app
	conn      connection
	topic     string // "" with %t
	create    bool
	quiet     bool
	jsonLines bool
	format    *inputFormat
	key       []byte // nil: null
	partition *int32
	headers   []producer.Header

	backend backend
	sender  recordSender
	acks    *stream
	acked   atomic.Int64
	sent    int64 // records handed to the sender; the sending goroutine's own
	known   map[string]bool
	faults  faults
}

// newProducing checks arguments and flags. Errors are usage errors, or those of
// the connection's settings.
func (a *app) newProducing(cmd *cobra.Command, flags *produceFlags, args []string) (*producing, []producer.Option, error) {
	format, err := parseInputFormat(flags.format)
	if err != nil {
		return nil, nil, err
	}
	p := &producing{app: a, create: flags.create, quiet: flags.quiet, format: format, known: map[string]bool{}}
	switch {
	case len(args) == 1 && format.has('t'):
		return nil, nil, cli.Usage("the topic is given twice: as %q and as %%t in -f", args[0])
	case len(args) == 0 && !format.has('t'):
		return nil, nil, cli.Usage("which topic? logbroker topic produce TOPIC")
	case len(args) == 1:
		p.topic = args[0]
	}
	if err := p.setFixed(cmd, flags); err != nil {
		return nil, nil, err
	}
	codec, err := parseCodec(flags.codec)
	if err != nil {
		return nil, nil, err
	}
	if p.jsonLines, err = a.streamFormat("produce"); err != nil {
		return nil, nil, err
	}
	p.conn, err = a.connection()
	return p, []producer.Option{producer.WithCompression(codec)}, err
}

// setFixed takes what every record gets alike: -k, -p and -H.
func (p *producing) setFixed(cmd *cobra.Command, flags *produceFlags) (err error) {
	set := cmd.Flags().Changed
	switch {
	case set("key") && p.format.has('k') || set("partition") && p.format.has('p'):
		return cli.Usage("-k and %%k, or -p and %%p, exclude each other")
	case set("partition") && flags.partition < 0:
		return cli.Usage("-p %d: there are no negative partitions", flags.partition)
	}
	if set("key") {
		p.key = []byte(flags.key)
	}
	if set("partition") {
		p.partition = &flags.partition
	}
	p.headers, err = parseHeaders(flags.headers)
	return err
}

func parseHeaders(pairs []string) ([]producer.Header, error) {
	var out []producer.Header
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, ":")
		if !ok || key == "" {
			return nil, cli.Usage("-H %q: write it as key:value", pair)
		}
		out = append(out, producer.Header{Key: key, Value: []byte(value)})
	}
	return out, nil
}

func parseCodec(name string) (producer.Compression, error) {
	for _, c := range []producer.Compression{producer.None, producer.Gzip, producer.Snappy, producer.Lz4, producer.Zstd} {
		if strings.EqualFold(name, c.String()) {
			return c, nil
		}
	}
	return producer.None, cli.Usage("-z %s: unknown codec; use none, gzip, snappy, lz4 or zstd", name)
}

func (p *producing) run(ctx context.Context, opts []producer.Option) error {
	if err := p.open(ctx, opts); err != nil {
		return explain(err)
	}
	defer p.backend.Close()
	if p.app.stdinTerminal {
		p.app.note("one record a line; Ctrl-D ends")
	}
	showsAcks := !p.quiet && p.app.stdoutTerminal
	progress := p.app.startProgress(!showsAcks, "acked", &p.acked)
	p.acks = newStream(p.app.stdout, nil)
	inputErr := p.sendAll(ctx)
	// What was read is sent, also after Ctrl-C; a second one ends the process.
	// The delivery time-out bounds it.
	closeErr := p.sender.Close(context.WithoutCancel(ctx))
	ackErr := p.acks.close()
	progress.close()
	return p.outcome(inputErr, closeErr, ackErr)
}

// open connects, and checks the topic before anything is read.
func (p *producing) open(ctx context.Context, opts []producer.Option) error {
	ctx, cancel := context.WithTimeout(ctx, p.conn.timeout)
	defer cancel()
	var err error
	if p.backend, err = p.app.dial(ctx, p.conn); err != nil {
		return err
	}
	if p.topic != "" {
		err = p.prepare(ctx, p.topic)
	}
	if err == nil {
		p.sender, err = p.app.newProducer(ctx, p.conn, opts...)
	}
	if err != nil {
		p.backend.Close()
	}
	return err
}

// prepare makes sure that a topic is there, and has the partition of -p.
func (p *producing) prepare(ctx context.Context, topic string) error {
	if p.create {
		if err := p.createTopic(ctx, topic); err != nil {
			return err
		}
	}
	meta, err := p.backend.Topic(ctx, topic)
	if errcode.Of(err) == errcode.UnknownTopicOrPartition {
		return notFound("no such topic %q; create it with: logbroker topic create %s, or add --create", topic, topic)
	}
	if err != nil {
		return err
	}
	if n := len(meta.Partitions); p.partition != nil && int(*p.partition) >= n {
		return notFound("topic %q has partitions 0 to %d, not %d; see: logbroker topic describe %s", topic, n-1, *p.partition, topic)
	}
	p.known[topic] = true
	return nil
}

// createTopic creates a topic unless it exists. It does not ask first: another
// producer may do the same at the same time.
func (p *producing) createTopic(ctx context.Context, topic string) error {
	d, err := p.backend.CreateTopic(ctx, protocol.TopicCreateRequest{Name: topic, RequestID: rand.Text()})
	if errcode.Of(err) == errcode.TopicAlreadyExists {
		return nil
	}
	if err == nil {
		p.app.note("created topic %q with %d partitions and %d replicas", topic, len(d.Partitions), d.Replicas)
	}
	return err
}

// sendAll reads to the end of the input, or until ctx ends or a record cannot
// be delivered. Its error is about the input.
func (p *producing) sendAll(ctx context.Context) error {
	lines := newLineReader(p.app.stdin, p.format.terminator, p.format.lines)
	// A record that was read is sent whatever becomes of ctx.
	sendCtx := context.WithoutCancel(ctx)
	ctx, p.faults.stop = context.WithCancel(ctx)
	defer p.faults.stop()
	var r inputRecord
	for {
		line, err := lines.next(ctx)
		switch {
		case errors.Is(err, errRecordTooLong):
			p.faults.add(p.app, lines.line, fmt.Errorf("%w: longer than %d bytes", producer.ErrRecordTooLarge, recordBytesMax))
			continue
		case errors.Is(err, io.EOF), err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("reading stdin: %w", err)
		}
		r = inputRecord{headers: r.headers[:0]}
		if err := p.format.match(line, &r); err != nil {
			return fmt.Errorf("line %d does not match -f %s: %w; the lines before it were sent, nothing after", lines.line, quoteFormat(p.format.text), err)
		}
		if err := p.send(sendCtx, lines.line, &r); err != nil {
			return fmt.Errorf("line %d: %w", lines.line, explain(err))
		}
		if p.faults.fatal.Load() {
			return nil
		}
	}
}

// send hands one record over. It waits while the producer's buffer is full, and
// while acks pile up unwritten.
func (p *producing) send(ctx context.Context, line int64, in *inputRecord) error {
	r := producer.Record{Topic: p.topic, Key: p.key, Value: in.value, Headers: p.headers, Partition: p.partition}
	if p.format.has('k') {
		r.Key = in.key
	}
	if p.format.has('p') {
		r.Partition = &in.partition
	}
	if p.format.has('d') {
		r.Timestamp = time.UnixMilli(in.timestampMs)
	}
	if len(in.headers) > 0 {
		r.Headers = append(p.headers[:len(p.headers):len(p.headers)], in.headers...)
	}
	if p.format.has('t') {
		if r.Topic = string(in.topic); !p.known[r.Topic] {
			limited, cancel := context.WithTimeout(ctx, p.conn.timeout)
			defer cancel()
			if err := p.prepare(limited, r.Topic); err != nil {
				return err
			}
		}
	}
	// Its error is that of writing acks: reported at the end, while the records
	// still go on their way.
	_ = p.acks.waitForRoom()
	p.sent++
	p.sender.SendAsync(ctx, r, func(receipt producer.Receipt, err error) { p.done(line, receipt, err) })
	return nil
}

// done is the callback of one record. It must not block.
func (p *producing) done(line int64, receipt producer.Receipt, err error) {
	if err != nil {
		p.faults.add(p.app, line, err)
		return
	}
	p.acked.Add(1)
	if !p.quiet {
		p.acks.add(func(dst []byte) []byte { return appendAck(dst, &receipt, p.jsonLines) })
	}
}

// outcome is the command's error: first what is wrong with the input, then what
// was not acked.
func (p *producing) outcome(inputErr, closeErr, ackErr error) error {
	n, first := p.faults.result()
	var errs []error
	if inputErr != nil {
		errs = append(errs, inputErr)
	}
	if n > 0 {
		errs = append(errs, fmt.Errorf("%d records were not acked, %d were; %w", n, p.acked.Load(), first))
	} else if closeErr != nil {
		errs = append(errs, closeErr)
	}
	if ackErr != nil && !errors.Is(ackErr, cli.ErrOutputClosed) {
		errs = append(errs, fmt.Errorf("writing acks: %w", ackErr))
	}
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	text := make([]string, len(errs))
	for i, err := range errs {
		text[i] = err.Error()
	}
	return errors.New(strings.Join(text, "; "))
}

// faultsShown is how many records that were not acked are named on stderr.
const faultsShown = 10

// faults gathers the records that were not acked.
type faults struct {
	// fatal says that going on makes no sense: the fault is not the record's own.
	fatal atomic.Bool
	stop  func() // ends the reading of input that may never come

	mu    sync.Mutex // guards what follows
	count int64
	first error
	least int64 // line of first
}

// add notes one record. It is called from the producer's callbacks.
func (f *faults) add(a *app, line int64, err error) {
	own := ofRecord(err)
	if !own {
		f.fatal.Store(true)
		f.stop()
	}
	named := fmt.Errorf("line %d: %s", line, faultText(err))
	f.mu.Lock()
	f.count++
	if f.first == nil || line < f.least {
		f.first, f.least = named, line
	}
	shown := f.count <= faultsShown
	f.mu.Unlock()
	if shown && own {
		a.note("%s", named)
	}
}

func (f *faults) result() (count int64, first error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count, f.first
}

// ofRecord reports whether err is the fault of one record, so that others may
// still be stored.
func ofRecord(err error) bool {
	return errors.Is(err, producer.ErrRecordTooLarge) || errors.Is(err, producer.ErrNoSuchPartition) ||
		errcode.Of(err) == errcode.MessageTooLarge
}

// faultText puts the code first, so that scripts find it.
func faultText(err error) string {
	code := errcode.Of(err)
	switch {
	case errors.Is(err, producer.ErrRecordTooLarge):
		code = errcode.MessageTooLarge
	case errors.Is(err, producer.ErrNoSuchPartition):
		code = errcode.UnknownTopicOrPartition
	}
	text := err.Error()
	if code == errcode.UnknownServerError || strings.Contains(text, code.String()) {
		return text
	}
	return code.String() + ": " + text
}
