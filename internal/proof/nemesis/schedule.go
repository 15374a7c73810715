// Package nemesis does harm to a cluster of real processes while records are
// produced, and lets what the clients saw and what every replica holds in the
// end be judged: was an acked record lost, stored twice, reordered, or different
// on a replica?
//
// A run is cut into legs (run.go), each with a cluster of its own, so that a long
// run needs no more memory than a short one and goes on after an interruption
// (state.go). Within a leg, faults follow one after the other in the order of a
// schedule (this file) that is a function of the seed; faults.go says what each
// does.
package nemesis

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"logbroker/internal/proof/testbed"
)

// A kind is one kind of harm.
type kind string

const (
	killLeader  kind = "kill-leader"
	killAny     kind = "kill"
	stop        kind = "stop"
	cutHalf     kind = "cut"
	cutLeader   kind = "cut-leader"
	oneWay      kind = "cut-one-way"
	unplug      kind = "unplug"
	transfers   kind = "transfers"
	rolling     kind = "rolling-restart"
	killAll     kind = "kill-all"
	slowDisk    kind = "slow-disk"
	failedSync  kind = "failed-fsync"
	lowDisk     kind = "disk-reserve"
	fullDisk    kind = "full-disk"
	powerLoss   kind = "power-loss"
	powerLosses kind = "power-loss-all"
	swap        kind = "swap-minority"
	clockJump   kind = "clock-jump"
	loseReplica kind = "lose-replica"
)

func (s step) String() string {
	text := fmt.Sprintf("%s for %s", s.kind, s.hold.Round(time.Millisecond))
	switch s.kind {
	case killLeader, cutLeader, transfers, rolling, killAll, powerLosses:
		return text // which nodes these are about is known at the time, or all
	}
	return fmt.Sprintf("%s: node %d", text, s.node+1)
}

// deck is how often each kind comes in a round.
func deck(p testbed.Powers) []kind {
	var all []kind
	add := func(can bool, n int, k kind) {
		for range n {
			if can {
				all = append(all, k)
			}
		}
	}
	add(true, 6, killLeader)
	add(true, 2, killAny)
	add(true, 4, stop)
	add(p.Cuts, 2, cutHalf)
	add(p.Cuts, 3, cutLeader)
	add(p.Cuts, 3, oneWay)
	add(p.Cuts, 2, unplug)
	add(true, 3, transfers)
	add(true, 1, rolling)
	add(true, 1, killAll)
	add(p.Trace, 2, slowDisk)
	add(p.Trace, 2, failedSync)
	add(p.Disks, 1, lowDisk)
	add(p.Disks, 1, fullDisk)
	add(p.Disks, 3, powerLoss)
	add(p.Disks, 1, powerLosses)
	add(p.Clock, 2, clockJump)
	add(true, 2, loseReplica)
	add(true, 1, swap)
	return all
}

// kinds are those in the deck, once each.
func kinds(p testbed.Powers) []kind {
	return slices.Compact(deck(p))
}

// step is one fault as the schedule has it. Which node leads is known at the
// time only; everything else is here.
type step struct {
	kind kind
	// node and other are two different nodes, counted from 0.
	node, other int
	hold        time.Duration // how long the harm lasts
	pause       time.Duration // before it
	pick        uint64        // for what a kind wants to choose beside
}

// schedule is an endless series of steps, the same for the same seed and powers.
type schedule struct {
	rng   *rand.Rand
	deck  []kind
	round []kind // what is left of this round
	only  kind   // "": all
}

func newSchedule(seed, leg uint64, p testbed.Powers) *schedule {
	return &schedule{rng: rand.New(rand.NewPCG(seed, leg)), deck: deck(p)}
}

func (s *schedule) next() step {
	if len(s.round) == 0 {
		s.shuffle()
	}
	k := s.round[0]
	s.round = s.round[1:]
	if s.only != "" {
		k = s.only
	}
	node := s.rng.IntN(testbed.Nodes)
	return step{
		kind: k, node: node, other: (node + 1 + s.rng.IntN(testbed.Nodes-1)) % testbed.Nodes,
		hold: s.between(500*time.Millisecond, 3*time.Second), pause: s.between(200*time.Millisecond, time.Second), pick: s.rng.Uint64(),
	}
}

// shuffle begins a round. The longest fault is among its first dozen, so that a
// short run has it too.
func (s *schedule) shuffle() {
	s.round = append([]kind(nil), s.deck...)
	s.rng.Shuffle(len(s.round), func(a, b int) { s.round[a], s.round[b] = s.round[b], s.round[a] })
	early := s.rng.IntN(12)
	for i, k := range s.round {
		if k == swap && i > early {
			s.round[i], s.round[early] = s.round[early], s.round[i]
		}
	}
}

func (s *schedule) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.rng.Int64N(int64(most-least)))
}
