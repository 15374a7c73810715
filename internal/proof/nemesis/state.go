package nemesis

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"logbroker/internal/proof/testbed"
)

// Leg is what one cluster's life came to.
type Leg struct {
	testbed.Tally
	number  uint64
	Seconds float64       `json:"seconds"`
	Faults  int           `json:"faults"`
	Worst   time.Duration `json:"worst"` // without acks after a leader was killed
	Commit  string        `json:"commit"`
}

func (l *Leg) length() time.Duration { return time.Duration(l.Seconds * float64(time.Second)) }

// state is a run as far as it has come.
type state struct {
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"` // what the run is to come to
	Legs    []Leg   `json:"legs"`
}

// loadState reads a run that was begun before. A file of another seed or length
// is an error: it would count for another run.
func loadState(o Options) (*state, error) {
	s := &state{Seed: o.Seed, Seconds: o.Duration.Seconds()}
	if o.State == "" {
		return s, nil
	}
	raw, err := os.ReadFile(o.State)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	var before state
	if err := json.Unmarshal(raw, &before); err != nil {
		return nil, fmt.Errorf("%s is no state of a run: %w", o.State, err)
	}
	if before.Seed != s.Seed || before.Seconds != s.Seconds {
		return nil, fmt.Errorf("%s is of a run with seed %d over %.0f s: remove it, or name another one", o.State, before.Seed, before.Seconds)
	}
	return &before, nil
}

// save replaces the file in one step.
func (s *state) save(file string) error {
	if file == "" {
		return nil
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".tmp", append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}

// left is how much of the run is to be made.
func (s *state) left() time.Duration {
	done := 0.0
	for _, l := range s.Legs {
		done += l.Seconds
	}
	return time.Duration((s.Seconds - done) * float64(time.Second))
}

// total adds the legs up.
func (s *state) total() Leg {
	var all Leg
	for _, l := range s.Legs {
		all.Add(l.Tally)
		all.Faults, all.Worst = all.Faults+l.Faults, max(all.Worst, l.Worst)
	}
	return all
}

// line is the run's one line.
func (s *state) line() string {
	all, commits := s.total(), []string{}
	for _, l := range s.Legs {
		if !slices.Contains(commits, l.Commit) {
			commits = append(commits, l.Commit)
		}
	}
	return fmt.Sprintf("faults=%d %s worst-unavailable=%.2fs p99=%s seed=%d commit=%s",
		all.Faults, all.String(), all.Worst.Seconds(), all.P99.Round(time.Millisecond), s.Seed, strings.Join(commits, ","))
}

func (s *state) verdict() error {
	all := s.total()
	switch {
	case !all.Clean():
		return ErrFound
	case all.Faults == 0 || all.Acked == 0:
		return ErrProvesNothing
	}
	return nil
}
