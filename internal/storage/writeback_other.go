//go:build !linux

package storage

// SyncData is f.Sync; on Linux it leaves out what a reader does not need.
func SyncData(f File) error { return f.Sync() }

// WriteBack pushes the n bytes of f from position on to the device. Only Linux
// can do that for a range; here it is f.Sync, whose error means that bytes are
// lost.
func WriteBack(f File, position, n int64) error { return f.Sync() }

// ForgetCached does nothing: only Linux has the advice.
func ForgetCached(File, int64, int64) {}
