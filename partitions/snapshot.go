package partitions

import (
	"context"
	"errors"
	"time"

	"logbroker/partitions/commitlog"
)

// A Raft snapshot is what lets the Raft log be compacted. For this machine it
// is only a marker (the data are in the commit log already). Making the marker
// durable keeps the disk busy, so the Host makes few at a time, and each replica
// asks for one by the bytes it has applied.

const (
	// snapshotTimeout bounds one snapshot.
	snapshotTimeout = time.Minute
	// snapshotRetryAfter is the least time from a failed one to the next.
	snapshotRetryAfter = time.Second
	// compactionOverheadMin is the least number of entries kept behind a
	// snapshot.
	compactionOverheadMin = 64
	// snapshotEntriesMax asks for a snapshot whatever the bytes: entries that
	// store nothing (duplicates, epochs) fill the Raft log too.
	snapshotEntriesMax = 200_000
)

// wantSnapshot asks the Host for a snapshot when enough was applied. It runs on
// the apply goroutine, where it must be quick, and on the retention goroutine.
func (p *Partition) wantSnapshot() {
	if p.machine == nil {
		return
	}
	p.askSnapshot(p.machine.BytesSinceMarker() > p.options.SnapshotBytes ||
		p.machine.AppliedIndex()-p.snapshotIndex.Load() > snapshotEntriesMax)
}

// wantSpace asks for a snapshot where trimmed files wait for its marker, however
// little was applied: on a full disk nothing more may be, until they are gone. It
// runs on the retention goroutine.
func (p *Partition) wantSpace() {
	if p.machine == nil {
		return
	}
	log, ok := p.machine.Log()
	p.askSnapshot(ok && log.TrimmedWaits())
}

func (p *Partition) askSnapshot(due bool) {
	if !due || p.options.Clock().UnixNano() < p.snapshotNotBefore.Load() {
		return
	}
	if p.snapshotQueued.CompareAndSwap(false, true) {
		p.host.snapshotWanted(p)
	}
}

// snapshot makes one. It keeps about as many entries as the last two snapshots
// were apart, so that a replica that was away for that long catches up from the
// log. It runs on one of the Host's snapshot goroutines.
func (p *Partition) snapshot(ctx context.Context) {
	defer p.snapshotQueued.Store(false)
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	applied := p.machine.AppliedIndex()
	overhead := max(compactionOverheadMin, 2*(applied-p.snapshotIndex.Load()))
	err := p.raft.Snapshot(ctx, p.spec.Shard, overhead)
	if err := p.machine.Checkpoint(); err != nil && !errors.Is(err, commitlog.ErrClosed) {
		p.logger.Error("the replica's files cannot be written", "err", err)
	}
	if err == nil {
		p.snapshotIndex.Store(applied)
		return
	}
	if p.stopped() || ctx.Err() != nil {
		return
	}
	p.logger.Warn("the Raft log could not be compacted; it is tried again", "err", err)
	p.snapshotNotBefore.Store(p.options.Clock().Add(snapshotRetryAfter).UnixNano())
}
