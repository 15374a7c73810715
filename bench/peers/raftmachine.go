package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/storage"
)

// pushBytes is how much is written to a file before it is pushed to the disk, as
// a broker does with its segments. Without it the kernel lets dirty pages grow to
// a tenth of the memory and then writes them all at once; every sync of the Raft
// log waits behind that, for half a second, in whatever phase it falls.
const pushBytes = 4 << 20

// appendMachine writes every command to a file, one write per Update, and
// answers nothing. It starts empty: a node is never started twice.
type appendMachine struct {
	file    *os.File
	buf     []byte
	pending int64        // bytes written since the last kick; of Update alone
	written atomic.Int64 // bytes in the file
	kick    chan struct{}
	pushed  chan error // what push ended with
}

func newAppendMachine(file *os.File) *appendMachine {
	m := &appendMachine{file: file, kick: make(chan struct{}, 1), pushed: make(chan error, 1)}
	go func() { m.pushed <- m.push() }() // ends with Close
	return m
}

// push writes back what Update has written, until Close. It blocks on the disk
// only.
func (m *appendMachine) push() error {
	from := int64(0)
	for range m.kick {
		to := m.written.Load()
		if err := storage.WriteBack(m.file, from, to-from); err != nil {
			return fmt.Errorf("writing back what was applied: %w", err)
		}
		from = to
	}
	return nil
}

// Open implements statemachine.IOnDiskStateMachine.
func (m *appendMachine) Open(<-chan struct{}) (uint64, error) { return 0, nil }

// Update implements statemachine.IOnDiskStateMachine.
func (m *appendMachine) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	m.buf = m.buf[:0]
	for i := range entries {
		m.buf = append(m.buf, entries[i].Cmd...)
	}
	n, err := m.file.Write(m.buf)
	m.written.Add(int64(n))
	if m.pending += int64(n); m.pending >= pushBytes {
		m.pending = 0
		select {
		case m.kick <- struct{}{}:
		default: // push will take these bytes too
		}
	}
	return entries, err
}

// Lookup implements statemachine.IOnDiskStateMachine.
func (m *appendMachine) Lookup(any) (any, error) { return nil, nil }

// Sync implements statemachine.IOnDiskStateMachine.
func (m *appendMachine) Sync() error { return m.file.Sync() }

// PrepareSnapshot implements statemachine.IOnDiskStateMachine.
func (m *appendMachine) PrepareSnapshot() (any, error) { return nil, nil }

// SaveSnapshot implements statemachine.IOnDiskStateMachine.
func (m *appendMachine) SaveSnapshot(any, io.Writer, <-chan struct{}) error { return nil }

// RecoverFromSnapshot implements statemachine.IOnDiskStateMachine.
func (m *appendMachine) RecoverFromSnapshot(io.Reader, <-chan struct{}) error { return nil }

// Close implements statemachine.IOnDiskStateMachine.
func (m *appendMachine) Close() error {
	close(m.kick)
	return errors.Join(<-m.pushed, m.file.Close())
}
