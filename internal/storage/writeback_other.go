//go:build !linux

package storage

// WriteBack pushes the n bytes of f from position on to the device. Only Linux
// can do that for a range; here it is f.Sync, whose error means that bytes are
// lost.
func WriteBack(f File, position, n int64) error { return f.Sync() }

// ForgetCached does nothing: only Linux has the advice.
func ForgetCached(File, int64, int64) {}
