package fsm

import (
	"encoding/binary"
	"fmt"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/recordbatch"
	"logbroker/partitions/commitlog"
	"logbroker/partitions/producerstate"
)

// noOffset stands in a result that has none.
const noOffset = -1

// round is the work of one Update call. Verdicts are given entry by entry
// against the state as it will be after the round's write; the batches are
// written together, and only then does anything become visible.
type round struct {
	// batches are not written yet. They alias the entries, which belong to
	// dragonboat: nothing of them is kept after the call.
	batches []commitlog.Entry
	// next is the offset of the next record: the log's end plus the records of
	// batches.
	next int64
	// logStart is the log start after the round's trims.
	logStart int64
	// bytes counts the commands.
	bytes int64
	// opened are the epochs that began.
	opened []EpochStart
}

// Update applies entries and sets their results: EncodeResult of the verdict,
// or zero for an empty entry. It writes all batches of the call to the log at
// once and makes nothing durable, unless Options.SyncBytes have gathered. An
// error is a storage error or a broken promise of dragonboat; dragonboat then
// ends the process, which is right: the state in memory is ahead of the disk.
func (f *FSM) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	if err := f.failure(); err != nil {
		return nil, err
	}
	f.round.next, f.round.logStart = f.log.End(), f.log.LogStart()
	f.round.bytes, f.round.opened = 0, f.round.opened[:0]
	for i := range entries {
		if err := f.applyEntry(&entries[i]); err != nil {
			return nil, f.fail(err)
		}
	}
	if err := f.write(); err != nil {
		return nil, f.fail(err)
	}
	f.publishRound()
	if err := f.boundReplay(); err != nil {
		return nil, err
	}
	return entries, nil
}

// boundReplay keeps what a restart would replay below Options.SyncBytes. Where nobody
// else sees to it it begins in time, so that there is nothing to wait for as a rule.
func (f *FSM) boundReplay() error {
	if f.BytesSinceMarker() >= f.opts.SyncBytes {
		return f.Sync()
	}
	if f.published.bytes.Load()-f.syncing.bytes >= f.opts.SyncBytes/4*3 {
		return f.StartSync()
	}
	return nil
}

// applyEntry applies one entry. The index counts as applied whatever the entry
// holds, because dragonboat compares it with what Open returns later.
func (f *FSM) applyEntry(e *statemachine.Entry) error {
	if e.Index <= f.applied {
		return fmt.Errorf("fsm: entry %d after entry %d: applying it again would store it twice", e.Index, f.applied)
	}
	f.applied = e.Index
	f.round.bytes += int64(len(e.Cmd))
	e.Result = statemachine.Result{}
	if len(e.Cmd) == 0 {
		return nil
	}
	v, offset, err := f.apply(e.Cmd)
	e.Result.Value = EncodeResult(v, offset)
	return err
}

// apply gives the verdict on one command. A command that cannot be decoded, or
// is of an unknown kind, is refused in the same way on every replica; to end
// the process over it would end all replicas, again at each restart. (Hence a
// new kind or version may be proposed only when every replica knows it.)
func (f *FSM) apply(cmd []byte) (Verdict, int64, error) {
	if len(cmd) < commandHeaderBytes || cmd[0] != commandVersion {
		return Malformed, noOffset, nil
	}
	epoch := int32(binary.BigEndian.Uint32(cmd[2:]))
	now := current(f.epochs)
	if cmd[1] == kindEpoch {
		v, offset := f.applyEpoch(cmd, now)
		return v, offset, nil
	}
	// A deposed leader's proposals may be applied after its successor's epoch
	// entry, because dragonboat forwards what is still queued. They are fenced
	// here. Before the first epoch everything is.
	if epoch != now.Epoch || now.Epoch == 0 {
		return Fenced, int64(now.Epoch), nil
	}
	var v Verdict
	var offset int64
	var err error
	switch cmd[1] {
	case kindProduce:
		v, offset = f.applyProduce(cmd, epoch)
	case kindTrim:
		v, offset = f.applyTrim(cmd)
	case kindExpire:
		v, offset = f.applyExpire(cmd)
	case kindConfigure:
		v, offset, err = f.applyConfigure(cmd)
	default:
		v, offset = Malformed, noOffset
	}
	return v, offset, err
}

// applyProduce checks message id and producer, in this order, and gives the
// batch its offset.
func (f *FSM) applyProduce(cmd []byte, epoch int32) (Verdict, int64) {
	p, ok := decodeProduce(cmd)
	if !ok {
		return Malformed, noOffset
	}
	// Append time never goes back within a partition: message ids age by it,
	// segments roll by it, retention counts from it.
	ms := max(p.appendTimeMs, f.lastAppendMs)
	base := f.round.next
	if v, offset := f.judge(p, ms, base); v != Appended {
		return v, offset
	}
	f.round.batches = append(f.round.batches, commitlog.Entry{
		Batch: p.batch, BaseOffset: base, Epoch: epoch, AppendTimeMs: ms,
	})
	f.round.next += int64(p.batch.Count())
	f.lastAppendMs = ms
	return Appended, base
}

// judge asks the table for its verdict on p and records p there where it is to
// be appended at base.
func (f *FSM) judge(p produce, ms, base int64) (Verdict, int64) {
	f.tableMu.Lock()
	defer f.tableMu.Unlock()
	if len(p.msgID) > 0 {
		if offset, ok := f.table.Message(p.msgID, ms); ok {
			return Duplicate, offset
		}
	}
	if id := p.batch.ProducerID(); id >= 0 {
		b := producerstate.Batch{
			Producer: id, Epoch: p.batch.ProducerEpoch(),
			Sequence: p.batch.BaseSequence(), Count: p.batch.Count(),
		}
		v, offset := f.table.Apply(b, base)
		if again := v == producerstate.Duplicate && f.opts.NoDeduplication; v != producerstate.Append && !again {
			return verdictOf(v), offset
		}
	}
	if len(p.msgID) > 0 {
		f.table.RememberMessage(p.msgID, ms, base)
	}
	return Appended, base
}

func verdictOf(v producerstate.Verdict) Verdict {
	switch v {
	case producerstate.Append:
		return Appended
	case producerstate.Duplicate:
		return Duplicate
	case producerstate.OutOfOrder:
		return OutOfOrder
	case producerstate.InvalidEpoch:
		return InvalidProducerEpoch
	case producerstate.UnknownProducer:
		return UnknownProducer
	case producerstate.TooMany:
		return TooManyProducers
	default:
		panic("fsm: verdict of the producer table without a name here")
	}
}

// applyEpoch opens an epoch. Epochs only rise: a new leader proposes its entry
// until it is applied, so the same one may come again.
func (f *FSM) applyEpoch(cmd []byte, now EpochStart) (Verdict, int64) {
	e, ok := decodeEpoch(cmd)
	if !ok {
		return Malformed, noOffset
	}
	if e.Epoch <= now.Epoch {
		return Stale, int64(now.Epoch)
	}
	start := EpochStart{Epoch: e.Epoch, Replica: e.Replica, Start: f.round.next}
	f.epochs = withEpoch(f.epochs, start)
	f.round.opened = append(f.round.opened, start)
	return Applied, start.Start
}

// applyTrim moves the log start, never down and never above the next offset.
func (f *FSM) applyTrim(cmd []byte) (Verdict, int64) {
	to, ok := decodeTrim(cmd)
	if !ok {
		return Malformed, noOffset
	}
	if to = min(to, f.round.next); to > f.round.logStart {
		f.round.logStart = to
		f.epochs = trimEpochs(f.epochs, to)
	}
	return Applied, f.round.logStart
}

func (f *FSM) applyExpire(cmd []byte) (Verdict, int64) {
	keys, ok := decodeExpire(cmd)
	if !ok {
		return Malformed, noOffset
	}
	f.tableMu.Lock()
	defer f.tableMu.Unlock()
	return Applied, int64(f.table.Expire(keys))
}

// applyConfigure replaces the configuration. What came before it in this round
// is written first, under the configuration that held when it was proposed to
// be appended: else the same entries, cut into other rounds on another
// replica, would roll segments elsewhere.
func (f *FSM) applyConfigure(cmd []byte) (Verdict, int64, error) {
	c, ok := decodeConfigure(cmd)
	if !ok {
		return Malformed, noOffset, nil
	}
	if err := f.append(); err != nil {
		return Malformed, noOffset, err
	}
	f.setConfig(c)
	return Applied, 0, nil
}

func (f *FSM) setConfig(c Config) {
	f.config = c
	f.published.config.Store(&c)
	f.tableMu.Lock()
	defer f.tableMu.Unlock()
	f.table.SetLimits(c.Producers)
}

// write puts the round into the log: batches first, then the trim, which may
// reach up to their end.
func (f *FSM) write() error {
	if err := f.append(); err != nil {
		return err
	}
	if f.round.logStart > f.log.LogStart() {
		f.log.Trim(f.round.logStart)
	}
	return nil
}

// append writes the batches that are not written yet.
func (f *FSM) append() error {
	if len(f.round.batches) == 0 {
		return nil
	}
	err := f.log.Append(f.round.batches, f.config.Segment)
	// The entries go back to dragonboat: do not keep their memory alive.
	clear(f.round.batches)
	f.round.batches = f.round.batches[:0]
	if err != nil {
		return fmt.Errorf("fsm: append to the log: %w", err)
	}
	return nil
}

// publishRound makes the round visible, the high watermark only now that its
// records can be read, and tells the observer.
func (f *FSM) publishRound() {
	before := f.HighWatermark()
	f.published.applied.Store(f.applied)
	f.published.lastAppendMs.Store(f.lastAppendMs)
	f.published.bytes.Add(f.round.bytes)
	f.publishEpochs()
	f.published.highWatermark.Store(f.round.next)
	for _, e := range f.round.opened {
		f.observer.EpochApplied(e.Epoch, e.Replica)
	}
	if f.round.next > before {
		f.observer.Advanced(f.round.next)
	}
}

// publishEpochs shows the history to readers where it has changed.
func (f *FSM) publishEpochs() {
	h := f.epochs
	if p := f.published.epochs.Load(); p != nil && sameHistory(*p, h) {
		return
	}
	f.published.epochs.Store(&h)
}

// sameHistory compares two histories that are each never changed in place: as
// both only gain entries behind and lose them in front, the ends decide.
func sameHistory(a, b []EpochStart) bool {
	return len(a) == len(b) && (len(a) == 0 || a[0] == b[0] && a[len(a)-1] == b[len(b)-1])
}

// fail keeps the first error: nothing is written after it.
func (f *FSM) fail(err error) error {
	if f.failed == nil {
		f.failed = err
	}
	return f.failed
}

// produce is a decoded produce command; it aliases the command.
type produce struct {
	appendTimeMs int64
	msgID        []byte
	batch        recordbatch.Batch
}

// decodeProduce reads a produce command. Of the batch it checks what the log's
// order rests on: exactly one batch, dense offsets, and a numbering that is
// either absent or whole. Its CRC was checked before it was proposed and is
// checked by every read; to check it here would let one replica's bad memory
// give a verdict that the others do not share.
func decodeProduce(cmd []byte) (p produce, ok bool) {
	if len(cmd) < ProduceHeaderSize {
		return p, false
	}
	at := ProduceHeaderSize + int(cmd[14])
	if len(cmd) < at {
		return p, false
	}
	batch, rest, err := recordbatch.Parse(cmd[at:])
	if err != nil || len(rest) > 0 {
		return p, false
	}
	if n := batch.Count(); n <= 0 || n-1 != batch.LastOffsetDelta() {
		return p, false
	}
	if !numbered(batch) && !unnumbered(batch) {
		return p, false
	}
	p.appendTimeMs = int64(binary.BigEndian.Uint64(cmd[6:]))
	p.msgID = cmd[ProduceHeaderSize:at]
	p.batch = batch
	return p, true
}

func numbered(b recordbatch.Batch) bool {
	return b.ProducerID() >= 0 && b.ProducerEpoch() >= 0 && b.BaseSequence() >= 0
}

// unnumbered batches are always appended; epoch and sequence mean nothing.
func unnumbered(b recordbatch.Batch) bool { return b.ProducerID() == -1 }
