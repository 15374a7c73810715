package testbed

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func lineOf(s *Series) string { t := s.Total(); return t.String() + " " + s.Commits() }

func TestARunGoesOnWhereItWasInterrupted(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	made := 0
	ctx, interrupt := context.WithCancel(t.Context())
	o := SeriesOptions{Seed: 7, Goal: 150, LegMax: 60, Commit: "a", State: filepath.Join(t.TempDir(), "state.json"), Dir: t.TempDir(), Out: &out, Line: lineOf}
	o.Leg = func(_ context.Context, leg *Leg) error {
		made++
		if made == 2 {
			interrupt()
		}
		leg.Acked, leg.Faults, leg.Worst = int(leg.Amount), 1, time.Duration(made)
		return os.WriteFile(filepath.Join(leg.Dir, "data"), nil, 0o644)
	}
	if err := RunSeries(ctx, o); !errors.Is(err, context.Canceled) || made != 2 {
		t.Fatal(err, made)
	}
	o.Commit = "b"
	err := RunSeries(t.Context(), o)
	if want := "acked=150 unknown=0 lost=0 duplicated=0 reordered=0 diverged=0 a,b\n"; err != nil || made != 4 || !strings.HasSuffix(out.String(), want) {
		t.Errorf("%v, %d legs, %s", err, made, out.String())
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
		t.Errorf("the legs' data stay: %v %v", left, err)
	}
	o.Seed++
	if err := RunSeries(t.Context(), o); err == nil || !strings.Contains(err.Error(), "seed 7") {
		t.Errorf("a run of another seed goes on: %v", err)
	}
}

func TestOnlyARunThatProvesSomethingIsGood(t *testing.T) {
	t.Parallel()
	for want, legs := range map[error][]Leg{
		nil:              {{Faults: 1, Tally: Tally{Acked: 1, Unknown: 5, Failed: 5}}},
		ErrProvesNothing: {{Tally: Tally{Acked: 1}}, {Faults: 1}},
		ErrFound: {
			{Faults: 1, Tally: Tally{Acked: 1, Lost: 1}},
			{Faults: 1, Tally: Tally{Acked: 1, Duplicated: 1}},
			{Faults: 1, Tally: Tally{Acked: 1, Reordered: 1}},
			{Faults: 1, Tally: Tally{Acked: 1, Diverged: 1}},
			{Faults: 1, Tally: Tally{Acked: 1, Other: 1}},
			{Faults: 1, Repairs: 1, Tally: Tally{Acked: 1}},
		},
	} {
		for _, l := range legs {
			var out bytes.Buffer
			err := RunSeries(t.Context(), SeriesOptions{Goal: 1, LegMax: 1, Dir: t.TempDir(), Out: &out, Line: lineOf, Leg: func(_ context.Context, leg *Leg) error {
				leg.Tally, leg.Faults, leg.Repairs = l.Tally, l.Faults, l.Repairs
				return nil
			}})
			if !errors.Is(err, want) {
				t.Errorf("%+v: %v, want %v", l, err, want)
			}
		}
	}
}
