package fsm

import (
	"errors"
	"fmt"

	"logbroker/internal/storage"
	"logbroker/partitions/commitlog"
	"logbroker/partitions/producerstate"
)

// firstGeneration is the generation of a new replica's log.
const firstGeneration = 1

// Open reads the state that the marker speaks of, cuts away everything newer,
// and returns the marker's index: 0 for a new replica. A directory with data
// and no marker is refused, since it would otherwise come back as an empty
// replica that votes. Errors that wrap commitlog.ErrDamaged name the file.
func (f *FSM) Open(<-chan struct{}) (uint64, error) {
	path := f.fs.PathJoin(f.opts.Dir, markerName)
	v, err := readSlots(f.fs, path)
	if storage.NotExist(err) {
		if err = f.create(path); err == nil {
			v, err = readSlots(f.fs, path)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("fsm: open %s: %w", f.opts.Dir, err)
	}
	if v.torn {
		f.logger.Warn("one of the marker's two slots is torn, or damaged: the other one counts", "file", path, "good", v.slot, "index", v.Applied)
	}
	if err := f.load(v); err != nil {
		return 0, fmt.Errorf("fsm: open %s at index %d: %w", f.opts.Dir, v.Applied, err)
	}
	if err := f.removeObsolete(); err != nil {
		return 0, fmt.Errorf("fsm: open %s: remove what a crash left: %w", f.opts.Dir, err)
	}
	f.publishAll()
	f.logger.Info("partition opened", "index", v.Applied, "logStart", v.Log.LogStart, "highWatermark", v.Log.End)
	return v.Applied, nil
}

// create makes a new replica's directory and its first marker. The marker is
// durable before anything else of the replica exists: that is what lets a
// directory with data and no marker be told from a new one.
func (f *FSM) create(path string) error {
	v := saved{Marker: Marker{
		ShardID: f.opts.ShardID, ReplicaID: f.opts.ReplicaID, Revision: 1,
		Generation: firstGeneration, Config: Config{}.WithDefaults(),
	}}
	if err := storage.MkdirAll(f.fs, f.opts.Dir); err != nil {
		return err
	}
	names, err := f.fs.List(f.opts.Dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name != markerTmp() && (Marker{}).obsolete(name) {
			return damaged(path, "missing beside "+name)
		}
	}
	return writeSlots(f.fs, path, &v)
}

// load brings the state in memory to what v speaks of.
func (f *FSM) load(v saved) error {
	if v.ShardID != f.opts.ShardID || v.ReplicaID != f.opts.ReplicaID {
		return fmt.Errorf("the marker is of shard %d replica %d: give each replica its own directory", v.ShardID, v.ReplicaID)
	}
	table, err := decodeTable(v.producers, v.Config)
	if err != nil {
		return err
	}
	// Before anything is changed that v does not speak of: see openSlots.
	if f.slots, err = openSlots(f.fs, f.fs.PathJoin(f.opts.Dir, markerName), v); err != nil {
		return err
	}
	if f.log, err = f.openLog(v.Marker); err != nil {
		return err
	}
	f.adopt(v.Marker, table, v.epochs)
	return nil
}

// adopt takes over the state that m speaks of, except for the log.
func (f *FSM) adopt(m Marker, table *producerstate.Table, epochs []EpochStart) {
	f.applied, f.lastAppendMs, f.config = m.Applied, m.LastAppendMs, m.Config
	f.tableMu.Lock()
	f.table = table
	f.tableMu.Unlock()
	f.epochs = epochs
	f.generation = m.Generation
	f.published.durable.Store(m.Applied)
	f.published.durableBytes.Store(f.published.bytes.Load())
	f.syncing.applied, f.syncing.bytes = m.Applied, f.published.bytes.Load()
}

// decodeTable reads the table of a record; empty is that of a new replica.
func decodeTable(b []byte, c Config) (*producerstate.Table, error) {
	if len(b) == 0 {
		return producerstate.New(c.Producers), nil
	}
	return producerstate.Decode(b, c.Producers)
}

func (f *FSM) openLog(m Marker) (*commitlog.Log, error) {
	o := f.logOptions(m)
	if err := storage.MkdirAll(f.fs, o.Dir); err != nil {
		return nil, err
	}
	log, err := commitlog.Open(o, m.Log)
	if err != nil {
		return nil, err
	}
	if log.LogStart() != m.Log.LogStart || log.End() != m.Log.End {
		return nil, errors.Join(log.Close(), fmt.Errorf("the log opened at [%d, %d), the marker says [%d, %d)",
			log.LogStart(), log.End(), m.Log.LogStart, m.Log.End))
	}
	return log, nil
}

func (f *FSM) logOptions(m Marker) commitlog.Options {
	return commitlog.Options{
		FS: f.fs, Dir: m.LogDir(f.fs, f.opts.Dir),
		IndexIntervalBytes: f.opts.IndexIntervalBytes, CheckpointBytes: f.opts.CheckpointBytes, Unread: f.opts.Unread, Logger: f.logger,
	}
}

// removeObsolete removes what the durable marker does not speak of: files of a
// Sync or a snapshot that a crash interrupted, or what they replaced. It need
// not be durable, as the next Open would remove the same again.
func (f *FSM) removeObsolete() error {
	names, err := f.fs.List(f.opts.Dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if f.marker().obsolete(name) {
			if err := f.fs.RemoveAll(f.fs.PathJoin(f.opts.Dir, name)); err != nil {
				return err
			}
		}
	}
	f.log.Marked()
	return nil
}

// publishAll shows the whole state to readers: after Open and after a snapshot.
// The log goes first, so that it holds all below a high watermark read before.
func (f *FSM) publishAll() {
	p := &f.published
	p.config.Store(new(f.config))
	p.applied.Store(f.applied)
	p.lastAppendMs.Store(f.lastAppendMs)
	p.log.Store(f.log)
	p.epochs.Store(new(f.epochs))
	p.highWatermark.Store(f.log.End())
}

// Close makes the state durable, so that the next Open need not replay, and
// closes the log. Readers then find no log. It may be called after a failed
// Open.
func (f *FSM) Close() error {
	f.published.log.Store(nil)
	f.setUnclaimed(nil)
	var err error
	if f.log != nil {
		f.saves.drain()
		// After a failure there is nothing to save and the failure is known.
		if f.failure() == nil {
			if err = f.Sync(); err == nil {
				err = f.log.Checkpoint()
			}
		}
		err = errors.Join(err, f.log.Close())
		f.log = nil
		_ = f.fail(commitlog.ErrClosed)
	}
	if f.slots != nil {
		err = errors.Join(err, f.slots.close())
		f.slots = nil
	}
	return err
}
