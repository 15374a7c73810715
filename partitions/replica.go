package partitions

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/raftnode"
	"logbroker/internal/storage"
	"logbroker/partitions/fsm"
)

// Names in and of a replica's directory, which is <Dir>/<shard>-<replica>.
const (
	quarantineMark   = "QUARANTINED"
	quarantineFolder = "quarantine"
	removedSuffix    = ".removed"
)

// machineCloseTimeout bounds how long a stop waits for Raft to close the state
// machine; Raft does it when no worker uses it any more.
const machineCloseTimeout = 30 * time.Second

// What is wrong where a replica's files and its Raft log do not belong together.
var (
	// errBehind: the files are older than the Raft log.
	errBehind = errors.New("files were lost or put back from a copy")
	// errShortened: the Raft log is older than the files.
	errShortened = errors.New("the Raft log was lost, cut short or put back from a copy")
)

// openMachine is a state machine that was opened before Raft got it. Raft would
// end the process where its Open fails; opened by us, a damaged replica is
// quarantined alone.
type openMachine struct {
	*fsm.FSM
	applied  uint64
	once     sync.Once
	closed   chan struct{}
	closeErr error // read after closed
}

// Open gives Raft the index that the real Open found.
func (m *openMachine) Open(<-chan struct{}) (uint64, error) { return m.applied, nil }

// Close closes the machine once: Raft calls it at the stop, and Start where
// Raft did not take it.
func (m *openMachine) Close() error {
	m.once.Do(func() {
		m.closeErr = m.FSM.Close()
		close(m.closed)
	})
	return m.closeErr
}

// waitClosed waits until Raft has closed the machine.
func (m *openMachine) waitClosed() error {
	late := time.NewTimer(machineCloseTimeout)
	defer late.Stop()
	select {
	case <-m.closed:
		return m.closeErr
	case <-late.C:
		return fmt.Errorf("partitions: the state machine was not closed within %v; restart the process", machineCloseTimeout)
	}
}

func (h *Host) directory(s Spec) string {
	return h.options.FS.PathJoin(h.options.Dir, ReplicaKey{Shard: s.Shard, Replica: s.Replica}.directory())
}

// prepare decides whether the replica may run, and opens its state machine.
//
// No empty or shortened log may ever vote. A replica that the metadata has as
// started was bootstrapped then; without its Raft log it would be bootstrapped
// again, with an empty log, and could elect a leader that lacks acked records.
func (h *Host) prepare(p *Partition) (*openMachine, error) {
	dir := h.directory(p.spec)
	fs := h.options.FS
	if _, err := fs.Stat(fs.PathJoin(dir, quarantineMark)); err == nil {
		return nil, fmt.Errorf("%s: %w", dir, ErrQuarantined)
	} else if !storage.NotExist(err) {
		return nil, fmt.Errorf("stat the quarantine mark in %s: %w", dir, err)
	}
	known := h.options.Node.HasReplica(p.spec.Shard, p.spec.Replica)
	if p.spec.Restart && !known {
		return nil, h.quarantineDamaged(p, dir, errors.New("the replica is marked as started and its Raft log is gone"))
	}
	if known {
		if err := h.checkRaftLog(p, dir); err != nil {
			return nil, err
		}
	}
	if !known {
		if err := h.checkEmpty(dir); err != nil {
			return nil, err
		}
		// The parent's own name must survive a power cut too.
		if err := storage.MkdirAll(fs, h.options.Dir); err != nil {
			return nil, err
		}
	}
	if err := storage.MkdirAll(fs, dir); err != nil {
		return nil, err
	}
	return h.openRepaired(p, dir)
}

// checkRaftLog quarantines a replica whose Raft log is damaged, or ends before
// what is recorded of it. Both come before Raft and the state machine get to see
// anything: the one would end the process, the other would bring back a replica
// that has forgotten what it acknowledged.
func (h *Host) checkRaftLog(p *Partition, dir string) error {
	s := p.spec
	tail, err := h.options.Node.CheckLog(s.Shard, s.Replica)
	if err == nil {
		err = h.tails.check(ReplicaKey{Shard: s.Shard, Replica: s.Replica}, tail)
	}
	if !errors.Is(err, raftnode.ErrLogDamaged) && !errors.Is(err, errShortened) {
		return err
	}
	return h.quarantineDamaged(p, dir, err)
}

// checkEmpty refuses the directory of a new replica that holds anything.
func (h *Host) checkEmpty(dir string) error {
	names, err := h.options.FS.List(dir)
	switch {
	case storage.NotExist(err):
		return nil
	case err != nil:
		return fmt.Errorf("list %s: %w", dir, err)
	case len(names) > 0:
		return fmt.Errorf("%s holds %s and more: %w", dir, names[0], ErrLeftovers)
	}
	return nil
}

func (h *Host) openMachine(p *Partition, dir string) (*openMachine, error) {
	m := &openMachine{
		FSM: fsm.New(fsm.Options{
			FS: h.options.FS, Dir: dir, ShardID: p.spec.Shard, ReplicaID: p.spec.Replica,
			IndexIntervalBytes: h.options.IndexIntervalBytes, Logger: h.options.Logger, Observer: p, Unread: p.follows,
			TimeSync: timed(h.options.OnSync), TimeSave: timed(h.options.OnSave), Fetcher: &p.catchUp,
			NoDeduplication: h.options.NoDeduplication,
		}),
		closed: make(chan struct{}),
	}
	p.machine = m.FSM
	applied, err := m.FSM.Open(nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the replica in %s: %w", dir, err), m.Close())
	}
	m.applied = applied
	if err := h.checkLog(p, applied); err != nil {
		err = errors.Join(err, m.Close())
		if errors.Is(err, errBehind) || errors.Is(err, errShortened) {
			return nil, h.quarantineDamaged(p, dir, err)
		}
		return nil, err
	}
	return m, nil
}

// checkLog refuses files that are older than the Raft log: what lies between was
// compacted away, so they can never be brought up to date from it. And it
// refuses a Raft log that is older than the files: what it has lost it may have
// acknowledged, and with it the replica could elect a leader that lacks it.
func (h *Host) checkLog(p *Partition, applied uint64) error {
	s := p.spec
	if !h.options.Node.HasReplica(s.Shard, s.Replica) {
		return nil
	}
	floor, err := h.options.Node.AppliedFloor(s.Shard, s.Replica)
	if err != nil {
		return err
	}
	if applied < floor {
		return fmt.Errorf("%w: the files end at index %d, the Raft log begins behind %d", errBehind, applied, floor)
	}
	end, err := h.options.Node.LogEnd(s.Shard, s.Replica)
	if err != nil {
		return err
	}
	if applied > end {
		return fmt.Errorf("%w: the files hold what index %d did, the Raft log ends at %d", errShortened, applied, end)
	}
	return nil
}

// startShard hands the replica to Raft.
func (h *Host) startShard(p *Partition, m *openMachine) error {
	shard := p.spec.first()
	if h.options.Node.HasReplica(p.spec.Shard, p.spec.Replica) {
		shard.Members = nil
	}
	return h.options.Node.StartOnDisk(shard, func(_, _ uint64) statemachine.IOnDiskStateMachine { return m })
}

// first is how Raft gets to know the replica.
func (s Spec) first() raftnode.Shard {
	shard := raftnode.Shard{ID: s.Shard, Replica: s.Replica, Members: s.Members}
	if s.Join {
		shard.Members, shard.Join, shard.NonVoting = nil, true, true
	}
	return shard
}

// quarantineDamaged is quarantine for what this start has found.
func (h *Host) quarantineDamaged(p *Partition, dir string, why error) error {
	p.damagedAtStart(why)
	return h.quarantine(p, dir, why)
}

// quarantine marks the replica durably as one that never starts again, and
// then moves its files aside. The order matters: after the mark nothing can
// make it start, whatever is lost of the rest.
func (h *Host) quarantine(p *Partition, dir string, why error) error {
	p.machine = nil
	if err := h.mark(p, dir, why); err != nil {
		return err
	}
	if err := h.moveAside(dir); err != nil {
		p.logger.Warn("files of a quarantined replica were not moved aside", "dir", dir, "err", err)
	}
	return fmt.Errorf("%s: %w: %w", dir, ErrQuarantined, why)
}

// moveAside moves everything but the mark into the quarantine folder.
func (h *Host) moveAside(dir string) error {
	fs := h.options.FS
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	folder := fs.PathJoin(dir, quarantineFolder)
	if err := storage.MkdirAll(fs, folder); err != nil {
		return err
	}
	for _, name := range names {
		if name == quarantineMark || name == quarantineFolder {
			continue
		}
		if err := fs.Rename(fs.PathJoin(dir, name), fs.PathJoin(folder, name)); err != nil {
			return err
		}
	}
	return errors.Join(storage.SyncDir(fs, folder), storage.SyncDir(fs, dir))
}

// removeDirectory deletes dir. It is renamed first, so that after a crash no
// half of it can pass for a replica's directory.
func (h *Host) removeDirectory(dir string) error {
	fs := h.options.FS
	removed := dir + removedSuffix
	if _, err := fs.Stat(dir); err == nil {
		if err := fs.Rename(dir, removed); err != nil {
			return fmt.Errorf("rename %s to remove it: %w", dir, err)
		}
		if err := storage.SyncDir(fs, h.options.Dir); err != nil {
			return err
		}
	} else if !storage.NotExist(err) {
		return fmt.Errorf("stat %s to remove it: %w", dir, err)
	}
	if err := fs.RemoveAll(removed); err != nil {
		return fmt.Errorf("remove %s: %w", removed, err)
	}
	return nil
}

// sweep deletes what a removal cut short by a crash left.
func (h *Host) sweep() {
	fs := h.options.FS
	names, err := fs.List(h.options.Dir)
	if err != nil {
		return // no directory yet
	}
	for _, name := range names {
		if !strings.HasSuffix(name, removedSuffix) {
			continue
		}
		if err := fs.RemoveAll(fs.PathJoin(h.options.Dir, name)); err != nil {
			h.options.Logger.Warn("a removed replica's directory could not be deleted", "dir", name, "err", err)
		}
	}
}
