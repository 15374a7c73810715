package raftnode

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lni/vfs"

	"logbroker/internal/storage"
)

// hostFS is the file system that dragonboat and tan see. It differs from the one
// below in four things:
//
//   - dragonboat puts the host name into every path below its directory, so that
//     a renamed host would look like a lost disk and bootstrap empty logs. The
//     component is replaced by a fixed one. (dragonboat also compares the host
//     name in its flag file: forgetHostname.)
//   - tan preallocates 64 MiB per replica, but only where a file is an *os.File.
//     Here no file is.
//   - syncs of log files are counted and timed, and a failed one is told to
//     Options.Fatal before dragonboat panics.
//   - a log file is durable before its index file exists: Rename.
type hostFS struct {
	vfs.FS
	dir      string // absolute; dragonboat makes its paths absolute
	hostDir  string // dir/<host name>, the path that dragonboat uses
	fixedDir string // dir/fixedComponent, the path that is used instead
	syncs    *syncStats
	fatal    func(error)
}

// fixedComponent stands where dragonboat has the host name.
const fixedComponent = "node"

func newHostFS(o Options, syncs *syncStats) (*hostFS, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("raftnode: raft directory %q: %w", o.Dir, err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("raftnode: host name: %w", err)
	}
	return &hostFS{
		FS:       o.FS,
		dir:      dir,
		hostDir:  filepath.Join(dir, host),
		fixedDir: filepath.Join(dir, fixedComponent),
		syncs:    syncs,
		fatal:    o.fatal,
	}, nil
}

// at replaces the host name in a path.
func (f *hostFS) at(name string) string {
	if rest, ok := strings.CutPrefix(name, f.hostDir); ok && (rest == "" || rest[0] == filepath.Separator) {
		return f.fixedDir + rest
	}
	return name
}

// wrap hides what kind of file it is; log files get their syncs watched.
func (f *hostFS) wrap(name string, file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(name, ".log") {
		return &logFile{File: file, fs: f}, nil
	}
	return plainFile{file}, nil
}

// Create implements vfs.FS.
func (f *hostFS) Create(name string) (vfs.File, error) {
	file, err := f.FS.Create(f.at(name))
	wrapped, err := f.wrap(name, file, err)
	if log, ok := wrapped.(*logFile); ok {
		log.fresh = true
	}
	return wrapped, err
}

// Link implements vfs.FS.
func (f *hostFS) Link(from, to string) error { return f.FS.Link(f.at(from), f.at(to)) }

// Open implements vfs.FS.
func (f *hostFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.Open(f.at(name), opts...)
	return f.wrap(name, file, err)
}

// OpenDir implements vfs.FS.
func (f *hostFS) OpenDir(name string) (vfs.File, error) { return f.FS.OpenDir(f.at(name)) }

// OpenForAppend implements vfs.FS.
func (f *hostFS) OpenForAppend(name string) (vfs.File, error) {
	file, err := f.FS.OpenForAppend(f.at(name))
	return f.wrap(name, file, err)
}

// Remove implements vfs.FS.
func (f *hostFS) Remove(name string) error { return f.FS.Remove(f.at(name)) }

// RemoveAll implements vfs.FS.
func (f *hostFS) RemoveAll(name string) error { return f.FS.RemoveAll(f.at(name)) }

// Rename implements vfs.FS. It is how an index file of tan comes into being, when
// a log file is full, rebuilt or closed. The index points at records that may be
// unsynced (a commit index alone is not synced), and tan closes the log without a
// sync: after a power cut the place of the last hard state would lie past the
// end of the log, which tan reads as no hard state at all, that is as no term and
// no vote. So the log is made durable before its index.
func (f *hostFS) Rename(from, to string) error {
	if number, ok := strings.CutSuffix(to, ".index"); ok {
		if err := f.syncLog(number + ".log"); err != nil {
			err = fmt.Errorf("raftnode: sync of the Raft log before its index: %w", err)
			f.fatal(err)
			return err
		}
	}
	return f.FS.Rename(f.at(from), f.at(to))
}

// ReuseForWrite implements vfs.FS.
func (f *hostFS) ReuseForWrite(from, to string) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(f.at(from), f.at(to))
	return f.wrap(to, file, err)
}

// MkdirAll implements vfs.FS.
func (f *hostFS) MkdirAll(dir string, perm os.FileMode) error { return f.FS.MkdirAll(f.at(dir), perm) }

// Lock implements vfs.FS.
func (f *hostFS) Lock(name string) (io.Closer, error) { return f.FS.Lock(f.at(name)) }

// List implements vfs.FS.
func (f *hostFS) List(dir string) ([]string, error) { return f.FS.List(f.at(dir)) }

// Stat implements vfs.FS.
func (f *hostFS) Stat(name string) (os.FileInfo, error) { return f.FS.Stat(f.at(name)) }

// GetDiskUsage implements vfs.FS.
func (f *hostFS) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	return f.FS.GetDiskUsage(f.at(path))
}

// plainFile is a file that is no *os.File.
type plainFile struct{ vfs.File }

// logFile is one of tan's log files.
type logFile struct {
	vfs.File
	fs *hostFS
	// fresh: the file was created empty, so written is its size.
	fresh   bool
	written atomic.Int64
	// forgotten is up to where the page cache was given up.
	forgotten atomic.Int64
}

// The Raft log is written, synced and then hardly ever read: what a replica
// needs of it stands in memory, but for a follower that fell behind. In the page
// cache it would push out the segments, which consumers read.
const (
	// cachedTail is how much of the end of a log stays cached, in bytes.
	cachedTail = 4 << 20
	// forgetStep is how much is given up at a time: fewer system calls.
	forgetStep = 1 << 20
)

// Write implements vfs.File.
func (f *logFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.written.Add(int64(n))
	return n, err
}

// Sync makes the log durable. An error is final: a second fsync after a failed
// one returns nil and lies. tan panics on it; Fatal hears of it first.
func (f *logFile) Sync() error {
	begin, durable := time.Now(), f.written.Load()
	if err := f.File.Sync(); err != nil {
		err = fmt.Errorf("raftnode: sync of the Raft log: %w", err)
		f.fs.fatal(err)
		return err
	}
	f.fs.syncs.observe(time.Since(begin))
	f.forgetCached(durable - cachedTail)
	return nil
}

// forgetCached gives up the page cache below upTo.
func (f *logFile) forgetCached(upTo int64) {
	from := f.forgotten.Load()
	if f.fresh && upTo >= from+forgetStep && f.forgotten.CompareAndSwap(from, upTo) {
		storage.ForgetCached(f.File, from, upTo-from)
	}
}

// syncLogs makes every log file in dir durable. A process killed between a write
// and its fsync leaves bytes that a restarted process reads but that a power cut
// can still take; they must not be acted upon before they are durable.
func (f *hostFS) syncLogs(dir string) error {
	names, err := f.List(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".log") {
			continue
		}
		if err := f.syncLog(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func (f *hostFS) syncLog(name string) error {
	file, err := f.FS.Open(f.at(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil // obsolete, removed by tan meanwhile
	}
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
