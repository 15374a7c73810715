package natsapi

import (
	"maps"
	"slices"
	"time"
)

// clockSkewMax is how far a node's clock may be from the others' before it must
// not decide what is old. It is far more than a broadcast takes on its way.
const clockSkewMax = time.Minute

// skews holds by how much each other node's clock was ahead of this one when it
// was last heard; negative means behind.
type skews map[uint64]time.Duration

// trusted reports whether this node's clock agrees with the others': it does
// unless more than half of them are further away than clockSkewMax. A node that
// hears nobody has nothing to compare and trusts itself.
func (s skews) trusted() bool {
	far := 0
	for _, skew := range s {
		if skew.Abs() > clockSkewMax {
			far++
		}
	}
	return 2*far <= len(s)
}

// correction returns by how much this node's clock is behind the others' where it
// is not trusted: what the middle one of them says. 0 where it is trusted.
func (s skews) correction() time.Duration {
	if s.trusted() {
		return 0
	}
	sorted := slices.Sorted(maps.Values(s))
	return sorted[len(sorted)/2]
}

// Now returns the time as the cluster sees it, which is this node's while its
// clock is trusted. For stamps that other nodes will judge the age by.
func (s *Server) Now() time.Time {
	s.leaders.mu.Lock()
	defer s.leaders.mu.Unlock()
	return time.Now().Add(s.leaders.skews.correction())
}

// ClockTrusted reports whether this node's clock agrees with those of the nodes
// heard lately. While it does not, nothing may be removed for its age: a clock a
// day ahead would let a day's records vanish.
func (s *Server) ClockTrusted() bool {
	s.leaders.mu.Lock()
	defer s.leaders.mu.Unlock()
	return s.leaders.skews.trusted()
}
