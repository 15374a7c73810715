package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"logbroker/bench/compare"
	"logbroker/bench/load"
	"logbroker/bench/procs"
	"logbroker/bench/report"
	"logbroker/internal/cli"
)

// The systems that compare starts by itself.
const (
	systemLogbroker        = "logbroker"
	systemJetStreamAlways  = "jetstream_always"
	systemJetStreamDefault = "jetstream_default"
	systemRawDragonboat    = "raw_dragonboat"
	systemKafka            = "kafka"
)

// Defaults of compare: five rounds of all systems in less than twelve minutes.
const (
	compareRounds   = 5
	compareDuration = 4 * time.Second
	compareWarmup   = time.Second
)

// comparison is the command compare.
type comparison struct {
	flags
	rounds   int
	systems  []string
	peers    []string
	phases   []string
	options  []string
	markdown string
}

func newCompare() *cobra.Command {
	c := &comparison{}
	cmd := &cobra.Command{
		Use: "compare", Short: "The same load in turn on logbroker, NATS JetStream and raw dragonboat",
		Long: "Put the same load on several systems in turn, A B C A B C …, each time on three freshly started broker processes, and print\n" +
			"the figures of each and the ratio of every round. JetStream runs twice: with sync_interval: always, which has logbroker's\n" +
			"durability, and with its default. Raw dragonboat is the Raft library with a state machine that only appends: the ceiling.",
		Example: "  bench compare --record-size 128 --payload json --json compare.json\n  bench compare --rounds 2 --systems logbroker,jetstream_always\n" +
			"  bench compare --peer kafka=127.0.0.1:9092",
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			spec, err := c.completeComparison(cmd)
			if err != nil {
				return err
			}
			return c.run(cmd, spec)
		},
	}
	c.register(cmd)
	c.registerComparison(cmd)
	return cmd
}

func (c *comparison) registerComparison(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.IntVar(&c.rounds, "rounds", compareRounds, "how often every system has its turn")
	fs.StringSliceVar(&c.systems, "systems", []string{systemLogbroker, systemJetStreamAlways, systemJetStreamDefault, systemRawDragonboat}, "what is compared, in this order")
	fs.StringArrayVar(&c.peers, "peer", nil, "kafka=HOST:PORT: also a Kafka that runs already")
	fs.StringSliceVar(&c.phases, "phases", []string{load.PhaseProduce, load.PhaseLatency, load.PhaseAlone, load.PhaseConsume}, "what each turn does, in this order")
	fs.StringArrayVar(&c.options, "option", nil, "key=value of the other systems, may be repeated: path=async|fast|auto, streams=N, compression=none|s2 (JetStream); hop=none|tcp, proposal=BYTES (raw dragonboat)")
	fs.StringVar(&c.markdown, "markdown", "", "write the tables into this document too")
	for name, value := range map[string]time.Duration{"duration": compareDuration, "warmup": compareWarmup} {
		flag := fs.Lookup(name)
		flag.DefValue = value.String()
		_ = flag.Value.Set(flag.DefValue) // a duration's own text
	}
	for _, name := range notForCompare() {
		fs.Lookup(name).Hidden = true
	}
}

// notForCompare are flags of a load that a comparison does not have.
func notForCompare() []string {
	return []string{"server", "embedded", "in-process", "topic", "csv", "hdr", "target-rate", "records"}
}

// completeComparison checks the flags and turns them into the Spec of every
// turn.
func (c *comparison) completeComparison(cmd *cobra.Command) (load.Spec, error) {
	for _, name := range notForCompare() {
		if cmd.Flags().Changed(name) {
			return load.Spec{}, cli.Usage("--%s is not for compare: it starts three fresh brokers of every system, and sends for --duration", name)
		}
	}
	if c.rounds < 1 {
		return load.Spec{}, cli.Usage("--rounds %d: use 1 or more", c.rounds)
	}
	if slices.Contains(c.phases, load.PhaseE2E) {
		return load.Spec{}, cli.Usage("--phases %s: e2e is not built for the other systems; use bench e2e", strings.Join(c.phases, ","))
	}
	if _, err := c.entrants("", ""); err != nil {
		return load.Spec{}, err
	}
	spec, err := c.complete(cmd, c.phases...)
	if err != nil {
		return spec, err
	}
	for _, pair := range c.options {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || !slices.Contains([]string{"path", "streams", "compression", "hop", "proposal"}, key) {
			return spec, cli.Usage("--option %q: use path, streams, compression, hop or proposal with a value, e.g. path=fast", pair)
		}
		spec.Options[key] = value
	}
	return spec, nil
}

// entrants are the systems in their order. self is this binary, peers the one of
// bench/peers.
func (c *comparison) entrants(self, peers string) ([]compare.Entrant, error) {
	var all []compare.Entrant
	for _, system := range c.systems {
		e := compare.Entrant{System: system, Path: peers}
		switch system {
		case systemLogbroker:
			e.Path, e.Args = self, []string{"driver"}
		case systemJetStreamAlways:
			e.Args = []string{"jetstream", "--sync", "always"}
		case systemJetStreamDefault:
			e.Args = []string{"jetstream", "--sync", "default"}
		case systemRawDragonboat:
			e.Args, e.Without = []string{"dragonboat"}, []string{load.PhaseConsume}
		default:
			return nil, cli.Usage("--systems: %q is none of %s, %s, %s and %s", system, systemLogbroker, systemJetStreamAlways, systemJetStreamDefault, systemRawDragonboat)
		}
		all = append(all, e)
	}
	for _, peer := range c.peers {
		name, address, ok := strings.Cut(peer, "=")
		if !ok || name != systemKafka || address == "" {
			return nil, cli.Usage("--peer %q: write kafka=HOST:PORT", peer)
		}
		all = append(all, compare.Entrant{System: systemKafka, Path: peers, Args: []string{"kafka", "--broker", address}})
	}
	if len(all) == 0 || all[0].System != systemLogbroker {
		return nil, cli.Usage("--systems: the first one is %s, which is set against the others", systemLogbroker)
	}
	for i := range all {
		if slices.ContainsFunc(all[:i], func(e compare.Entrant) bool { return e.System == all[i].System }) {
			return nil, cli.Usage("%s is named twice", all[i].System)
		}
	}
	return all, nil
}

// plan builds what the turns need, once for all of them.
func (c *comparison) plan(ctx context.Context, spec load.Spec) (compare.Plan, error) {
	p := compare.Plan{Spec: spec, Rounds: c.rounds, Dir: c.dir}
	self, err := os.Executable()
	if err != nil {
		return p, fmt.Errorf("cannot find this binary to start it again: %w", err)
	}
	checkout, err := procs.Checkout()
	if err != nil {
		return p, fmt.Errorf("%w: the other systems are built from it", err)
	}
	peers := ""
	if len(c.systems)+len(c.peers) > 1 {
		if peers, err = procs.Build(ctx, checkout, "bench/peers", "."); err != nil {
			return p, err
		}
	}
	broker, err := brokerBinary(ctx, spec.Options[optionBroker])
	if err != nil {
		return p, err
	}
	p.Spec.Options[optionBroker] = broker
	p.Entrants, err = c.entrants(self, peers)
	sending := time.Duration(len(spec.Phases)) * (spec.Duration + spec.Warmup).Duration()
	p.TurnTimeout = 3*time.Minute + 3*sending
	return p, err
}

func (c *comparison) run(cmd *cobra.Command, spec load.Spec) error {
	header, stderr := newDocument(cmd, "compare"), cmd.ErrOrStderr()
	printMachine(stderr, header)
	p, err := c.plan(cmd.Context(), spec)
	if err != nil {
		return err
	}
	if err := c.measureCeiling(cmd, header, p.Spec); err != nil {
		return err
	}
	var began time.Time
	p.Stderr = stderr
	p.Before = func(int, string) { began = time.Now() }
	p.After = func(r compare.Row) {
		said := r.Failed
		if said == "" && r.RecordsPerS != nil {
			said = fmt.Sprintf("%.0f records/s", *r.RecordsPerS)
		}
		fmt.Fprintf(stderr, "round %d of %d, %s: %s, turn of %.0f s\n", r.Round, p.Rounds, r.System, said, time.Since(began).Seconds())
	}
	rows, turns, err := compare.Run(cmd.Context(), p)
	if len(rows) == 0 {
		return err
	}
	d := compare.Summarize(*header, systemLogbroker, p, rows, turns)
	return errors.Join(err, c.write(cmd, &d), d.Print(cmd.OutOrStdout()), failedTurns(rows))
}

// write writes the files that were asked for.
func (c *comparison) write(cmd *cobra.Command, d *compare.Document) error {
	// The path of a binary says nothing to a reader.
	delete(d.Settings.Spec.Options, optionBroker)
	err := writeFile(cmd, c.files.json, func(w io.Writer) error { return writeJSON(w, d) })
	if c.markdown != "" {
		err = errors.Join(err, report.UpdateMarkdown(c.markdown, []report.File{{Name: "compare", Document: *d}}))
	}
	return err
}

// failedTurns is the error that says how many turns have no figures.
func failedTurns(rows []compare.Row) error {
	failed := 0
	for i := range rows {
		if rows[i].Failed != "" {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d turns failed", failed, len(rows))
	}
	return nil
}
