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
		others     skews
		want       bool
		correction time.Duration
	}{
		"alone":                  {skews{}, true, 0},
		"all near":               {skews{2: near, 3: -near}, true, 0},
		"one of two is off":      {skews{2: near, 3: ahead}, true, 0},
		"both others are away":   {skews{2: ahead, 3: ahead}, false, ahead},
		"ahead and behind":       {skews{2: ahead, 3: behind}, false, ahead},
		"the only other is away": {skews{2: behind}, false, behind},
		"two of four":            {skews{2: ahead, 3: ahead, 4: near, 5: near}, true, 0},
		"two of three":           {skews{2: ahead, 3: ahead + near, 4: near}, false, ahead},
	} {
		if got := test.others.correction(); got != test.correction {
			t.Errorf("%s: corrected by %v", name, got)
		}
		if got := test.others.trusted(); got != test.want {
			t.Errorf("%s: trusted %t", name, got)
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
