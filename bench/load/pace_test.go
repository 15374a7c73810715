package load

import (
	"context"
	"testing"
	"time"
)

// fakeClock is a time that passes only when somebody sleeps.
type fakeClock struct{ now time.Time }

func newFakeClock() *fakeClock { return &fakeClock{now: time.UnixMicro(1795416249000000)} }

func (c *fakeClock) Now() time.Time { return c.now }

func (c *fakeClock) SleepUntil(_ context.Context, t time.Time) {
	if t.After(c.now) {
		c.now = t
	}
}

func TestPacerKeepsTheRateOverAllProducers(t *testing.T) {
	start := newFakeClock().now
	times := map[time.Duration]int{}
	for n := range 4 {
		p := newPacer(newFakeClock(), start, 1000, n, 4)
		p.end = start.Add(time.Second)
		for {
			at, ok := p.next(t.Context())
			if !ok {
				break
			}
			times[at.Sub(start)]++
		}
		if p.unsent(p.end) != 0 {
			t.Errorf("producer %d: %d unsent", n, p.unsent(p.end))
		}
	}
	if len(times) != 1000 {
		t.Errorf("%d different times in a second, want 1000: %v", len(times), times)
	}
}

func TestPacerStopsAtItsLimit(t *testing.T) {
	for _, rate := range []float64{0, 100} {
		p := newPacer(newFakeClock(), newFakeClock().now, rate, 0, 1)
		p.limit = 7
		n := 0
		for _, ok := p.next(t.Context()); ok; _, ok = p.next(t.Context()) {
			n++
		}
		if n != 7 {
			t.Errorf("rate %g: %d records, want 7", rate, n)
		}
	}
}

// stallingSender takes every record at once, but for one that it keeps for long.
type stallingSender struct {
	clock   *fakeClock
	sent    int
	stallAt int
	stall   time.Duration
}

func (s *stallingSender) Send(_ context.Context, _ Record, done func(error)) {
	if s.sent++; s.sent == s.stallAt {
		s.clock.now = s.clock.now.Add(s.stall)
	}
	done(nil)
}

func (*stallingSender) Flush(context.Context) error { return nil }
func (*stallingSender) Close() error                { return nil }

// openLoop runs a producer at 1,000 records/s for 10 s against a sender that
// stalls once.
func openLoop(t *testing.T, stallAt int, stall time.Duration) (*tally, *producing) {
	t.Helper()
	clock := newFakeClock()
	spec := Defaults()
	tn := &turn{spec: spec, clock: clock, payload: &payload{kind: PayloadRandom, data: make([]byte, 1<<10), size: 64, largest: 64, pool: 960}}
	w := &window{start: clock.now, end: clock.now.Add(10 * time.Second)}
	p := &producing{turn: tn, rate: 1000, senders: []Sender{&stallingSender{clock: clock, stallAt: stallAt, stall: stall}}}
	p.meter = newMeter(PhaseProduce, w, 1)
	if err := p.run(t.Context(), clock.now); err != nil {
		t.Fatal(err)
	}
	return p.meter.tallies[0], p
}

func TestOpenLoopChargesAStallToEveryRecordThatWasDue(t *testing.T) {
	got, _ := openLoop(t, 2001, time.Second)
	if got.records != 10_000 {
		t.Fatalf("%d records, want 10,000", got.records)
	}
	// One stall of a second at 1,000 records/s: the records that were due meanwhile
	// waited for 1 s, 0.999 s, … 0.001 s. A closed loop would have seen one slow one.
	if late := countAbove(got, 500*time.Millisecond); late < 480 || late > 520 {
		t.Errorf("%d records are later than 500 ms, want about 500", late)
	}
	if ms := percentileMs(got.hist, 99); ms < 880 || ms > 920 {
		t.Errorf("p99 = %.0f ms, want about 900", ms)
	}
}

func countAbove(t *tally, d time.Duration) int64 {
	n := int64(0)
	for _, bar := range t.hist.Distribution() {
		if bar.From > d.Microseconds() {
			n += bar.Count
		}
	}
	return n
}

func TestWhatWasDueBeforeTheEndIsSentALittleLate(t *testing.T) {
	got, p := openLoop(t, 9801, 900*time.Millisecond)
	if got.records != 10_000 || p.unsent.Load() != 0 {
		t.Errorf("%d sent, %d unsent, want all 10,000", got.records, p.unsent.Load())
	}
}

func TestOpenLoopSaysWhatBackPressureKeptFromBeingSent(t *testing.T) {
	got, p := openLoop(t, 9001, 5*time.Second)
	if got.records != 9001 || p.unsent.Load() != 999 {
		t.Errorf("%d sent, %d unsent, want 9001 and 999", got.records, p.unsent.Load())
	}
}
