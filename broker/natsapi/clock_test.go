package natsapi

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/protocol"
)

func TestAClockFarFromMostOthersIsNotTrusted(t *testing.T) {
	const near, ahead, behind = 59 * time.Second, 24 * time.Hour, -2 * time.Minute
	for name, test := range map[string]struct {
		others     map[uint64]time.Duration // by how much they are ahead
		want       bool
		correction time.Duration
	}{
		"alone":                  {map[uint64]time.Duration{}, true, 0},
		"all near":               {map[uint64]time.Duration{2: near, 3: -near}, true, 0},
		"one of two is off":      {map[uint64]time.Duration{2: near, 3: ahead}, true, 0},
		"both others are away":   {map[uint64]time.Duration{2: ahead, 3: ahead}, false, ahead},
		"ahead and behind":       {map[uint64]time.Duration{2: ahead, 3: behind}, false, ahead},
		"the only other is away": {map[uint64]time.Duration{2: behind}, false, behind},
		"two of four":            {map[uint64]time.Duration{2: ahead, 3: ahead, 4: near, 5: near}, true, 0},
		"two of three":           {map[uint64]time.Duration{2: ahead, 3: ahead + near, 4: near}, false, ahead},
	} {
		now, others := moment{wall: time.Unix(1e9, 0), up: time.Hour}, clocks{}
		for node, skew := range test.others {
			others[node] = now.wall.Add(skew - now.up)
		}
		if got := others.correction(now); got != test.correction {
			t.Errorf("%s: corrected by %v", name, got)
		}
		if got := others.trusted(now); got != test.want {
			t.Errorf("%s: trusted %t", name, got)
		}
	}
}

// TestAJumpOfTheOwnClockShowsBeforeTheOthersAreHeardAgain: retention would have
// seconds in which a day's records are old.
func TestAJumpOfTheOwnClockShowsBeforeTheOthersAreHeardAgain(t *testing.T) {
	began := time.Unix(1e9, 0)
	others := clocks{2: began.Add(time.Second), 3: began.Add(-time.Second)}
	for up := range 3 {
		now := moment{wall: began.Add(time.Duration(up) * time.Hour), up: time.Duration(up) * time.Hour}
		if !others.trusted(now) {
			t.Fatalf("after %d hours a clock that agrees is not trusted", up)
		}
		for _, jump := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
			jumped := moment{wall: now.wall.Add(jump), up: now.up}
			if others.trusted(jumped) {
				t.Errorf("after a jump by %v the clock is trusted", jump)
			}
			if off := others.correction(jumped) + jump; off.Abs() > time.Second {
				t.Errorf("after a jump by %v the cluster's time is %v away from the others'", jump, off)
			}
		}
	}
}

func TestTheClockOfABroadcastCounts(t *testing.T) {
	k := newStack(t, 1)
	s := k.nodes[0].server
	tell := func(node uint64, clock time.Time) {
		data, err := json.Marshal(protocol.LeadersBroadcast{Version: protocol.ControlVersion, Node: node, ClockMs: clock.UnixMilli()})
		if err != nil {
			t.Fatal(err)
		}
		s.leaders.onBroadcast(&nats.Msg{Data: data})
	}
	tell(8, time.Now())
	if !s.ClockTrusted() {
		t.Error("a clock that agrees is not trusted")
	}
	tell(8, time.Now().Add(-24*time.Hour))
	if s.ClockTrusted() {
		t.Error("a clock a day ahead of the only other is trusted")
	}
	if off := time.Since(s.Now()) - 24*time.Hour; off.Abs() > time.Minute {
		t.Errorf("the cluster's time is %v away from the only other's", off)
	}
	if b := s.leaders.broadcast(nil, true); time.Since(time.UnixMilli(b.ClockMs)).Abs() > time.Minute {
		t.Errorf("the own broadcast carries the time %d", b.ClockMs)
	}
}
