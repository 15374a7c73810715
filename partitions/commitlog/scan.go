package commitlog

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"syscall"

	"logbroker/internal/recordbatch"
)

// scanBufferBytes is the size of a scan's reads.
const scanBufferBytes = 1 << 20

// lengthEnd is where a batch's length begins to count: batchLength says how
// many bytes follow it.
const lengthEnd = 12

// frame checks the header that b begins with and returns the size in bytes of
// the whole batch. b has at least recordbatch.HeaderSize bytes. reason is empty
// where the header can be the one of a batch at offset next.
func frame(b []byte, next, room int64) (size int64, reason string) {
	size = int64(int32(binary.BigEndian.Uint32(b[8:]))) + lengthEnd
	h := recordbatch.Batch(b[:recordbatch.HeaderSize])
	switch {
	case b[16] != 2:
		return 0, "this is not the begin of a batch (magic)"
	case size < recordbatch.HeaderSize || size > room:
		return 0, "the batch's length reaches outside the segment"
	case h.BaseOffset() != next:
		return 0, "the batch's offset does not continue its predecessor's"
	case h.LastOffsetDelta() < 0:
		return 0, "the batch's record count is negative"
	}
	return size, ""
}

// scanner walks over the batches of a segment file, front to back. It checks
// that their offsets are dense; checksums are the caller's to check.
type scanner struct {
	file     io.ReaderAt
	path     string
	size     int64 // bytes to scan
	next     int64 // offset that the batch at position must have
	position int64 // byte of the batch that scan returns next
	buf      []byte
	at       int64 // byte of the file at which buf begins
}

// scan returns the next batch, valid until the next call, and io.EOF behind the
// last. A *DamageError has the position of the batch that is none.
func (s *scanner) scan() (recordbatch.Batch, error) {
	if s.position == s.size {
		return nil, io.EOF
	}
	if s.size-s.position < recordbatch.HeaderSize {
		return nil, damaged(s.path, s.position, "%d bytes are no batch", s.size-s.position)
	}
	b, err := s.bytes(recordbatch.HeaderSize)
	if err != nil {
		return nil, err
	}
	n, reason := frame(b, s.next, s.size-s.position)
	if reason != "" {
		return nil, damaged(s.path, s.position, "%s", reason)
	}
	if b, err = s.bytes(n); err != nil {
		return nil, err
	}
	batch := recordbatch.Batch(b)
	s.position += n
	s.next = batch.NextOffset()
	return batch, nil
}

// bytes returns n bytes from position on, which the file must have.
func (s *scanner) bytes(n int64) ([]byte, error) {
	skip := s.position - s.at
	if int64(len(s.buf))-skip >= n {
		return s.buf[skip : skip+n], nil
	}
	// What is left of the last read is kept: large batches would else be read twice.
	var kept []byte
	if skip < int64(len(s.buf)) {
		kept = s.buf[skip:]
	}
	want := min(max(n, scanBufferBytes), s.size-s.position)
	if int64(cap(s.buf)) < want {
		s.buf = append(make([]byte, 0, want), kept...)
	} else {
		s.buf = s.buf[:copy(s.buf, kept)]
	}
	have := int64(len(s.buf))
	s.buf, s.at = s.buf[:want], s.position
	if err := readFull(s.file, s.path, s.buf[have:], s.position+have); err != nil {
		s.buf = s.buf[:0]
		return nil, err
	}
	return s.buf[:n], nil
}

// readFull fills b from position on. A file that ends before is damaged: its
// length was known. So is one that the disk cannot read any more: bytes that are
// gone do not come back by asking again.
func readFull(f io.ReaderAt, path string, b []byte, position int64) error {
	n, err := f.ReadAt(b, position)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return damaged(path, position+int64(n), "the file ends here, %d bytes too early", len(b)-n)
	}
	if errors.Is(err, syscall.EIO) {
		return damaged(path, position+int64(n), "the disk cannot read this: %v", err)
	}
	return &readError{path: path, err: err}
}

// readError is a failed read, with the file's name.
type readError struct {
	path string
	err  error
}

func (e *readError) Error() string { return "read " + e.path + ": " + e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// scanExtent walks over the first size bytes of a segment and returns its
// extent with checksum and index, but without append times. Every batch's own
// checksum is checked.
func scanExtent(p *place, f io.ReaderAt, base, size int64) (extent, error) {
	return scanOn(p, f, newExtent(base), size)
}

// scanOn is scanExtent of a segment whose begin is known: x. It reads what comes
// behind.
func scanOn(p *place, f io.ReaderAt, x extent, size int64) (extent, error) {
	s := &scanner{file: f, path: p.path(x.base, logSuffix), size: size, next: x.end, position: x.length}
	for {
		b, err := s.scan()
		if errors.Is(err, io.EOF) {
			return x, nil
		}
		if err != nil {
			return x, err
		}
		if err := b.CheckCRC(); err != nil {
			return x, damaged(s.path, x.length, "the batch at offset %d: %v", x.end, err)
		}
		x.crc = crc32.Update(x.crc, castagnoli, b)
		x.add(s.next, len(b), b.MaxTimestamp(), p.interval)
	}
}
