package fsm

import (
	"io"

	"github.com/lni/dragonboat/v4/statemachine"
)

type marker struct{}
type batchesToAppend struct{}
type snapshot struct{}

func current(h []EpochStart) EpochStart {
	if len(h) == 0 {
		return EpochStart{}
	}
	return h[len(h)-1]
}

// Open is not written yet.
func (f *FSM) Open(<-chan struct{}) (uint64, error) { panic("not written yet") }

// Update is not written yet.
func (f *FSM) Update(es []statemachine.Entry) ([]statemachine.Entry, error) {
	panic("not written yet")
}

// Sync is not written yet.
func (f *FSM) Sync() error { panic("not written yet") }

// PrepareSnapshot is not written yet.
func (f *FSM) PrepareSnapshot() (any, error) { panic("not written yet") }

// SaveSnapshot is not written yet.
func (f *FSM) SaveSnapshot(any, io.Writer, <-chan struct{}) error { panic("not written yet") }

// RecoverFromSnapshot is not written yet.
func (f *FSM) RecoverFromSnapshot(io.Reader, <-chan struct{}) error { panic("not written yet") }

// Close is not written yet.
func (f *FSM) Close() error { panic("not written yet") }

func (f *FSM) publishConfig() {
	c := f.config
	f.published.config.Store(&c)
}
