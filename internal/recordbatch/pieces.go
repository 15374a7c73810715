package recordbatch

import (
	"encoding/binary"
	"hash/crc32"
	"math"

	"logbroker/internal/errcode"
)

// Pieces is exactly one encoded batch whose bytes lie in several slices, cut
// anywhere: how a client holds what came in several messages without copying it
// together. Make one with TakePieces. It aliases the slices.
type Pieces struct {
	// head is the batch's header: it lies in parts[0], or is a copy where that
	// holds less than a header.
	head Batch
	// parts are all bytes of the batch in order.
	parts [][]byte
	// Invariant: size = Σ len(parts) ≥ HeaderSize, and is what head claims.
	size int
}

// TakePieces returns the first batch of the bytes in parts, and what follows it.
// It checks what Parse checks, with the same errors. Both results alias parts and
// their memory; parts itself is not changed. rest is empty where no byte follows.
func TakePieces(parts [][]byte) (p Pieces, rest [][]byte, err error) {
	var head []byte
	if len(parts) > 0 {
		head = parts[0]
	}
	if len(head) < HeaderSize && len(parts) > 1 {
		head = head[:len(head):len(head)] // a copy from here on
		for _, part := range parts[1:] {
			head = append(head, part[:min(len(part), HeaderSize-len(head))]...)
		}
	}
	if p.size, err = PeekSize(head); err != nil {
		return p, parts, err
	}
	p.parts, rest, err = cut(parts, p.size)
	if err != nil {
		return p, parts, err
	}
	p.head = Batch(head[:HeaderSize:HeaderSize])
	for len(rest) > 0 && len(rest[0]) == 0 {
		rest = rest[1:]
	}
	return p, rest, nil
}

// cut splits parts behind the first n bytes.
func cut(parts [][]byte, n int) (head, rest [][]byte, err error) {
	left := n
	for i, part := range parts {
		switch {
		case len(part) < left:
			left -= len(part)
			continue
		case i == 0:
			head = [][]byte{part[:left:left]}
		default:
			head = append(parts[:i:i], part[:left:left]) // a copy of the list
		}
		if len(part) == left {
			return head, parts[i+1:], nil
		}
		return head, append([][]byte{part[left:]}, parts[i+1:]...), nil
	}
	return nil, parts, errcode.New(errcode.CorruptMessage,
		"record batch cut short: %d bytes of %d; send the whole batch", n-left, n)
}

// Header returns the batch's header, for the methods that read fields: all but
// CRC checks, Records, Validate and Iterate.
func (p Pieces) Header() Batch { return p.head }

// Size returns the whole size in bytes, header included.
func (p Pieces) Size() int { return p.size }

// CheckCRC is Batch.CheckCRC.
func (p Pieces) CheckCRC() error {
	computed, skip := uint32(0), crcStart
	for _, part := range p.parts {
		from := min(skip, len(part))
		computed, skip = crc32.Update(computed, castagnoli, part[from:]), skip-from
	}
	return p.head.compareCRC(computed)
}

// Iterate is Batch.Iterate.
func (p Pieces) Iterate(opts IterateOptions) (*Iterator, error) {
	it := new(Iterator)
	if err := it.ResetPieces(p, opts); err != nil {
		return nil, err
	}
	return it, nil
}

// ResetPieces is Reset for a batch in pieces. Compressed records are copied
// together for the codec; of others, only those that a cut goes through.
func (it *Iterator) ResetPieces(p Pieces, opts IterateOptions) error {
	_, records, err := cut(p.parts, HeaderSize)
	if err != nil {
		return it.Reset(nil, opts) // the zero Pieces: refused there
	}
	if p.head.Codec() != None && len(records) > 1 {
		joined := make([]byte, 0, p.size-HeaderSize)
		for _, part := range records {
			joined = append(joined, part...)
		}
		records = [][]byte{joined}
	}
	it.begin()
	if len(records) == 0 {
		records = [][]byte{nil}
	}
	it.err = it.open(p.head, records[0], records[1:], p.size-HeaderSize, opts.limit())
	return it.err
}

// nextPart goes on with the next slice where the last one is used up.
func (it *Iterator) nextPart() {
	for len(it.rest) == 0 && len(it.more) > 0 {
		it.rest, it.more = it.more[0], it.more[1:]
	}
}

// join copies the record that rest begins with and that goes on in more into
// memory of its own, takes it off both, and returns it without its length. ok is
// false where the record is malformed, or longer than all there is.
func (it *Iterator) join() (body []byte, ok bool) {
	var begin [binary.MaxVarintLen64]byte
	n, there := copy(begin[:], it.rest), len(it.rest)
	for _, part := range it.more {
		n += copy(begin[n:], part)
		there += len(part)
	}
	size, lengthSize := binary.Varint(begin[:n])
	if lengthSize <= 0 || size < 0 || size > math.MaxInt32 || lengthSize+int(size) > there {
		return nil, false
	}
	record := make([]byte, 0, lengthSize+int(size))
	for missing := cap(record); missing > 0; missing = cap(record) - len(record) {
		it.nextPart()
		taken := min(missing, len(it.rest))
		record, it.rest = append(record, it.rest[:taken]...), it.rest[taken:]
	}
	return record[lengthSize:], true
}
