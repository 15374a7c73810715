// Package overload offers a cluster of real processes ten times what its disks
// allow, with their memory bounded: the nodes must refuse what they cannot take
// (THROTTLED), hold no more memory than they may, and lose nothing that they
// acked. The last node's disk is half as fast as the others', so
// that it is left behind. Then come idle connections and consumers that ask for much
// and read nothing, for which the same holds; and beside whom producers go on.
//
// Start at run.press; crowd.go is who stands beside, beside.go what it does to
// producers.
package overload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/proof/testbed"
	"logbroker/internal/stall"
)

const (
	topic     = "events"
	producers = 12
	// window is what each producer may have on its way in each partition: all
	// together half as much again as a partition takes at once.
	window     = 512
	valueBytes = 4 << 10
	imageBytes = 16 << 30
	// overs is how much more is offered than is allowed.
	overs = 10
	// allowedLeast of what a disk writes is taken to be allowed where next to nothing
	// was acked while it was learnt.
	allowedLeast = 16
	// learnMax is how long it is learnt what is allowed.
	learnMax   = 10 * time.Second
	sayEvery   = 10 * time.Second
	watchEvery = 500 * time.Millisecond
)

// ErrTooMuch says that a node held more memory than it may.
var ErrTooMuch = errors.New("a node held too much memory")

// ErrStarved says that the crowd kept producers from getting any ack.
var ErrStarved = errors.New("a partition had no ack for too long beside connections and consumers that do nothing")

// ErrNotRefused says that nothing was refused.
var ErrNotRefused = errors.New("no request was refused with THROTTLED: the load was none")

// Options of a run.
type Options struct {
	Binary string
	Commit string
	Dir    string
	State  string
	Seed   uint64
	// Duration is how long the load is too much in all, LegMax in one leg.
	Duration, LegMax time.Duration
	// MemoryBytes bounds a node's process, DiskBytes is what its disk writes in a
	// second.
	MemoryBytes, DiskBytes int64
	// Partitions of the topic, with a leader each that has a bound of its own.
	Partitions int32
	// Idle connections and Stalled consumers stand beside.
	Idle, Stalled int
	Powers        testbed.Powers
	Out           io.Writer
}

// The figures of a leg beside its tally.
const (
	offered   = "offered_bytes"
	allowed   = "allowed_bytes"
	throttled = "throttled"
	rssPeak   = "rss_peak_bytes"
	idleStood = "idle_connections"
	// What was acked in a second: alone, beside idle connections, and beside stalled
	// consumers too; and the longest time that a partition then had no ack.
	ackedAlone = "acked_alone_bytes"
	ackedIdle  = "acked_idle_bytes"
	ackedCrowd = "acked_crowd_bytes"
	gapAlone   = "gap_alone_seconds"
	gapCrowd   = "gap_crowd_seconds"
)

// run is one leg.
type run struct {
	options Options
	leg     *testbed.Leg
	cluster *testbed.Cluster
	load    *testbed.Load
	crowd   *crowd

	peaks [testbed.Nodes]atomic.Int64 // the most memory that each node held, in bytes
}

// Run makes the legs that are missing and prints the final line.
//
// Errors: as testbed.RunSeries.
func Run(ctx context.Context, o Options) error {
	return testbed.RunSeries(ctx, testbed.SeriesOptions{
		Commit: o.Commit, Dir: o.Dir, State: o.State, Seed: o.Seed, Goal: o.Duration.Seconds(), LegMax: o.LegMax.Seconds(), Out: o.Out, Leg: o.makeLeg, Line: line,
	})
}

func line(s *testbed.Series) string {
	all := s.Total()
	sum, most := map[string]float64{}, map[string]float64{}
	for _, l := range s.Legs {
		for name, value := range l.Figures {
			sum[name] += value
			most[name] = max(most[name], value)
		}
	}
	rate := func(name string) float64 { return sum[name] / max(all.Amount, 1) / 1e6 }
	return fmt.Sprintf("offered=%.1fMB/s allowed=%.1fMB/s %s throttled=%.0f rss-max=%.0fMiB idle=%.0f beside-idle=%.2f beside-all=%.2f beside-gap=%.1fs seed=%d commit=%s",
		rate(offered), rate(allowed), all.String(), sum[throttled], most[rssPeak]/(1<<20), most[idleStood],
		sum[ackedIdle]/max(sum[ackedAlone], 1), sum[ackedCrowd]/max(sum[ackedAlone], 1), most[gapCrowd], s.Seed, s.Commits())
}

func (o Options) makeLeg(ctx context.Context, leg *testbed.Leg) error {
	stalls, err := stall.Measure(filepath.Join(leg.Dir, "stall"))
	if err != nil {
		return err
	}
	defer stalls.Stop()
	leg.Figures = map[string]float64{}
	cluster, err := testbed.New(ctx, testbed.Options{
		Binary: o.Binary, Dir: leg.Dir, Powers: o.Powers, DiskBytes: imageBytes, Out: o.Out, Storage: "segment_bytes: 64MiB, min_free_bytes: 64MiB",
		Limits: testbed.Limits{MemoryBytes: o.MemoryBytes, DiskBytes: o.DiskBytes},
	})
	if err != nil {
		return err
	}
	r := &run{options: o, leg: leg, cluster: cluster}
	err = r.press(ctx, stalls)
	return errors.Join(err, cluster.Close())
}

// press offers too much for as long as the leg is, and judges.
func (r *run) press(ctx context.Context, stalls *stall.Meter) error {
	if err := r.cluster.CreateTopic(ctx, topic, r.options.Partitions, nil); err != nil {
		return err
	}
	if err := r.cluster.Nodes[testbed.Nodes-1].SetDisk(r.options.DiskBytes / 2); err != nil {
		return err
	}
	load, err := testbed.StartLoad(ctx, r.cluster.URLs(), testbed.LoadOptions{
		Topic: topic, Partitions: r.options.Partitions, Producers: producers, Rate: r.rate(r.options.DiskBytes), Window: window, ValueBytes: valueBytes, Open: true, Plain: true, Stalls: stalls,
	})
	if err != nil {
		return err
	}
	r.load = load
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { r.watch(watching); close(watched) }() // ends with stop
	err = r.under(ctx)
	stop()
	<-watched
	return errors.Join(err, r.verdict())
}

// under is what happens while the nodes' memory is watched: first there is too
// much load, and then, with the disks as fast as they are, the crowd comes.
func (r *run) under(ctx context.Context) error {
	starting, cancel := context.WithTimeout(ctx, testbed.ReadyMax)
	defer cancel()
	if err := r.load.AwaitAcks(starting, 1); err != nil {
		return err
	}
	if err := errors.Join(r.overdo(ctx), r.cluster.FreeDisks()); err != nil {
		return err
	}
	r.load.SetRate(0)
	if err := r.beside(ctx); err != nil {
		return err
	}
	r.load.SetRate(0)
	refused, err := r.refusals(ctx)
	if err != nil {
		return err
	}
	r.leg.Figures[throttled] = float64(refused)
	r.cluster.Say("%d requests refused with THROTTLED; judging", refused)
	r.leg.Tally, err = testbed.Judge(ctx, r.cluster, r.load, r.options.Out)
	return err
}

// rate is bytes a second, offered ten times, in records.
func (r *run) rate(bytes int64) int { return int(max(overs*bytes/valueBytes, 1)) }

// overdo learns what is allowed, and then offers ten times as much.
func (r *run) overdo(ctx context.Context) error {
	from := r.sample()
	if err := testbed.Wait(ctx, min(learnMax, r.options.Duration/2)); err != nil {
		return err
	}
	_, allowedNow := from.to(r.sample())
	r.load.SetRate(r.rate(max(int64(allowedNow), r.options.DiskBytes/allowedLeast)))
	from = r.sample()
	end := time.Now().Add(time.Duration(r.leg.Amount * float64(time.Second)))
	for last := from; time.Now().Before(end); {
		if err := testbed.Wait(ctx, min(sayEvery, time.Until(end))); err != nil {
			return err
		}
		if err := r.cluster.Ended(); err != nil {
			return err
		}
		now := r.sample()
		in, out := last.to(now)
		r.cluster.Say("offered %.1f MB/s, allowed %.1f MB/s; most memory of the nodes %s", in/1e6, out/1e6, r.memory())
		last = now
	}
	if err := r.awaitRefusals(ctx); err != nil {
		return err
	}
	now := r.sample()
	r.leg.Figures[offered], r.leg.Figures[allowed] = float64(now.offered-from.offered), float64(now.allowed-from.allowed)
	return nil
}

// awaitRefusals goes on until something was refused: a short run, or one on a slow
// machine, may not have come so far.
func (r *run) awaitRefusals(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, testbed.ReadyMax)
	defer cancel()
	for {
		n, err := r.refusals(ctx)
		if err != nil {
			return fmt.Errorf("%w (%w)", ErrNotRefused, err)
		}
		if n > 0 {
			return nil
		}
		if err := testbed.Wait(ctx, watchEvery); err != nil {
			return fmt.Errorf("%w (%w)", ErrNotRefused, err)
		}
	}
}

// refusals is how many requests the nodes refused with THROTTLED.
func (r *run) refusals(ctx context.Context) (sum int, err error) {
	for _, n := range r.cluster.Nodes {
		refused, err := n.Refused(ctx, "produce", errcode.Throttled.String())
		if err != nil {
			return 0, err
		}
		sum += refused
	}
	return sum, nil
}

// sample is what was offered and allowed up to a moment, in bytes.
type sample struct {
	at               time.Time
	offered, allowed int64
}

func (r *run) sample() sample {
	return sample{time.Now(), r.load.Offered() * valueBytes, int64(r.load.Acked()) * valueBytes}
}

// to returns what was offered and allowed in a second, from s to a later sample.
func (s sample) to(later sample) (offered, allowed float64) {
	seconds := max(later.at.Sub(s.at), time.Millisecond).Seconds()
	return float64(later.offered-s.offered) / seconds, float64(later.allowed-s.allowed) / seconds
}

// watch looks at the nodes' memory until ctx ends.
func (r *run) watch(ctx context.Context) {
	for testbed.Wait(ctx, watchEvery) == nil {
		for i, n := range r.cluster.Nodes {
			if held, err := n.RSSPeak(); err == nil { // else it has ended, as others say
				r.peaks[i].Store(max(r.peaks[i].Load(), held))
			}
		}
	}
}

// peak is the most memory that any node held.
func (r *run) peak() (most int64) {
	for i := range r.peaks {
		most = max(most, r.peaks[i].Load())
	}
	return most
}

// memory says what the nodes held at most.
func (r *run) memory() string {
	text := []string{}
	for i := range r.peaks {
		text = append(text, fmt.Sprintf("%.0f", mib(r.peaks[i].Load())))
	}
	return strings.Join(text, ", ") + " MiB"
}

func (r *run) verdict() error {
	r.leg.Figures[rssPeak] = float64(r.peak())
	r.leg.Faults = int(r.leg.Figures[throttled])
	switch {
	case r.peak() > r.options.MemoryBytes:
		return fmt.Errorf("%w: %.0f MiB of %.0f MiB", ErrTooMuch, mib(r.peak()), mib(r.options.MemoryBytes))
	case r.leg.Faults == 0:
		return ErrNotRefused
	case r.leg.Figures[gapCrowd] > max(gapMax.Seconds(), r.leg.Figures[gapAlone]):
		return fmt.Errorf("%w: %.1f s, and %.1f s without them", ErrStarved, r.leg.Figures[gapCrowd], r.leg.Figures[gapAlone])
	}
	return nil
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
