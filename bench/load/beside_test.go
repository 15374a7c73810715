package load

import (
	"context"
	"strings"
	"testing"
	"time"
)

func (s *memory) NewMember(context.Context, string) (Receiver, error) {
	return &memoryReceiver{s: s}, nil
}

func TestGroupsReadBesideTheProducers(t *testing.T) {
	t.Parallel()
	sys := &memory{take: slowly(200 * time.Microsecond)}
	turn, err := RunTurn(t.Context(), sys, shortSpec(PhaseProduce, PhaseTailed, PhaseJoined, PhaseTailed, PhaseJoined), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range turn.Phases {
		if r.Records == 0 || (r.ReadPerS > 0) != (r.Phase == PhaseJoined) {
			t.Errorf("phase %s: %d records, %g read per second", r.Phase, r.Records, r.ReadPerS)
		}
	}
	if c := turn.Beside(); len(c.RecordsPerS) != 2 || !strings.Contains(c.String(), "(2 pairs)") {
		t.Errorf("%+v: %s", c, c)
	}
	if sys.running.Load() != 0 {
		t.Error("the system runs on")
	}
}

func TestASystemWithoutGroupsIsNotReadBeside(t *testing.T) {
	t.Parallel()
	sys := struct{ System }{&memory{}}
	if _, err := RunTurn(t.Context(), sys, shortSpec(PhaseProduce, PhaseTailed), nil); err == nil || !strings.Contains(err.Error(), "memory has no second consumer group") {
		t.Fatal(err)
	}
}

func TestTheCostOfASecondGroupIsPairedWithThePhaseBefore(t *testing.T) {
	phase := func(name string, rate, p99 float64) Result {
		return Result{Phase: name, RecordsPerS: rate, P99Ms: p99}
	}
	turn := Turn{Phases: []Result{
		phase(PhaseJoined, 9, 9), phase(PhaseTailed, 100, 10), phase(PhaseProduce, 1, 1), phase(PhaseJoined, 90, 20),
		phase(PhaseTailed, 100, 10), phase(PhaseJoined, 100, 40), phase(PhaseTailed, 100, 10), phase(PhaseJoined, 80, 10),
	}}
	want := "leaves the producers 0.9 (0.8 … 1) of their records/s and makes their p99 2 (1 … 4) of"
	if line := turn.Beside().String(); !strings.Contains(line, want) {
		t.Error(line)
	}
	if line := (&Turn{}).Beside().String(); line != "" {
		t.Error(line)
	}
}
