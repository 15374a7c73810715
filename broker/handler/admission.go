package handler

import (
	"sync"
	"sync/atomic"
)

// budget bounds the bytes that accepted work holds in memory.
// Invariant: 0 <= used, and used <= max except for one holder that alone is
// larger than max (so that a small budget still lets work through).
type budget struct {
	max  int64
	used atomic.Int64
}

// tryAcquire takes n bytes, or reports false and takes none.
func (b *budget) tryAcquire(n int64) bool {
	now := b.used.Add(n)
	if now <= b.max || now == n {
		return true
	}
	b.used.Add(-n)
	return false
}

func (b *budget) release(n int64) { b.used.Add(-n) }

// gate counts requests in work, so that a drain can refuse new ones and wait
// for the rest.
type gate struct {
	inside  atomic.Int64
	closing atomic.Bool
	once    sync.Once
	idle    chan struct{} // closed when closing is set and nobody is inside
}

func newGate() *gate { return &gate{idle: make(chan struct{})} }

// enter reports false once the gate is closing; each true needs one exit.
func (g *gate) enter() bool {
	g.inside.Add(1)
	if g.closing.Load() {
		g.exit()
		return false
	}
	return true
}

func (g *gate) exit() {
	if g.inside.Add(-1) == 0 && g.closing.Load() {
		g.once.Do(func() { close(g.idle) })
	}
}

// shut refuses new entries. The returned channel is closed once nobody is
// inside.
func (g *gate) shut() <-chan struct{} {
	// The entry keeps inside above zero while closing is being set, so that
	// the exit below sees the last one out whatever the order.
	g.inside.Add(1)
	g.closing.Store(true)
	g.exit()
	return g.idle
}
