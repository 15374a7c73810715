package partitions

import (
	"context"
	"slices"
	"sync"
	"time"
)

// snapshotWorkers bounds how many replicas of a node snapshot at once: each one
// waits for the disk, and two of them for each other.
const snapshotWorkers = 1

// attendants are the Host's goroutines: one that calls OnLeadership, one for
// retention, one that scrubs, and snapshotWorkers for snapshots. Partitions put themselves into
// the queues below; each queue holds a partition at most once, so both are
// bounded by the number of replicas.
type attendants struct {
	options *Options
	// ctx ends retention, scrubs and snapshots.
	ctx    context.Context
	cancel context.CancelFunc
	// background counts those; notifying counts the notifier.
	background, notifying sync.WaitGroup

	// mu guards the fields below.
	mu        sync.Mutex
	changed   []*Partition // leadership may differ from what was told
	waiting   map[*Partition]bool
	snapshots []*Partition
	repairs   []*Partition
	giveUpOne func(p *Partition, why error) bool // the Host's
	ending    bool                               // the notifier ends when changed is empty
	stirred   sync.Cond                          // something was added, or the end
}

// newAttendants starts the goroutines; endBackground and wait end them.
func newAttendants(o *Options, all func() []*Partition, giveUp func(*Partition, error) bool) *attendants {
	a := &attendants{options: o, waiting: make(map[*Partition]bool), giveUpOne: giveUp}
	a.stirred.L = &a.mu
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.notifying.Add(1)
	go a.notify()
	a.background.Add(3 + snapshotWorkers)
	go a.repair()
	go a.retain(all)
	go a.scrub(all)
	for range snapshotWorkers {
		go a.snapshot()
	}
	return a
}

// endBackground tells retention, scrubs and snapshots to end; they may still wait for
// proposals, which end when the replicas stop.
func (a *attendants) endBackground() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cancel()
	a.stirred.Broadcast()
}

// wait has everything told that is still to be told, and waits for all
// goroutines. No replica runs any more.
func (a *attendants) wait() {
	a.background.Wait()
	a.mu.Lock()
	a.ending = true
	a.stirred.Broadcast()
	a.mu.Unlock()
	a.notifying.Wait()
}

// leadershipChanged implements attendant. It never blocks.
func (a *attendants) leadershipChanged(p *Partition) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting[p] {
		return
	}
	a.waiting[p] = true
	a.changed = append(a.changed, p)
	a.stirred.Broadcast()
}

// snapshotWanted implements attendant. p does not ask again before it was
// served. It never blocks.
func (a *attendants) snapshotWanted(p *Partition) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.snapshots = append(a.snapshots, p)
	a.stirred.Broadcast()
}

// repairWanted implements attendant. It never blocks.
func (a *attendants) repairWanted(p *Partition) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Contains(a.repairs, p) {
		return
	}
	a.repairs = append(a.repairs, p)
	a.stirred.Broadcast()
}

// giveUp implements attendant.
func (a *attendants) giveUp(p *Partition, why error) bool { return a.giveUpOne(p, why) }

// repair is the repair goroutine. It blocks on the disk and on other nodes.
func (a *attendants) repair() {
	defer a.background.Done()
	for {
		p, ok := a.nextRepair()
		if !ok {
			return
		}
		if !p.stopped() && !p.repair(a.ctx) {
			time.AfterFunc(repairRetry, func() { a.repairWanted(p) })
		}
	}
}

func (a *attendants) nextRepair() (*Partition, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.repairs) == 0 || a.ctx.Err() != nil {
		if a.ctx.Err() != nil {
			return nil, false
		}
		a.stirred.Wait()
	}
	p := a.repairs[0]
	a.repairs = a.repairs[1:]
	return p, true
}

// notify is the notifier goroutine. It blocks on OnLeadership.
func (a *attendants) notify() {
	defer a.notifying.Done()
	told := make(map[uint64]Leadership) // by shard: what serves
	for {
		p, ok := a.nextChanged()
		if !ok {
			return
		}
		now, before := p.leadership(), told[p.spec.Shard]
		switch {
		case now.Leading == before.Leading && (!now.Leading || now.Epoch == before.Epoch):
			continue // a change and back, or none
		case now.Leading:
			told[p.spec.Shard] = now
		default:
			now.Epoch = before.Epoch // the one that ended
			delete(told, p.spec.Shard)
		}
		a.options.OnLeadership(now)
	}
}

func (a *attendants) nextChanged() (*Partition, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.changed) == 0 {
		if a.ending {
			return nil, false
		}
		a.stirred.Wait()
	}
	p := a.changed[0]
	a.changed = a.changed[1:]
	delete(a.waiting, p)
	return p, true
}

// snapshot is a snapshot goroutine. It blocks on Raft and the disk.
func (a *attendants) snapshot() {
	defer a.background.Done()
	for {
		p, ok := a.nextSnapshot()
		if !ok {
			return
		}
		p.snapshot(a.ctx)
	}
}

func (a *attendants) nextSnapshot() (*Partition, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.snapshots) == 0 || a.ctx.Err() != nil {
		if a.ctx.Err() != nil {
			return nil, false
		}
		a.stirred.Wait()
	}
	p := a.snapshots[0]
	a.snapshots = a.snapshots[1:]
	return p, true
}

// retain is the retention goroutine. It blocks on proposals, each bounded by
// Options.ProposeTimeout.
func (a *attendants) retain(all func() []*Partition) {
	defer a.background.Done()
	tick := time.NewTicker(a.options.RetentionInterval)
	defer tick.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-tick.C:
		}
		var proposed []proposal
		for _, p := range all() {
			p.wantSnapshot()
			p.wantSpace()
			if p.machine != nil {
				p.catchUp.tidy()
			}
			proposed = append(proposed, p.retain()...)
		}
		for _, w := range proposed {
			_, _ = w.Wait() // whatever came of it: the next pass looks again
		}
	}
}
