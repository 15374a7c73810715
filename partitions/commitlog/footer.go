package commitlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"logbroker/internal/recordbatch"
)

// A footer, integers big-endian. The same record frames a segment in the
// snapshot stream (snapshot.go).
//
//	0  4  magic, "LBFT"
//	4  2  format version, 1
//	6  2  zero
//	8  8  base offset
//	16 8  end offset (the next segment's base)
//	24 8  length of the .log in bytes
//	32 4  CRC-32C of the whole .log
//	36 4  zero
//	40 8  append time of the first batch, Unix milliseconds
//	48 8  append time of the last batch
//	56 8  greatest timestamp of all records
//	64 4  CRC-32C of bytes [0, 64)
const (
	footerSize    = 68
	footerVersion = 1
	footerMagic   = "LBFT"
)

// footer is what is known of a whole segment.
type footer struct {
	base, end       int64
	length          int64
	crc             uint32
	firstMs, lastMs int64
	maxTs           int64
}

// encode returns the footer's 68 bytes.
func (f footer) encode() []byte {
	be := binary.BigEndian
	dst := append(make([]byte, 0, footerSize), footerMagic...)
	dst = be.AppendUint16(dst, footerVersion)
	dst = be.AppendUint16(dst, 0)
	dst = be.AppendUint64(dst, uint64(f.base))
	dst = be.AppendUint64(dst, uint64(f.end))
	dst = be.AppendUint64(dst, uint64(f.length))
	dst = be.AppendUint32(dst, f.crc)
	dst = be.AppendUint32(dst, 0)
	dst = be.AppendUint64(dst, uint64(f.firstMs))
	dst = be.AppendUint64(dst, uint64(f.lastMs))
	dst = be.AppendUint64(dst, uint64(f.maxTs))
	return be.AppendUint32(dst, crc32.Checksum(dst, castagnoli))
}

// decodeFooter reads a footer that must fill b. A segment is either empty
// (only possible in a snapshot stream) or holds at least one batch.
func decodeFooter(b []byte) (footer, error) {
	be := binary.BigEndian
	switch {
	case len(b) != footerSize:
		return footer{}, fmt.Errorf("a footer has %d bytes, not %d", footerSize, len(b))
	case string(b[:4]) != footerMagic:
		return footer{}, fmt.Errorf("magic %q", b[:4])
	case be.Uint16(b[4:]) != footerVersion:
		return footer{}, fmt.Errorf("format version %d is not known; use a newer release", be.Uint16(b[4:]))
	case be.Uint32(b[64:]) != crc32.Checksum(b[:64], castagnoli):
		return footer{}, fmt.Errorf("wrong checksum")
	}
	f := footer{
		base: int64(be.Uint64(b[8:])), end: int64(be.Uint64(b[16:])), length: int64(be.Uint64(b[24:])),
		crc:     be.Uint32(b[32:]),
		firstMs: int64(be.Uint64(b[40:])), lastMs: int64(be.Uint64(b[48:])), maxTs: int64(be.Uint64(b[56:])),
	}
	empty := f.length == 0 && f.end == f.base
	if f.base < 0 || !empty && (f.end <= f.base || f.length < recordbatch.HeaderSize) {
		return footer{}, fmt.Errorf("offsets [%d, %d) in %d bytes", f.base, f.end, f.length)
	}
	return f, nil
}
