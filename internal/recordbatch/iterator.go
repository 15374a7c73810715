package recordbatch

import (
	"encoding/binary"
	"math"

	"logbroker/internal/errcode"
)

// DecompressedBytesMax is the default of IterateOptions.MaxDecompressedBytes.
const DecompressedBytesMax = 64 << 20

// IterateOptions bound what iterating one batch may cost.
type IterateOptions struct {
	// MaxDecompressedBytes bounds the memory the records may take when
	// decompressed and, separately and whether compressed or not, that of
	// their header lists, 40 bytes a header. Zero or less:
	// DecompressedBytesMax.
	MaxDecompressedBytes int
}

// Limits of the header key cache; a producer uses few keys, all short.
const (
	headerKeysMax     = 64
	headerKeySizeMax  = 64
	headerMemorySize  = 40 // of one Header, in bytes
	headerEncodedSize = 2  // of the smallest encoded header, in bytes
)

// retainedBytesMax bounds each of the two buffers an Iterator keeps for the
// next batch, so that one huge batch does not cost memory for good.
const retainedBytesMax = 8 << 20

// Iterator walks the records of one batch:
//
//	for it.Next() {
//		r := it.Record()
//	}
//	if err := it.Err(); err != nil { … }
//
// It is for one goroutine. The zero Iterator is ready for Reset; reusing one
// reuses its memory. Where the records are not compressed it reads the batch
// itself.
type Iterator struct {
	baseOffset, baseTimestamp int64
	// delta is the last record's offset delta, -1 before the first.
	// Invariant: -1 ≤ delta ≤ deltaMax.
	delta, deltaMax int64
	// left is how many records the header promised and rest still has to hold.
	left int32
	rest []byte
	more [][]byte // goes on after rest, where the batch came in pieces

	record Record
	err    error

	// decompressed is the records of a compressed batch.
	decompressed []byte
	// headers backs the header lists of all records of the batch.
	headers []Header
	// headersMax and headersSeen bound the memory of headers.
	headersMax, headersSeen int
	// headerKeys holds the strings of recent header keys, so that equal keys
	// cost one allocation. Bound: headerKeysMax keys of headerKeySizeMax bytes.
	headerKeys map[string]string
}

// Iterate returns an iterator over b's records, decompressing them as one
// block. It does not check the CRC. Errors: as Iterator.Reset.
func (b Batch) Iterate(opts IterateOptions) (*Iterator, error) {
	it := new(Iterator)
	if err := it.Reset(b, opts); err != nil {
		return nil, err
	}
	return it, nil
}

// Reset begins anew with b; records yielded before become invalid. It
// decompresses the records and does not check the CRC.
//
// Errors: CORRUPT_MESSAGE (length, or records that do not decompress),
// UNSUPPORTED_FOR_MESSAGE_FORMAT, INVALID_RECORD (attributes, count),
// UNSUPPORTED_COMPRESSION_TYPE, MESSAGE_TOO_LARGE (over the limit).
func (it *Iterator) Reset(b Batch, opts IterateOptions) error {
	it.begin()
	if it.err = b.checkLength(); it.err == nil {
		it.err = it.open(b, b.Records(), nil, len(b.Records()), opts.limit())
	}
	return it.err
}

// begin forgets the last batch.
func (it *Iterator) begin() {
	it.rest, it.more, it.left, it.record, it.err = nil, nil, 0, Record{}, nil
	it.letGo()
}

// letGo drops what the last batch held, and buffers too large to keep.
func (it *Iterator) letGo() {
	clear(it.headers)
	it.headers, it.headersSeen = it.headers[:0], 0
	if cap(it.headers) > retainedBytesMax/headerMemorySize {
		it.headers = nil
	}
	if cap(it.decompressed) > retainedBytesMax {
		it.decompressed = nil
	}
}

// limit returns MaxDecompressedBytes or its default.
func (o IterateOptions) limit() int {
	if o.MaxDecompressedBytes <= 0 {
		return DecompressedBytesMax
	}
	return min(o.MaxDecompressedBytes, math.MaxInt32) // the format's own limit
}

// open checks the header b and makes its records ready: size bytes, in records
// and, where they are not compressed, in more.
func (it *Iterator) open(b Batch, records []byte, more [][]byte, size, limit int) error {
	if err := b.checkAttributes(); err != nil {
		return err
	}
	if err := b.checkCount(size); err != nil {
		return err
	}
	records, err := decompress(it.decompressed, records, b.Codec(), limit)
	if err != nil {
		return err
	}
	if b.Codec() != None {
		it.decompressed = records
	}
	it.rest, it.more, it.left = records, more, b.Count()
	it.baseOffset, it.baseTimestamp = b.BaseOffset(), b.BaseTimestamp()
	it.delta, it.deltaMax = -1, int64(b.LastOffsetDelta())
	it.headersMax = limit / headerMemorySize
	return nil
}

// Next moves to the next record and reports whether there is one. After false,
// Err tells the end from a fault.
func (it *Iterator) Next() bool {
	if it.err != nil {
		return false
	}
	if it.left == 0 {
		if it.nextPart(); len(it.rest) > 0 {
			it.err = errcode.New(errcode.InvalidRecord, "record batch holds %d bytes more than its records; the producer wrote a broken batch, skip it", len(it.rest))
			it.rest, it.more = nil, nil
		}
		return false
	}
	if !it.decode() {
		if it.err == nil {
			it.err = errcode.New(errcode.InvalidRecord, "record %d of a batch at offset %d is malformed; the producer wrote a broken batch, skip it", it.delta+1, it.baseOffset)
		}
		it.rest, it.more, it.left, it.record = nil, nil, 0, Record{}
		return false
	}
	it.left--
	return true
}

// Record returns the record Next moved to. Its slices alias the batch or the
// iterator's memory: they must not be written to, and are valid until the next
// Reset and as long as the batch's bytes are.
func (it *Iterator) Record() Record { return it.record }

// Left returns how many records the header promises beyond those that Next moved
// to.
func (it *Iterator) Left() int { return int(it.left) }

// Err returns what ended the iteration early, nil at the regular end. Errors:
// INVALID_RECORD, MESSAGE_TOO_LARGE (header lists over the limit).
func (it *Iterator) Err() error { return it.err }

// decode takes one record off rest. It reports false for a malformed record,
// with err set where there is more to say.
func (it *Iterator) decode() bool {
	body, ok := it.takeRecord()
	if !ok {
		return false
	}
	tsDelta, body, ok := takeVarint(body)
	if !ok {
		return false
	}
	// Deltas rise within 0…lastOffsetDelta. As the count is one more than that,
	// they are dense; offsets never repeat or leave the batch.
	delta, body, ok := takeVarint(body)
	if !ok || delta <= it.delta || delta > it.deltaMax {
		return false
	}
	key, body, ok := takeNullable(body)
	if !ok {
		return false
	}
	value, body, ok := takeNullable(body)
	if !ok {
		return false
	}
	headers, body, ok := it.takeHeaders(body)
	if !ok || len(body) != 0 {
		return false
	}
	it.delta = delta
	it.record = Record{
		Offset:      it.baseOffset + delta,
		TimestampMs: it.baseTimestamp + tsDelta,
		Key:         key,
		Value:       value,
		Headers:     headers,
	}
	return true
}

// takeRecord takes one record off rest, and returns it without its length and
// its attributes, which mean nothing.
func (it *Iterator) takeRecord() (body []byte, ok bool) {
	it.nextPart()
	size, body, ok := takeVarint(it.rest)
	switch {
	case ok && size >= 0 && size <= int64(len(body)):
		body, it.rest = body[:size], body[size:]
	case len(it.more) == 0:
		return nil, false
	default:
		if body, ok = it.join(); !ok {
			return nil, false
		}
	}
	if len(body) < recordSizeMin-1 {
		return nil, false
	}
	return body[1:], true
}

// takeHeaders takes the header list off body.
func (it *Iterator) takeHeaders(body []byte) (headers []Header, rest []byte, ok bool) {
	n, body, ok := takeVarint(body)
	if !ok || n < 0 || n > int64(len(body)/headerEncodedSize) {
		return nil, nil, false
	}
	if n == 0 {
		return nil, body, true
	}
	// A header takes two bytes encoded and forty here: twenty times the limit
	// would be lost to a batch of empty headers.
	if it.headersSeen += int(n); it.headersSeen > it.headersMax {
		it.err = errcode.New(errcode.MessageTooLarge, "record batch has over %d headers; raise the decompression limit if the batch is trusted", it.headersMax)
		return nil, nil, false
	}
	at := len(it.headers)
	for range n {
		var key, value []byte
		if key, body, ok = takeNullable(body); !ok || key == nil {
			return nil, nil, false
		}
		if value, body, ok = takeNullable(body); !ok {
			return nil, nil, false
		}
		it.headers = append(it.headers, Header{Key: it.headerKey(key), Value: value})
	}
	return it.headers[at:len(it.headers):len(it.headers)], body, true
}

// headerKey returns key as a string that outlives the iterator.
func (it *Iterator) headerKey(key []byte) string {
	if len(key) > headerKeySizeMax {
		return string(key)
	}
	if s, ok := it.headerKeys[string(key)]; ok {
		return s
	}
	if it.headerKeys == nil {
		it.headerKeys = make(map[string]string)
	}
	if len(it.headerKeys) >= headerKeysMax {
		clear(it.headerKeys)
	}
	s := string(key)
	it.headerKeys[s] = s
	return s
}

// takeVarint takes a zigzag varint off b. One byte, by far the most frequent,
// is decoded here.
func takeVarint(b []byte) (v int64, rest []byte, ok bool) {
	if len(b) > 0 && b[0] < 0x80 {
		u := b[0]
		return int64(u>>1) ^ -int64(u&1), b[1:], true
	}
	v, n := binary.Varint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

// takeNullable takes a length-prefixed field off b: nil for length -1, aliasing
// b else.
func takeNullable(b []byte) (p, rest []byte, ok bool) {
	n, b, ok := takeVarint(b)
	if !ok || n < -1 || n > int64(len(b)) {
		return nil, nil, false
	}
	if n == -1 {
		return nil, b, true
	}
	return b[:n:n], b[n:], true
}
