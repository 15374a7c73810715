package commitlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"sort"
)

// Both index files have the same form, integers big-endian:
//
//	0  4  magic, "LBIX" (offset index) or "LBTX" (time index)
//	4  2  format version, 1
//	6  2  zero
//	8  8  base offset of the segment
//	16 8  length of the .log that is indexed
//	24 4  number of entries
//	28 4  CRC-32C of bytes [0, 28) and of the entries
//	32 …  entries of 16 bytes
//
// An offset index entry is (offset, position) of a batch; the time index entry
// of the same number is (greatest timestamp before that batch, offset). A file
// that does not decode is rebuilt from the .log, so it needs no atomicity.
const (
	indexHeaderSize  = 32
	indexEntrySize   = 16
	indexVersion     = 1
	offsetIndexMagic = "LBIX"
	timeIndexMagic   = "LBTX"
)

// noTimestamp is below every timestamp: the greatest timestamp of nothing.
const noTimestamp = math.MinInt64

// indexEntry is one place of a segment where a search may begin. A segment's
// first batch (position 0) has none.
type indexEntry struct {
	offset   int64 // base offset of the batch at position
	position int64
	// maxTsBefore = max(max timestamp of the batches below position); it never
	// falls from one entry to the next.
	maxTsBefore int64
}

// searchOffset returns the last entry whose batch begins at or below offset;
// the segment's begin where there is none.
func searchOffset(entries []indexEntry, base, offset int64) indexEntry {
	i := sort.Search(len(entries), func(i int) bool { return entries[i].offset > offset })
	if i == 0 {
		return indexEntry{offset: base, maxTsBefore: noTimestamp}
	}
	return entries[i-1]
}

// searchTime returns the last entry before which every timestamp is lower than
// tsMs; the segment's begin where there is none.
func searchTime(entries []indexEntry, base, tsMs int64) indexEntry {
	i := sort.Search(len(entries), func(i int) bool { return entries[i].maxTsBefore >= tsMs })
	if i == 0 {
		return indexEntry{offset: base, maxTsBefore: noTimestamp}
	}
	return entries[i-1]
}

// encodeIndexes returns the contents of the two index files.
func encodeIndexes(entries []indexEntry, base, logBytes int64) (offsets, times []byte) {
	offsets = newIndexFile(offsetIndexMagic, len(entries), base, logBytes)
	times = newIndexFile(timeIndexMagic, len(entries), base, logBytes)
	for i, e := range entries {
		putPair(offsets[indexHeaderSize+i*indexEntrySize:], e.offset, e.position)
		putPair(times[indexHeaderSize+i*indexEntrySize:], e.maxTsBefore, e.offset)
	}
	binary.BigEndian.PutUint32(offsets[28:], indexCRC(offsets))
	binary.BigEndian.PutUint32(times[28:], indexCRC(times))
	return offsets, times
}

func newIndexFile(magic string, entries int, base, logBytes int64) []byte {
	b := make([]byte, indexHeaderSize+entries*indexEntrySize)
	copy(b, magic)
	binary.BigEndian.PutUint16(b[4:], indexVersion)
	binary.BigEndian.PutUint64(b[8:], uint64(base))
	binary.BigEndian.PutUint64(b[16:], uint64(logBytes))
	binary.BigEndian.PutUint32(b[24:], uint32(entries))
	return b
}

func putPair(b []byte, first, second int64) {
	binary.BigEndian.PutUint64(b, uint64(first))
	binary.BigEndian.PutUint64(b[8:], uint64(second))
}

func indexCRC(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:28], castagnoli), castagnoli, b[indexHeaderSize:])
}

// decodeIndexes is the inverse of encodeIndexes for a segment of logBytes from
// base to end. An error means: rebuild.
func decodeIndexes(offsets, times []byte, base, end, logBytes int64) ([]indexEntry, error) {
	if err := checkIndexFile(offsets, offsetIndexMagic, base, logBytes); err != nil {
		return nil, fmt.Errorf("offset index: %w", err)
	}
	if err := checkIndexFile(times, timeIndexMagic, base, logBytes); err != nil {
		return nil, fmt.Errorf("time index: %w", err)
	}
	if len(offsets) != len(times) {
		return nil, fmt.Errorf("the offset index has %d bytes, the time index %d", len(offsets), len(times))
	}
	entries := make([]indexEntry, (len(offsets)-indexHeaderSize)/indexEntrySize)
	last := indexEntry{offset: base, maxTsBefore: noTimestamp}
	for i := range entries {
		o, t := offsets[indexHeaderSize+i*indexEntrySize:], times[indexHeaderSize+i*indexEntrySize:]
		e := indexEntry{
			offset:      int64(binary.BigEndian.Uint64(o)),
			position:    int64(binary.BigEndian.Uint64(o[8:])),
			maxTsBefore: int64(binary.BigEndian.Uint64(t)),
		}
		if int64(binary.BigEndian.Uint64(t[8:])) != e.offset || e.offset <= last.offset || e.offset >= end ||
			e.position <= last.position || e.position >= logBytes || e.maxTsBefore < last.maxTsBefore {
			return nil, fmt.Errorf("entry %d is out of order", i)
		}
		entries[i], last = e, e
	}
	return entries, nil
}

func checkIndexFile(b []byte, magic string, base, logBytes int64) error {
	switch {
	case len(b) < indexHeaderSize:
		return fmt.Errorf("%d bytes are no header", len(b))
	case string(b[:4]) != magic:
		return fmt.Errorf("magic %q", b[:4])
	case binary.BigEndian.Uint16(b[4:]) != indexVersion:
		return fmt.Errorf("format version %d", binary.BigEndian.Uint16(b[4:]))
	case uint64(len(b)-indexHeaderSize) != uint64(binary.BigEndian.Uint32(b[24:]))*indexEntrySize:
		return fmt.Errorf("%d entries in %d bytes", binary.BigEndian.Uint32(b[24:]), len(b))
	case binary.BigEndian.Uint32(b[28:]) != indexCRC(b):
		return fmt.Errorf("wrong checksum")
	case int64(binary.BigEndian.Uint64(b[8:])) != base:
		return fmt.Errorf("base offset %d", int64(binary.BigEndian.Uint64(b[8:])))
	case int64(binary.BigEndian.Uint64(b[16:])) != logBytes:
		return fmt.Errorf("made for a log of %d bytes", int64(binary.BigEndian.Uint64(b[16:])))
	}
	return nil
}
