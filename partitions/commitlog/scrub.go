package commitlog

import (
	"fmt"
	"io"

	"logbroker/internal/storage"
)

// Scrub reads the segment that holds offset from the disk, all of it as it is
// now, and checks what a Read would check, and against the segment's checksum
// what batches do not cover: leader epochs, and whole batches that were put back
// from a copy. It returns the offset at which the next segment begins, which is
// where the log ended when the last one was read. pace is called before every
// read with its size; its error ends the scrub. Damage is a *DamageError. It may
// run beside everything else.
func (l *Log) Scrub(offset int64, pace func(bytes int) error) (next int64, err error) {
	for {
		v := l.view.Load()
		if v.closed {
			return offset, ErrClosed
		}
		s := v.find(max(offset, v.segments[0].base))
		if !s.hold() {
			continue // trimmed or closed just now: the view tells
		}
		x := s.ext.Load()
		err := s.scrub(x, pace)
		s.release()
		if err != nil && l.view.Load().closed {
			// The files of a log that was replaced go without asking.
			return offset, ErrClosed
		}
		return x.end, err
	}
}

// scrub holds the file against x. The caller holds the segment.
func (s *segment) scrub(x *extent, pace func(bytes int) error) error {
	if x.length == 0 {
		return nil
	}
	// A file of its own: the readers' one is not kept open for a slow scrub.
	file, err := s.fs.Open(s.logPath)
	if storage.NotExist(err) {
		return damaged(s.logPath, 0, "the file is missing")
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", s.logPath, err)
	}
	defer file.Close() //nolint:errcheck // opened for reading: nothing can be lost by its close
	found, err := scanExtent(s.place, &pacedReader{file: file, pace: pace, forget: x.sealed}, s.base, x.length)
	if err != nil {
		return err
	}
	if found.end != x.end || found.crc != x.crc {
		return damaged(s.logPath, 0, "the file has end offset %d and checksum %08x up to byte %d, it was written with %d and %08x",
			found.end, found.crc, x.length, x.end, x.crc)
	}
	if !x.sealed || x.resident {
		return nil // the footer comes with the next Sync
	}
	ft, err := readFooter(s.place, s.base)
	if err == nil && ft != x.footer {
		err = damaged(s.path(s.base, footerSuffix), 0, "the footer is not the one that was written")
	}
	return err
}

// pacedReader asks pace before every read, and lets go of the page cache behind
// itself: the next scrub is to read the disk, and what clients read is to stay
// cached rather than what nobody does.
type pacedReader struct {
	file   storage.File
	pace   func(bytes int) error
	forget bool
}

var _ io.ReaderAt = (*pacedReader)(nil)

// ReadAt implements io.ReaderAt.
func (r *pacedReader) ReadAt(b []byte, at int64) (int, error) {
	if err := r.pace(len(b)); err != nil {
		return 0, err
	}
	n, err := r.file.ReadAt(b, at)
	if r.forget {
		storage.ForgetCached(r.file, at, int64(n))
	}
	return n, err
}
