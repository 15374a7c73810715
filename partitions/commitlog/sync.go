package commitlog

import (
	"fmt"
	"slices"

	"logbroker/internal/storage"
)

// A sync has two halves, so that the writer need not wait for the disk: StartSync
// notes what is to become durable, FinishSync makes it so while the writer goes on.
// What the writer appends, rolls or trims in between is in no State before the next
// sync: of the files it changes, a State speaks up to the length that was noted, and
// none is unlinked before a marker lets it go (Log.removable).

// Pending is a sync between its two halves.
type Pending struct {
	// State is that of the log when the sync was started: what it is to make durable.
	State State

	tail   extent // the active segment as of then
	active *writer
	sealed []*writer // not finished then
	names  uint64    // how many had come into the directory
}

// StartSync begins a sync of everything appended and trimmed so far. It only looks,
// and touches no file. The writer calls it.
func (l *Log) StartSync() *Pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Pending{State: l.state(), tail: l.tail, active: l.active, sealed: slices.Clone(l.sealed), names: l.names}
}

// FinishSync makes durable what p speaks of, names of files included. One goroutine
// at a time, in the order of the StartSyncs, of which some may be left out; it runs
// beside the writer. After an error every later Append and FinishSync fails.
func (l *Log) FinishSync(p *Pending) error {
	l.beside.Lock()
	defer l.beside.Unlock()
	l.mu.Lock()
	err, named := l.failure(), l.namesSynced
	l.mu.Unlock()
	if err != nil {
		return err
	}
	sealed := slices.DeleteFunc(p.sealed, func(w *writer) bool { return w.closed })
	if err := l.syncFiles(p, sealed, named); err != nil {
		return l.failBeside(err)
	}
	for _, w := range sealed {
		w.segment.dropIndex()
		if err := w.close(); err != nil {
			return l.failBeside(err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sealed = slices.DeleteFunc(l.sealed, func(w *writer) bool { return slices.Contains(sealed, w) })
	l.namesSynced = max(named, p.names)
	l.synced, l.durableStart = p.tail, p.State.LogStart
	return nil
}

// syncFiles seals the sealed segments, oldest first, then syncs the active one, then
// the names. The order among them does not matter: no marker speaks of any before all
// are done, and Open takes a segment with a footer for active where the marker does.
// beside is held.
func (l *Log) syncFiles(p *Pending, sealed []*writer, named uint64) error {
	for _, w := range sealed {
		if err := w.sync(l.back, w.seal); err != nil {
			return err
		}
	}
	// By now it may be sealed too; the bytes that p speaks of are the same.
	if w := p.active; w.durable < p.tail.length {
		if err := w.sync(l.back, func() error { return storage.SyncData(w.file) }); err != nil {
			return err
		}
		w.durable = p.tail.length
	}
	if len(sealed) > 0 || p.names > named {
		return storage.SyncDir(l.place.fs, l.place.dir)
	}
	return nil
}

// seal makes a sealed segment durable as such: bytes, index files, footer. Their names
// are durable after the caller's sync of the directory. A crash in between leaves a
// footer that no marker speaks of; Open then treats the segment as active and removes
// footer and index.
func (w *writer) seal() error {
	if err := storage.SyncData(w.file); err != nil {
		return err
	}
	s := w.segment
	x := s.ext.Load()
	if err := writeIndexes(s.place, x); err != nil {
		return err
	}
	return storage.WriteFileSynced(s.fs, s.path(s.base, footerSuffix), x.encode())
}

// sync runs a sync of the file beside the write-back, not while that is at it: the
// kernel reports each error once per open file, and a sync that succeeds behind a
// push that failed would prove nothing. So either's error is noted before the other
// can ask.
func (w *writer) sync(back *writeBack, sync func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := back.failure(); err != nil {
		return err
	}
	if err := sync(); err != nil {
		back.fail(fmt.Errorf("sync %s: %w", w.segment.logPath, err))
	}
	return back.failure()
}
