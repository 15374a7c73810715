package handler

import "sync"

// parked knows the waiting fetches of each shard, so that a change of leader
// or a drain can end their wait.
type parked struct {
	mu     sync.Mutex // guards what follows
	shards map[uint64]map[*fetch]func()
	closed bool
}

func newParked() *parked { return &parked{shards: make(map[uint64]map[*fetch]func())} }

// add reports false once wakeAll has closed p: then nobody may wait any more.
func (p *parked) add(shard uint64, f *fetch, wake func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	m := p.shards[shard]
	if m == nil {
		m = make(map[*fetch]func())
		p.shards[shard] = m
	}
	m[f] = wake
	return true
}

func (p *parked) remove(shard uint64, f *fetch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.shards[shard], f)
	if len(p.shards[shard]) == 0 {
		delete(p.shards, shard)
	}
}

// wake ends the wait of the shard's fetches; they look again.
func (p *parked) wake(shard uint64) {
	for _, wake := range p.of(shard) {
		wake()
	}
}

// of copies the wake functions, so that none is called under the lock.
func (p *parked) of(shard uint64) []func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]func(), 0, len(p.shards[shard]))
	for _, wake := range p.shards[shard] {
		out = append(out, wake)
	}
	return out
}

// close ends every wait and refuses new ones.
func (p *parked) close() {
	p.mu.Lock()
	p.closed = true
	shards := make([]uint64, 0, len(p.shards))
	for shard := range p.shards {
		shards = append(shards, shard)
	}
	p.mu.Unlock()
	for _, shard := range shards {
		p.wake(shard)
	}
}
