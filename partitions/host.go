package partitions

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"logbroker/internal/raftnode"
	"logbroker/internal/storage"
)

// closeParallel bounds how many replicas Close stops at once.
const closeParallel = 8

// removeTimeout bounds how long Remove waits for Raft to unload a replica.
const removeTimeout = 30 * time.Second

// Host owns the partition replicas of this node. Its methods may be called from
// any goroutine.
type Host struct {
	options    Options
	attendants *attendants
	transfers  *transfers
	tails      *tails

	// mu guards the fields below. It is not held while a replica starts or stops.
	mu       sync.RWMutex
	replicas map[uint64]*replica // by shard
	// busy holds the shards whose replica is being started or stopped.
	busy   map[uint64]bool
	closed bool
}

// replica is a partition with what is needed to stop it.
type replica struct {
	*Partition
	machine *openMachine // nil where quarantined
}

// NewHost returns a Host without replicas. It finishes removals that a crash
// interrupted.
func NewHost(o Options) *Host {
	h := &Host{options: o.withDefaults(), replicas: make(map[uint64]*replica), busy: make(map[uint64]bool)}
	h.transfers = newTransfers(h.options.CatchUpBytesPerSecond)
	h.attendants = newAttendants(&h.options, h.All, h.giveUp)
	h.sweep()
	h.tails = openTails(&h.options)
	h.attendants.background.Go(func() { h.tails.run(h.attendants.ctx) })
	return h
}

// Start starts the replica s; calls for different shards may run at once. It
// opens the replica's files before it returns, but does not wait for a leader.
//
// Errors: ErrQuarantined where the replica must never run again: it was
// quarantined before, or it is marked as started and has lost its Raft log, or
// its files are damaged beyond repair; Get still finds it, for its status.
// ErrRepairing where a segment must be fetched first and could not be. ErrLeftovers where
// a new replica's directory is not empty. ErrStarted, ErrClosed. Any other error
// leaves everything as it was, and Start may be tried again.
func (h *Host) Start(s Spec) error {
	if err := h.reserve(s); err != nil {
		return err
	}
	defer h.release(s.Shard)
	p := newPartition(s, &h.options, nodeRaft{h.options.Node}, h.attendants)
	p.dir, p.transfers = h.directory(s), h.transfers
	machine, err := h.prepare(p)
	switch {
	case errors.Is(err, ErrQuarantined):
		h.publishQuarantined(s, err)
		return err
	case errors.Is(err, ErrRepairing):
		p.machine, p.state, p.failed = nil, StateDamaged, err // nobody else has p yet
		h.publish(&replica{Partition: p})
		return err
	}
	if err != nil {
		return err
	}
	// Published first: leader events may come before StartOnDisk returns.
	h.publish(&replica{Partition: p, machine: machine})
	p.run()
	h.tails.watch(ReplicaKey{Shard: s.Shard, Replica: s.Replica})
	if err := h.startShard(p, machine); err != nil {
		p.refuse(StateStopped, nil)
		p.finish()
		h.withdraw(s.Shard)
		return errors.Join(err, machine.Close())
	}
	return nil
}

// Prepare records durably, in the Raft log, that the new replica s is here, and
// starts nothing; it may be repeated. The order is Prepare, the mark in the
// metadata that the replica is started, Start with Restart set: then a marked
// replica that the Raft log does not know has lost its log, and one whose first
// start a crash prevented has not. ErrLeftovers as for Start.
func (h *Host) Prepare(s Spec) error {
	if h.options.Node.HasReplica(s.Shard, s.Replica) {
		return nil
	}
	if err := h.checkEmpty(h.directory(s)); err != nil {
		return err
	}
	// The name of what will hold its files must survive a power cut too.
	if err := storage.MkdirAll(h.options.FS, h.options.Dir); err != nil {
		return err
	}
	return h.options.Node.BootstrapOnDisk(s.first())
}

// reserve makes sure that one call at a time deals with a shard.
func (h *Host) reserve(s Spec) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	if h.busy[s.Shard] {
		return fmt.Errorf("shard %d: %w", s.Shard, ErrStarted)
	}
	if r, ok := h.replicas[s.Shard]; ok {
		switch {
		case r.machine != nil:
			return fmt.Errorf("shard %d: %w", s.Shard, ErrStarted)
		case r.spec.Replica == s.Replica && errors.Is(r.failed, ErrQuarantined):
			return r.failed
		}
		// A replica under a new id takes the place of a quarantined one, and one that
		// is repaired its own.
	}
	h.busy[s.Shard] = true
	return nil
}

func (h *Host) release(shard uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.busy, shard)
}

func (h *Host) publish(r *replica) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.replicas[r.spec.Shard] = r
}

func (h *Host) withdraw(shard uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.replicas, shard)
}

// Stop stops the replica of shard and returns when its goroutines have ended
// and its files are closed. Appends in flight end as unknown. ErrNotFound where
// there is none.
func (h *Host) Stop(shard uint64) error {
	r, err := h.take(shard)
	if err != nil {
		return err
	}
	defer h.release(shard)
	err = h.stopReplica(r)
	h.withdraw(shard)
	return err
}

// take reserves a replica to stop it.
func (h *Host) take(shard uint64) (*replica, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok := h.replicas[shard]
	if !ok || h.busy[shard] {
		return nil, fmt.Errorf("shard %d: %w", shard, ErrNotFound)
	}
	h.busy[shard] = true
	return r, nil
}

// stopReplica refuses new work, has Raft end the proposals in flight, and waits
// for the goroutines and for the state machine.
func (h *Host) stopReplica(r *replica) error {
	var err error
	if !r.stopped() { // else a removal failed half-way and is tried again
		r.refuse(StateStopped, nil)
		if r.machine != nil {
			err = h.options.Node.Stop(r.spec.Shard)
		}
		r.finish()
	}
	if r.machine != nil {
		err = errors.Join(err, r.machine.waitClosed())
	}
	return err
}

// Remove stops the replica of shard and deletes its files and its Raft log, for
// a topic that was deleted or a replica that was taken out of its shard. After
// an error it may be called again. A crash in between leaves a directory that
// NewHost removes, or what Leftovers lists.
func (h *Host) Remove(shard uint64) error {
	r, err := h.take(shard)
	if err != nil {
		return err
	}
	defer h.release(shard)
	if err := h.stopReplica(r); err != nil {
		return err
	}
	if err := h.removeDirectory(h.directory(r.spec)); err != nil {
		return err
	}
	if err := h.removeRaftLog(shard, r.spec.Replica); err != nil {
		return err
	}
	h.withdraw(shard)
	return nil
}

// Update gives the replica s its topic's configuration and the partition's other
// replicas as they are now. The leader replicates the part of the configuration
// that decides where segments roll.
func (h *Host) Update(s Spec) {
	if p, ok := h.Get(s.Shard); ok && p.spec.Replica == s.Replica {
		p.update(s)
	}
}

// Get returns the replica of shard, also a quarantined one.
func (h *Host) Get(shard uint64) (*Partition, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	r, ok := h.replicas[shard]
	if !ok {
		return nil, false
	}
	return r.Partition, true
}

// All returns every replica of this node, by shard.
func (h *Host) All() []*Partition {
	h.mu.RLock()
	all := make([]*Partition, 0, len(h.replicas))
	for _, r := range h.replicas {
		all = append(all, r.Partition)
	}
	h.mu.RUnlock()
	slices.SortFunc(all, func(a, b *Partition) int { return cmp.Compare(a.spec.Shard, b.spec.Shard) })
	return all
}

// LeaderEvent takes raftnode's news about leaders. It does not block.
func (h *Host) LeaderEvent(e raftnode.LeaderEvent) {
	if p, ok := h.Get(e.Shard); ok {
		p.leaderEvent(e)
	}
}

// Close stops every replica and returns when all of the Host's goroutines have
// ended. It has the last OnLeadership calls made. The Node stays open.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	h.attendants.endBackground()
	err := h.stopAll()
	h.attendants.wait()
	h.tails.record()
	return err
}

func (h *Host) stopAll() error {
	var (
		running sync.WaitGroup
		mu      sync.Mutex // guards errs
		errs    []error
	)
	places := make(chan struct{}, closeParallel)
	for _, p := range h.All() {
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			err := h.Stop(p.spec.Shard)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	running.Wait()
	return errors.Join(errs...)
}
