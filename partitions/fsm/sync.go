package fsm

import (
	"fmt"
	"sync"

	"logbroker/partitions/commitlog"
)

// What dragonboat relies on (v4.0.0-20250723143628), and why no snapshot
// record can be left above the marker with nothing to recover it from:
//
//   - Snapshots that this replica takes of itself hold no data, only an index.
//     rsm.StateMachine.concurrentSave first notes OnDiskIndex, the last entry
//     it gave to Update, then calls Sync, and only when Sync has returned does
//     node.doSave write the record (snapshotter.Commit). At a restart
//     checkPartialSnapshotApplyOnDiskSM panics where such a record's
//     OnDiskIndex is above what Open returned. So there must be a durable marker
//     at or above the last index of Update before the record is written, also
//     where the last entries changed nothing. It need not be there when Sync
//     returns: package raftnode calls StartSync, and AwaitDurable before it lets
//     the record be written. If that fails, none is.
//   - A full snapshot from a peer is recorded when it arrives, before
//     RecoverFromSnapshot. A crash in between leaves a record above the
//     marker, but with its data: at the restart recoverRequired sees that Open
//     returned less and RecoverFromSnapshot is called again. The data goes
//     (node.recover: Sync, then Shrink) only after Sync has returned, also where
//     the replica had applied all of it and RecoverFromSnapshot was not called:
//     there package raftnode calls Sync.
//   - Entries at or below what Open returned are not given to Update again
//     (handleBatch skips them); all above it are, in order.

// Sync makes the state durable. It does nothing where no entry has been applied since
// the last one.
func (f *FSM) Sync() error {
	if err := f.failure(); err != nil || f.applied == f.DurableIndex() {
		return err
	}
	return f.opts.TimeSync(func() error {
		f.startSync()
		f.saves.drain()
		return f.failure()
	})
}

// StartSync begins a Sync and does not wait for the disk: the goroutine that applies
// goes on while another one makes durable what the state is now. AwaitDurable waits
// for that. An error comes out of every later call.
func (f *FSM) StartSync() error {
	if err := f.failure(); err != nil || f.applied == f.syncing.applied {
		return err
	}
	return f.opts.TimeSync(func() error {
		f.startSync()
		return nil
	})
}

// AwaitDurable returns when the durable marker is at or above index, or no sync is
// under way any more. Its error is the one that ended the writing. Any goroutine may
// call it.
func (f *FSM) AwaitDurable(index uint64) error {
	return f.saves.await(func() bool { return f.DurableIndex() >= index })
}

// startSync notes the state for save, unless it is the one that was noted last.
func (f *FSM) startSync() {
	if f.applied == f.syncing.applied {
		return
	}
	s := &save{log: f.log, pending: f.log.StartSync(), bytes: f.published.bytes.Load()}
	s.record = saved{Marker: f.marker(), epochs: f.epochs, producers: f.table.Encode(nil)}
	s.record.Log = s.pending.State
	f.syncing.applied, f.syncing.bytes = f.applied, s.bytes
	f.saves.add(s, f.save)
}

// marker is the marker of the present state but for the log.
func (f *FSM) marker() Marker {
	return Marker{
		ShardID: f.opts.ShardID, ReplicaID: f.opts.ReplicaID, Generation: f.generation,
		Applied: f.applied, LastAppendMs: f.lastAppendMs, Config: f.config,
	}
}

// save is a state on its way to the disk. It shares nothing with the FSM that
// changes.
type save struct {
	log     *commitlog.Log
	pending *commitlog.Pending
	record  saved
	bytes   int64 // of commands applied until then
}

// save makes a state durable. It runs beside Update, one at a time.
func (f *FSM) save(s *save) error {
	if err := f.opts.TimeSave(func() error { return s.write(f.slots) }); err != nil {
		return err
	}
	s.log.Marked()
	f.published.durableBytes.Store(s.bytes)
	f.published.durable.Store(s.record.Applied)
	return nil
}

// write makes s durable: first the log, then the marker, which holds all that is not
// in the log, by a write in place. What only the marker before speaks of is removed
// later.
func (s *save) write(to *slots) error {
	// A restart's work is bounded by what comes between two markers, so what the last
	// one left to do has to be done.
	if err := s.log.AwaitCheckpoint(); err != nil {
		return err
	}
	if err := s.log.FinishSync(s.pending); err != nil {
		return err
	}
	return to.write(&s.record)
}

// saves runs one save after the other on a goroutine of its own, which is there while
// there is something to do. It blocks on the disk only.
type saves struct {
	// mu guards the rest; changed is told of every change of it.
	mu      sync.Mutex
	changed sync.Cond
	// next waits for the one that runs. A later one takes its place: it covers it.
	next    *save
	running bool
	err     error // the first error; nothing is saved after it
}

// add has s saved by do.
func (q *saves) add(s *save, do func(*save) error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next = s
	if !q.running {
		q.running = true
		go q.run(do)
	}
}

func (q *saves) run(do func(*save) error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.next != nil && q.err == nil {
		s := q.next
		q.next = nil
		q.mu.Unlock()
		err := do(s)
		q.mu.Lock()
		if err != nil {
			q.err = fmt.Errorf("fsm: sync at index %d: %w", s.record.Applied, err)
		}
		q.changed.Broadcast()
	}
	q.running = false
	q.changed.Broadcast()
}

// await returns when reached is true or nothing is to be saved any more.
func (q *saves) await(reached func() bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.running && q.err == nil && !reached() {
		q.changed.Wait()
	}
	return q.err
}

// drain returns when no save runs, so that its files may be closed.
func (q *saves) drain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.running {
		q.changed.Wait()
	}
}

func (q *saves) failure() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

// failure is the error that ended the writing: nothing is written after it.
func (f *FSM) failure() error {
	if f.failed == nil {
		f.failed = f.saves.failure()
	}
	return f.failed
}

// Checkpoint spares the next Open to read what the durable marker speaks of, and
// removes what it does not speak of any more, without holding up Update. The log
// does so by itself after a sync; who calls this waits for it. Any goroutine may.
// Its error comes out of the next Sync too.
func (f *FSM) Checkpoint() error {
	if log, ok := f.Log(); ok {
		return log.Checkpoint()
	}
	return nil
}
