package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/failures"
)

type demoOptions struct {
	scenario int
	pause    bool
	output   string
	// cluster is not for users: a test breaks the brokers by it.
	cluster failures.Options
}

func newDemo() *cobra.Command { return newDemoOf(&demoOptions{}) }

func newDemoOf(o *demoOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use: "demo", Short: "The seven ways in which a leader can fail, step by step",
		Long: "Play the seven ways in which the leader of a partition can fail, on three real brokers in this process.\n" +
			"Each step says what happened and shows the end of each replica's log and what the producer knows.\n" +
			"At the end the outcome is computed from what the producer was told and from the log of every replica;\n" +
			"the exit code is 0 only if nothing was lost, doubled or out of order. Nothing is written to disk.",
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.IntVar(&o.scenario, "scenario", 0, "which of the seven failures; 0 plays all")
	f.BoolVar(&o.pause, "pause", false, "wait for Enter after every step")
	f.StringVarP(&o.output, "output", "o", "text", "text or json (a line per step, the outcome last)")
	return cmd
}

func (o *demoOptions) run(cmd *cobra.Command) error {
	all := failures.Scenarios()
	switch {
	case o.scenario < 0 || o.scenario > len(all):
		return cli.Usage("--scenario %d: use 1 to %d, or leave it out for all", o.scenario, len(all))
	case o.output != "text" && o.output != "json":
		return cli.Usage("-o %s: use text or json", o.output)
	case o.scenario > 0:
		all = all[o.scenario-1 : o.scenario]
	}
	t := teller(&textTeller{out: cmd.OutOrStdout()})
	if o.output == "json" {
		t = jsonTeller{json.NewEncoder(cmd.OutOrStdout())}
	}
	if o.pause {
		t = &pausingTeller{t, bufio.NewReader(cmd.InOrStdin()), cmd.ErrOrStderr()}
	}
	cluster, err := failures.Open(cmd.Context(), o.cluster)
	if err != nil {
		return err
	}
	bad, err := play(cmd, cluster, all, t)
	if err := errors.Join(err, cluster.Close()); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d scenarios ended wrong: the outcomes above say how", bad, len(all))
	}
	return nil
}

// play plays scenarios and counts those with a wrong outcome.
func play(cmd *cobra.Command, cluster *failures.Cluster, scenarios []failures.Scenario, t teller) (bad int, err error) {
	for _, s := range scenarios {
		if err := t.begin(s); err != nil {
			return bad, err
		}
		outcome, err := cluster.Play(cmd.Context(), s, failures.Settings{Tell: t.step})
		if err != nil {
			return bad, err
		}
		if !outcome.OK {
			bad++
		}
		if err := t.end(s, outcome); err != nil {
			return bad, err
		}
	}
	return bad, nil
}

// teller shows a scenario.
type teller interface {
	begin(s failures.Scenario) error
	step(s failures.Step) error
	end(s failures.Scenario, o failures.Outcome) error
}

// pausingTeller waits for Enter after every step. The end of the input is as good
// as Enter.
type pausingTeller struct {
	teller
	in    *bufio.Reader
	notes io.Writer
}

func (p *pausingTeller) step(s failures.Step) error {
	if err := p.teller.step(s); err != nil {
		return err
	}
	if _, err := fmt.Fprint(p.notes, "Enter: on "); err != nil {
		return err
	}
	_, err := p.in.ReadString('\n')
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// jsonTeller writes a line per step, and the outcome as the last one.
type jsonTeller struct{ out *json.Encoder }

func (jsonTeller) begin(failures.Scenario) error                       { return nil }
func (j jsonTeller) step(s failures.Step) error                        { return j.out.Encode(s) }
func (j jsonTeller) end(_ failures.Scenario, o failures.Outcome) error { return j.out.Encode(o) }

// textTeller tells it to people.
type textTeller struct {
	out       io.Writer
	explained bool
}

const explanation = `Three brokers run in this process, with Raft between them and a real producer.
A log is shown by its last entries: index, term in brackets, content.
  ✓  this replica knows that the entry is committed: on the disks of a majority, never to be lost
  ?  it does not know that (yet); an entry that is not committed may be replaced
"new leader" and "epoch 2" are entries by which a new leader begins its term.
`

// textWidth is where lines are broken.
const textWidth = 100

func (t *textTeller) begin(s failures.Scenario) error {
	if !t.explained {
		t.explained = true
		if _, err := fmt.Fprint(t.out, explanation+"\n"); err != nil {
			return err
		}
	}
	title := fmt.Sprintf("Scenario %d: %s", s.Number, s.Title)
	_, err := fmt.Fprintf(t.out, "%s\n%s\n\n", title, strings.Repeat("=", len(title)))
	return err
}

func (t *textTeller) step(s failures.Step) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%2d. %s\n", s.Number, wrapped(s.Event, "    "))
	for _, r := range s.Replicas {
		b.WriteString("      " + replicaLine(r) + "\n")
	}
	fmt.Fprintf(&b, "      producer: %d batches sent, %d acked", s.Client.Sent, s.Client.Acked)
	if s.Client.Unknown > 0 {
		fmt.Fprintf(&b, ", %d without an answer", s.Client.Unknown)
	}
	_, err := fmt.Fprintln(t.out, b.String()+"\n")
	return err
}

func replicaLine(r failures.Replica) string {
	if r.Role == "down" {
		return r.Name + "  down"
	}
	entries := make([]string, 0, len(r.Tail))
	for _, e := range r.Tail {
		mark := "?"
		if e.Committed {
			mark = "✓"
		}
		entries = append(entries, fmt.Sprintf("%d[%d] %s %s", e.Index, e.Term, e.What, mark))
	}
	return fmt.Sprintf("%s  %-9s term %-2d  … %s", r.Name, r.Role, r.Term, strings.Join(entries, " | "))
}

func (t *textTeller) end(s failures.Scenario, o failures.Outcome) error {
	verdict := "right"
	if !o.OK {
		verdict = "WRONG"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Outcome: %s. %d records stored, %d acked, %d lost, %d duplicated; the batch lies at offset %s.\n",
		verdict, o.Stored, o.Acked, o.Lost, o.Duplicated, strings.Trim(fmt.Sprint(o.Offsets), "[]"))
	for _, f := range o.Faults {
		b.WriteString("  " + f + "\n")
	}
	if o.OK {
		b.WriteString(wrapped(s.Lesson, "") + "\n")
	}
	_, err := fmt.Fprintln(t.out, b.String())
	return err
}

// wrapped breaks text into lines; all but the first begin with indent.
func wrapped(text, indent string) string {
	var b strings.Builder
	column := len(indent)
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case column+1+len(word) > textWidth:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
