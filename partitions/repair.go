package partitions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"logbroker/internal/storage"
	"logbroker/partitions/commitlog"
	"logbroker/partitions/fsm"
)

// A replica whose files are damaged repairs itself from its peers: a sealed segment
// is fetched again, alone, whether it was found by a read, by a scrub or at the
// start. A running replica whose active segment is damaged serves nothing, and goes
// on voting with its Raft log, which is whole, until the others can do without it:
// then it is quarantined, as it would be at its next start, and replaced under a new
// id. So is one that can never be complete again.

const (
	// repairRetry is the time between two tries.
	repairRetry = 2 * time.Second
	// repairTimeout bounds one try.
	repairTimeout = time.Minute
)

// ErrRepairing is why a replica is not started yet: a segment of it is damaged, and
// it could not be fetched so far.
var ErrRepairing = errors.New("partitions: a segment of the replica is damaged and is being fetched from another replica")

// errNotRepairable says that the damage is not in a sealed segment.
var errNotRepairable = errors.New("the damage is not in a sealed segment")

// repair tries once to bring a damaged replica back. It reports whether nothing is
// left to be done; it runs on the Host's repair goroutine.
func (p *Partition) repair(ctx context.Context) (done bool) {
	p.mu.Lock()
	state, why, lost := p.state, p.failed, p.lost
	p.mu.Unlock()
	switch {
	case lost != nil:
		return p.giveUp(ctx, lost)
	case state != StateDamaged:
		return true
	case len(p.otherNodes()) == 0:
		p.Note("there is no other replica to repair it from")
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	began := time.Now()
	err := p.repairSegment(ctx, why)
	switch {
	case errors.Is(err, errNotRepairable):
		return p.giveUp(ctx, why)
	case err != nil:
		p.logger.Warn("a damaged segment was not repaired; trying again", "err", err)
		return false
	}
	p.mu.Lock()
	if p.state == StateDamaged {
		p.state, p.failed = StateRunning, nil
	}
	p.mu.Unlock()
	p.stir()
	p.logger.Info("a damaged segment was replaced by a peer's; the replica serves again", "took", time.Since(began).Round(time.Millisecond))
	p.options.OnRepaired()
	return true
}

// repairSegment replaces the segment that why is about.
func (p *Partition) repairSegment(ctx context.Context, why error) error {
	var d *commitlog.DamageError
	log, ok := p.machine.Log()
	if !errors.As(why, &d) || !ok {
		return errNotRepairable
	}
	base, ok := d.Segment(p.options.FS)
	if !ok {
		return errNotRepairable
	}
	if !log.Holds(d.File) {
		return nil // a log that a snapshot has replaced
	}
	w, ok := log.Sealed(base)
	if !ok {
		if base < log.LogStart() {
			return nil // trimmed
		}
		return errNotRepairable
	}
	return p.catchUp.replace(ctx, w, func(s *commitlog.Staging) error { return log.Replace(w, s, p.quarantineFolder()) })
}

func (p *Partition) quarantineFolder() string {
	return p.options.FS.PathJoin(p.dir, quarantineFolder)
}

// replace fetches the segment w, all of it, from any peer, and calls swap when it
// is staged.
func (c *catchUp) replace(ctx context.Context, w commitlog.Want, swap func(*commitlog.Staging) error) error {
	c.staging.Lock()
	defer c.staging.Unlock()
	staging, err := c.open()
	if err != nil {
		return err
	}
	if err := staging.Remove(w.Base()); err != nil { // perhaps another name of the damaged file
		return err
	}
	failed := error(remoteError{errors.New("the partition has no other replica")})
	for _, node := range c.peers(0) {
		err := c.fetchSegment(ctx, offer{node: node}, w, nil, staging)
		if err == nil {
			return swap(staging)
		}
		if !errors.As(err, new(remoteError)) && !errors.Is(err, commitlog.ErrNotTheSegment) {
			return err
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// giveUp quarantines a running replica where the others can do without it.
func (p *Partition) giveUp(ctx context.Context, why error) (done bool) {
	err := p.canBeSpared(ctx)
	p.mu.Lock()
	p.note = ""
	if err != nil {
		p.note = "not replaced yet: " + err.Error()
	}
	p.mu.Unlock()
	switch {
	case errors.Is(err, errTooFewReplicas):
		p.logger.Error("this replica serves nothing any more and cannot be replaced", "err", err, "damage", why)
		return true
	case err != nil:
		p.logger.Warn("this replica serves nothing and is replaced as soon as the others can do without it", "err", err, "damage", why)
		return false
	}
	return p.host.giveUp(p, why)
}

// errTooFewReplicas says that no other replicas can ever do without this one.
var errTooFewReplicas = errors.New("too few replicas to do without one")

// canBeSpared returns nil where the other replicas that vote, lack nothing and have
// at least what this one has are a majority without it.
//
// Two damaged replicas cannot rely on each other: one that is damaged says so from
// then on, so of any two that ask the later one learns of the earlier.
func (p *Partition) canBeSpared(ctx context.Context) error {
	others := p.otherNodes()
	need := (len(others)+1)/2 + 1
	if len(others) < need {
		return fmt.Errorf("%w: it has %d", errTooFewReplicas, len(others)+1)
	}
	if leader := p.Leader(); leader.Node == p.options.NodeID {
		return errors.New("it leads, and hands over first")
	}
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	end, complete := p.machine.HighWatermark(), 0
	var failed error
	for _, node := range others {
		o, err := p.catchUp.manifestOf(ctx, node, true)
		switch {
		case err != nil:
			failed = errors.Join(failed, err)
		case o.manifest.State.End < end:
			failed = errors.Join(failed, fmt.Errorf("node %d is behind", node))
		default:
			complete++
		}
	}
	if complete < need {
		return fmt.Errorf("of the other replicas %d are complete, it takes %d: %w", complete, need, failed)
	}
	return nil
}

// beyondRepair has the replica given up: it can never be complete again under its
// id.
func (p *Partition) beyondRepair(why error) {
	p.logger.Error("replica cannot be completed; it is to be replaced", "err", why)
	p.mu.Lock()
	p.lost = why
	p.mu.Unlock()
	p.host.repairWanted(p)
}

// giveUp implements attendant's: it marks the replica as one that never starts
// again, stops it and moves its files aside. It reports whether it is done.
func (h *Host) giveUp(p *Partition, why error) bool {
	if err := h.mark(p, p.dir, why); err != nil {
		p.logger.Error("a replica that is to be given up was not marked; trying again", "err", err)
		return false
	}
	r, err := h.take(p.spec.Shard)
	if err != nil {
		return true // it is being stopped; the mark stands
	}
	defer h.release(p.spec.Shard)
	if r.Partition != p {
		return true // somebody gave it up before
	}
	if err := h.stopReplica(r); err != nil {
		p.logger.Error("a replica that is given up did not stop; restart the process", "err", err)
	}
	if err := h.moveAside(p.dir); err != nil {
		p.logger.Warn("files of a quarantined replica were not moved aside", "dir", p.dir, "err", err)
	}
	h.publishQuarantined(p.spec, fmt.Errorf("%s: %w: %w", p.dir, ErrQuarantined, why))
	return true
}

// repairClosed tries once to replace the sealed segment for which a replica could
// not be opened. ErrRepairing where that is for later; errNotRepairable where it
// never can be.
func (h *Host) repairClosed(p *Partition, dir string, why error) error {
	var d *commitlog.DamageError
	if !errors.As(why, &d) || len(p.otherNodes()) == 0 {
		return errNotRepairable
	}
	fs := h.options.FS
	m, err := fsm.ReadMarker(fs, dir)
	base, ok := d.Segment(fs)
	if err != nil || !ok || base >= m.Log.ActiveBase || fs.PathDir(d.File) != m.LogDir(fs, dir) {
		return errNotRepairable
	}
	ctx, cancel := context.WithTimeout(h.attendants.ctx, repairTimeout)
	defer cancel()
	offers, err := p.catchUp.offers(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRepairing, errors.Join(why, err))
	}
	for _, o := range offers {
		w, ok := o.manifest.Sealed(base)
		if !ok {
			continue
		}
		err = p.catchUp.replace(ctx, w, func(s *commitlog.Staging) error {
			return commitlog.ReplaceIn(commitlog.Options{FS: fs, Dir: m.LogDir(fs, dir), Logger: p.logger}, w, s, p.quarantineFolder())
		})
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRepairing, errors.Join(why, err))
		}
		p.logger.Warn("a damaged segment was replaced by a peer's", "file", d.File, "reason", d.Reason)
		h.options.OnRepaired()
		return nil
	}
	if offers[0].manifest.State.LogStart > base {
		return errNotRepairable // trimmed everywhere: this replica is too old
	}
	return fmt.Errorf("%w: no peer has it: %w", ErrRepairing, why)
}

// openRepaired opens the machine again after each segment that was replaced.
func (h *Host) openRepaired(p *Partition, dir string) (*openMachine, error) {
	for {
		m, err := h.openMachine(p, dir)
		if err == nil || !errors.Is(err, commitlog.ErrDamaged) || errors.Is(err, ErrQuarantined) {
			return m, err
		}
		p.damagedAtStart(err)
		switch failed := h.repairClosed(p, dir, err); {
		case errors.Is(failed, errNotRepairable):
			return nil, h.quarantine(p, dir, err)
		case failed != nil:
			return nil, failed
		}
	}
}

// mark marks the replica durably as one that never starts again.
func (h *Host) mark(p *Partition, dir string, why error) error {
	fs := h.options.FS
	if err := storage.MkdirAll(fs, dir); err != nil {
		return err
	}
	if err := storage.WriteFileAtomic(fs, fs.PathJoin(dir, quarantineMark), []byte(why.Error()+"\n")); err != nil {
		return fmt.Errorf("mark %s as quarantined: %w", dir, err)
	}
	p.logger.Error("replica is quarantined; it is replaced under a new replica id", "dir", dir, "err", why)
	return nil
}

// publishQuarantined shows a quarantined replica.
func (h *Host) publishQuarantined(s Spec, why error) {
	p := newPartition(s, &h.options, nodeRaft{h.options.Node}, h.attendants)
	p.dir, p.transfers = h.directory(s), h.transfers
	p.state, p.failed = StateQuarantined, why
	h.publish(&replica{Partition: p})
	h.options.OnQuarantined()
}
