package main

import (
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"logbroker/bench/load"
	"logbroker/internal/cli"
	"logbroker/internal/units"
	"logbroker/producer"
)

// embeddedDefault is the number of brokers that are started where nothing is
// said.
const embeddedDefault = 3

// replicasDefault is the number of replicas where there are brokers enough.
const replicasDefault = 3

// flags are those of every command that makes a load.
type flags struct {
	spec       load.Spec
	recordSize units.ByteSize
	batchBytes units.ByteSize
	buffer     units.ByteSize
	linger     string
	duration   time.Duration
	warmup     time.Duration

	servers   []string
	embedded  int
	inProcess bool
	broker    string
	set       []string
	topic     string
	dir       string
	ceiling   bool

	files outputFiles
}

// register adds the flags; the defaults are those of the clients and of
// load.Defaults.
func (f *flags) register(cmd *cobra.Command) {
	f.spec = load.Defaults()
	s, fs := &f.spec, cmd.Flags()
	fs.SortFlags = false
	f.recordSize, f.batchBytes, f.buffer = units.ByteSize(s.RecordSize), producer.DefaultBatchBytes, producer.DefaultBufferBytes
	fs.Var(sizeFlag{&f.recordSize}, "record-size", "size of a value, on average")
	fs.StringVar(&s.Payload, "payload", s.Payload, "random (no codec shrinks it) or json (events, about 6:1 under zstd)")
	fs.IntVar(&s.Keys, "keys", 0, "number of different keys; 0: records have none")
	fs.IntVar(&s.Topics, "topics", s.Topics, "number of topics")
	fs.IntVar(&s.Partitions, "partitions", s.Partitions, "partitions of each topic")
	fs.IntVar(&s.Replicas, "replicas", 0, "replicas of each partition; 0: three, or as many as there are brokers")
	fs.IntVar(&s.Producers, "producers", s.Producers, "producers, each a client of its own")
	fs.IntVar(&s.Consumers, "consumers", s.Consumers, "consumers, each a client of its own")
	fs.Var(sizeFlag{&f.batchBytes}, "batch-size", "size at which a batch is sent, as it is expected to be once compressed")
	fs.StringVar(&f.linger, "linger", "auto", "how long a batch waits for more records, e.g. 5ms; auto: the producer's adaptive way")
	fs.StringVar(&s.Compression, "compression", s.Compression, "none, gzip, snappy, lz4 or zstd")
	fs.IntVar(&s.MaxInFlight, "max-in-flight", producer.DefaultMaxInFlight, "unacked batches per partition")
	fs.Var(sizeFlag{&f.buffer}, "buffer", "unacked bytes per producer")
	fs.Int64Var(&s.Records, "records", 0, "number of records to send, instead of --duration")
	fs.DurationVar(&f.duration, "duration", s.Duration.Duration(), "how long to send")
	fs.DurationVar(&f.warmup, "warmup", s.Warmup.Duration(), "how long to send before measuring; with --records it is 0 unless given")
	fs.Float64Var(&s.TargetRate, "target-rate", 0, "records per second over all producers, latency from the intended send time; 0: as fast as it goes")
	fs.Uint64Var(&s.Seed, "seed", s.Seed, "of payload and keys")
	f.registerSystem(fs)
	f.files.register(fs)
}

func (f *flags) registerSystem(fs *pflag.FlagSet) {
	fs.StringSliceVar(&f.servers, "server", nil, "NATS URLs of a running cluster to measure")
	fs.IntVar(&f.embedded, "embedded", embeddedDefault, "start so many brokers on this machine, each a process of its own")
	fs.BoolVar(&f.inProcess, "in-process", false, "start the brokers in one process together, which is cheaper and slower")
	fs.StringVar(&f.broker, "broker", "", "logbrokerd binary to start; built from the checkout if not given")
	fs.StringArrayVar(&f.set, "set", nil, "key=value of the brokers' configuration, may be repeated")
	fs.StringVar(&f.topic, "topic", "", "use this topic of the cluster at --server, which exists")
	fs.StringVar(&f.dir, "dir", "", "make the data directory below this one (default: the system's place for temporary files)")
	fs.BoolVar(&f.ceiling, "ceiling", true, "first measure for two seconds what this machine does by itself; not with --server")
}

// sizeFlag is a ByteSize as a flag.
type sizeFlag struct{ *units.ByteSize }

func (s sizeFlag) Set(text string) error { return s.UnmarshalText([]byte(text)) }
func (sizeFlag) Type() string            { return "size" }

// complete checks the flags and makes a Spec of them. phases are those of the
// command.
func (f *flags) complete(cmd *cobra.Command, phases ...string) (load.Spec, error) {
	s, given := f.spec, cmd.Flags().Changed
	if err := f.checkSystem(given); err != nil {
		return s, err
	}
	if err := f.setEnd(&s, given); err != nil {
		return s, err
	}
	s.Phases, s.RecordSize, s.BatchBytes, s.BufferBytes = phases, int(min(f.recordSize, math.MaxInt32)), int(min(f.batchBytes, math.MaxInt32)), int64(f.buffer)
	var err error
	if s.LingerMs, err = lingerMs(f.linger); err != nil {
		return s, err
	}
	if _, err := newOptions(&s); err != nil {
		return s, err
	}
	if len(f.servers) == 0 {
		if s.Replicas == 0 {
			s.Replicas = min(replicasDefault, f.embedded)
		}
		if s.Replicas > f.embedded {
			return s, cli.Usage("--replicas %d: %d brokers are started, see --embedded", s.Replicas, f.embedded)
		}
	}
	if err := s.Validate(); err != nil {
		return s, cli.Usage("%s", oneLine(err))
	}
	s.Options, err = f.options()
	return s, err
}

// setEnd sets what says when a phase that sends is over.
func (f *flags) setEnd(s *load.Spec, given func(string) bool) error {
	s.Duration, s.Warmup = load.Seconds(f.duration.Seconds()), load.Seconds(f.warmup.Seconds())
	if !given("records") {
		return nil
	}
	if s.Records < 1 {
		return cli.Usage("--records %d: use 1 or more, or leave it out for --duration", s.Records)
	}
	if given("duration") {
		return cli.Usage("--records and --duration exclude each other: both say when to end")
	}
	s.Duration = 0
	if !given("warmup") {
		s.Warmup = 0
	}
	return nil
}

// checkSystem refuses flags that contradict each other.
func (f *flags) checkSystem(given func(string) bool) error {
	switch {
	case given("server") && (given("embedded") || f.inProcess):
		return cli.Usage("--server and --embedded or --in-process exclude each other: either a cluster runs, or bench starts one")
	case given("server") && (given("broker") || given("set")):
		return cli.Usage("--broker and --set are for brokers that bench starts; with --server it starts none")
	case f.topic != "" && !given("server"):
		return cli.Usage("--topic names a topic of a running cluster: say which with --server")
	case f.topic != "" && f.spec.Topics != 1:
		return cli.Usage("--topic names one topic: leave out --topics")
	case f.embedded < 1 || f.embedded > 9:
		return cli.Usage("--embedded %d: use 1 to 9", f.embedded)
	}
	return nil
}

// options are the system's own part of the Spec.
func (f *flags) options() (map[string]string, error) {
	o := map[string]string{}
	if len(f.servers) > 0 {
		o[optionServer] = strings.Join(f.servers, ",")
		if f.topic != "" {
			o[optionTopic] = f.topic
		}
		return o, nil
	}
	o[optionNodes] = fmt.Sprint(f.embedded)
	if f.inProcess {
		o[optionInProcess] = "true"
	}
	if f.broker != "" {
		if _, err := os.Stat(f.broker); err != nil {
			return nil, cli.Usage("--broker: %w; build it with: go build -o %s ./cmd/logbrokerd", err, f.broker)
		}
		o[optionBroker] = f.broker
	}
	for _, pair := range f.set {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, cli.Usage("--set %q: write key=value, e.g. raft.rtt=50ms", pair)
		}
		o[optionSet+key] = value
	}
	return o, nil
}

func lingerMs(text string) (float64, error) {
	if text == "auto" {
		return -1, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, cli.Usage("--linger %q: use auto or a time like 5ms", text)
	}
	return float64(d) / float64(time.Millisecond), nil
}

// oneLine joins the lines of an error.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// newOptions are the producer's options that the Spec asks for.
func newOptions(s *load.Spec) ([]producer.Option, error) {
	codec, err := parseCodec(s.Compression)
	if err != nil {
		return nil, err
	}
	if s.BatchBytes < 1<<10 || s.BatchBytes > 1<<20 {
		return nil, cli.Usage("--batch-size %d: use 1KiB to 1MiB", s.BatchBytes)
	}
	if s.BufferBytes < int64(s.BatchBytes) {
		return nil, cli.Usage("--buffer %d: must hold at least one batch of %d bytes", s.BufferBytes, s.BatchBytes)
	}
	if s.MaxInFlight < 1 || s.MaxInFlight > 64 {
		return nil, cli.Usage("--max-in-flight %d: use 1 to 64", s.MaxInFlight)
	}
	options := []producer.Option{
		producer.WithName("bench"), producer.WithCompression(codec), producer.WithBatchBytes(s.BatchBytes),
		producer.WithBufferBytes(s.BufferBytes), producer.WithMaxInFlight(s.MaxInFlight),
	}
	if s.LingerMs >= 0 {
		options = append(options, producer.WithLinger(time.Duration(s.LingerMs*float64(time.Millisecond))))
	}
	return options, nil
}

func parseCodec(name string) (producer.Compression, error) {
	for _, c := range []producer.Compression{producer.None, producer.Gzip, producer.Snappy, producer.Lz4, producer.Zstd} {
		if strings.EqualFold(c.String(), name) {
			return c, nil
		}
	}
	return producer.None, cli.Usage("--compression %q: use none, gzip, snappy, lz4 or zstd", name)
}
