package damage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"logbroker/internal/history"
	"logbroker/internal/proof/testbed"
)

const (
	topic      = "events"
	partitions = 2
	rate       = 4000
	valueBytes = 1 << 10
	// Acks of each partition before and after the old copy: most of the log lies
	// below the markers, its tail above them.
	firstPart, secondPart = 6000, 700
	// startMax bounds the start of the damaged node, leadMax its way to leadership,
	// readMax the reading of everything, nameMax the time until damage is named,
	// mendMax the time from then until it is mended.
	startMax = 40 * time.Second
	leadMax  = 4 * time.Second
	readMax  = 30 * time.Second
	nameMax  = 3 * time.Second
	mendMax  = 8 * time.Second
)

// Options of a run.
type Options struct {
	Binary string
	Commit string
	Dir    string
	// Only are words that a cell's name must have in it; "": all cells.
	Only string
	// State is a file that keeps what became of each cell; a run goes on with those
	// that are not in it. "": none.
	State string
	Out   io.Writer
}

// The outcomes of a cell.
const (
	none        = "nothing"     // there is no such file, or no older one
	refused     = "refused"     // the node does not start and says why
	ended       = "ended"       // the node ended after it had started
	quarantined = "quarantined" // its replica was set aside; the node and the others go on
	named       = "named"       // cluster health names it
	mended      = "whole"       // at the end its replica is like the others
	undetected  = "UNDETECTED"  // its replica differs, and nobody says so
	lostAcked   = "LOST"        // acked records are gone, or other ones are served
	unserved    = "UNAVAILABLE" // what is intact on a majority cannot be read
)

// cell is one line of the table.
type cell struct {
	target  target
	harm    harm
	leader  bool   // the damaged node is to lead
	outcome string // "": not played yet
	detail  string
	commit  string // that it was played with
}

func (c *cell) open() bool { return c.outcome == "" }

func (c *cell) name() string {
	role := "follower"
	if c.leader {
		role = "leader"
	}
	return fmt.Sprintf("%s / %s / %s", c.target.name, c.harm.name, role)
}

// bad reports whether the cell fails the proof.
func (c *cell) bad() bool {
	return c.outcome == lostAcked || (c.outcome == undetected || c.outcome == unserved) && !c.target.store
}

// Run plays every cell and prints the table. Error: testbed.ErrFound.
func Run(ctx context.Context, o Options) error {
	o.Dir = filepath.Join(o.Dir, "damage")
	if err := os.RemoveAll(o.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	cells, err := load(o)
	if err != nil {
		return err
	}
	if err := playAll(ctx, o, cells); err != nil {
		return err
	}
	return report(o, cells)
}

// playAll plays the cells that were not played before.
func playAll(ctx context.Context, o Options, cells []*cell) error {
	if !slices.ContainsFunc(cells, (*cell).open) {
		return nil
	}
	g, err := fill(ctx, o)
	if err != nil {
		return fmt.Errorf("filling the cluster: %w", err)
	}
	for _, c := range cells {
		if !c.open() {
			continue
		}
		c.commit = o.Commit
		err := g.play(ctx, c)
		if err == nil {
			err = save(o, cells)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", c.name(), err), g.cluster.Close())
		}
		g.cluster.Say("%s: %s %s", c.name(), c.outcome, c.detail)
	}
	return errors.Join(g.cluster.Close(), os.RemoveAll(o.Dir))
}

// matrix is every cell.
func matrix() (cells []*cell) {
	for _, t := range targets() {
		for _, h := range harms() {
			for _, leader := range []bool{false, true} {
				cells = append(cells, &cell{target: t, harm: h, leader: leader})
			}
		}
	}
	return cells
}

// play damages a file of one node, starts all nodes, reads everything, and looks
// what became of the damaged replica.
func (g *golden) play(ctx context.Context, c *cell) error {
	for _, n := range g.cluster.Nodes {
		n.Kill()
	}
	if err := g.back(); err != nil {
		return err
	}
	victim := g.cluster.Nodes[0]
	f, err := c.target.choose(victim.DataDir(), g.place("old", victim), g.shards[0])
	if err == nil {
		err = c.harm.do(f)
	}
	if errors.Is(err, errNothing) {
		c.outcome = none
		return nil
	}
	if err != nil {
		return err
	}
	return g.watch(ctx, c, victim)
}

func (g *golden) watch(ctx context.Context, c *cell, victim *testbed.Node) error {
	up, err := g.start(ctx, c, victim)
	if err != nil {
		return err
	}
	if up && c.leader {
		g.lead(ctx, c, victim)
	}
	g.read(ctx, c)
	if c.outcome == lostAcked || c.outcome == refused {
		return nil
	}
	health := g.settled(ctx)
	if up && !victim.Running() {
		c.outcome, c.detail = ended, victim.LastError()
		return nil
	}
	if health == "" {
		g.caughtUp(ctx, c)
	}
	knows := g.metadataKnown(ctx)
	stopping := g.cluster.Stop()
	g.compare(c, health)
	if knows != nil && c.outcome == mended {
		c.outcome, c.detail = undetected, knows.Error()
	}
	if stopping != nil {
		c.detail += "; " + stopping.Error()
	}
	return nil
}

// caughtUp waits until all replicas have applied the same: one that was repaired a
// moment ago may be behind, which is no difference that anybody must name.
func (g *golden) caughtUp(ctx context.Context, c *cell) {
	waiting, cancel := context.WithTimeout(ctx, mendMax)
	defer cancel()
	if _, err := g.cluster.AwaitCaughtUp(waiting, topic, partitions); err != nil {
		c.detail += "; " + err.Error()
	}
}

// metadataKnown returns nil where every node knows the last change of the metadata.
func (g *golden) metadataKnown(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, mendMax)
	defer cancel()
	return g.cluster.AwaitSetting(asking, altered, setting, lastSetting)
}

// compare says what became of a cell whose node lived on, by the files of all
// replicas; health is what the cluster said of it.
func (g *golden) compare(c *cell, health string) {
	same, err := g.cluster.Identical(g.shards)
	switch {
	case c.outcome == unserved:
	case err == nil && same:
		c.outcome = mended
	case strings.Contains(health, quarantined):
		c.outcome, c.detail = quarantined, health+c.detail
	case health != "":
		c.outcome, c.detail = named, health+c.detail
	case err != nil:
		c.outcome, c.detail = undetected, err.Error()
	default:
		c.outcome, c.detail = undetected, "the replica differs from the others, and the cluster says that it is healthy"
	}
}

// start starts all nodes. The others must become ready; up says that the damaged
// one did.
func (g *golden) start(ctx context.Context, c *cell, victim *testbed.Node) (up bool, err error) {
	starting, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for _, n := range g.cluster.Nodes {
		if err := n.Start(); err != nil {
			return false, err
		}
	}
	for _, n := range g.cluster.Nodes[1:] {
		if err := n.AwaitReady(starting); err != nil {
			return false, err
		}
	}
	err = victim.AwaitReady(starting)
	if err := g.cluster.Dial(starting); err != nil {
		return false, err
	}
	if err == nil {
		return true, nil
	}
	c.outcome, c.detail = refused, victim.LastError()
	if !errors.Is(err, testbed.ErrEnded) {
		c.detail = err.Error()
	}
	return false, nil
}

// lead moves the leadership of the damaged partition to the damaged node.
func (g *golden) lead(ctx context.Context, c *cell, victim *testbed.Node) {
	leading, cancel := context.WithTimeout(ctx, leadMax)
	defer cancel()
	for leading.Err() == nil {
		if leaders, err := g.cluster.Leaders(leading, topic); err == nil && leaders[0] == victim.ID {
			return
		}
		_ = g.cluster.Transfer(leading, topic, 0, victim.ID) // asked for again
	}
	c.detail += " (never led)"
}

// read reads everything through clients and judges it.
func (g *golden) read(ctx context.Context, c *cell) {
	reading, cancel := context.WithTimeout(ctx, readMax)
	defer cancel()
	var stored []history.Event
	for p := range int32(partitions) {
		events, err := g.cluster.ReadAll(reading, topic, p)
		if err != nil {
			if c.outcome == "" {
				c.outcome = unserved
			}
			c.detail += "; reading: " + err.Error()
			return
		}
		stored = append(stored, events...)
	}
	if report := g.load.Report(stored); !report.OK() {
		c.outcome, c.detail = lostAcked, report.Faults[0].String()
	}
}

// settled waits until cluster health names something, and then until it does not
// any more or nothing comes of it; it returns what it said last.
func (g *golden) settled(ctx context.Context) (reasons string) {
	naming, cancel := context.WithTimeout(ctx, nameMax)
	defer cancel()
	for naming.Err() == nil && reasons == "" {
		reasons = g.cluster.Unhealthy(naming)
	}
	mending, cancel := context.WithTimeout(ctx, mendMax)
	defer cancel()
	for mending.Err() == nil && reasons != "" {
		if now, known := g.cluster.Health(mending); known {
			reasons = now
		}
	}
	return reasons
}

// report prints the table and the last line.
func report(o Options, cells []*cell) error {
	w := tabwriter.NewWriter(o.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TARGET\tHARM\tROLE\tOUTCOME\tDETAIL")
	count, bad, store := map[string]int{}, 0, 0
	for _, c := range cells {
		count[c.outcome]++
		detail := strings.ReplaceAll(strings.TrimPrefix(c.detail, "; "), "\n", " ")
		if c.target.store && (c.outcome == undetected || c.outcome == ended) {
			detail = "(only another Raft log store can do better) " + detail
			store++
		}
		if c.bad() {
			bad++
		}
		fmt.Fprintf(w, "%s\t%s\t%.160s\n", strings.ReplaceAll(c.name(), " / ", "\t"), c.outcome, detail)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "cells=%d refused=%d ended=%d quarantined=%d named=%d whole=%d undetected=%d unavailable=%d lost=%d left-to-the-raft-log-store=%d commit=%s\n",
		len(cells)-count[none], count[refused], count[ended], count[quarantined], count[named], count[mended], count[undetected], count[unserved], count[lostAcked], store, commits(cells))
	if bad > 0 {
		return testbed.ErrFound
	}
	return nil
}
