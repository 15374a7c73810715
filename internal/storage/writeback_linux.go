package storage

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// SyncData is f.Sync but for what a reader of the bytes does not need, which is
// the time of the last write: where only bytes were overwritten the file system has
// nothing to record, and it waits for these bytes alone.
func SyncData(f File) error {
	fd, ok := f.(interface{ Fd() uintptr })
	if !ok {
		return f.Sync()
	}
	for {
		err := unix.Fdatasync(int(fd.Fd()))
		if err != unix.EINTR {
			runtime.KeepAlive(f)
			return err
		}
	}
}

// WriteBack pushes the n bytes of f from position on to the device and waits
// for it. It makes nothing durable (no metadata, no device cache flush): it
// only leaves less for the next Sync to do. An error means that bytes are lost
// and that a later Sync of f may claim success: treat it like a failed Sync.
//
// Where f is no file of the operating system WriteBack is f.Sync.
func WriteBack(f File, position, n int64) error {
	fd, ok := f.(interface{ Fd() uintptr })
	if !ok {
		return f.Sync()
	}
	const how = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	err := unix.SyncFileRange(int(fd.Fd()), position, n, how)
	runtime.KeepAlive(f)
	// Some file systems (overlays, network mounts) do not know the call; Sync
	// does all the work there.
	if err == unix.ENOSYS || err == unix.EINVAL || err == unix.ESPIPE || err == unix.EOPNOTSUPP {
		return nil
	}
	if err != nil {
		return fmt.Errorf("push written data to disk: %w", err)
	}
	return nil
}

// ForgetCached lets the operating system give up its cached pages of the n bytes
// of f from position on. They must be durable: a dirty page stays. It is advice;
// reading the bytes later costs a disk read and nothing else changes. Where f is
// no file of the operating system nothing happens.
func ForgetCached(f File, position, n int64) {
	fd, ok := f.(interface{ Fd() uintptr })
	if !ok {
		return
	}
	_ = unix.Fadvise(int(fd.Fd()), position, n, unix.FADV_DONTNEED) // advice: without it the pages go later
	runtime.KeepAlive(f)
}
