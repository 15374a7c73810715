package partitions

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// transfers is what the segment transfers of a node share, in both directions.
type transfers struct {
	giving, taking pace
	// given and taken count bytes.
	given, taken atomic.Int64
	// places has one for each replica that may fetch at the same time.
	places chan struct{}
}

// catchUpsMax is how many replicas of a node fetch at once, beside those whose
// state machine waits for it.
const catchUpsMax = 2

func newTransfers(bytesPerSecond int64) *transfers {
	t := &transfers{places: make(chan struct{}, catchUpsMax)}
	t.giving.bytesPerSecond, t.taking.bytesPerSecond = bytesPerSecond, bytesPerSecond
	return t
}

// paceBurst is for how long a pace may be ahead of itself.
const paceBurst = 50 * time.Millisecond

// pace lets bytes pass at a rate.
type pace struct {
	bytesPerSecond int64 // ≤ 0 = no bound

	// mu guards free.
	mu sync.Mutex
	// free is when all that has passed would have passed at the rate.
	free time.Time
}

// wait returns when n more bytes may pass, or with ctx's error.
func (p *pace) wait(ctx context.Context, n int) error {
	if p.bytesPerSecond <= 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	ahead := p.free.Sub(now)
	p.free = p.free.Add(time.Duration(n) * time.Second / time.Duration(p.bytesPerSecond))
	p.mu.Unlock()
	if ahead <= paceBurst {
		return ctx.Err()
	}
	t := time.NewTimer(ahead - paceBurst)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
