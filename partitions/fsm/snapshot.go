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

// A snapshot is a stream of the whole state but for the batches, big endian:
//
//	4  magic    1  version
//	8  length n of the head    n  head    4  CRC-32C of the head
//	4  magic again, so that a stream cut behind the head is noticed
//
// and the head is: 8 shard, 8 applied index, 8 last append time, 8 sending replica,
// 8 lease, 8 length and bytes of the log's manifest, configuration, 8 length and bytes of
// the epoch history, then the producer table.
//
// The batches go another way, between the replicas themselves: the receiver keeps
// every segment that it already has and fetches the others (Fetcher).
const (
	snapshotMagic   = "LBps"
	snapshotVersion = 2
	headFixedBytes  = 48 + configBytes + 8
	// headBytesMax bounds what a damaged length makes the receiver read.
	headBytesMax = 1 << 32
	// StagingFolder, a name in the replica's directory, is where segments from peers
	// are collected. No marker speaks of it and Open leaves it alone, so that a
	// transfer that a crash interrupted goes on where it was.
	StagingFolder = "staging"
)

// Fetcher moves the batches that a snapshot lists and does not carry.
type Fetcher interface {
	// Lease takes over the pin of a snapshot that was sent, keeps it for as long
	// as a receiver fetches from it, and returns what the receiver asks with.
	Lease(pin *commitlog.Pinned) (lease uint64)
	// Fetch brings into the replica's staging what j.Manifest lists and j.Own
	// lacks, trying one peer after the other until it succeeds, and then calls use
	// with the manifest, its log start raised where all peers have trimmed
	// meanwhile. Nobody changes the staging while use runs. Where no peer can ever
	// give the rest, or j.Stop closes, the error is ErrSnapshotStopped.
	Fetch(j FetchJob, use func(m commitlog.Manifest, s *commitlog.Staging) error) error
}

// FetchJob is what Fetcher.Fetch is to bring.
type FetchJob struct {
	Manifest commitlog.Manifest
	// Sender is the replica that sent the snapshot, Lease what its Fetcher.Lease
	// returned.
	Sender, Lease uint64
	// Own is what the replica has.
	Own  *commitlog.Pinned
	Stop <-chan struct{}
}

// OpenStaging opens the staging folder of the replica in dir. Only the Fetcher
// opens it.
func OpenStaging(fs storage.FS, dir string, o commitlog.Options) (*commitlog.Staging, error) {
	o.FS, o.Dir = fs, fs.PathJoin(dir, StagingFolder)
	return commitlog.OpenStaging(o)
}

// snapshot is the state at one moment, and the log pinned as it was then.
type snapshot struct {
	state    []byte // the head but for what encodeHead puts in front
	applied  uint64
	appendMs int64
	manifest commitlog.Manifest
	log      *commitlog.Pinned
}

func (s *snapshot) release() { s.log.Close() }

// PrepareSnapshot notes the present state for SaveSnapshot: small state is
// encoded, the log is pinned.
func (f *FSM) PrepareSnapshot() (any, error) {
	if err := f.failure(); err != nil {
		return nil, err
	}
	s := &snapshot{log: f.log.Pin(), state: f.encodeState(), applied: f.applied, appendMs: f.lastAppendMs}
	var err error
	if s.manifest, err = s.log.Manifest(); err != nil {
		return nil, err
	}
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

// encodeState encodes what all replicas have the same at one index, the log left
// out.
func (f *FSM) encodeState() []byte {
	b := f.config.append(nil)
	b = binary.BigEndian.AppendUint64(b, uint64(len(f.epochs)*epochBytesEach))
	b = appendEpochs(b, f.epochs)
	return f.table.Encode(b)
}

func (f *FSM) encodeHead(s *snapshot, lease uint64) []byte {
	be := binary.BigEndian
	manifest := s.manifest.Append(nil)
	var b []byte
	for _, v := range []uint64{f.opts.ShardID, s.applied, uint64(s.appendMs), f.opts.ReplicaID, lease, uint64(len(manifest))} {
		b = be.AppendUint64(b, v)
	}
	b = append(b, manifest...)
	return append(b, s.state...)
}

// SaveSnapshot streams the state that PrepareSnapshot noted.
func (f *FSM) SaveSnapshot(ctx any, w io.Writer, stopc <-chan struct{}) error {
	s, ok := ctx.(*snapshot)
	if !ok || !f.claim(s) {
		return statemachine.ErrSnapshotAborted
	}
	var lease uint64
	if f.opts.Fetcher != nil {
		lease = f.opts.Fetcher.Lease(s.log)
	} else {
		s.release()
	}
	head := f.encodeHead(s, lease)
	b := append([]byte(snapshotMagic), snapshotVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(len(head)))
	b = append(b, head...)
	b = binary.BigEndian.AppendUint32(b, checksum(head))
	_, err := (&snapshotWriter{w: w, stopc: stopc}).Write(append(b, snapshotMagic...))
	return err // as it came, for dragonboat compares it
}

// snapshotWriter stops when the replica stops.
type snapshotWriter struct {
	w     io.Writer
	stopc <-chan struct{}
}

func (w *snapshotWriter) Write(b []byte) (int, error) {
	if stopped(w.stopc) {
		return 0, statemachine.ErrSnapshotStopped
	}
	return w.w.Write(b)
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
	marker        Marker // but for its Log
	sender, lease uint64
	manifest      commitlog.Manifest
	epochs        []EpochStart
	table         *producerstate.Table
}

// RecoverFromSnapshot replaces the whole state by a peer's. What this replica has
// is made durable first, what it lacks of the log is fetched into the staging
// folder, then the new log is put together of both in a directory of its own,
// under the next generation, then one marker write makes all of it the replica's
// state. A crash before that leaves the old state, and what was begun is removed by
// Open, but for the staging; a crash after it leaves the new one.
func (f *FSM) RecoverFromSnapshot(r io.Reader, stopc <-chan struct{}) error {
	if err := f.failure(); err != nil {
		return err
	}
	err := f.recoverFrom(&snapshotReader{r: r, stopc: stopc}, stopc)
	if errors.Is(err, statemachine.ErrSnapshotStopped) {
		return statemachine.ErrSnapshotStopped
	}
	if err != nil {
		return f.fail(fmt.Errorf("fsm: recover from a snapshot: %w", err))
	}
	return nil
}

func (f *FSM) recoverFrom(r io.Reader, stopc <-chan struct{}) error {
	got, err := f.readHead(r)
	if err != nil {
		return err
	}
	// Nothing is saved beside from here on.
	if err := f.Sync(); err != nil {
		return err
	}
	f.saves.drain()
	if f.opts.Fetcher == nil {
		return errors.New("this replica was opened without a Fetcher")
	}
	own := f.log.Pin()
	defer own.Close()
	job := FetchJob{Manifest: got.manifest, Sender: got.sender, Lease: got.lease, Own: own, Stop: stopc}
	return f.opts.Fetcher.Fetch(job, func(m commitlog.Manifest, s *commitlog.Staging) error {
		return f.become(got, m, own, s)
	})
}

// become makes the received state, with the log that m describes, this replica's.
func (f *FSM) become(got received, m commitlog.Manifest, own *commitlog.Pinned, s *commitlog.Staging) error {
	got.marker.Log = m.State
	got.epochs = trimEpochs(got.epochs, m.State.LogStart)
	if err := commitlog.Assemble(f.logOptions(got.marker), m, own, s); err != nil {
		return err
	}
	log, err := f.openLog(got.marker)
	if err != nil {
		return err
	}
	if err := f.replace(got, log); err != nil {
		return errors.Join(err, log.Close())
	}
	if err := s.Drop(log.End()); err != nil {
		f.logger.Warn("what was fetched is used and was not removed; it will be later", "err", err)
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
	var end [len(snapshotMagic)]byte
	if _, err := io.ReadFull(r, end[:]); err != nil || string(end[:]) != snapshotMagic {
		return received{}, errors.Join(errors.New("the stream does not end behind the head"), err)
	}
	return f.decodeHead(head)
}

func (f *FSM) decodeHead(b []byte) (received, error) {
	be := binary.BigEndian
	got := received{sender: be.Uint64(b[24:]), lease: be.Uint64(b[32:]), marker: Marker{
		ShardID: be.Uint64(b), ReplicaID: f.opts.ReplicaID, Generation: f.generation + 1,
		Applied: be.Uint64(b[8:]), LastAppendMs: int64(be.Uint64(b[16:])),
	}}
	if got.marker.ShardID != f.opts.ShardID {
		return got, fmt.Errorf("it is of shard %d", got.marker.ShardID)
	}
	n := be.Uint64(b[40:])
	if b = b[48:]; n > uint64(len(b)) || uint64(len(b))-n < configBytes+8 {
		return got, errors.New("its manifest is cut short")
	}
	var err error
	if got.manifest, err = commitlog.DecodeManifest(b[:n]); err != nil {
		return got, err
	}
	b = b[n:]
	var ok bool
	if got.marker.Config, ok = decodeConfig(b); !ok {
		return got, errors.New("its configuration is out of bounds")
	}
	n = be.Uint64(b[configBytes:])
	b = b[configBytes+8:]
	if n > uint64(len(b)) {
		return got, errors.New("its epoch history is cut short")
	}
	if got.epochs, ok = decodeEpochs(b[:n]); !ok {
		return got, errors.New("its epochs or offsets do not rise")
	}
	got.table, err = producerstate.Decode(b[n:], got.marker.Config.Producers)
	return got, err
}

// replace makes got and log the replica's state, on disk and in memory.
func (f *FSM) replace(got received, log *commitlog.Log) error {
	v := saved{Marker: got.marker, epochs: got.epochs, producers: got.table.Encode(nil)}
	// The first write is the one that counts. The second leaves no slot that speaks of
	// the log that goes: nothing may fall back to it.
	for range 2 {
		if err := f.slots.write(&v); err != nil {
			return err
		}
	}
	old := f.log
	f.log = log
	f.adopt(v.Marker, got.table, got.epochs)
	f.publishAll()
	return errors.Join(old.Close(), f.removeObsolete())
}
