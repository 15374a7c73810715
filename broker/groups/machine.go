package groups

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/errcode"
)

// state is what a coordinator shard replicates.
type state struct {
	epoch   int32  // of the present coordinator; only rises
	replica uint64 // whose epoch it is
	groups  map[string]*group
}

// machine is the state machine of a coordinator shard. Everything it does
// follows from the entries alone: no clock, no randomness, and no map is walked
// on the way to a result or a snapshot where the order could show.
//
// Entries carry the epoch of the coordinator that proposed them, and only those
// of the present epoch count: Raft does not tell a state machine the term of an
// entry, and a deposed leader's queue is forwarded to its successor.
type machine struct {
	// opened is told each new epoch, from the goroutine that applies. It is
	// called without mu and must not block.
	opened func(epoch int32, replica uint64)

	// mu guards state: Update writes it, the coordinator of this node reads it.
	mu sync.RWMutex
	state
}

func newMachine(opened func(epoch int32, replica uint64)) *machine {
	return &machine{opened: opened, state: state{groups: map[string]*group{}}}
}

// Update applies one entry. It never fails: an operation that cannot be carried
// out answers with a code.
func (m *machine) Update(e statemachine.Entry) (statemachine.Result, error) {
	in, ok := decode(e.Cmd)
	if !ok {
		return statemachine.Result{Value: verdictUnknown}, nil
	}
	if in.Replica != 0 {
		return statemachine.Result{Value: m.open(in)}, nil
	}
	outcomes, ok := m.apply(in)
	if !ok {
		return statemachine.Result{Value: verdictFenced}, nil
	}
	return statemachine.Result{Value: verdictApplied, Data: encodeOutcomes(outcomes)}, nil
}

// open begins a new epoch. One that is not above the present one changes nothing.
func (m *machine) open(in entry) uint64 {
	m.mu.Lock()
	stale := in.Epoch <= m.epoch
	if !stale {
		m.epoch, m.replica = in.Epoch, in.Replica
	}
	m.mu.Unlock()
	if stale {
		return verdictStale
	}
	m.opened(in.Epoch, in.Replica)
	return verdictOpened
}

func (m *machine) apply(in entry) (outcomes []outcome, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if in.Epoch != m.epoch {
		return nil, false
	}
	outcomes = make([]outcome, len(in.Ops))
	for i := range in.Ops {
		outcomes[i] = m.execute(&in.Ops[i], in.TimeMs)
	}
	return outcomes, true
}

// current returns the present epoch and whose it is.
func (m *machine) current() (epoch int32, replica uint64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.epoch, m.replica
}

// read calls look with the state, which it must not keep or change.
func (m *machine) read(look func(*state)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	look(&m.state)
}

// Lookup is not used: the coordinator reads through read.
func (m *machine) Lookup(any) (any, error) {
	return nil, errcode.New(errcode.InvalidRequest, "group shards answer no queries")
}

// Close does nothing.
func (m *machine) Close() error { return nil }

// SaveSnapshot writes the state machine as JSON. dragonboat does not call it
// beside Update.
func (m *machine) SaveSnapshot(w io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := json.NewEncoder(w).Encode(m.snapshot()); err != nil {
		return fmt.Errorf("writing the snapshot of consumer groups: %w", err)
	}
	return nil
}

// RecoverFromSnapshot replaces the state machine by a snapshot. An error ends
// the process: a node must not go on with half of the groups.
func (m *machine) RecoverFromSnapshot(r io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	var s snapshot
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return fmt.Errorf("reading the snapshot of consumer groups: %w", err)
	}
	next, err := s.state()
	if err != nil {
		return fmt.Errorf("the snapshot of consumer groups: %w", err)
	}
	m.mu.Lock()
	m.state = next
	m.mu.Unlock()
	m.opened(next.epoch, next.replica)
	return nil
}
