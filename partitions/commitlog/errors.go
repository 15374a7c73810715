package commitlog

import (
	"errors"
	"fmt"

	"logbroker/internal/errcode"
)

// ErrDamaged says that bytes on disk are not what was written. It is never
// repaired in place: the replica has to be replaced or repaired from a peer.
// The error that wraps it is a *DamageError.
var ErrDamaged = errors.New("the log is damaged: stop serving this replica and repair it from another one")

// ErrClosed is returned by everything that is called after Close.
var ErrClosed = errors.New("the log is closed")

// DamageError names the place of the damage. It wraps ErrDamaged.
type DamageError struct {
	File     string // path of the damaged file
	Position int64  // byte from which on File cannot be trusted
	Reason   string
}

// Error says where and what, and what to do.
func (e *DamageError) Error() string {
	return fmt.Sprintf("%s at byte %d: %s: %s", e.File, e.Position, e.Reason, ErrDamaged)
}

// Unwrap returns ErrDamaged and the code that a client sees,
// KAFKA_STORAGE_ERROR: another replica has what this one has lost.
func (e *DamageError) Unwrap() []error {
	return []error{ErrDamaged, errcode.New(errcode.StorageError, "%s", e.Error())}
}

func damaged(file string, position int64, format string, args ...any) error {
	return &DamageError{File: file, Position: position, Reason: fmt.Sprintf(format, args...)}
}

// OffsetRangeError is the error of a read at an offset that the log does
// not hold (any more or yet). It is returned by value.
type OffsetRangeError struct {
	Offset   int64 // what was asked for
	LogStart int64 // first offset that can be read
	End      int64 // next offset to be appended
}

// Error names the offsets that can be read.
func (e OffsetRangeError) Error() string {
	return fmt.Sprintf("offset %d is outside [%d, %d); start from the earliest or the latest offset",
		e.Offset, e.LogStart, e.End)
}

// Unwrap gives the error its code, OFFSET_OUT_OF_RANGE.
func (e OffsetRangeError) Unwrap() error {
	return errcode.New(errcode.OffsetOutOfRange, "%s", e.Error())
}
