package recordbatch

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"logbroker/internal/errcode"
)

// Record is one record as the Iterator yields it. See Iterator.Record for how
// long its slices may be used.
type Record struct {
	// Offset is the batch's base offset plus the record's delta.
	Offset int64
	// TimestampMs is the producer's timestamp, milliseconds since the Unix
	// epoch.
	TimestampMs int64
	// Key and Value are nil for null, empty for empty.
	Key, Value []byte
	Headers    []Header
}

// Header is one header of a record. Value is nil for null.
type Header struct {
	Key   string
	Value []byte
}

// Limits of the variable-length fields, in bytes.
const (
	varint32SizeMax = 5
	varint64SizeMax = 10
	// recordOverheadMax bounds what a record takes besides key, value and
	// headers: length, attributes, timestamp delta, offset delta, key length,
	// value length, header count.
	recordOverheadMax = varint32SizeMax + 1 + varint64SizeMax + 4*varint32SizeMax
	// headerOverheadMax bounds what a header takes besides key and value.
	headerOverheadMax = 2 * varint32SizeMax
)

// RecordSize returns an upper bound of the bytes a record adds to a batch,
// uncompressed.
func RecordSize(key, value []byte, headers []Header) int {
	size := recordOverheadMax + len(key) + len(value)
	for i := range headers {
		size += headerOverheadMax + len(headers[i].Key) + len(headers[i].Value)
	}
	return size
}

// Builder gathers the records of one batch, encoded but not compressed. It is
// for one goroutine and is made to be reused: after Reset it keeps its buffer,
// so a Builder in steady state does not allocate.
type Builder struct {
	// room is how many bytes are left free in front of the batch, see Take.
	room int
	// buf is the batch as it grows, behind its room; the header is filled in
	// last. It is empty as long as there is no record:
	// len(buf) = 0 or room + Size().
	buf   []byte
	count int
	// baseTimestamp is the first record's, maxTimestamp the highest; both are
	// meaningful only when count > 0.
	baseTimestamp, maxTimestamp int64
}

// NewBuilder returns an empty Builder. The zero Builder is ready as well.
func NewBuilder() *Builder { return &Builder{} }

// NewBuilderBehind returns an empty Builder whose Take leaves room bytes free in
// front of the batch, for the header of a message.
func NewBuilderBehind(room int) *Builder { return &Builder{room: room} }

// Reset forgets the records and keeps the memory.
func (b *Builder) Reset() {
	b.buf, b.count = b.buf[:0], 0
	b.baseTimestamp, b.maxTimestamp = 0, 0
}

// Count returns the number of records gathered.
func (b *Builder) Count() int { return b.count }

// Size returns the batch's size in bytes when it is not compressed, header
// included. Compression never makes a built batch larger than that.
func (b *Builder) Size() int { return HeaderSize + len(b.records()) }

// start is where the records begin in buf.
func (b *Builder) start() int { return b.room + HeaderSize }

// records are the encoded records.
func (b *Builder) records() []byte { return b.buf[min(b.start(), len(b.buf)):] }

// Append adds a record. tsMs is its timestamp in milliseconds since the Unix
// epoch; a nil key or value (of a header too) is null. Everything is copied.
func (b *Builder) Append(tsMs int64, key, value []byte, headers []Header) {
	if b.count == 0 {
		b.baseTimestamp, b.maxTimestamp = tsMs, tsMs
		b.buf = slices.Grow(b.buf[:0], b.start())[:b.start()]
	}
	b.maxTimestamp = max(b.maxTimestamp, tsMs)
	// The subtraction may wrap; so does the reader's addition.
	delta := tsMs - b.baseTimestamp
	size := recordBodySize(delta, int64(b.count), key, value, headers)

	r := slices.Grow(b.buf, varint32SizeMax+size)
	r = binary.AppendVarint(r, int64(size))
	r = append(r, 0) // record attributes, unused
	r = binary.AppendVarint(r, delta)
	r = binary.AppendVarint(r, int64(b.count))
	r = appendNullable(r, key)
	r = appendNullable(r, value)
	r = binary.AppendVarint(r, int64(len(headers)))
	for i := range headers {
		r = binary.AppendVarint(r, int64(len(headers[i].Key)))
		r = append(r, headers[i].Key...)
		r = appendNullable(r, headers[i].Value)
	}
	b.buf = r
	b.count++
}

// Take encodes the batch and hands it over without a copy: the result is the
// room (see NewBuilderBehind), whose bytes are the caller's to fill in, and then
// the batch. Its memory is spare's, whose content does not matter, or where the
// records are not compressed the Builder's own, which then keeps spare for the
// records to come. The Builder is empty afterwards.
//
// Fields are as after Build, but for the producer's and the CRC: SetProducer
// must follow. Errors: as Build; the Builder keeps its records.
func (b *Builder) Take(spare []byte, codec Codec) ([]byte, error) {
	if err := b.check(codec); err != nil {
		return nil, err
	}
	if codec != None {
		out, err := compress(slices.Grow(spare[:0], b.start())[:b.start()], b.records(), codec)
		if err != nil {
			return nil, err
		}
		if len(out) < len(b.buf) {
			b.putHeader(out[b.room:], codec)
			b.Reset()
			return out, nil
		}
		spare = out
	}
	out := b.buf
	b.putHeader(out[b.room:], None)
	b.buf = spare
	b.Reset()
	return out, nil
}

// Build appends the encoded batch to dst and returns the result. The records
// are compressed by codec, or left as they are where that does not make them
// smaller. Base offset is 0, leader epoch and the producer fields are -1 (see
// Batch.SetProducer). The Builder keeps its records until Reset.
//
// Errors leave dst as it was: INVALID_RECORD (no records),
// MESSAGE_TOO_LARGE (over 2 GiB), UNSUPPORTED_COMPRESSION_TYPE.
func (b *Builder) Build(dst []byte, codec Codec) ([]byte, error) {
	if err := b.check(codec); err != nil {
		return dst, err
	}
	at := len(dst)
	dst = slices.Grow(dst, b.Size())
	dst = dst[:at+HeaderSize]
	records := b.records()
	out, err := compress(dst, records, codec)
	if err != nil {
		return dst[:at], err
	}
	if codec == None || len(out)-len(dst) >= len(records) {
		codec = None
		out = append(out[:at+HeaderSize], records...)
	}
	b.putHeader(out[at:], codec)
	Batch(out[at:]).SetProducer(-1, -1, -1) // and the CRC
	return out, nil
}

// check refuses what cannot be encoded.
func (b *Builder) check(codec Codec) error {
	if b.count == 0 {
		return errcode.New(errcode.InvalidRecord, "a record batch needs at least one record; append one before building")
	}
	if b.Size() > math.MaxInt32 {
		return errcode.New(errcode.MessageTooLarge, "record batch of %d bytes is over the format's limit of %d; build smaller batches", b.Size(), math.MaxInt32)
	}
	if !codec.Known() {
		return errcode.New(errcode.UnsupportedCompression, "unknown codec %d; use none, gzip, snappy, lz4 or zstd", int8(codec))
	}
	return nil
}

// putHeader fills in the header of batch, whose records are in place, except
// for the producer fields and the CRC.
func (b *Builder) putHeader(batch []byte, codec Codec) {
	be := binary.BigEndian
	be.PutUint64(batch[atBaseOffset:], 0)
	be.PutUint32(batch[atLength:], uint32(len(batch)-lengthEnd))
	be.PutUint32(batch[atEpoch:], math.MaxUint32)
	batch[atMagic] = Magic
	be.PutUint16(batch[atAttributes:], uint16(codec))
	be.PutUint32(batch[atLastOffsetDelta:], uint32(b.count-1))
	be.PutUint64(batch[atBaseTimestamp:], uint64(b.baseTimestamp))
	be.PutUint64(batch[atMaxTimestamp:], uint64(b.maxTimestamp))
	be.PutUint32(batch[atCount:], uint32(b.count))
}

// recordBodySize returns the size of a record after its length field.
func recordBodySize(tsDelta, offsetDelta int64, key, value []byte, headers []Header) int {
	size := 1 + varintSize(tsDelta) + varintSize(offsetDelta)
	size += nullableSize(key) + nullableSize(value)
	size += varintSize(int64(len(headers)))
	for i := range headers {
		n := len(headers[i].Key)
		size += varintSize(int64(n)) + n + nullableSize(headers[i].Value)
	}
	return size
}

// nullableSize returns the encoded size of a length-prefixed field.
func nullableSize(p []byte) int {
	if p == nil {
		return 1 // the varint -1
	}
	return varintSize(int64(len(p))) + len(p)
}

// appendNullable appends a length-prefixed field, length -1 for nil.
func appendNullable(dst, p []byte) []byte {
	if p == nil {
		return binary.AppendVarint(dst, -1)
	}
	dst = binary.AppendVarint(dst, int64(len(p)))
	return append(dst, p...)
}

// varintSize returns the size of v as a zigzag varint (the encoding of
// Protocol Buffers' sint64, and of encoding/binary's Varint).
func varintSize(v int64) int {
	zigzag := uint64(v)<<1 ^ uint64(v>>63)
	return (bits.Len64(zigzag|1) + 6) / 7
}
