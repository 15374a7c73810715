package powerloss

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// watchTick is how often a watch looks whether it should end, in milliseconds.
const watchTick = 100

// watch hears of files in directories (inotify(7)).
type watch struct{ fd int }

func newWatch() (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &watch{fd: fd}, nil
}

// What add can ask for: new files, and writes to those there are.
const (
	created = unix.IN_CREATE | unix.IN_MOVED_TO
	written = unix.IN_MODIFY
)

// add watches what is at path; a file that has been renamed or removed meanwhile,
// as temporary ones are, says nothing.
func (w *watch) add(path string, events uint32) error {
	if _, err := unix.InotifyAddWatch(w.fd, path, events); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	return nil
}

func (w *watch) close() { _ = unix.Close(w.fd) } // nothing was written

// await returns the name of the next file that fits.
func (w *watch) await(ctx context.Context, fits func(name string) bool) (string, error) {
	buffer := make([]byte, 64<<10)
	for ctx.Err() == nil {
		poll := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, watchTick); n == 0 || errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return "", fmt.Errorf("waiting for a new file: %w", err)
		}
		n, err := unix.Read(w.fd, buffer)
		if err != nil {
			return "", fmt.Errorf("reading of new files: %w", err)
		}
		for _, name := range namesIn(buffer[:n]) {
			if fits(name) {
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("no such file was made: %w", ctx.Err())
}

// namesIn reads inotify events: 4 watch, 4 mask, 4 cookie, 4 length, name with
// zeros behind it.
func namesIn(b []byte) (names []string) {
	for len(b) >= unix.SizeofInotifyEvent {
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		names = append(names, string(bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00")))
		b = b[end:]
	}
	return names
}
