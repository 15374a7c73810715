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
type durableMachine interface {
	// DurableIndex returns the index that the next Open returns at least. It may
	// be called at any time from any goroutine.
	DurableIndex() uint64
}

// closingMachine tells when it was closed.
type closingMachine struct {
	statemachine.IOnDiskStateMachine
	closed func()
}

// Close implements statemachine.IOnDiskStateMachine.
func (m *closingMachine) Close() error {
	defer m.closed()
	return m.IOnDiskStateMachine.Close()
}

// durably notes the machines that tell, and calls closed when a machine is closed.
func (n *Node) durably(closed func(), create func(shard, replica uint64) statemachine.IOnDiskStateMachine) func(shard, replica uint64) statemachine.IOnDiskStateMachine {
	return func(shard, replica uint64) statemachine.IOnDiskStateMachine {
		m := create(shard, replica)
		if d, ok := m.(durableMachine); ok {
			n.store.holdTo(shard, replica, d.DurableIndex)
		}
		return &closingMachine{m, closed}
	}
}

func (s *logStore) holdTo(shard, replica uint64, durable func() uint64) {
	r := s.replica(shard, replica)
	r.state.Lock()
	defer r.state.Unlock()
	r.durable = durable
}

// checkDurable refuses to let go of index while the state machine could come
// back below it. Such a call is a programmer's mistake; the process ends of it.
func (s *logStore) checkDurable(shard, replica, index uint64) error {
	r := s.replica(shard, replica)
	r.state.Lock()
	durable := r.durable
	r.state.Unlock()
	if durable == nil {
		return nil
	}
	if d := durable(); index > d {
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
