package consumer

import (
	"slices"
	"sync"
)

// marks is the account of the records of one partition that were handed out:
// which of them the application is finished with. A seek begins a new account,
// and so does a new ownership.
//
//	low ≤ every span of done < next
//	every record handed out below low is marked
//
// The feed's lock guards it. Records carry a pointer to it, so that a mark finds
// its place, and one for what is not ours any more finds nothing.
type marks struct {
	mu   *sync.Mutex
	from int64  // where the account began
	low  int64  // what may be committed
	next int64  // after the last record handed out
	done []span // marked above low: sorted, disjoint, not adjacent
	// dirty: low is not what is committed.
	dirty bool
	void  bool
	lost  *loss // why it is void; nil after a seek
	// idle, when not nil, gets a token when everything is marked.
	idle chan struct{}
}

// span is the offsets from, inclusive, to to, exclusive.
type span struct{ from, to int64 }

func newMarks(f *feed, at int64) *marks { return &marks{mu: &f.mu, from: at, low: at, next: at} }

// handOut notes that the record at offset is handed out. Offsets that are left
// out (compaction, a jump after retention) need no mark. mu is held.
func (m *marks) handOut(offset int64) {
	switch {
	case offset > m.next:
		m.add(span{m.next, offset})
	case offset < m.next: // the log ended below the position
		m.from, m.low, m.done = offset, offset, nil
	}
	m.next = offset + 1
	m.settle()
}

// mark notes that the record at offset is finished. It returns by which loss
// that comes too late, if any.
func (m *marks) mark(offset int64) *loss {
	m.mu.Lock()
	defer m.mu.Unlock()
	if offset < m.low || offset >= m.next {
		return nil
	}
	if m.void {
		return m.lost
	}
	before := m.low
	if offset == m.low {
		m.low++
	} else {
		m.add(span{offset, offset + 1})
	}
	m.settle()
	m.dirty = m.dirty || m.low != before
	if m.low == m.next && m.idle != nil {
		signal(m.idle)
	}
	return nil
}

// settle moves low over what is marked.
func (m *marks) settle() {
	for len(m.done) > 0 && m.done[0].from <= m.low {
		m.low = max(m.low, m.done[0].to)
		m.done = m.done[1:]
	}
}

// add joins s to done.
func (m *marks) add(s span) {
	if n := len(m.done); n > 0 && m.done[n-1].to == s.from { // the usual case
		m.done[n-1].to = s.to
		return
	}
	// first is the first span that s may touch, last the one behind those.
	first, _ := slices.BinarySearchFunc(m.done, s.from, func(e span, from int64) int {
		if e.to < from {
			return -1
		}
		return 1
	})
	last := first
	for last < len(m.done) && m.done[last].from <= s.to {
		s.from, s.to = min(s.from, m.done[last].from), max(s.to, m.done[last].to)
		last++
	}
	m.done = slices.Replace(m.done, first, last, s)
}
