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
	m, err := ReadMarker(f.fs, f.opts.Dir)
	if storage.NotExist(err) {
		m, err = f.create()
	}
	if err != nil {
		return 0, fmt.Errorf("fsm: open %s: %w", f.opts.Dir, err)
	}
	if err := f.load(m); err != nil {
		return 0, fmt.Errorf("fsm: open %s at index %d: %w", f.opts.Dir, m.Applied, err)
	}
	if err := f.removeObsolete(); err != nil {
		return 0, fmt.Errorf("fsm: open %s: remove what a crash left: %w", f.opts.Dir, err)
	}
	f.publishAll()
	f.logger.Info("partition opened", "index", m.Applied, "logStart", m.Log.LogStart, "highWatermark", m.Log.End)
	return m.Applied, nil
}

// create makes a new replica's directory and its first marker. The marker is
// durable before anything else of the replica exists: that is what lets a
// directory with data and no marker be told from a new one.
func (f *FSM) create() (Marker, error) {
	m := Marker{
		ShardID: f.opts.ShardID, ReplicaID: f.opts.ReplicaID,
		Generation: firstGeneration, Config: Config{}.WithDefaults(),
	}
	if err := storage.MkdirAll(f.fs, f.opts.Dir); err != nil {
		return m, err
	}
	names, err := f.fs.List(f.opts.Dir)
	if err != nil {
		return m, err
	}
	for _, name := range names {
		if name != markerTmp() && (Marker{}).obsolete(name) {
			return m, damaged(f.fs.PathJoin(f.opts.Dir, markerName), "missing beside "+name)
		}
	}
	return m, f.writeMarker(m)
}

// load brings the state in memory to what m speaks of.
func (f *FSM) load(m Marker) error {
	if m.ShardID != f.opts.ShardID || m.ReplicaID != f.opts.ReplicaID {
		return fmt.Errorf("the marker is of shard %d replica %d: give each replica its own directory", m.ShardID, m.ReplicaID)
	}
	table, err := f.loadProducers(m)
	if err != nil {
		return err
	}
	epochs, err := f.loadEpochs(m)
	if err != nil {
		return err
	}
	log, err := f.openLog(m)
	if err != nil {
		return err
	}
	f.log = log
	f.adopt(m, table, epochs)
	return nil
}

// adopt takes over the state that m speaks of, except for the log.
func (f *FSM) adopt(m Marker, table *producerstate.Table, epochs []EpochStart) {
	f.applied, f.lastAppendMs, f.config = m.Applied, m.LastAppendMs, m.Config
	f.tableMu.Lock()
	f.table = table
	f.tableMu.Unlock()
	f.epochs = epochs
	f.durable, f.savedTable, f.savedEpochs = m, table.Version(), epochs
}

func (f *FSM) loadProducers(m Marker) (*producerstate.Table, error) {
	path := f.fs.PathJoin(f.opts.Dir, m.ProducersFile())
	b, err := readRef(f.fs, path, m.Producers)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return producerstate.New(m.Config.Producers), nil
	}
	return producerstate.Decode(b, m.Config.Producers)
}

func (f *FSM) loadEpochs(m Marker) ([]EpochStart, error) {
	path := f.fs.PathJoin(f.opts.Dir, m.EpochsFile())
	b, err := readRef(f.fs, path, m.Epochs)
	if err != nil {
		return nil, err
	}
	h, ok := decodeEpochs(b)
	if !ok {
		return nil, damaged(path, "epochs or offsets do not rise")
	}
	return h, nil
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
		if f.durable.obsolete(name) {
			if err := f.fs.RemoveAll(f.fs.PathJoin(f.opts.Dir, name)); err != nil {
				return err
			}
		}
	}
	return f.log.RemoveTrimmed()
}

// publishAll shows the whole state to readers: after Open and after a snapshot.
// The log goes first, so that it holds all below a high watermark read before.
func (f *FSM) publishAll() {
	p := &f.published
	p.config.Store(new(f.config))
	p.applied.Store(f.applied)
	p.durable.Store(f.durable.Applied)
	p.lastAppendMs.Store(f.lastAppendMs)
	p.bytes.Store(0)
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
	if f.log == nil {
		return nil
	}
	// After a failure there is nothing to save and the failure is known.
	var err error
	if f.failed == nil {
		if err = f.Sync(); err == nil {
			err = f.log.Checkpoint()
		}
	}
	err = errors.Join(err, f.log.Close())
	f.log = nil
	_ = f.fail(commitlog.ErrClosed)
	return err
}
