package partitions

import (
	"context"
	"time"

	"logbroker/internal/errcode"
	"logbroker/partitions/commitlog"
	"logbroker/partitions/fsm"
)

// Trim moves the log start offset up to offset on all replicas and returns
// where it then is (where it was, if that is higher). Only the serving leader
// trims. Errors: OFFSET_OUT_OF_RANGE above the high watermark,
// REQUEST_TIMED_OUT where the outcome is unknown (a repeat does no harm).
func (p *Partition) Trim(ctx context.Context, offset int64) (logStart int64, err error) {
	epoch, err := p.servingEpoch()
	if err != nil {
		return 0, err
	}
	if end := p.machine.HighWatermark(); offset < 0 || offset > end {
		return 0, errcode.New(errcode.OffsetOutOfRange, "cannot trim to offset %d: the log ends at %d", offset, end)
	}
	timeout := p.options.ProposeTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	if timeout <= 0 {
		return 0, errcode.New(errcode.RequestTimedOut, "no time left to trim; give more")
	}
	verdict, err := p.command(fsm.EncodeTrim(epoch, offset), timeout)
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		return 0, p.failure(err)
	}
	if code := verdict.Code(); code != errcode.None {
		return 0, errcode.New(code, "%s/%d was not trimmed; retry", p.spec.Topic, p.spec.Partition)
	}
	return p.machine.LogStart(), nil
}

// retain proposes what retention and idle producers ask for, where this replica
// serves, and returns the proposals: their outcome does not matter, because the
// next pass asks again, but the Host waits for them before the next pass. It
// runs on the Host's retention goroutine.
func (p *Partition) retain() (proposed []proposal) {
	epoch, err := p.servingEpoch()
	if err != nil {
		p.idle.forget()
		return nil
	}
	cmds := p.expireCommands(epoch)
	if cmd := p.trimCommand(epoch); cmd != nil {
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		w, err := p.raft.Propose(p.spec.Shard, cmd, p.options.ProposeTimeout)
		if err != nil {
			p.logger.Debug("retention was refused", "err", err)
			return proposed
		}
		proposed = append(proposed, w)
	}
	return proposed
}

// trimCommand returns the trim that retention wants, nil for none. By age
// counts the append time, and only while this node's clock can be trusted.
func (p *Partition) trimCommand(epoch int32) []byte {
	c := p.Config()
	// Asked before and after: the clock may be set, wrong or right, just then.
	trusted := p.options.ClockTrusted()
	nowMs := p.options.Clock().UnixMilli()
	if !trusted || !p.options.ClockTrusted() {
		c.RetentionAge = 0
	}
	want := int64(-1)
	err := p.withLog(func(log *commitlog.Log, end int64) error {
		q := commitlog.RetentionQuery{
			NowMs: nowMs, MaxBytes: c.RetentionBytes, MaxAge: c.RetentionAge, End: end,
		}
		if to := log.RetentionOffset(q); to > log.LogStart() {
			want = to
		}
		return nil
	})
	if err != nil || want < 0 {
		return nil
	}
	return fsm.EncodeTrim(epoch, want)
}
