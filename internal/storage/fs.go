// Package storage is the file system as the rest of the program sees it:
// an interface (so that tests can forget unsynced data and inject errors), the
// few durable operations built on it, and the lock on a data directory.
//
// It knows no file format. Everything that must survive a power cut goes
// through here: WriteFileAtomic, Truncate, SyncDir. Start reading there. The
// rule behind all three: a file's bytes are durable after its own Sync, its
// name only after a sync of the directory that holds it.
package storage

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lni/vfs"
)

// FS is a file system: the real one (OS) or one of a test.
type FS = vfs.FS

// File is an open file of an FS.
type File = vfs.File

// OpenOption is advice on how a file will be read.
type OpenOption = vfs.OpenOption

// tmpSuffix marks a file that is being written and is not valid yet. A reader
// of a directory may remove files with this suffix at any time before it
// starts writing itself.
const tmpSuffix = ".tmp"

// TmpSuffix returns the suffix of files that are half written. A crash can
// leave such files behind; the owner of a directory removes them at start.
func TmpSuffix() string { return tmpSuffix }

// OS returns the file system of the operating system.
func OS() FS { return vfs.Default }

// NewStrictMem returns an empty file system in memory that forgets, on
// ResetToSyncedState, every byte and every name that was not synced. For tests.
func NewStrictMem() *vfs.MemFS { return vfs.NewStrictMem() }

// WriteFileAtomic makes path hold exactly data, durably. After a crash at any
// moment path holds either its old content (or does not exist) or data, never
// a part: the bytes are written and synced under another name first. The
// directory must exist.
func WriteFileAtomic(fs FS, path string, data []byte) error {
	tmp := path + tmpSuffix
	if err := writeSynced(fs, tmp, data); err != nil {
		return err
	}
	// Before the rename the old file stands, after it the new one; the rename
	// itself is durable only after the sync of the directory.
	if err := fs.Rename(tmp, path); err != nil {
		return fmt.Errorf("rename %s to %s: %w", tmp, path, err)
	}
	return SyncDir(fs, fs.PathDir(path))
}

// writeSynced creates name with data and syncs its bytes (not its name).
func writeSynced(fs FS, name string, data []byte) error {
	f, err := fs.Create(name)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", name, err), f.Close())
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", name, err)
	}
	return nil
}

// WriteFileSynced makes path hold data and syncs the bytes, but neither is the
// replacement atomic nor the name durable before SyncDir. For files that
// nothing refers to yet; several of them share one SyncDir.
func WriteFileSynced(fs FS, path string, data []byte) error {
	return writeSynced(fs, path, data)
}

// OpenInPlace opens the existing file path for reading and writing, its content
// kept.
func OpenInPlace(fs FS, path string) (File, error) {
	// The one way that FS has to it. Nothing is renamed where both names are one.
	f, err := fs.ReuseForWrite(path, path)
	if err != nil {
		return nil, fmt.Errorf("open %s to write in place: %w", path, err)
	}
	return f, nil
}

// ReadFile returns the whole content of path. The error of a missing file
// matches os.ErrNotExist.
func ReadFile(fs FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer f.Close() //nolint:errcheck // opened for reading: nothing can be lost by its close
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// SyncDir makes the names in dir durable: files created, renamed or removed
// there before the call stay so after a power cut.
func SyncDir(fs FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("open directory %s to sync it: %w", dir, err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync directory %s: %w", dir, err), d.Close())
	}
	if err := d.Close(); err != nil {
		return fmt.Errorf("close directory %s: %w", dir, err)
	}
	return nil
}

// MkdirAll creates dir with all parents it lacks and makes the name of dir
// itself durable in its parent. Parents further up must be durable already or
// be made so by the caller.
func MkdirAll(fs FS, dir string) error {
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create directory %s: %w", dir, err)
	}
	return SyncDir(fs, fs.PathDir(dir))
}

// truncater is what an *os.File can do and a file in memory cannot.
type truncater interface{ Truncate(size int64) error }

// Truncate cuts path to size bytes, durably. It fails where the file is
// shorter than size: a file never grows by it. Nobody may write to path
// meanwhile; open readers keep reading what they had.
func Truncate(fs FS, path string, size int64) error {
	info, err := fs.Stat(path)
	if err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	if info.Size() < size {
		return fmt.Errorf("truncate %s to %d bytes: it has only %d", path, size, info.Size())
	}
	if info.Size() == size {
		return nil
	}
	f, err := fs.OpenForAppend(path)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	t, ok := f.(truncater)
	if !ok {
		if err := f.Close(); err != nil {
			return fmt.Errorf("close %s: %w", path, err)
		}
		return truncateByCopy(fs, path, size)
	}
	if err := t.Truncate(size); err != nil {
		return errors.Join(fmt.Errorf("truncate %s to %d bytes: %w", path, size, err), f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", path, err), f.Close())
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", path, err)
	}
	return nil
}

// truncateByCopy is Truncate where the FS has no truncation: the prefix goes
// to a new file, which then takes the name.
func truncateByCopy(fs FS, path string, size int64) error {
	src, err := fs.Open(path)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	data := make([]byte, size)
	_, err = io.ReadFull(src, data)
	if err = errors.Join(err, src.Close()); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return WriteFileAtomic(fs, path, data)
}

// FreeBytes returns how many bytes an unprivileged process may still write to
// the file system that holds dir.
func FreeBytes(dir string) (uint64, error) {
	u, err := vfs.Default.GetDiskUsage(dir)
	if err != nil {
		return 0, fmt.Errorf("read the free space of %s: %w", dir, err)
	}
	return u.AvailBytes, nil
}

// NotExist reports whether err says that a file does not exist.
func NotExist(err error) bool { return errors.Is(err, os.ErrNotExist) }
