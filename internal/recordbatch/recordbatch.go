// Package recordbatch reads and writes the Apache Kafka RecordBatch, version 2
// (magic 2), byte for byte as the Kafka protocol guide defines it ("Record
// Batch", "Record").
//
// A batch is the unit of everything in logbroker: what a producer sends, what
// a Raft entry carries, what a segment holds and what a consumer fetches. The
// package offers a view over encoded bytes (Batch, which never copies), a
// Builder for one batch, and an Iterator over the records of one batch.
//
// It is not a client of anything: it knows no offsets but those inside a
// batch, no clock, no files and no network. Older message formats (magic 0 and
// 1), transactions and control batches are refused, not read.
//
// Start at Batch and Parse, then Batch.Validate (what a broker accepts),
// Builder and Iterator.
package recordbatch

import (
	"encoding/binary"
	"hash/crc32"

	"logbroker/internal/errcode"
)

// Magic is the only format version this package reads and writes.
const Magic = 2

// Sizes in bytes.
const (
	// HeaderSize is the size of an encoded batch without its records.
	HeaderSize = 61
	// PatchSize is how many leading bytes hold what the broker sets at apply:
	// base offset, length, leader epoch. All of it is outside the CRC.
	PatchSize = 16
	// peekSize is how many bytes tell a batch's size and format.
	peekSize = 17
	// lengthEnd is where the length field's count begins.
	lengthEnd = 12
	// crcStart is the first byte the CRC covers.
	crcStart = 21
)

// Positions of the header's fields. All integers are big endian.
const (
	atBaseOffset      = 0
	atLength          = 8
	atEpoch           = 12
	atMagic           = 16
	atCRC             = 17
	atAttributes      = 21
	atLastOffsetDelta = 23
	atBaseTimestamp   = 27
	atMaxTimestamp    = 35
	atProducerID      = 43
	atProducerEpoch   = 51
	atBaseSequence    = 53
	atCount           = 57
)

// castagnoli is the CRC-32C table; it is never written.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Batch is a view over exactly one encoded batch. Make one with Parse, which
// guarantees len ≥ HeaderSize; the methods panic on anything shorter, except
// Validate and Iterate, which answer with an error. No method allocates.
type Batch []byte

// PeekSize returns the whole size in bytes of the batch that begins with head,
// of which at least the first 17 bytes must be there. It checks magic and
// length, so that a reader of a file knows how much to read before it trusts
// anything. Errors: as Parse.
func PeekSize(head []byte) (int, error) {
	if len(head) < peekSize {
		return 0, errcode.New(errcode.CorruptMessage,
			"record batch cut short: %d bytes, its size stands in the first %d; send the whole batch", len(head), peekSize)
	}
	if m := head[atMagic]; m != Magic {
		return 0, errcode.New(errcode.UnsupportedMessageFormat,
			"record batch has magic %d, only %d is supported; use a client of Kafka 0.11 or newer", m, Magic)
	}
	length := int32(binary.BigEndian.Uint32(head[atLength:]))
	if length < HeaderSize-lengthEnd {
		return 0, errcode.New(errcode.CorruptMessage,
			"record batch claims a length of %d bytes, the header alone takes %d; send it again", length, HeaderSize-lengthEnd)
	}
	return int(length) + lengthEnd, nil
}

// Parse returns the first batch of b and what follows it. It checks length and
// magic, nothing else: the CRC is Batch.CheckCRC's, the rest Batch.Validate's.
// Both results alias b.
//
// Errors: CORRUPT_MESSAGE (cut short, or an impossible length),
// UNSUPPORTED_FOR_MESSAGE_FORMAT (magic).
func Parse(b []byte) (batch Batch, rest []byte, err error) {
	size, err := PeekSize(b)
	if err != nil {
		return nil, b, err
	}
	if len(b) < size {
		return nil, b, errcode.New(errcode.CorruptMessage,
			"record batch cut short: %d bytes of %d; send the whole batch", len(b), size)
	}
	return Batch(b[:size:size]), b[size:], nil
}

// Size returns the whole size in bytes, header included.
func (b Batch) Size() int { return len(b) }

// BaseOffset returns the offset of the first record.
func (b Batch) BaseOffset() int64 { return int64(binary.BigEndian.Uint64(b[atBaseOffset:])) }

// LastOffset returns the offset of the last record.
func (b Batch) LastOffset() int64 { return b.BaseOffset() + int64(b.LastOffsetDelta()) }

// NextOffset returns the offset after the last record.
func (b Batch) NextOffset() int64 { return b.LastOffset() + 1 }

// PartitionLeaderEpoch returns the epoch of the leader that appended the
// batch, -1 in a batch no broker has seen.
func (b Batch) PartitionLeaderEpoch() int32 { return int32(binary.BigEndian.Uint32(b[atEpoch:])) }

// CRC returns the stored CRC-32C of everything from the attributes on.
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[atCRC:]) }

// Attributes returns the batch's flags: bits 0–2 codec, 3 log-append time,
// 4 transactional, 5 control, 6 delete horizon; the rest is reserved.
func (b Batch) Attributes() int16 { return int16(binary.BigEndian.Uint16(b[atAttributes:])) }

// Codec returns how the records are compressed. A value above Zstd is unknown.
func (b Batch) Codec() Codec { return Codec(b.Attributes() & codecMask) }

// LastOffsetDelta returns the last record's offset less the base offset.
func (b Batch) LastOffsetDelta() int32 {
	return int32(binary.BigEndian.Uint32(b[atLastOffsetDelta:]))
}

// BaseTimestamp returns the first record's timestamp in milliseconds since the
// Unix epoch, as the producer set it.
func (b Batch) BaseTimestamp() int64 {
	return int64(binary.BigEndian.Uint64(b[atBaseTimestamp:]))
}

// MaxTimestamp returns the highest timestamp of the batch in milliseconds
// since the Unix epoch, as the producer set it.
func (b Batch) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[atMaxTimestamp:])) }

// ProducerID returns the idempotent producer's id, -1 for none.
func (b Batch) ProducerID() int64 { return int64(binary.BigEndian.Uint64(b[atProducerID:])) }

// ProducerEpoch returns the idempotent producer's epoch, -1 for none.
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[atProducerEpoch:])) }

// BaseSequence returns the first record's sequence number, -1 for none.
func (b Batch) BaseSequence() int32 { return int32(binary.BigEndian.Uint32(b[atBaseSequence:])) }

// Count returns the number of records the header claims.
func (b Batch) Count() int32 { return int32(binary.BigEndian.Uint32(b[atCount:])) }

// Records returns the records as they are stored, compressed as one block by
// Codec. It aliases b.
func (b Batch) Records() []byte { return b[HeaderSize:] }

// SetBaseOffset writes the base offset in place. It is outside the CRC.
func (b Batch) SetBaseOffset(offset int64) {
	binary.BigEndian.PutUint64(b[atBaseOffset:], uint64(offset))
}

// SetPartitionLeaderEpoch writes the leader epoch in place. It is outside the
// CRC.
func (b Batch) SetPartitionLeaderEpoch(epoch int32) {
	binary.BigEndian.PutUint32(b[atEpoch:], uint32(epoch))
}

// SetProducer writes the idempotent producer's fields in place and computes
// the CRC anew. Only the client that built the batch calls it.
func (b Batch) SetProducer(id int64, epoch int16, baseSequence int32) {
	binary.BigEndian.PutUint64(b[atProducerID:], uint64(id))
	binary.BigEndian.PutUint16(b[atProducerEpoch:], uint16(epoch))
	binary.BigEndian.PutUint32(b[atBaseSequence:], uint32(baseSequence))
	b.setCRC()
}

// setCRC stores the CRC-32C of what the batch holds now.
func (b Batch) setCRC() {
	binary.BigEndian.PutUint32(b[atCRC:], crc32.Checksum(b[crcStart:], castagnoli))
}

// PatchHeader writes b's first PatchSize bytes into dst with another base
// offset and leader epoch, and leaves b alone: whoever owns b's bytes may still
// be reading them. dst must hold at least PatchSize bytes; the batch is then
// dst[:PatchSize] followed by b[PatchSize:].
func PatchHeader(dst []byte, b Batch, baseOffset int64, epoch int32) {
	_ = dst[PatchSize-1]
	binary.BigEndian.PutUint64(dst[atBaseOffset:], uint64(baseOffset))
	copy(dst[atLength:atEpoch], b[atLength:atEpoch])
	binary.BigEndian.PutUint32(dst[atEpoch:], uint32(epoch))
}
