package failures

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"
)

var rounds = flag.Int("failures.rounds", 0, "how often each failure is played; 0: three times, once with -race or -short")

// clusters is how many run at once: what a play does is wait, mostly. The race
// detector makes brokers slow, so there are few then, with a slow clock.
const (
	clusters     = 8
	clustersRace = 4
	tickRace     = 30 * time.Millisecond
	// heldTries is how often a cluster is brought to the stage where the leader is
	// to fail. What comes after that is never tried again.
	heldTries = 5
)

// job is one play to be done; done has what came of it.
type job struct {
	scenario Scenario
	settings Settings
	told     []string
	done     chan error
}

func options() (o Options) {
	if raceEnabled {
		o.Tick = tickRace
	}
	if os.Getenv("FAILURES_LOG") != "" {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return o
}

// TestSevenLeaderFailures plays each failure with one batch and with 64 in flight,
// the leader crashing and stopping.
func TestSevenLeaderFailures(t *testing.T) {
	n, at := *rounds, clusters
	if raceEnabled {
		at = clustersRace
	}
	if n == 0 {
		n = 3
		if raceEnabled || testing.Short() {
			n = 1
		}
	}
	var jobs []*job
	for range n {
		for _, s := range Scenarios() {
			for _, batches := range []int{1, 64} {
				for _, fault := range []Fault{Crash, Stop} {
					if raceEnabled && (batches == 1) != (fault == Stop) {
						continue // half of them, for they take long
					}
					jobs = append(jobs, &job{scenario: s, settings: Settings{Fault: fault, Batches: batches}, done: make(chan error, 1)})
				}
			}
		}
	}
	queue := make(chan *job, len(jobs))
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	for range at {
		go work(t.Context(), queue)
	}
	for _, j := range jobs {
		name := fmt.Sprintf("%d/%d-batches/%s", j.scenario.Number, j.settings.Batches, j.settings.Fault)
		t.Run(name, func(t *testing.T) {
			if err := <-j.done; err != nil {
				for _, line := range j.told {
					t.Log(line)
				}
				t.Error(err)
			}
		})
	}
}

// work plays what is in the queue, on one cluster as long as that is well.
func work(ctx context.Context, queue <-chan *job) {
	var c *Cluster
	for j := range queue {
		var err error
		for try := 1; ; try++ {
			if c, err = j.playOn(ctx, c); try == heldTries || !errors.Is(err, ErrNotHeld) {
				break
			}
		}
		j.done <- err
	}
	if c != nil {
		_ = c.Close() // all is judged
	}
}

// playOn plays on c, or on a new cluster where there is none. It returns the
// cluster for the next one.
func (j *job) playOn(ctx context.Context, c *Cluster) (*Cluster, error) {
	if c == nil {
		var err error
		if c, err = Open(ctx, options()); err != nil {
			return nil, err
		}
	}
	if err := j.play(ctx, c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (j *job) play(ctx context.Context, c *Cluster) error {
	began := time.Now()
	j.settings.Tell = func(s Step) error {
		j.told = append(j.told, fmt.Sprintf("%5.2fs %d. %s %+v %+v", time.Since(began).Seconds(), s.Number, s.Event, s.Client, s.Replicas))
		return nil
	}
	o, err := c.Play(ctx, j.scenario, j.settings)
	if err == nil && !o.OK {
		err = fmt.Errorf("%s: %q", o, o.Faults)
	}
	return err
}

// TestABrokerWithoutDeduplicationIsNoticed breaks the brokers, and every scenario
// whose batch is stored before the leader fails must say so.
func TestABrokerWithoutDeduplicationIsNoticed(t *testing.T) {
	o := options()
	o.NoDeduplication = true
	for _, s := range Scenarios() {
		if !s.recognised {
			continue
		}
		var got Outcome
		err := ErrNotHeld
		for try := 0; try < heldTries && errors.Is(err, ErrNotHeld); try++ {
			got, err = playAlone(t.Context(), o, s)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got.OK || got.Duplicated == 0 {
			t.Errorf("%s: the batch is stored twice, and the outcome does not say so", got)
		}
		if raceEnabled {
			break // the others differ in nothing that matters here
		}
	}
}

// playAlone plays on a cluster of its own.
func playAlone(ctx context.Context, o Options, s Scenario) (Outcome, error) {
	c, err := Open(ctx, o)
	if err != nil {
		return Outcome{}, err
	}
	got, err := c.Play(ctx, s, Settings{})
	return got, errors.Join(err, c.Close())
}

// TestACutGoesThroughTheRoutesToo: without that a producer on the leader's side
// reaches the new leader by way of the NATS servers.
func TestACutGoesThroughTheRoutesToo(t *testing.T) {
	c, err := Open(t.Context(), options())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	known := func() (routes, named int) {
		w := c.stage.wires
		w.mu.Lock()
		defer w.mu.Unlock()
		for conn := range w.conns {
			if conn.pair.b <= nodes {
				routes++
				if conn.pair.a != 0 {
					named++
				}
			}
		}
		return routes, named
	}
	err = c.stage.await(t.Context(), "every route says whose it is", func() bool {
		routes, named := known()
		return routes >= nodes && routes == named
	})
	if err != nil {
		t.Error(err)
	}
}
