package fsm

import "fmt"

// What dragonboat relies on (v4.0.0-20250723143628), and why no snapshot
// record can be left above the marker with nothing to recover it from:
//
//   - Snapshots that this replica takes of itself hold no data, only an index.
//     rsm.StateMachine.concurrentSave first notes OnDiskIndex, the last entry
//     it gave to Update, then calls Sync, and only when Sync has returned does
//     node.doSave write the record (snapshotter.Commit). At a restart
//     checkPartialSnapshotApplyOnDiskSM panics where such a record's
//     OnDiskIndex is above what Open returned. So Sync must leave a durable
//     marker at or above the last index of Update, also where the last entries
//     changed nothing; and it does, or fails and no record is written.
//   - A full snapshot from a peer is recorded when it arrives, before
//     RecoverFromSnapshot. A crash in between leaves a record above the
//     marker, but with its data: at the restart recoverRequired sees that Open
//     returned less and RecoverFromSnapshot is called again. The data goes
//     (node.recover: Sync, then Shrink) only after Sync has returned.
//   - Entries at or below what Open returned are not given to Update again
//     (handleBatch skips them); all above it are, in order.

// Sync makes the state durable: first the log, then the marker, which holds all
// that is not in the log, by a write in place. What only the marker before speaks of
// is removed later. It does nothing where no entry has been applied since the last
// one.
func (f *FSM) Sync() error {
	if f.failed != nil {
		return f.failed
	}
	if f.applied == f.durable.Applied {
		return nil
	}
	if err := f.opts.TimeSync(f.sync); err != nil {
		return f.fail(fmt.Errorf("fsm: sync at index %d: %w", f.applied, err))
	}
	return nil
}

func (f *FSM) sync() error {
	// A restart's work is bounded by what comes between two markers, so what the last
	// one left to do beside the writer has to be done.
	if err := f.log.AwaitCheckpoint(); err != nil {
		return err
	}
	state, err := f.log.Sync()
	if err != nil {
		return err
	}
	v := saved{Marker: f.durable, epochs: f.epochs, producers: f.table.Encode(nil)}
	v.Applied, v.LastAppendMs, v.Log, v.Config = f.applied, f.lastAppendMs, state, f.config
	if err := f.slots.write(&v); err != nil {
		return err
	}
	f.durable = v.Marker
	f.published.bytes.Store(0)
	f.published.durable.Store(v.Applied)
	f.log.Marked()
	return nil
}

// PreSync makes most of what the next Sync has to make durable so, without
// holding up Update. Any goroutine may call it. Its error comes out of the next
// Sync too.
func (f *FSM) PreSync() error {
	if log, ok := f.Log(); ok {
		return log.PreSync()
	}
	return nil
}

// Checkpoint spares the next Open to read what the durable marker speaks of, and
// removes what it does not speak of any more, without holding up Update. The log
// does so by itself after a Sync; who calls this waits for it. Any goroutine may.
// Its error comes out of the next Sync too.
func (f *FSM) Checkpoint() error {
	if log, ok := f.Log(); ok {
		return log.Checkpoint()
	}
	return nil
}
