package partitions

import (
	"context"
	"errors"
	"time"

	"logbroker/internal/errcode"
	"logbroker/partitions/commitlog"
)

// rangeConfirmTimeout bounds the quorum round before OFFSET_OUT_OF_RANGE.
const rangeConfirmTimeout = time.Second

// Read appends to dst whole batches from the one that holds offset on, below
// the high watermark, about maxBytes and at least one batch where there is one.
// At the high watermark it returns dst unchanged and no error. It reads what is
// applied here, which is committed, and so needs neither Raft nor leadership.
//
// Errors: OFFSET_OUT_OF_RANGE below the log start offset, or above the end of a
// leader that a quorum has just confirmed (the one case in which Read blocks,
// for at most a second); OFFSET_NOT_AVAILABLE above the end of any other
// replica, which may only lag; KAFKA_STORAGE_ERROR where this replica's bytes
// are bad: it serves nothing from then on; NOT_LEADER_OR_FOLLOWER where it is
// stopped.
func (p *Partition) Read(dst []byte, offset int64, maxBytes int) (ReadResult, error) {
	if err := p.readable(); err != nil {
		return ReadResult{Data: dst}, err
	}
	if offset > p.machine.HighWatermark() {
		if err := p.confirmRange(offset); err != nil {
			return p.readResult(dst), err
		}
	}
	var data []byte
	err := p.withLog(func(log *commitlog.Log, end int64) (err error) {
		data, err = log.Read(dst, offset, end, maxBytes)
		return err
	})
	if err != nil {
		return p.readResult(dst), p.readError(err)
	}
	return p.readResult(data), nil
}

func (p *Partition) readResult(data []byte) ReadResult {
	return ReadResult{Data: data, HighWatermark: p.machine.HighWatermark(), LogStart: p.machine.LogStart()}
}

// withLog calls read with the log and a high watermark that lies in it: the
// watermark is taken first. A snapshot from a peer replaces the log, and then
// the old one is closed; read is called again with the new one.
func (p *Partition) withLog(read func(log *commitlog.Log, end int64) error) error {
	var last *commitlog.Log
	for {
		end := p.machine.HighWatermark()
		log, ok := p.machine.Log()
		if !ok || log == last {
			return commitlog.ErrClosed
		}
		if err := read(log, end); !errors.Is(err, commitlog.ErrClosed) {
			return err
		}
		last = log
	}
}

// readable says why a replica may not be read.
func (p *Partition) readable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != StateRunning {
		return p.notServing()
	}
	return nil
}

// confirmRange returns nil where offset, which is above the high watermark as
// last seen, can be read now, or else the refusal. A leader that was deposed
// without knowing it has a stale end, and a consumer that is told
// OFFSET_OUT_OF_RANGE would jump: so a leader has itself confirmed first.
func (p *Partition) confirmRange(offset int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), rangeConfirmTimeout)
	defer cancel()
	end, err := p.Latest(ctx)
	switch {
	case err != nil:
		return errcode.New(errcode.OffsetNotAvailable, "offset %d is above what this replica has (%d), which is not a confirmed leader; retry",
			offset, p.machine.HighWatermark())
	case offset > end:
		return errcode.New(errcode.OffsetOutOfRange, "offset %d is above the end %d; start from the earliest or the latest offset",
			offset, end)
	}
	return nil
}

// readError gives an error of the log its code. Bad bytes end this replica's
// service: what cannot be trusted is neither served nor used again.
func (p *Partition) readError(err error) error {
	switch {
	case errors.As(err, new(commitlog.OffsetRangeError)):
		return errcode.New(errcode.OffsetOutOfRange, "%v", err)
	case errors.Is(err, commitlog.ErrClosed):
		return errcode.New(errcode.NotLeaderOrFollower, "the replica of %s/%d on this node is stopped; ask another node",
			p.spec.Topic, p.spec.Partition)
	case errors.Is(err, commitlog.ErrDamaged):
		p.damaged("read", err)
	default:
		p.logger.Error("a read failed", "err", err)
	}
	return errcode.New(errcode.StorageError, "%s/%d cannot be read on this node; ask another: %v",
		p.spec.Topic, p.spec.Partition, err)
}

// Earliest returns the log start offset; 0 where the replica is quarantined. It
// only rises, the same on all replicas.
func (p *Partition) Earliest() int64 {
	if p.machine == nil {
		return 0
	}
	return p.machine.LogStart()
}

// HighWatermark returns this replica's high watermark, which may lag behind the
// leader's and never falls; 0 where the replica is quarantined.
func (p *Partition) HighWatermark() int64 {
	if p.machine == nil {
		return 0
	}
	return p.machine.HighWatermark()
}

// Latest returns the high watermark as of some moment during the call, over all
// replicas: it has the leadership confirmed by a majority. Only the serving
// leader answers.
func (p *Partition) Latest(ctx context.Context) (int64, error) {
	epoch, err := p.servingEpoch()
	if err != nil {
		return 0, err
	}
	if err := p.raft.ReadIndex(ctx, p.spec.Shard); err != nil {
		return 0, errcode.New(errcode.NotEnoughReplicas, "%s/%d: no majority confirmed the leader; retry: %v",
			p.spec.Topic, p.spec.Partition, err)
	}
	// Read before the second look: it is at or above everything acked before
	// the barrier, and below what a later leader adds unseen by us.
	end := p.machine.HighWatermark()
	now, err := p.servingEpoch()
	if err != nil {
		return 0, err
	}
	if now != epoch {
		return 0, errcode.New(errcode.NotLeaderOrFollower, "%s/%d changed its leader meanwhile; retry", p.spec.Topic, p.spec.Partition)
	}
	return end, nil
}

// OffsetForTimestamp returns the first offset whose timestamp is at or above
// tsMs (Unix milliseconds), and that timestamp; -1 and -1 where there is none.
// Like Latest it is answered by a confirmed leader only.
func (p *Partition) OffsetForTimestamp(ctx context.Context, tsMs int64) (offset, timestampMs int64, err error) {
	end, err := p.Latest(ctx)
	if err != nil {
		return -1, -1, err
	}
	ok := false
	err = p.withLog(func(log *commitlog.Log, _ int64) (err error) {
		offset, timestampMs, ok, err = log.OffsetForTimestamp(tsMs, end)
		return err
	})
	switch {
	case err != nil:
		return -1, -1, p.readError(err)
	case !ok:
		return -1, -1, nil
	}
	return offset, timestampMs, nil
}
