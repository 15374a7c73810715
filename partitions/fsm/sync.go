package fsm

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"logbroker/internal/storage"
)

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

// Sync makes the state durable: first the log, the producer table and the epoch
// history where they have changed, and the marker that speaks of them under
// another name; then the marker's name; only then what the old marker spoke of is
// removed. It does nothing where no
// entry has been applied since the last one.
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

// sync writes everything but the marker's name at once: nothing of it is of any
// account before the marker is, and file systems make several files durable about
// as fast as one.
func (f *FSM) sync() error {
	// Of the last marker, where nobody has done it meanwhile: so that a restart's
	// work is bounded by what comes between two markers.
	if err := f.log.Checkpoint(); err != nil {
		return err
	}
	m := f.durable
	m.Applied, m.LastAppendMs, m.Log, m.Config = f.applied, f.lastAppendMs, f.log.State(), f.config
	m, files := f.changedFiles(m)
	files = append(files, file{markerTmp(), m.encode()})
	errs := make([]error, len(files)+1)
	var writing sync.WaitGroup // of this call alone
	for i, x := range files {
		writing.Go(func() { errs[i] = f.saveFile(x.name, x.content) })
	}
	_, errs[len(files)] = f.log.Sync()
	writing.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := storage.SyncDir(f.fs, f.opts.Dir); err != nil {
		return err
	}
	return f.install(m)
}

// file is a file to be written.
type file struct {
	name    string
	content []byte
}

// changedFiles returns the producers and epochs files for m, where the ones m
// names do not hold the present state, and m with their names.
func (f *FSM) changedFiles(m Marker) (Marker, []file) {
	var out []file
	if v := f.table.Version(); v != f.savedTable {
		b := f.table.Encode(nil)
		m.Producers = refOf(m.Applied, b)
		out = append(out, file{m.ProducersFile(), b})
	}
	if !slices.Equal(f.epochs, f.savedEpochs) {
		b := appendEpochs(nil, f.epochs)
		m.Epochs = refOf(m.Applied, b)
		out = append(out, file{m.EpochsFile(), b})
	}
	return m, out
}

func refOf(index uint64, b []byte) FileRef {
	return FileRef{Index: index, Size: uint64(len(b)), CRC: checksum(b)}
}

func (f *FSM) saveFile(name string, b []byte) error {
	return storage.WriteFileSynced(f.fs, f.fs.PathJoin(f.opts.Dir, name), b)
}

// install makes m, which lies in the file markerTmp, the durable marker, and then removes what only the old one
// spoke of. A crash before the marker's rename is durable leaves the old state
// whole; a crash after it leaves files that the next Open removes.
func (f *FSM) install(m Marker) error {
	if err := f.fs.Rename(f.fs.PathJoin(f.opts.Dir, markerTmp()), f.fs.PathJoin(f.opts.Dir, markerName)); err != nil {
		return fmt.Errorf("rename %s: %w", markerTmp(), err)
	}
	if err := storage.SyncDir(f.fs, f.opts.Dir); err != nil {
		return err
	}
	old := f.durable
	f.durable, f.savedTable, f.savedEpochs = m, f.table.Version(), f.epochs
	f.published.bytes.Store(0)
	f.published.durable.Store(m.Applied)
	for _, r := range []struct {
		had     FileRef
		oldName string
		newName string
	}{
		{old.Producers, old.ProducersFile(), m.ProducersFile()},
		{old.Epochs, old.EpochsFile(), m.EpochsFile()},
	} {
		if r.had.Size > 0 && r.oldName != r.newName {
			if err := f.fs.Remove(f.fs.PathJoin(f.opts.Dir, r.oldName)); err != nil {
				return err
			}
		}
	}
	return f.log.RemoveTrimmed()
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

// Checkpoint spares the next Open to read what the durable marker speaks of,
// without holding up Update. Any goroutine may call it, after a Sync. Its error
// comes out of the next Sync too.
func (f *FSM) Checkpoint() error {
	if log, ok := f.Log(); ok {
		return log.Checkpoint()
	}
	return nil
}

func (f *FSM) writeMarker(m Marker) error {
	return storage.WriteFileAtomic(f.fs, f.fs.PathJoin(f.opts.Dir, markerName), m.encode())
}
