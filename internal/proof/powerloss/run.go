// Package powerloss takes the power from one, two or all nodes of a cluster of
// real processes, again and again, each at a chosen moment: while nothing is
// produced, while much is, just as a segment rolls, and just as a replica writes
// its marker or a snapshot. What the disks had not been made to keep is gone.
// After each cycle every node must come back by itself; after each leg (see
// testbed.Series) the whole is judged.
//
// Start at run.cycle; moments.go says how a moment is met.
package powerloss

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"logbroker/internal/proof/testbed"
	"logbroker/internal/stall"
)

const (
	topic      = "events"
	partitions = 3
	producers  = 2
	window     = 50
	valueBytes = 4 << 10
	diskBytes  = 4 << 30
	legCycles  = 24
	// acksBetween is how many acks each partition must have had since the cycle
	// before.
	acksBetween = 20
)

// Options of a run.
type Options struct {
	Binary string
	Commit string
	Dir    string
	State  string
	Seed   uint64
	Cycles int
	Rate   int // records of 4 KiB a second, while producing
	Powers testbed.Powers
	Wrap   []string
	Out    io.Writer
}

// cycle is one loss of power.
type cycle struct {
	nodes  []int // whose power goes, counted from 0
	moment moment
	after  time.Duration
}

// run is one leg.
type run struct {
	options Options
	cluster *testbed.Cluster
	load    *testbed.Load
	rng     *rand.Rand
	round   []cycle
	leg     *testbed.Leg
}

// Run makes the cycles and prints the final line.
//
// Errors: as testbed.RunSeries.
func Run(ctx context.Context, o Options) error {
	return testbed.RunSeries(ctx, testbed.SeriesOptions{
		Commit: o.Commit, Dir: o.Dir, State: o.State, Seed: o.Seed, Goal: float64(o.Cycles), LegMax: legCycles, Out: o.Out, Leg: o.makeLeg,
		Line: func(s *testbed.Series) string {
			all := s.Total()
			return fmt.Sprintf("cycles=%d %s repairs=%d seed=%d commit=%s", all.Faults, all.String(), all.Repairs, s.Seed, s.Commits())
		},
	})
}

func (o Options) makeLeg(ctx context.Context, leg *testbed.Leg) error {
	stalls, err := stall.Measure(filepath.Join(leg.Dir, "stall"))
	if err != nil {
		return err
	}
	defer stalls.Stop()
	cluster, err := testbed.New(ctx, testbed.Options{
		Binary: o.Binary, Dir: leg.Dir, Powers: o.Powers, DiskBytes: diskBytes, Wrap: o.Wrap, Out: o.Out,
		Storage: "segment_bytes: 1MiB, min_free_bytes: 64MiB",
	})
	if err != nil {
		return err
	}
	r := &run{options: o, cluster: cluster, rng: rand.New(rand.NewPCG(o.Seed, leg.Number)), leg: leg}
	return errors.Join(r.cycles(ctx, stalls), cluster.Close())
}

func (r *run) cycles(ctx context.Context, stalls *stall.Meter) error {
	if err := r.cluster.CreateTopic(ctx, topic, partitions, nil); err != nil {
		return err
	}
	load, err := testbed.StartLoad(ctx, r.cluster.URLs(), testbed.LoadOptions{
		Topic: topic, Partitions: partitions, Producers: producers, Rate: r.options.Rate, Window: window, ValueBytes: valueBytes, Stalls: stalls,
	})
	if err != nil {
		return err
	}
	r.load = load
	for range int(r.leg.Amount) {
		c := r.next()
		if err := r.cycle(ctx, c); err != nil {
			return fmt.Errorf("power loss of %s while %s: %w", r.names(c.nodes), c.moment.name, err)
		}
		r.leg.Faults++
	}
	r.cluster.Say("%d cycles; judging", r.leg.Faults)
	r.leg.Tally, err = testbed.Judge(ctx, r.cluster, load, r.options.Out)
	return err
}

// next deals from rounds in which every moment meets one, two and three nodes.
func (r *run) next() cycle {
	if len(r.round) == 0 {
		for _, m := range moments() {
			for n := 1; n <= testbed.Nodes; n++ {
				r.round = append(r.round, cycle{moment: m, nodes: r.rng.Perm(testbed.Nodes)[:n], after: time.Duration(r.rng.Int64N(int64(300 * time.Millisecond)))})
			}
		}
		r.rng.Shuffle(len(r.round), func(a, b int) { r.round[a], r.round[b] = r.round[b], r.round[a] })
	}
	c := r.round[0]
	r.round = r.round[1:]
	return c
}

// cycle takes the power from the nodes at the moment and brings them back.
func (r *run) cycle(ctx context.Context, c cycle) error {
	within, cancel := context.WithTimeout(ctx, testbed.ReadyMax)
	defer cancel()
	r.load.SetRate(r.options.Rate)
	r.load.Mark()
	if err := r.load.AwaitAcks(within, acksBetween); err != nil {
		return err
	}
	what, err := c.moment.await(within, r, c)
	if err != nil {
		return err
	}
	if err := r.cut(c.nodes); err != nil {
		return err
	}
	r.cluster.Say("power loss of %s while %s%s", r.names(c.nodes), c.moment.name, what)
	err = r.cluster.Heal(ctx)
	if errors.Is(err, testbed.ErrEnded) {
		r.leg.Repairs++
	}
	return err
}

// cut kills the nodes first, all at the same time, and then lets their disks
// forget: a process that lived on would see its disk fail.
func (r *run) cut(nodes []int) error {
	errs := make([]error, len(nodes))
	for _, how := range []func(n *testbed.Node) error{
		func(n *testbed.Node) error { n.Kill(); return nil },
		(*testbed.Node).PowerLoss,
	} {
		var all sync.WaitGroup
		for i, at := range nodes {
			all.Go(func() { errs[i] = errors.Join(errs[i], how(r.cluster.Nodes[at])) })
		}
		all.Wait()
	}
	return errors.Join(errs...)
}

func (r *run) names(nodes []int) string {
	switch len(nodes) {
	case testbed.Nodes:
		return "all nodes"
	case 1:
		return fmt.Sprintf("node %d", nodes[0]+1)
	}
	return fmt.Sprintf("nodes %d and %d", nodes[0]+1, nodes[1]+1)
}
