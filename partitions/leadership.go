package partitions

import (
	"log/slog"
	"time"

	"logbroker/partitions/commitlog"
	"logbroker/partitions/fsm"
)

// A replica that Raft made leader may not serve yet. dragonboat does not tell
// the state machine the term of an entry, and a deposed leader's queue is
// forwarded to its successor: so a late command of the old leader could slip in
// behind commands of the new one. The partition's own epoch closes that gap.
//
//  1. The new leader proposes epoch{current+1, itself} and waits. Where another
//     entry came first (stale), it starts again from the epoch then current.
//  2. Its entry is applied here: everything before it is applied here too, and
//     every command with an older epoch is refused from now on.
//  3. It proposes the topic's configuration where the replicated one differs.
//  4. It serves, if it is still leader in the term of step 1 and the current
//     epoch is still its own.
//
// An old leader's epoch entry can overtake ours even later. The state machine
// tells (EpochApplied), serving ends at once, and we start again at 1.

// Time-outs of the leadership goroutine.
const (
	// epochTimeout bounds one proposal: short, because a lost one delays the
	// partition by as much.
	epochTimeout = time.Second
	// leadRetryAfter is the pause after a refused proposal.
	leadRetryAfter = 20 * time.Millisecond
)

// lead is the leadership goroutine, one per replica from start to stop. It
// blocks on its proposals, for at most epochTimeout each.
func (p *Partition) lead() {
	defer p.goroutines.Done()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-p.stopping:
			return
		case <-p.wake:
		case <-retry.C:
		}
		if pause := p.establish(); pause > 0 {
			retry.Reset(pause)
		}
	}
}

// establish does what is left to do for leadership: nothing, all four steps, or
// only the configuration. It returns when to be called again, 0 = when woken.
func (p *Partition) establish() (pause time.Duration) {
	term, leading, serving, state := p.leading()
	switch {
	case !leading:
		return 0
	case state == StateDamaged:
		return p.handOver()
	case state != StateRunning:
		return 0
	}
	if serving {
		epoch, replica, _ := p.machine.Epoch()
		if replica != p.spec.Replica || p.configure(epoch) {
			return 0 // a foreign epoch: EpochApplied has told and stirred, or will
		}
		return leadRetryAfter
	}
	epoch, ok := p.openEpoch()
	if !ok || !p.configure(epoch) || !p.serve(term, epoch) {
		return leadRetryAfter
	}
	return 0
}

// leading returns Raft's last word on leadership.
func (p *Partition) leading() (term uint64, leading, serving bool, state string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.term, p.leader == p.spec.Replica, p.serving, p.state
}

// openEpoch proposes the next epoch once, and reports whether it was applied as
// ours. A proposal that timed out may still be applied later: then it is an
// entry like an old leader's, and the next round goes above it.
func (p *Partition) openEpoch() (epoch int32, ok bool) {
	current, _, _ := p.machine.Epoch()
	epoch = current + 1
	verdict, err := p.command(fsm.EncodeEpoch(fsm.Epoch{Epoch: epoch, Replica: p.spec.Replica}), epochTimeout)
	if err != nil {
		p.logger.Debug("epoch not opened yet", "epoch", epoch, "err", err)
		return 0, false
	}
	return epoch, verdict == fsm.Applied
}

// configure replicates the topic's configuration where it differs, once, and
// reports whether it stands.
func (p *Partition) configure(epoch int32) bool {
	want := p.machineConfig()
	if p.machine.Config() == want {
		return true
	}
	if !want.Valid() {
		p.logger.Error("the topic's configuration is out of bounds; the replicated one stays, alter the topic")
		return true
	}
	if _, err := p.command(fsm.EncodeConfigure(epoch, want), epochTimeout); err != nil {
		p.logger.Debug("configuration not replicated yet", "err", err)
	}
	return p.machine.Config() == want
}

// machineConfig is the configuration the state machine should have.
func (p *Partition) machineConfig() fsm.Config {
	c := p.Config()
	want := fsm.Config{Segment: commitlog.Config{SegmentBytes: c.SegmentBytes, SegmentAge: c.SegmentAge}}
	want.Producers.Window, want.Producers.Producers = p.options.Window, p.options.ProducersMax
	return want.WithDefaults()
}

// command proposes a command outside the append queue and waits for its verdict,
// or until the leader changes: then its outcome is unknown, as after timeout.
func (p *Partition) command(cmd []byte, timeout time.Duration) (fsm.Verdict, error) {
	_, changed, err := p.leaderNow()
	if err != nil {
		return 0, err
	}
	proposed, err := p.raft.Propose(p.spec.Shard, cmd, timeout)
	if err != nil {
		return 0, err
	}
	result, err := proposed.WaitOr(changed, 0)
	if err != nil {
		return 0, err
	}
	verdict, _ := fsm.DecodeResult(result.Value)
	return verdict, nil
}

// serve begins to serve in epoch, unless the leadership of term or the epoch is
// gone. The state machine publishes a new epoch before it calls EpochApplied,
// which takes p.mu: so either the check here sees it, or EpochApplied comes
// after and ends the serving.
func (p *Partition) serve(term uint64, epoch int32) bool {
	p.mu.Lock()
	current, replica, _ := p.machine.Epoch()
	ok := p.state == StateRunning && p.term == term && p.leader == p.spec.Replica &&
		current == epoch && replica == p.spec.Replica
	if ok {
		p.serving, p.epoch = true, epoch
		p.startCompleting()
	}
	p.mu.Unlock()
	if ok {
		p.logger.Info("partition serves as leader", "term", term, "epoch", epoch)
		p.host.leadershipChanged(p)
	}
	return ok
}

// startCompleting starts the completion goroutine at the first serving: most
// replicas of a node follow. p.mu is held.
func (p *Partition) startCompleting() {
	if p.completing || p.stopped() {
		return
	}
	p.completing = true
	p.goroutines.Add(1)
	go p.complete()
}

// handOver asks another replica to lead in place of a damaged one.
func (p *Partition) handOver() time.Duration {
	others := p.otherVoters()
	if len(others) == 0 {
		return 0
	}
	if err := p.raft.Transfer(p.spec.Shard, others[0]); err != nil {
		p.logger.Warn("a damaged leader could not hand over", "err", err)
	}
	return handOverRetryAfter
}

// EpochApplied implements fsm.Observer. It runs on the apply goroutine.
func (p *Partition) EpochApplied(epoch int32, replica uint64) {
	p.mu.Lock()
	close(p.epochOver)
	p.epochOver = make(chan struct{})
	overtaken := p.serving && (epoch != p.epoch || replica != p.spec.Replica)
	if overtaken {
		p.serving = false
	}
	p.mu.Unlock()
	if overtaken {
		p.logger.Info("a late epoch entry ended serving; opening the next epoch", slog.Int("epoch", int(epoch)))
		p.host.leadershipChanged(p)
		p.stir()
	}
}

// Advanced implements fsm.Observer. It runs on the apply goroutine.
func (p *Partition) Advanced(highWatermark int64) {
	p.waiters.advance(highWatermark)
	p.wantSnapshot()
}
