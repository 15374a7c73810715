package producer

import (
	"context"
	"sync"
)

// budget bounds the bytes of records that are not acked yet. Waiters are served
// first come, first served, so that large records are not starved.
type budget struct {
	// mu guards all below. It is held for a few instructions.
	mu      sync.Mutex
	size    int64
	free    int64 // 0 ≤ free ≤ size
	waiters []*waiter
	closed  bool
}

type waiter struct {
	n     int64
	ready chan struct{} // closed when served, or when the budget is closed
	ok    bool          // guarded by budget.mu
}

func newBudget(size int64) *budget { return &budget{size: size, free: size} }

// try takes n bytes if nobody has to wait for that.
func (b *budget) try(n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return ErrClosed
	case len(b.waiters) > 0 || b.free < n:
		return ErrBufferFull
	}
	b.free -= n
	return nil
}

// take takes n bytes (n ≤ size) and waits for them until ctx ends.
func (b *budget) take(ctx context.Context, n int64) error {
	if err := b.try(n); err != ErrBufferFull { //nolint:errorlint // it is our own, unwrapped
		return err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	w := &waiter{n: n, ready: make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.serve()
	b.mu.Unlock()
	select {
	case <-w.ready:
	case <-ctx.Done():
	}
	return b.leave(ctx, w)
}

// leave ends a wait: with the bytes, or without.
func (b *budget) leave(ctx context.Context, w *waiter) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.ok {
		return nil
	}
	if b.closed {
		return ErrClosed
	}
	for i := range b.waiters {
		if b.waiters[i] == w {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			break
		}
	}
	b.serve() // w may have stood in front of smaller ones
	return context.Cause(ctx)
}

// give returns n bytes.
func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.serve()
}

// serve hands out what is free, in order. mu is held.
func (b *budget) serve() {
	for len(b.waiters) > 0 && b.free >= b.waiters[0].n {
		w := b.waiters[0]
		b.waiters[0] = nil
		b.waiters = b.waiters[1:]
		b.free -= w.n
		w.ok = true
		close(w.ready)
	}
}

// close refuses all waiters and what comes later.
func (b *budget) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, w := range b.waiters {
		close(w.ready)
	}
	b.waiters = nil
}
