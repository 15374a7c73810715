package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrFound says that a proof found something: a wrong history, or a cluster that
// did not come back.
var ErrFound = errors.New("the proof failed; the data directories and logs are kept")

// ErrProvesNothing says that there were no faults, or no acks.
var ErrProvesNothing = errors.New("the run proves nothing")

// Leg is what one cluster's life came to.
type Leg struct {
	Tally
	// Amount is how much of the series it is: seconds or cycles.
	Amount  float64       `json:"amount"`
	Faults  int           `json:"faults"`
	Repairs int           `json:"repairs"` // nodes that somebody would have had to mend
	Worst   time.Duration `json:"worst"`   // without acks after a leader was killed
	Commit  string        `json:"commit"`
	// Replaced are the replicas that were replaced under new ids.
	Replaced int `json:"replaced"`
	// Figures are what else was measured.
	Figures map[string]float64 `json:"figures,omitempty"`

	// Number counts the legs from 0, Dir is a directory of its own.
	Number uint64 `json:"-"`
	Dir    string `json:"-"`
}

// Series is a run of many legs, each with a cluster of its own: a long run needs
// no more memory than a short one, and goes on where it was interrupted.
type Series struct {
	Seed uint64  `json:"seed"`
	Goal float64 `json:"goal"` // the amount that all legs come to together
	Legs []Leg   `json:"legs"`

	options SeriesOptions
}

// SeriesOptions say what a series is.
type SeriesOptions struct {
	Commit string // that the broker was built from
	Dir    string // for the data of a leg; emptied after each
	State  string // file to go on from and to write after each leg; "": none
	Seed   uint64
	Goal   float64
	LegMax float64 // the largest amount of one leg
	Out    io.Writer
	// Leg makes a leg. An error says that it found something.
	Leg func(ctx context.Context, leg *Leg) error
	// Line is the final line.
	Line func(s *Series) string
}

// RunSeries makes the legs that are missing and prints the final line.
//
// Errors: ErrFound, ErrProvesNothing, or that the run was not possible.
func RunSeries(ctx context.Context, o SeriesOptions) error {
	s, err := loadSeries(o)
	if err != nil {
		return err
	}
	for s.left() > 0 {
		leg := Leg{Number: uint64(len(s.Legs)), Amount: min(s.left(), o.LegMax), Commit: o.Commit}
		leg.Dir = filepath.Join(o.Dir, fmt.Sprintf("leg-%d-%d", o.Seed, leg.Number))
		err := s.make(ctx, &leg)
		if ctx.Err() != nil {
			return ctx.Err() // what was not finished counts for nothing
		}
		s.Legs = append(s.Legs, leg)
		if err := errors.Join(err, s.save()); err != nil {
			fmt.Fprintln(o.Out, o.Line(s))
			return fmt.Errorf("%w: leg %d: %w", ErrFound, leg.Number, err)
		}
		if s.left() > 0 {
			fmt.Fprintf(o.Out, "up to leg %d: %s\n", leg.Number, o.Line(s))
		}
	}
	fmt.Fprintln(o.Out, o.Line(s))
	return s.verdict()
}

// make makes one leg in a directory of its own, which it keeps where the leg
// found something.
func (s *Series) make(ctx context.Context, leg *Leg) error {
	if err := os.RemoveAll(leg.Dir); err != nil { // of a run that was interrupted
		return err
	}
	if err := os.MkdirAll(leg.Dir, 0o755); err != nil {
		return err
	}
	if err := s.options.Leg(ctx, leg); err != nil || !leg.Clean() {
		fmt.Fprintf(s.options.Out, "kept: %s\n", leg.Dir)
		return err
	}
	return os.RemoveAll(leg.Dir)
}

// loadSeries reads a run that was begun before. A file of another seed or length
// is an error: it would count for another run.
func loadSeries(o SeriesOptions) (*Series, error) {
	s := &Series{Seed: o.Seed, Goal: o.Goal, options: o}
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
	before := Series{options: o}
	if err := json.Unmarshal(raw, &before); err != nil {
		return nil, fmt.Errorf("%s is no state of a run: %w", o.State, err)
	}
	if before.Seed != s.Seed || before.Goal != s.Goal {
		return nil, fmt.Errorf("%s is of a run with seed %d over %.0f: remove it, or name another one", o.State, before.Seed, before.Goal)
	}
	return &before, nil
}

// save replaces the file in one step.
func (s *Series) save() error {
	file := s.options.State
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
func (s *Series) left() float64 {
	left := s.Goal
	for _, l := range s.Legs {
		left -= l.Amount
	}
	return left
}

// Total adds the legs up.
func (s *Series) Total() Leg {
	var all Leg
	for _, l := range s.Legs {
		all.Add(l.Tally)
		all.Amount, all.Faults, all.Repairs, all.Worst = all.Amount+l.Amount, all.Faults+l.Faults, all.Repairs+l.Repairs, max(all.Worst, l.Worst)
		all.Replaced += l.Replaced
	}
	return all
}

// Commits are those that the legs were made with, each once.
func (s *Series) Commits() string {
	var commits []string
	for _, l := range s.Legs {
		if !slices.Contains(commits, l.Commit) {
			commits = append(commits, l.Commit)
		}
	}
	return strings.Join(commits, ",")
}

func (s *Series) verdict() error {
	all := s.Total()
	switch {
	case !all.Clean() || all.Repairs > 0:
		return ErrFound
	case all.Faults == 0 || all.Acked == 0:
		return ErrProvesNothing
	}
	return nil
}
