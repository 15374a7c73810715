package producer

import (
	"context"
	"errors"
	"sync"
	"testing"

	"logbroker/internal/client/clienttest"
)

func TestBudgetServesWaitersInOrder(t *testing.T) {
	b := newBudget(10)
	if err := b.try(10); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order []int
	var wg sync.WaitGroup
	for i, n := range []int64{8, 3, 1} {
		wg.Go(func() {
			if err := b.take(within(t), n); err != nil {
				t.Error(err)
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			b.give(n)
		})
		clienttest.Await(t, "the waiter", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.waiters) == i+1
		})
	}
	b.give(5) // not enough for the first: the others must not overtake it
	if err := b.try(1); !errors.Is(err, ErrBufferFull) {
		t.Fatal(err)
	}
	mu.Lock()
	if len(order) != 0 {
		t.Fatal(order)
	}
	mu.Unlock()
	b.give(5)
	wg.Wait()
	if b.free != 10 || len(order) != 3 {
		t.Fatal(b.free, order)
	}
}

func TestBudgetWaitsEndWithTheContextAndWithClose(t *testing.T) {
	b := newBudget(10)
	if err := b.try(6); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(within(t))
	ended := make(chan error, 2)
	go func() { ended <- b.take(ctx, 8) }()
	waiters := func(n int) func() bool {
		return func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.waiters) == n
		}
	}
	clienttest.Await(t, "the waiter", waiters(1))
	go func() { ended <- b.take(within(t), 2) }() // would fit, but waits its turn
	clienttest.Await(t, "the second waiter", waiters(2))
	cancel()
	var errs []error
	errs = append(errs, <-ended, <-ended)
	if !errors.Is(errors.Join(errs...), context.Canceled) || errs[0] != nil && errs[1] != nil {
		t.Fatal(errs)
	}
	go func() { ended <- b.take(within(t), 9) }()
	clienttest.Await(t, "the third waiter", waiters(1))
	b.close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := b.take(within(t), 1); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}
