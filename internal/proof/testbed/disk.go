package testbed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The ioctl that makes a file system forget all that it has not written, as if
// the power had gone: FS_IOC_SHUTDOWN, with FS_SHUTDOWN_FLAGS_NOLOGFLUSH. ext4
// and xfs know it (linux/fs/ext4/ext4.h, EXT4_IOC_SHUTDOWN).
const (
	shutdownCall   = 0x8004587d
	shutdownFlags  = 2
	unmountTries   = 100
	unmountTryWait = 20 * time.Millisecond
)

// disk is a node's file system: ext4 in a file.
type disk struct {
	image, mount string
}

// newDisk makes and mounts a file system of so many bytes below dir.
func newDisk(dir string, id int, bytes int64) (*disk, error) {
	d := &disk{image: filepath.Join(dir, fmt.Sprintf("disk-%d.img", id)), mount: filepath.Join(dir, fmt.Sprintf("disk-%d", id))}
	if err := os.MkdirAll(d.mount, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(d.image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(bytes), f.Close()); err != nil {
		return nil, err
	}
	if err := run("mkfs.ext4", "-q", "-F", "-m", "0", d.image); err != nil {
		return nil, err
	}
	return d, d.attach()
}

// attach mounts without the free blocks being discarded: that would only wear
// the file below.
func (d *disk) attach() error { return run("mount", "-o", "loop,nodiscard", d.image, d.mount) }

// powerLoss forgets everything that was not synced, and mounts what is left.
// The processes that use it must be dead.
func (d *disk) powerLoss() error {
	f, err := os.Open(d.mount)
	if err != nil {
		return err
	}
	err = unix.IoctlSetPointerInt(int(f.Fd()), shutdownCall, shutdownFlags)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cutting the power of %s: %w", d.mount, err)
	}
	if err := d.close(); err != nil {
		return err
	}
	return d.attach()
}

// close unmounts. A process that was just killed may hold files for a moment.
func (d *disk) close() error {
	var err error
	for range unmountTries {
		if err = unix.Unmount(d.mount, 0); err == nil || !errors.Is(err, unix.EBUSY) {
			break
		}
		<-time.After(unmountTryWait)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", d.mount, err)
	}
	return nil
}

func (d *disk) filler() string { return filepath.Join(d.mount, "filler") }

// fillTries: a node writes while its disk is filled, so that there is less than
// was just said.
const fillTries = 20

// fill takes all free space but leave bytes.
func (d *disk) fill(leave int64) error {
	f, err := os.OpenFile(d.filler(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing is written to it, it only has blocks
	for range fillTries {
		err = fillOnce(f, leave)
		if !errors.Is(err, unix.ENOSPC) {
			return err
		}
	}
	return nil // it is as full as it gets
}

// fillOnce gives f all space of its file system that is free just now, but leave
// bytes.
func fillOnce(f *os.File, leave int64) error {
	var s unix.Statfs_t
	var has unix.Stat_t
	if err := errors.Join(unix.Fstatfs(int(f.Fd()), &s), unix.Fstat(int(f.Fd()), &has)); err != nil {
		return err
	}
	take := int64(s.Bavail)*s.Bsize - leave
	if take <= 0 {
		return nil
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 512*has.Blocks, take); err != nil {
		return fmt.Errorf("fill %s: %w", f.Name(), err)
	}
	return nil
}

func (d *disk) free() error {
	if err := os.Remove(d.filler()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// sync makes all that was written durable, whatever the writer did.
func (d *disk) sync() error {
	f, err := os.Open(d.mount)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened for its descriptor only
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", d.mount, err)
	}
	return nil
}
