package stall

import (
	"testing"
	"time"
)

func TestWhatStoodStillIsTakenOff(t *testing.T) {
	at := func(ms, late, disk time.Duration) Mark {
		return Mark{time.UnixMilli(0).Add(ms * time.Millisecond), late * time.Millisecond, disk * time.Millisecond}
	}
	for _, c := range []struct {
		from, to Mark
		want     time.Duration
	}{
		{at(0, 0, 0), at(100, 0, 0), 100},
		{at(0, 0, 0), at(100, 30, 0), 70},
		{at(0, 0, 0), at(100, 30, 60), 40},  // the longer one: they may be the same
		{at(0, 50, 0), at(100, 50, 0), 100}, // earlier stalls are no matter
	} {
		if got := c.to.Sub(c.from); got != c.want*time.Millisecond {
			t.Errorf("from %+v to %+v: %v, want %d ms", c.from, c.to, got, c.want)
		}
	}
}

func TestAMeterThatIsNotStalledTakesNothingOff(t *testing.T) {
	if lateness(tickEvery) != 0 || lateness(tickLate) != 0 || lateness(10*tickEvery) != 9*tickEvery {
		t.Error("a timer on time counts as late, or a late one does not")
	}
	if slowness(syncUsual) != 0 || slowness(syncUsual+time.Second) != time.Second {
		t.Error("a sync as usual counts as slow, or a slow one does not")
	}
}

func TestTimeGoesOn(t *testing.T) {
	m := Start(t)
	before := m.Mark()
	<-time.After(20 * time.Millisecond)
	after := m.Mark()
	if took := after.Sub(before); !before.Before(after) || before.IsZero() || took > time.Since(before.at) {
		t.Errorf("%+v, then %+v: %v", before, after, took)
	}
}
