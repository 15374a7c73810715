package nemesis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"logbroker/internal/proof/testbed"
	"logbroker/internal/stall"
)

const (
	topic      = "events"
	partitions = 6
	producers  = 3
	diskBytes  = 1 << 30
	valueBytes = 100
	window     = 10
)

// Options of a run.
type Options struct {
	Binary string // logbrokerd
	Commit string // that it was built from
	Dir    string // for the data of a leg; emptied after each
	State  string // file that a run goes on from; "": none
	Seed   uint64
	// Duration is how long faults happen in all, LegMax in one leg.
	Duration, LegMax time.Duration
	Rate             int           // records a second
	Patience         time.Duration // testbed.LoadOptions.Patience
	Powers           testbed.Powers
	// Wrap is put before the binary's command line, for runs that must fail.
	Wrap []string
	// Only is the one kind of fault that happens; "": all.
	Only string
	// SegmentBytes is the topic's size of a segment; "": 1MiB.
	SegmentBytes string
	Out          io.Writer
}

// run is one leg.
type run struct {
	powers  testbed.Powers
	cluster *testbed.Cluster
	load    *testbed.Load
	worst   time.Duration // without acks after a leader was killed
	// replaced counts the replicas that were replaced under new ids.
	replaced int
	// clockRight is since when all clocks are right after one was not.
	clockRight time.Time
}

// Run makes the legs that are missing and prints the final line.
//
// Errors: as testbed.RunSeries.
func Run(ctx context.Context, o Options) error {
	if o.Only != "" && !slices.Contains(deck(o.Powers), kind(o.Only)) {
		return fmt.Errorf("there is no fault %q here; there are %v", o.Only, kinds(o.Powers))
	}
	return testbed.RunSeries(ctx, testbed.SeriesOptions{
		Commit: o.Commit, Dir: o.Dir, State: o.State, Seed: o.Seed, Goal: o.Duration.Seconds(), LegMax: o.LegMax.Seconds(),
		Out: o.Out, Leg: o.leg, Line: line,
	})
}

// leg is one cluster's life.
func (o Options) leg(ctx context.Context, leg *testbed.Leg) error {
	stalls, err := stall.Measure(filepath.Join(leg.Dir, "stall"))
	if err != nil {
		return err
	}
	defer stalls.Stop()
	cluster, err := testbed.New(ctx, testbed.Options{
		Binary: o.Binary, Dir: leg.Dir, Powers: o.Powers, DiskBytes: diskBytes, Wrap: o.Wrap, Out: o.Out,
		Storage: fmt.Sprintf("segment_bytes: 1MiB, min_free_bytes: %d, retention_check_interval: %s", diskReserve, retentionEvery),
	})
	if err != nil {
		return err
	}
	r := &run{powers: o.Powers, cluster: cluster}
	err = r.harm(ctx, o, leg, stalls)
	leg.Worst, leg.Replaced = r.worst, r.replaced
	return errors.Join(err, cluster.Close())
}

// harm runs the schedule for as long as the leg is, and judges.
func (r *run) harm(ctx context.Context, o Options, leg *testbed.Leg, stalls *stall.Meter) error {
	if err := r.cluster.CreateTopic(ctx, topic, partitions, map[string]string{"retention_age": retentionAge.String(), "segment_bytes": cmp.Or(o.SegmentBytes, "1MiB")}); err != nil {
		return err
	}
	load, err := testbed.StartLoad(ctx, r.cluster.URLs(), testbed.LoadOptions{
		Topic: topic, Partitions: partitions, Producers: producers, Rate: o.Rate, Window: window, ValueBytes: valueBytes, Patience: o.Patience, Read: true, Stalls: stalls,
	})
	if err != nil {
		return err
	}
	r.load = load
	if len(o.Wrap) > 0 { // what is to be lost are acked records, not the cluster itself
		if err := errors.Join(r.settled(ctx), r.cluster.SyncDisks()); err != nil {
			return err
		}
	}
	steps := newSchedule(o.Seed, leg.Number, o.Powers)
	steps.only = kind(o.Only)
	for end := time.Now().Add(time.Duration(leg.Amount * float64(time.Second))); time.Now().Before(end); {
		s := steps.next()
		if err := testbed.Wait(ctx, s.pause); err != nil {
			return err
		}
		n, err := r.do(ctx, s)
		leg.Faults += n
		if err != nil {
			return fmt.Errorf("%s: %w", s.kind, err)
		}
	}
	r.cluster.Say("%d faults; judging", leg.Faults)
	leg.Tally, err = testbed.Judge(ctx, r.cluster, load, o.Out)
	return err
}
