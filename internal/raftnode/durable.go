package raftnode

import (
	"errors"
	"fmt"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/dragonboat/v4/statemachine"
)

// durableMachine is an on-disk state machine that tells how far it would come
// back after a power cut. Where one does, the Raft log is held to it: what is
// above is in the Raft log alone, so no entry of it may be compacted away and no
// record may say that it is in a snapshot of the replica's own.
//
// dragonboat calls Sync with the machine locked: nothing is applied until it returns.
// Of what it does then, two things need the state to be on disk, and for both there
// is another place to wait, or another way to tell:
//
//   - The record of a snapshot of the replica's own. It comes through SaveSnapshots,
//     which waits (logStore.awaitDurable).
//   - To throw away the data of a peer's snapshot. It came through SaveRaftState, so
//     it is known how far it reaches, and where the machine is not that far on disk,
//     Sync is Sync.
//
// So the machine is told to begin, and goes on applying while the disk is at work.
type durableMachine interface {
	// DurableIndex returns the index that the next Open returns at least. It may
	// be called at any time from any goroutine.
	DurableIndex() uint64
	// StartSync begins a Sync of what is applied by now. dragonboat's goroutines
	// call it as they call Sync.
	StartSync() error
	// AwaitDurable returns when DurableIndex is index or more, or no sync is under
	// way any more, or with what ended it. Any goroutine may call it.
	AwaitDurable(index uint64) error
}

// hostedMachine is what dragonboat sees of an on-disk state machine.
type hostedMachine struct {
	statemachine.IOnDiskStateMachine
	durable durableMachine // nil where it is none
	// received is how far the peers' snapshots reach that the replica was given.
	received func() uint64
	closed   func()
}

// Sync implements statemachine.IOnDiskStateMachine.
func (m *hostedMachine) Sync() error {
	if m.durable != nil && m.received() <= m.durable.DurableIndex() {
		return m.durable.StartSync()
	}
	return m.IOnDiskStateMachine.Sync()
}

// Close implements statemachine.IOnDiskStateMachine. It tells when it was closed.
func (m *hostedMachine) Close() error {
	defer m.closed()
	return m.IOnDiskStateMachine.Close()
}

// durably notes the machines that tell, and calls closed when a machine is closed.
func (n *Node) durably(closed func(), create func(shard, replica uint64) statemachine.IOnDiskStateMachine) func(shard, replica uint64) statemachine.IOnDiskStateMachine {
	return func(shard, replica uint64) statemachine.IOnDiskStateMachine {
		return n.store.host(shard, replica, create(shard, replica), closed)
	}
}

func (s *logStore) host(shard, replica uint64, machine statemachine.IOnDiskStateMachine, closed func()) *hostedMachine {
	m := &hostedMachine{IOnDiskStateMachine: machine, closed: closed, received: func() uint64 {
		r := s.replica(shard, replica)
		r.state.Lock()
		defer r.state.Unlock()
		return r.received
	}}
	if d, ok := machine.(durableMachine); ok {
		m.durable = d
		r := s.replica(shard, replica)
		r.state.Lock()
		defer r.state.Unlock()
		r.durable = d
	}
	return m
}

// receives notes a peer's snapshot, before it is recorded.
func (r *replicaLog) receives(snapshot *pb.Snapshot) {
	if pb.IsEmptySnapshot(*snapshot) || snapshot.Dummy {
		return
	}
	r.state.Lock()
	defer r.state.Unlock()
	r.received = max(r.received, snapshot.OnDiskIndex)
}

func (r *replicaLog) machine() durableMachine {
	r.state.Lock()
	defer r.state.Unlock()
	return r.durable
}

// awaitDurable returns when the machine has on disk what the record of a snapshot of
// the replica's own says of it. The replica's log is not held meanwhile.
func (s *logStore) awaitDurable(ud *pb.Update) error {
	m := s.replica(ud.ShardID, ud.ReplicaID).machine()
	if m == nil || !ud.Snapshot.Dummy {
		return nil
	}
	return m.AwaitDurable(ud.Snapshot.OnDiskIndex)
}

// checkDurable refuses to let go of index while the state machine could come
// back below it. Such a call is a programmer's mistake; the process ends of it.
func (s *logStore) checkDurable(shard, replica, index uint64) error {
	m := s.replica(shard, replica).machine()
	if m == nil {
		return nil
	}
	if d := m.DurableIndex(); index > d {
		return fmt.Errorf("shard %d replica %d: index %d is to go, the state machine's files are durable up to %d only: this is a bug, report it",
			shard, replica, index, d)
	}
	return nil
}

// checkCompaction is checkDurable for entries that are to go. The last entries
// that a snapshot covers may be some that no machine gets to see (a new leader's
// first, changes of membership): they may go where the snapshot is recorded and the
// machine has on disk what it has got of it.
func (s *logStore) checkCompaction(shard, replica, index uint64) error {
	above := s.checkDurable(shard, replica, index)
	if above == nil {
		return nil
	}
	snapshot, err := s.ILogDB.GetSnapshot(shard, replica) // tan has these files open: they were checked
	if err != nil {
		return errors.Join(above, err)
	}
	if index > snapshot.Index {
		return above
	}
	return s.checkDurable(shard, replica, snapshot.OnDiskIndex)
}

// checkSnapshot is checkDurable for a snapshot record. One that came from a peer
// is recorded before it is applied, with the data in it.
func (s *logStore) checkSnapshot(ud *pb.Update) error {
	if !ud.Snapshot.Dummy {
		return nil
	}
	return s.checkDurable(ud.ShardID, ud.ReplicaID, ud.Snapshot.OnDiskIndex)
}
