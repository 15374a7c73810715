// Package storagetest makes a file system fail on purpose. It is for tests of
// everything that writes files through internal/storage: Wrap puts a Hook in
// front of every operation, Injector is the Hook that fails the n-th one, or
// everything from the n-th one on (the power is gone). Together with
// storage.NewStrictMem, which forgets what was not synced, it lets a test
// crash at every single operation. Start at Injector. Rewrite changes what a file
// holds, as a disk that rots does.
package storagetest

import (
	"errors"
	"io"
	"os"
	"sync"
	"testing"

	"logbroker/internal/storage"
)

// ErrInjected is the error that an Injector makes an operation fail with.
var ErrInjected = errors.New("injected error")

// Rewrite puts what change makes of the content of the file at path in its place,
// durably. change may change the slice that it is given.
func Rewrite(t testing.TB, fs storage.FS, path string, change func(data []byte) []byte) {
	t.Helper()
	data, err := storage.ReadFile(fs, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.WriteFileAtomic(fs, path, change(data)); err != nil {
		t.Fatal(err)
	}
}

// Kind is a kind of operation.
type Kind string

// The kinds.
const (
	Create  Kind = "create"
	Open    Kind = "open"   // for reading or appending, files and directories
	Remove  Kind = "remove" // RemoveAll too
	Rename  Kind = "rename" // Link and ReuseForWrite too
	Mkdir   Kind = "mkdir"
	List    Kind = "list"
	Stat    Kind = "stat"
	Read    Kind = "read"
	Write   Kind = "write"
	Sync    Kind = "sync"
	SyncDir Kind = "sync directory"
)

// Mutates reports whether operations of this kind change what is stored.
func (k Kind) Mutates() bool {
	switch k {
	case Create, Remove, Rename, Mkdir, Write, Sync, SyncDir:
		return true
	}
	return false
}

// Op is one operation that is about to happen.
type Op struct {
	Kind  Kind
	Path  string
	Bytes int // of a Write, or asked for by a Read
}

// Hook decides about an operation before it happens. With an error it does not
// happen and the error is its result, except that of a Write the first keep
// bytes are written: a torn write. It may be called by several goroutines.
type Hook func(Op) (keep int, err error)

// Wrap returns fs with hook in front of every operation but Close, Lock and
// GetDiskUsage. Its files have neither Truncate nor Fd.
func Wrap(fs storage.FS, hook Hook) storage.FS { return &faultFS{FS: fs, hook: hook} }

// Injector counts operations and fails the At-th one (1 is the first). Its
// fields are set before its first use.
type Injector struct {
	// At is the number of the operation that fails; 0 = none.
	At int
	// Sticky makes every later operation fail that changes something, or that
	// Match takes: nothing that happens after a crash may reach the disk.
	Sticky bool
	// Match says which operations count; nil = all.
	Match func(Op) bool
	// Keep says how many bytes of a failing Write are written; nil = none.
	Keep func(bytes int) int

	// mu guards what follows.
	mu    sync.Mutex
	count int
	fired Op
}

// Hook is a Hook.
func (i *Injector) Hook(op Op) (keep int, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	counts := i.Match == nil || i.Match(op)
	if i.fired.Kind != "" {
		if i.Sticky && (counts || op.Kind.Mutates()) {
			return 0, ErrInjected
		}
		return 0, nil
	}
	if !counts {
		return 0, nil
	}
	i.count++
	if i.count != i.At {
		return 0, nil
	}
	i.fired = op
	if op.Kind == Write && i.Keep != nil {
		keep = i.Keep(op.Bytes)
	}
	return keep, ErrInjected
}

// Fired returns the operation that failed; ok is false when there was none yet.
func (i *Injector) Fired() (op Op, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fired, i.fired.Kind != ""
}

// Count returns how many operations counted so far.
func (i *Injector) Count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.count
}

type faultFS struct {
	storage.FS
	hook Hook
}

func (f *faultFS) before(kind Kind, path string) error {
	_, err := f.hook(Op{Kind: kind, Path: path})
	return err
}

// wrap wraps what an operation of the file system opened.
func (f *faultFS) wrap(file storage.File, err error, path string, sync Kind) (storage.File, error) {
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fs: f, path: path, syncKind: sync}, nil
}

// Create implements storage.FS.
func (f *faultFS) Create(name string) (storage.File, error) {
	if err := f.before(Create, name); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name)
	return f.wrap(file, err, name, Sync)
}

// Open implements storage.FS. Options are not passed on: they only advise.
func (f *faultFS) Open(name string, _ ...storage.OpenOption) (storage.File, error) {
	if err := f.before(Open, name); err != nil {
		return nil, err
	}
	file, err := f.FS.Open(name)
	return f.wrap(file, err, name, Sync)
}

// OpenDir implements storage.FS.
func (f *faultFS) OpenDir(name string) (storage.File, error) {
	if err := f.before(Open, name); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenDir(name)
	return f.wrap(file, err, name, SyncDir)
}

// OpenForAppend implements storage.FS.
func (f *faultFS) OpenForAppend(name string) (storage.File, error) {
	if err := f.before(Open, name); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenForAppend(name)
	return f.wrap(file, err, name, Sync)
}

// ReuseForWrite implements storage.FS.
func (f *faultFS) ReuseForWrite(oldname, newname string) (storage.File, error) {
	if err := f.before(Rename, newname); err != nil {
		return nil, err
	}
	file, err := f.FS.ReuseForWrite(oldname, newname)
	return f.wrap(file, err, newname, Sync)
}

// Link implements storage.FS.
func (f *faultFS) Link(oldname, newname string) error {
	if err := f.before(Rename, newname); err != nil {
		return err
	}
	return f.FS.Link(oldname, newname)
}

// Rename implements storage.FS.
func (f *faultFS) Rename(oldname, newname string) error {
	if err := f.before(Rename, newname); err != nil {
		return err
	}
	return f.FS.Rename(oldname, newname)
}

// Remove implements storage.FS.
func (f *faultFS) Remove(name string) error {
	if err := f.before(Remove, name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

// RemoveAll implements storage.FS.
func (f *faultFS) RemoveAll(name string) error {
	if err := f.before(Remove, name); err != nil {
		return err
	}
	return f.FS.RemoveAll(name)
}

// MkdirAll implements storage.FS.
func (f *faultFS) MkdirAll(dir string, perm os.FileMode) error {
	if err := f.before(Mkdir, dir); err != nil {
		return err
	}
	return f.FS.MkdirAll(dir, perm)
}

// List implements storage.FS.
func (f *faultFS) List(dir string) ([]string, error) {
	if err := f.before(List, dir); err != nil {
		return nil, err
	}
	return f.FS.List(dir)
}

// Stat implements storage.FS.
func (f *faultFS) Stat(name string) (os.FileInfo, error) {
	if err := f.before(Stat, name); err != nil {
		return nil, err
	}
	return f.FS.Stat(name)
}

// Lock implements storage.FS.
func (f *faultFS) Lock(name string) (io.Closer, error) { return f.FS.Lock(name) }

type faultFile struct {
	storage.File
	fs       *faultFS
	path     string
	syncKind Kind
}

// Read implements storage.File.
func (f *faultFile) Read(b []byte) (int, error) {
	if _, err := f.fs.hook(Op{Kind: Read, Path: f.path, Bytes: len(b)}); err != nil {
		return 0, err
	}
	return f.File.Read(b)
}

// ReadAt implements storage.File.
func (f *faultFile) ReadAt(b []byte, position int64) (int, error) {
	if _, err := f.fs.hook(Op{Kind: Read, Path: f.path, Bytes: len(b)}); err != nil {
		return 0, err
	}
	return f.File.ReadAt(b, position)
}

// Write implements storage.File.
func (f *faultFile) Write(b []byte) (int, error) {
	keep, err := f.fs.hook(Op{Kind: Write, Path: f.path, Bytes: len(b)})
	if err == nil {
		return f.File.Write(b)
	}
	if keep == 0 {
		return 0, err
	}
	n, werr := f.File.Write(b[:min(keep, len(b))])
	return n, errors.Join(err, werr)
}

// WriteAt implements storage.File.
func (f *faultFile) WriteAt(b []byte, position int64) (int, error) {
	keep, err := f.fs.hook(Op{Kind: Write, Path: f.path, Bytes: len(b)})
	if err == nil {
		return f.File.WriteAt(b, position)
	}
	if keep == 0 {
		return 0, err
	}
	n, werr := f.File.WriteAt(b[:min(keep, len(b))], position)
	return n, errors.Join(err, werr)
}

// Stat implements storage.File.
func (f *faultFile) Stat() (os.FileInfo, error) {
	if err := f.fs.before(Stat, f.path); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

// Sync implements storage.File.
func (f *faultFile) Sync() error {
	if err := f.fs.before(f.syncKind, f.path); err != nil {
		return err
	}
	return f.File.Sync()
}
