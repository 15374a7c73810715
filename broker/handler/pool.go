package handler

import "sync"

// pool runs functions on at most workers goroutines, with at most queueMax
// more waiting. A goroutine is started by submit when there is work for it,
// and ends itself when there is none; close waits for all of them.
type pool struct {
	workers  int
	queueMax int

	// mu guards what follows. 0 <= running <= workers; a worker runs
	// whenever queue is not empty.
	mu      sync.Mutex
	queue   []func()
	running int
	closed  bool
	wg      sync.WaitGroup
}

func newPool(workers, queueMax int) *pool { return &pool{workers: workers, queueMax: queueMax} }

// submit hands fn to a worker and never blocks. It reports false, and never
// runs fn, when the queue is full or the pool is closed.
func (p *pool) submit(fn func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if p.running < p.workers {
		p.running++
		p.wg.Add(1)
		go p.work(fn)
		return true
	}
	if len(p.queue) >= p.queueMax {
		return false
	}
	p.queue = append(p.queue, fn)
	return true
}

// work runs fn and then whatever waits. It may block on what the functions
// block on: storage, a Raft round trip, another node within its time-out.
func (p *pool) work(fn func()) {
	defer p.wg.Done()
	for fn != nil {
		fn()
		fn = p.next()
	}
}

func (p *pool) next() func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.running--
		p.queue = nil
		return nil
	}
	fn := p.queue[0]
	p.queue[0] = nil
	p.queue = p.queue[1:]
	return fn
}

// close refuses new work and waits for what was accepted.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wg.Wait()
}
