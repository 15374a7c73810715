package broker

import (
	"errors"
	"log/slog"
	"testing"
	"time"
)

func TestDiskReserveIsReachedAtTheLimitAndLeftAboveIt(t *testing.T) {
	const reserve = 800
	var told []bool
	d := newDiskReserve([]string{"data", "raft"}, reserve, slog.New(slog.DiscardHandler))
	free := map[string]uint64{"data": 5000, "raft": 5000}
	var fault error
	d.free = func(dir string) (uint64, error) { return free[dir], fault }
	d.start(func(low bool) { told = append(told, low) })
	for _, step := range []struct {
		raft  uint64
		fault error
		low   bool
		told  int
	}{
		{raft: reserve, told: 0},
		{raft: reserve - 1, low: true, told: 1},
		{raft: reserve + 10, low: true, told: 1},
		{raft: reserve + reserve/8, told: 2},
		{raft: 0, fault: errors.New("no answer"), told: 2},
		{raft: 0, low: true, told: 3},
		{raft: 5000, fault: errors.New("no answer"), low: true, told: 3},
		{raft: 5000, told: 4},
	} {
		free["raft"], fault = step.raft, step.fault
		d.look()
		if d.low.Load() != step.low || len(told) != step.told || len(told) > 0 && told[len(told)-1] != (len(told)%2 == 1) {
			t.Errorf("%+v: low %v, told %v", step, d.low.Load(), told)
		}
	}
}

func TestTheNearerTheReserveTheMoreOftenTheDiskIsLookedAt(t *testing.T) {
	d := newDiskReserve(nil, 1<<30, slog.New(slog.DiscardHandler))
	for _, test := range []struct {
		free uint64
		low  bool
		want time.Duration
	}{
		{free: 100 << 30, want: diskCheckMax},
		{free: 1<<30 + 512<<20, want: 125 * time.Millisecond},
		{free: 1<<30 + 1, want: diskCheckMin},
		{free: 1 << 29, low: true, want: diskCheckMax},
	} {
		d.freeBytes.Store(test.free)
		d.low.Store(test.low)
		if got := d.pause(); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}
