package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/storage"
	"logbroker/partitions/commitlog"
	"logbroker/partitions/producerstate"
)

// A snapshot is a stream of the whole state, big endian:
//
//	4  magic    1  version
//	8  length n of the head    n  head    4  CRC-32C of the head
//	…  the log, as commitlog.Pinned.WriteTo writes it (it checks itself)
//	4  magic again, so that a stream cut behind the log is noticed
//
// and the head is: 8 shard, 8 applied index, 8 last append time, log state,
// configuration, 8 length and bytes of the epoch history, then the producer
// table.
const (
	snapshotMagic   = "LBps"
	snapshotVersion = 1
	headFixedBytes  = 24 + logStateBytes + configBytes + 8
	// headBytesMax bounds what a damaged length makes the receiver read.
	headBytesMax = 1 << 32
)

// snapshot is the state at one moment, and the log pinned as it was then.
type snapshot struct {
	head []byte
	log  *commitlog.Pinned
}

func (s *snapshot) release() { s.log.Close() }

// PrepareSnapshot notes the present state for SaveSnapshot: small state is
// encoded, the log is pinned.
func (f *FSM) PrepareSnapshot() (any, error) {
	if f.failed != nil {
		return nil, f.failed
	}
	s := &snapshot{log: f.log.Pin()}
	s.head = f.encodeHead(s.log.State())
	f.setUnclaimed(s)
	return s, nil
}

// setUnclaimed replaces the prepared snapshot that SaveSnapshot has not taken.
// dragonboat drops a prepared snapshot without a word when the connection
// breaks before SaveSnapshot; its log would stay pinned. So the next one
// releases it; should it be claimed after all, its stream is aborted and
// dragonboat sends another.
func (f *FSM) setUnclaimed(s *snapshot) {
	f.snapshotMu.Lock()
	old := f.unclaimed
	f.unclaimed = s
	f.snapshotMu.Unlock()
	if old != nil {
		old.release()
	}
}

// claim gives s to the caller, who releases it; false where it was released.
func (f *FSM) claim(s *snapshot) bool {
	f.snapshotMu.Lock()
	defer f.snapshotMu.Unlock()
	if f.unclaimed != s {
		return false
	}
	f.unclaimed = nil
	return true
}

func (f *FSM) encodeHead(log commitlog.State) []byte {
	be := binary.BigEndian
	var b []byte
	for _, v := range []uint64{f.opts.ShardID, f.applied, uint64(f.lastAppendMs)} {
		b = be.AppendUint64(b, v)
	}
	b = appendLogState(b, log)
	b = f.config.append(b)
	b = be.AppendUint64(b, uint64(len(f.epochs)*epochBytesEach))
	b = appendEpochs(b, f.epochs)
	return f.table.Encode(b)
}

// SaveSnapshot streams the state that PrepareSnapshot noted. Damage found in
// the log while reading it aborts this snapshot only: the replica's readers
// meet the same damage and say so.
func (f *FSM) SaveSnapshot(ctx any, w io.Writer, stopc <-chan struct{}) error {
	s, ok := ctx.(*snapshot)
	if !ok || !f.claim(s) {
		return statemachine.ErrSnapshotAborted
	}
	defer s.release()
	out := &snapshotWriter{w: w, stopc: stopc}
	err := s.writeTo(out)
	if out.err != nil {
		// As it came, for dragonboat compares it.
		return out.err
	}
	if errors.Is(err, commitlog.ErrDamaged) {
		f.logger.Error("snapshot aborted: the log is damaged", "err", err)
		return statemachine.ErrSnapshotAborted
	}
	return err
}

func (s *snapshot) writeTo(w io.Writer) error {
	b := append([]byte(snapshotMagic), snapshotVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(len(s.head)))
	b = append(b, s.head...)
	b = binary.BigEndian.AppendUint32(b, checksum(s.head))
	if _, err := w.Write(b); err != nil {
		return err
	}
	if _, err := s.log.WriteTo(w); err != nil {
		return err
	}
	_, err := io.WriteString(w, snapshotMagic)
	return err
}

// snapshotWriter stops when the replica stops, and keeps the first error.
type snapshotWriter struct {
	w     io.Writer
	stopc <-chan struct{}
	err   error
}

func (w *snapshotWriter) Write(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if stopped(w.stopc) {
		w.err = statemachine.ErrSnapshotStopped
		return 0, w.err
	}
	n, err := w.w.Write(b)
	w.err = err
	return n, err
}

// snapshotReader stops when the replica stops.
type snapshotReader struct {
	r     io.Reader
	stopc <-chan struct{}
}

func (r *snapshotReader) Read(b []byte) (int, error) {
	if stopped(r.stopc) {
		return 0, statemachine.ErrSnapshotStopped
	}
	return r.r.Read(b)
}

func stopped(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// received is a snapshot's state but for the log.
type received struct {
	marker Marker
	epochs []EpochStart
	table  *producerstate.Table
}

// RecoverFromSnapshot replaces the whole state by a peer's. The new log is
// restored into a directory of its own, under the next generation, then the
// small files are written beside the old ones, then one marker write makes all
// of it the replica's state. A crash before that leaves the old state, and
// what was begun is removed by Open; a crash after it leaves the new one.
func (f *FSM) RecoverFromSnapshot(r io.Reader, stopc <-chan struct{}) error {
	if f.failed != nil {
		return f.failed
	}
	err := f.recoverFrom(&snapshotReader{r: r, stopc: stopc})
	if errors.Is(err, statemachine.ErrSnapshotStopped) {
		return statemachine.ErrSnapshotStopped
	}
	if err != nil {
		return f.fail(fmt.Errorf("fsm: recover from a snapshot: %w", err))
	}
	return nil
}

func (f *FSM) recoverFrom(r io.Reader) error {
	got, err := f.readHead(r)
	if err != nil {
		return err
	}
	log, err := f.restoreLog(r, got.marker)
	if err != nil {
		return err
	}
	if err := f.replace(got, log); err != nil {
		return errors.Join(err, log.Close())
	}
	e := current(f.epochs)
	f.logger.Info("partition recovered from a snapshot",
		"index", f.applied, "logStart", log.LogStart(), "highWatermark", log.End(), "epoch", e.Epoch)
	if e.Epoch > 0 {
		f.observer.EpochApplied(e.Epoch, e.Replica)
	}
	f.observer.Advanced(log.End())
	return nil
}

func (f *FSM) readHead(r io.Reader) (received, error) {
	var fixed [len(snapshotMagic) + 1 + 8]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return received{}, err
	}
	n := binary.BigEndian.Uint64(fixed[5:])
	if string(fixed[:4]) != snapshotMagic || fixed[4] != snapshotVersion || n < headFixedBytes || n > headBytesMax {
		return received{}, errors.New("not a snapshot of this version: upgrade this node")
	}
	// Grows with what arrives, not with what the length claims.
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, int64(n)+4); err != nil {
		return received{}, err
	}
	head, sum := b.Bytes()[:n], binary.BigEndian.Uint32(b.Bytes()[n:])
	if checksum(head) != sum {
		return received{}, errors.New("the head's checksum differs")
	}
	return f.decodeHead(head)
}

func (f *FSM) decodeHead(b []byte) (received, error) {
	be := binary.BigEndian
	got := received{marker: Marker{
		ShardID: be.Uint64(b), ReplicaID: f.opts.ReplicaID, Generation: f.durable.Generation + 1,
		Applied: be.Uint64(b[8:]), LastAppendMs: int64(be.Uint64(b[16:])), Log: decodeLogState(b[24:]),
	}}
	if got.marker.ShardID != f.opts.ShardID {
		return got, fmt.Errorf("it is of shard %d", got.marker.ShardID)
	}
	b = b[24+logStateBytes:]
	var ok bool
	if got.marker.Config, ok = decodeConfig(b); !ok {
		return got, errors.New("its configuration is out of bounds")
	}
	n := be.Uint64(b[configBytes:])
	b = b[configBytes+8:]
	if n > uint64(len(b)) {
		return got, errors.New("its epoch history is cut short")
	}
	if got.epochs, ok = decodeEpochs(b[:n]); !ok {
		return got, errors.New("its epochs or offsets do not rise")
	}
	var err error
	got.table, err = producerstate.Decode(b[n:], got.marker.Config.Producers)
	return got, err
}

// restoreLog puts the stream's log into the directory of m's generation, which
// no marker names yet, and opens it.
func (f *FSM) restoreLog(r io.Reader, m Marker) (*commitlog.Log, error) {
	o := f.logOptions(m)
	if err := storage.MkdirAll(f.fs, o.Dir); err != nil {
		return nil, err
	}
	state, err := commitlog.Restore(o, r)
	if err != nil {
		return nil, err
	}
	var end [len(snapshotMagic)]byte
	if _, err := io.ReadFull(r, end[:]); err != nil || string(end[:]) != snapshotMagic {
		return nil, errors.Join(errors.New("the stream does not end behind the log"), err)
	}
	if state != m.Log {
		return nil, fmt.Errorf("the restored log is %+v, the head says %+v", state, m.Log)
	}
	return f.openLog(m)
}

// replace makes got and log the replica's state, on disk and in memory.
func (f *FSM) replace(got received, log *commitlog.Log) error {
	m := got.marker
	b := got.table.Encode(nil)
	m.Producers = refOf(m.Applied, b)
	if err := f.saveFile(m.ProducersFile(), b); err != nil {
		return err
	}
	if b = appendEpochs(nil, got.epochs); len(b) > 0 {
		m.Epochs = refOf(m.Applied, b)
		if err := f.saveFile(m.EpochsFile(), b); err != nil {
			return err
		}
	}
	if err := storage.SyncDir(f.fs, f.opts.Dir); err != nil {
		return err
	}
	if err := f.writeMarker(m); err != nil {
		return err
	}
	old := f.log
	f.log = log
	f.adopt(m, got.table, got.epochs)
	f.publishAll()
	return errors.Join(old.Close(), f.removeObsolete())
}
