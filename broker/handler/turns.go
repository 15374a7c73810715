package handler

import (
	"runtime"
	"sync"
	"time"
)

const (
	// giveWayFactor is how much longer a catch-up read pauses than its last reply took.
	giveWayFactor = 6
	// turnWaitMax is the longest wait for a turn. It is well below the two seconds
	// after which a reader of the client library takes a silent node for gone.
	turnWaitMax = time.Second
	// crowdedShare of a reply is what a reader gets at a time that found no turn.
	crowdedShare = 8
	// costMemory is over about how many replies their cost is averaged.
	costMemory = 8
)

// turns are what all catch-up reads of a node share while there is something to
// produce. One alone pauses between two replies, which leaves the machine to the
// producers; a thousand that pause each for itself leave nothing. So replies take
// turns: at most one in (giveWayFactor+1) × what a reply takes, or in max, for each
// processor, however many read.
//
// A reader for which there is no turn within turnWaitMax is told that its reply
// is over. Who reads asks again, and who does not read, which may be why it is
// behind, holds neither a turn nor memory.
type turns struct {
	max        time.Duration // Options.GiveWayMax
	processors int

	mu   sync.Mutex    // guards what follows
	next time.Time     // when the next turn is
	cost time.Duration // what a reply took of late
}

// newTurns takes replies to cost much until it knows better.
func newTurns(pauseMax time.Duration) *turns {
	return &turns{max: pauseMax, processors: runtime.GOMAXPROCS(0), cost: pauseMax / giveWayFactor}
}

// took notes what a catch-up reply took, and returns the pause that is due by it
// alone.
func (t *turns) took(d time.Duration) (pause time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cost += (d - t.cost) / costMemory
	return min(giveWayFactor*d, t.max)
}

// book takes the next turn and returns how long it is until then. ok is false, and
// nothing is taken, where that is too long.
func (t *turns) book(now time.Time) (wait time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next.Before(now) {
		t.next = now
	}
	wait = t.next.Sub(now)
	if wait > turnWaitMax {
		return turnWaitMax, false
	}
	// Where the machine is short of time a reply takes long whatever is read.
	space := min((giveWayFactor+1)*t.cost, t.max)
	t.next = t.next.Add(space / time.Duration(t.processors))
	return wait, true
}
