package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockName is the file inside a locked directory that carries the lock.
const lockName = "LOCK"

// DirLock is the exclusive right of this process to a directory. The kernel
// drops it when the process ends, however it ends.
type DirLock struct {
	f   *os.File
	dir string
}

// LockDir takes the lock on dir, which must exist. It does not wait: where
// another process has the lock the error says so and names dir. It always
// works on the real file system.
func LockDir(dir string) (*DirLock, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock file of %s: %w", dir, err)
	}
	// flock belongs to the open file, not to the process: a second LockDir in
	// the same process is refused as well.
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("directory %s is in use by another process; "+
			"stop that process or choose another directory: %w", dir, err), f.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return &DirLock{f: f, dir: dir}, nil
}

// Dir returns the directory that is locked.
func (l *DirLock) Dir() string { return l.dir }

// Close gives the lock back. The lock file stays: to remove it would let two
// processes lock two files of the same name.
func (l *DirLock) Close() error {
	if err := l.f.Close(); err != nil {
		return fmt.Errorf("unlock %s: %w", l.dir, err)
	}
	return nil
}
