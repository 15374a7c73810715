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

// clusters is how many run at once: what a play does is wait, mostly.
const (
	clusters     = 16
	clustersRace = 6
)

// job is one play to be done; done has what came of it.
type job struct {
	scenario Scenario
	settings Settings
	told     []string
	done     chan error
}

func options() (o Options) {
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
		if c == nil {
			var err error
			if c, err = Open(ctx, options()); err != nil {
				c = nil
				j.done <- err
				continue
			}
		}
		err := j.play(ctx, c)
		if err != nil {
			err = errors.Join(err, c.Close())
			c = nil
		}
		j.done <- err
	}
	if c != nil {
		_ = c.Close() // all is judged
	}
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
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // all is judged
	for _, s := range Scenarios() {
		if !s.recognised {
			continue
		}
		got, err := c.Play(t.Context(), s, Settings{})
		if err != nil {
			t.Fatal(err)
		}
		if got.OK || got.Duplicated == 0 {
			t.Errorf("%s: the batch is stored twice, and the outcome does not say so", got)
		}
	}
}
