package tanfiles

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/cespare/xxhash/v2"
)

// A file is cut into blocks of 32 KiB, a block holds chunks, and a record is one
// chunk or several. A chunk is: the low half of the xxhash64 of type and payload,
// u32; the payload's length, u16; the type; the payload. A chunk never crosses a
// block's end; where no header fits any more the block is filled with zeros. All
// numbers are little-endian. (Written by dragonboat internal/tan/record.go.)
const (
	blockBytes = 32 << 10
	chunkBytes = 7 // of a chunk's header
	// longHeaderBytes is a header that tan knows and never writes; where it would
	// not fit zeros are taken for a block's end.
	longHeaderBytes = 11
)

// The types of a chunk.
const (
	chunkFull   = 1
	chunkFirst  = 2
	chunkMiddle = 3
	chunkLast   = 4
)

var (
	// errTorn: the file ends within a record, or what follows was never written. At
	// the end of a file that was being written it is what a crash leaves.
	errTorn = errors.New("ends within a record")
	// errSum: a record's checksum does not match.
	errSum = errors.New("a record has a wrong checksum")
)

// records reads the records of a file.
type records struct {
	blocks *bufio.Reader
	// buf[:n] is the block whose place in the file is base; buf[at:n] is unread. n
	// is 0 before the first block.
	buf   [blockBytes]byte
	n, at int
	base  int64
	// record is the one that next has returned; it is used again.
	record []byte
}

// newRecords reads from the block that starts at from.
func newRecords(f io.ReaderAt, from int64) *records {
	return &records{blocks: bufio.NewReaderSize(io.NewSectionReader(f, from, 1<<62-from), 8*blockBytes), base: from - blockBytes}
}

// next returns the next record that begins here, valid until the next call, and
// its offset as tan notes it: where the record before it ended. io.EOF at the
// end, errTorn and errSum as above; any other error is the disk's.
func (r *records) next() (record []byte, offset int64, err error) {
	begun := false
	for {
		at := r.base + int64(r.at)
		if r.n == 0 {
			at = r.base + blockBytes
		}
		kind, payload, err := r.chunk(begun)
		if err != nil {
			return nil, 0, err
		}
		starts := kind == chunkFull || kind == chunkFirst
		switch {
		case !begun && !starts:
			continue // the rest of a record that began before
		case begun && starts:
			return nil, 0, errTorn
		case starts:
			begun, offset, r.record = true, at, r.record[:0]
		}
		r.record = append(r.record, payload...)
		if kind == chunkFull || kind == chunkLast {
			return r.record, offset, nil
		}
	}
}

// chunk returns the next chunk. inside: a record has begun and not ended.
func (r *records) chunk(inside bool) (kind byte, payload []byte, err error) {
	for {
		if rest := r.buf[r.at:r.n]; len(rest) >= longHeaderBytes || len(rest) >= chunkBytes && !unwritten(rest) {
			return r.take(rest)
		}
		if r.n > 0 && r.n < blockBytes { // the last block
			if inside || r.at != r.n && !unwritten(r.buf[r.at:r.n]) {
				return 0, nil, errTorn
			}
			return 0, nil, io.EOF
		}
		if err := r.block(); err != nil {
			if errors.Is(err, io.EOF) && inside {
				err = errTorn
			}
			return 0, nil, err
		}
	}
}

// take returns the chunk that rest, of a block, begins with.
func (r *records) take(rest []byte) (kind byte, payload []byte, err error) {
	end := chunkBytes + int(binary.LittleEndian.Uint16(rest[4:]))
	switch {
	case unwritten(rest), end > len(rest):
		return 0, nil, errTorn
	case binary.LittleEndian.Uint32(rest) != uint32(xxhash.Sum64(rest[6:end])):
		return 0, nil, errSum
	}
	r.at += end
	return rest[6], rest[chunkBytes:end], nil
}

// unwritten reports whether there are zeros where a chunk's header would be.
func unwritten(rest []byte) bool {
	return len(rest) >= chunkBytes && [chunkBytes]byte(rest) == [chunkBytes]byte{}
}

// block reads the next block.
func (r *records) block() error {
	n, err := io.ReadFull(r.blocks, r.buf[:])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	r.base += blockBytes
	r.n, r.at = n, 0
	return nil
}
