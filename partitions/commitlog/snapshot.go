package commitlog

import "io"

// Pinned is the log as it was at one moment, for a snapshot. Its segments stay
// on disk until Close, whatever is trimmed.
type Pinned struct{}

// Pin pins the log as it is now.
func (l *Log) Pin() *Pinned { return nil }

// State returns the state that WriteTo will reproduce.
func (p *Pinned) State() State { return State{} }

// WriteTo writes the pinned log as one stream for Restore. It checks what it
// reads: a damaged segment ends it with a *DamageError, before the receiver
// can take the segment for whole. It may run beside Append and Sync.
func (p *Pinned) WriteTo(w io.Writer) (int64, error) { return 0, nil }

// Close releases the segments. It may be called more than once.
func (p *Pinned) Close() {}

// Restore replaces the segments in opts.Dir by the stream that Pinned.WriteTo
// wrote, checks and syncs all of it and returns the State to Open it with. It
// reads nothing behind the stream's end. The old segments are destroyed first:
// a marker that refers to them must be replaced before, or Dir must be a
// directory that no durable marker names yet.
func Restore(opts Options, r io.Reader) (State, error) { return State{}, nil }
