package partitions

import (
	"container/heap"
	"math"
	"sync"
	"sync/atomic"
)

// waiter is one long poll: it is woken once, when the high watermark is above
// offset.
type waiter struct {
	offset int64
	wake   func()
	index  int // place in the heap, -1 when it has left it
}

// waiters holds the long polls of a partition, lowest offset on top, so that an
// advance of the high watermark touches those it wakes and no others.
type waiters struct {
	// lowest is the smallest waiting offset, MaxInt64 where nobody waits: the
	// apply goroutine reads it instead of taking mu. Zero before the first wait,
	// which only costs a look.
	lowest atomic.Int64

	// mu guards the fields below. wake functions are never called under it.
	mu     sync.Mutex
	heap   waiterHeap
	closed bool
}

// add registers w; false where everybody was woken for good already.
func (ws *waiters) add(w *waiter) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.closed {
		return false
	}
	heap.Push(&ws.heap, w)
	ws.lowest.Store(ws.heap[0].offset)
	return true
}

// remove takes w out; false where it is out already, so that whoever gets true
// is the one to call wake, or to know that nobody will.
func (ws *waiters) remove(w *waiter) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w.index < 0 {
		return false
	}
	heap.Remove(&ws.heap, w.index)
	ws.lowered()
	return true
}

// advance wakes everybody who waits below highWatermark.
func (ws *waiters) advance(highWatermark int64) {
	if highWatermark <= ws.lowest.Load() {
		return
	}
	for _, w := range ws.below(highWatermark) {
		w.wake()
	}
}

func (ws *waiters) below(highWatermark int64) (woken []*waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for len(ws.heap) > 0 && ws.heap[0].offset < highWatermark {
		woken = append(woken, heap.Pop(&ws.heap).(*waiter))
	}
	ws.lowered()
	return woken
}

// wakeAll wakes everybody, and refuses new ones.
func (ws *waiters) wakeAll() {
	ws.mu.Lock()
	ws.closed = true
	ws.mu.Unlock()
	for _, w := range ws.below(math.MaxInt64) {
		w.wake()
	}
}

// lowered restores lowest = the top of the heap. ws.mu is held.
func (ws *waiters) lowered() {
	lowest := int64(math.MaxInt64)
	if len(ws.heap) > 0 {
		lowest = ws.heap[0].offset
	}
	ws.lowest.Store(lowest)
}

// waiterHeap implements heap.Interface.
type waiterHeap []*waiter

func (h waiterHeap) Len() int           { return len(h) }
func (h waiterHeap) Less(i, j int) bool { return h[i].offset < h[j].offset }

func (h waiterHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *waiterHeap) Push(x any) {
	w := x.(*waiter)
	w.index = len(*h)
	*h = append(*h, w)
}

func (h *waiterHeap) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	w.index = -1
	return w
}

// WaitFor calls wake once: when the high watermark is above offset, or when the
// replica stops or turns out to be damaged. wake must not block; it is called from the goroutine that
// applies, or from WaitFor itself where the offset can be read already. cancel
// withdraws the wait; wake may still be running when it returns.
func (p *Partition) WaitFor(offset int64, wake func()) (cancel func()) {
	w := &waiter{offset: offset, wake: wake, index: -1}
	if p.machine == nil || !p.waiters.add(w) {
		wake()
		return func() {}
	}
	// Registered first, looked after: an advance between the two finds w.
	if p.machine.HighWatermark() > offset && p.waiters.remove(w) {
		wake()
	}
	return func() { p.waiters.remove(w) }
}
