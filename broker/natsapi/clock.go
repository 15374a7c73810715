package natsapi

import (
	"slices"
	"time"
)

// clockSkewMax is how far a node's clock may be from the others' before it must
// not decide what is old. It is far more than a broadcast takes on its way.
const clockSkewMax = time.Minute

// moment is a point in time by two clocks: the wall clock, which may be set at
// any time, and how long this process runs, which nobody can set.
type moment struct {
	wall time.Time
	up   time.Duration
}

// now returns the present moment.
func (l *leaders) now() moment {
	n := time.Now()
	return moment{wall: n.Round(0), up: n.Sub(l.born)}
}

// clocks holds for each other node what its clock showed when this process began,
// as it was last heard. So a jump of this node's own clock shows at once, and not
// only when the others are heard again.
//
//	clocks[node] + up = what the node's clock shows now
type clocks map[uint64]time.Time

// skews returns by how much each other node's clock is ahead of this one; negative
// means behind.
func (c clocks) skews(now moment) []time.Duration {
	out := make([]time.Duration, 0, len(c))
	for _, clock := range c {
		out = append(out, clock.Add(now.up).Sub(now.wall))
	}
	return out
}

// trusted reports whether this node's clock agrees with the others': it does
// unless more than half of them are further away than clockSkewMax. A node that
// hears nobody has nothing to compare and trusts itself.
func (c clocks) trusted(now moment) bool { return mostAreNear(c.skews(now)) }

func mostAreNear(skews []time.Duration) bool {
	far := 0
	for _, skew := range skews {
		if skew.Abs() > clockSkewMax {
			far++
		}
	}
	return 2*far <= len(skews)
}

// correction returns by how much this node's clock is behind the others' where it
// is not trusted: what the middle one of them says. 0 where it is trusted.
func (c clocks) correction(now moment) time.Duration {
	skews := c.skews(now)
	if mostAreNear(skews) {
		return 0
	}
	slices.Sort(skews)
	return skews[len(skews)/2]
}

// Now returns the time as the cluster sees it, which is this node's while its
// clock is trusted. For stamps that other nodes will judge the age by.
func (s *Server) Now() time.Time {
	s.leaders.mu.Lock()
	defer s.leaders.mu.Unlock()
	now := s.leaders.now()
	return now.wall.Add(s.leaders.clocks.correction(now))
}

// ClockTrusted reports whether this node's clock agrees with those of the nodes
// heard lately. While it does not, nothing may be removed for its age: a clock a
// day ahead would let a day's records vanish. Who judges an age asks before and
// after it reads the clock, so that a jump between is noticed.
func (s *Server) ClockTrusted() bool {
	s.leaders.mu.Lock()
	defer s.leaders.mu.Unlock()
	return s.leaders.clocks.trusted(s.leaders.now())
}
