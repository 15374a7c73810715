package storage

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

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
