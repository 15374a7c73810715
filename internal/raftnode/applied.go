package raftnode

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/statemachine"
)

// watchedMachine is a state machine in memory that notes how far it has come:
// the index of the last command or snapshot. Entries without a command (a new
// leader's first, changes of membership) never reach a state machine.
type watchedMachine struct {
	statemachine.IStateMachine
	applied *atomic.Uint64
	closed  func() // told by Close
	// snapshotIndex is the index of the replica's newest snapshot, which is the
	// one that it recovers from.
	snapshotIndex func() (uint64, error)
}

// Update implements statemachine.IStateMachine.
func (m *watchedMachine) Update(e statemachine.Entry) (statemachine.Result, error) {
	r, err := m.IStateMachine.Update(e)
	if err == nil {
		m.applied.Store(e.Index)
	}
	return r, err
}

// RecoverFromSnapshot implements statemachine.IStateMachine.
func (m *watchedMachine) RecoverFromSnapshot(r io.Reader, files []statemachine.SnapshotFile, stop <-chan struct{}) error {
	if err := m.IStateMachine.RecoverFromSnapshot(r, files, stop); err != nil {
		return err
	}
	index, err := m.snapshotIndex()
	if err != nil {
		return err
	}
	m.applied.Store(max(m.applied.Load(), index))
	return nil
}

// Close implements statemachine.IStateMachine.
func (m *watchedMachine) Close() error {
	defer m.closed()
	return m.IStateMachine.Close()
}

// watched makes the state machines of StartInMemory watched ones.
func (n *Node) watched(r *replica, create func(shard, replica uint64) statemachine.IStateMachine) func(shard, replica uint64) statemachine.IStateMachine {
	return func(shard, replica uint64) statemachine.IStateMachine {
		return &watchedMachine{create(shard, replica), &r.applied, r.unload, func() (uint64, error) {
			snapshot, err := n.store.GetSnapshot(shard, replica)
			if err != nil {
				return 0, fmt.Errorf("raftnode: read the snapshot record of shard %d replica %d: %w", shard, replica, err)
			}
			return snapshot.Index, nil
		}}
	}
}
