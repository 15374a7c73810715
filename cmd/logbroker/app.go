package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"logbroker/consumer"
	"logbroker/internal/cli"
	"logbroker/internal/client"
	"logbroker/internal/protocol"
	"logbroker/producer"
)

// app is what the commands share: the three streams, where settings come from,
// and how the cluster is reached. Tests put their own in.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	// A stream that is a terminal may be asked, or shown progress.
	stdinTerminal, stdoutTerminal, stderrTerminal bool

	getenv    func(string) string
	configDir func() (string, error) // the user's, without "logbroker"
	now       func() time.Time
	// watchEvery is the time between two looks of a watching command.
	watchEvery time.Duration

	dial        func(context.Context, connection) (backend, error)
	newProducer func(context.Context, connection, ...producer.Option) (recordSender, error)
	newReader   func(context.Context, connection, partitionName, ...consumer.Option) (recordReader, error)
	newConsumer func(ctx context.Context, c connection, group, topic string, opts ...consumer.Option) (groupReader, error)

	globals globals
}

// backend is what commands ask of a cluster; *client.Client with its Admin.
type backend interface {
	CreateTopic(ctx context.Context, r protocol.TopicCreateRequest) (*protocol.TopicDescription, error)
	ListTopics(ctx context.Context) (*protocol.TopicListReply, error)
	DescribeTopic(ctx context.Context, name string) (*protocol.TopicDescription, error)
	DeleteTopic(ctx context.Context, name string) error
	AlterTopic(ctx context.Context, name string, config map[string]string) (*protocol.TopicDescription, error)
	AddPartitions(ctx context.Context, name string, partitions int32) (*protocol.TopicDescription, error)
	TrimTopic(ctx context.Context, name string, partition int32, offset int64) (*protocol.TopicTrimReply, error)
	ClusterInfo(ctx context.Context) (*protocol.ClusterInfo, error)
	ClusterHealth(ctx context.Context) (*protocol.ClusterHealth, error)
	Partitions(ctx context.Context) (*protocol.PartitionListReply, error)
	TransferLeader(ctx context.Context, topic string, partition int32, to uint64) error
	BalanceLeaders(ctx context.Context) (*protocol.BalanceReply, error)
	ShowRaft(ctx context.Context, r protocol.RaftShowRequest) (*protocol.RaftShowReply, error)
	ListGroups(ctx context.Context) (*protocol.GroupListReply, error)
	DescribeGroup(ctx context.Context, group string) (*protocol.GroupDescription, error)
	DeleteGroup(ctx context.Context, group string) error
	SeekGroup(ctx context.Context, r protocol.GroupSeekRequest) (*protocol.CommitReply, error)
	GroupOffsets(ctx context.Context, group string, topics ...protocol.TopicPartitions) ([]protocol.CommittedOffset, error)
	Topic(ctx context.Context, name string) (*protocol.TopicMetadata, error)
	Offsets(ctx context.Context, topic string, partition int32, timestampMs int64) (protocol.OffsetsReply, error)
	Close()
}

// recordSender is what produce needs of a *producer.Producer.
type recordSender interface {
	SendAsync(ctx context.Context, r producer.Record, done func(producer.Receipt, error))
	Close(ctx context.Context) error
}

// recordReader is what consume needs of a *consumer.Reader.
type recordReader interface {
	Poll(ctx context.Context, max int) ([]consumer.Record, error)
	Close() error
}

// cluster is the real backend: the client's own methods and the admin verbs.
type cluster struct {
	client.Admin
	*client.Client
}

func newApp() *app {
	return &app{
		stdin: os.Stdin, stdout: cli.Output{File: os.Stdout}, stderr: &serialWriter{w: os.Stderr},
		stdinTerminal: cli.IsTerminal(os.Stdin), stdoutTerminal: cli.IsTerminal(os.Stdout), stderrTerminal: cli.IsTerminal(os.Stderr),
		getenv: os.Getenv, configDir: userConfigDir, now: time.Now, watchEvery: 500 * time.Millisecond,
		dial: func(ctx context.Context, c connection) (backend, error) {
			conn, err := client.Dial(ctx, c.servers, client.Options{Name: "logbroker", TLS: c.tls, Logger: c.logger, RequestTimeout: c.timeout})
			if err != nil {
				return nil, err
			}
			return cluster{conn.Admin(), conn}, nil
		},
		newProducer: func(ctx context.Context, c connection, opts ...producer.Option) (recordSender, error) {
			opts = append(opts, producer.WithName("logbroker topic produce"), producer.WithTLS(c.tls), producer.WithLogger(c.logger))
			return producer.New(ctx, c.servers, opts...)
		},
		newReader: func(ctx context.Context, c connection, p partitionName, opts ...consumer.Option) (recordReader, error) {
			opts = append(opts, consumer.WithName("logbroker topic consume"), consumer.WithTLS(c.tls), consumer.WithLogger(c.logger))
			return consumer.NewReader(ctx, c.servers, p.topic, p.partition, opts...)
		},
		newConsumer: func(ctx context.Context, c connection, group, topic string, opts ...consumer.Option) (groupReader, error) {
			opts = append(opts, consumer.WithName("logbroker topic consume"), consumer.WithTLS(c.tls), consumer.WithLogger(c.logger))
			return consumer.New(ctx, c.servers, group, []string{topic}, opts...)
		},
	}
}

// serialWriter keeps apart what goroutines write: notes and progress.
type serialWriter struct {
	mu sync.Mutex // held while w is written to
	w  io.Writer
}

// Write writes p.
func (s *serialWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

// userConfigDir is $XDG_CONFIG_HOME, else ~/.config, on every system.
func userConfigDir() (string, error) {
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".config"), err
}

// globals are the flags of every command.
type globals struct {
	servers        []string
	profile        string
	output         outputFormat
	timeout        time.Duration
	verbose        bool
	noColor        bool
	yes            bool
	ca, cert, keyF string
}

// defaultTimeout bounds a control request.
const defaultTimeout = 10 * time.Second

func (g *globals) register(flags *pflag.FlagSet) {
	flags.StringSliceVar(&g.servers, "server", nil, "NATS `URL[,URL]` of brokers (default "+defaultServer+", env "+envServer+")")
	flags.StringVar(&g.profile, "profile", "", "`name` of the profile to use (env "+envProfile+"; see logbroker profile)")
	flags.VarP(&g.output, "output", "o", "output `format`: table, wide, json or yaml")
	flags.DurationVar(&g.timeout, "timeout", defaultTimeout, "limit of a request to the cluster; never of produce and consume")
	flags.BoolVarP(&g.verbose, "verbose", "v", false, "log connections and retries to stderr")
	flags.BoolVar(&g.noColor, "no-color", false, "no colour, on a terminal too")
	flags.BoolVar(&g.yes, "yes", false, "do not ask before something is deleted")
	flags.StringVar(&g.ca, "tls-ca", "", "PEM `file` of the authorities to trust; turns TLS on")
	flags.StringVar(&g.cert, "tls-cert", "", "PEM `file` of the client's certificate")
	flags.StringVar(&g.keyF, "tls-key", "", "PEM `file` of the client certificate's key")
}

// logger logs to stderr with -v, otherwise nowhere.
func (a *app) logger() *slog.Logger {
	if !a.globals.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// ask runs fn against the cluster, under --timeout.
func (a *app) ask(cmd *cobra.Command, fn func(ctx context.Context, b backend) error) error {
	conn, err := a.connection()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), a.globals.timeout)
	defer cancel()
	b, err := a.dial(ctx, conn)
	if err != nil {
		return explain(err)
	}
	defer b.Close()
	return explain(fn(ctx, b))
}

// open connects within --timeout, for a command that then goes on for as long as
// it is watched.
func (a *app) open(ctx context.Context) (backend, error) {
	conn, err := a.connection()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.globals.timeout)
	defer cancel()
	b, err := a.dial(ctx, conn)
	if err != nil {
		return nil, explain(err)
	}
	return b, nil
}
