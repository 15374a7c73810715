package producerstate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// ErrCorrupt is wrapped by every error of Decode.
var ErrCorrupt = errors.New("producer state is corrupt")

// The snapshot form, big endian:
//
//	0  1  version = 1
//	1  4  number of producers, then each, by rising id:
//	      8 id, 2 epoch, 8 records stored in this epoch, 2 batches n, n times oldest first:
//	          4 sequence, 4 records, 8 offset
//	   4  number of message ids, then each, oldest first:
//	      8 time ms, 8 offset, 1 length, id
//	   4  CRC-32C of all before it
//
// The limits are not part of it: they are replicated with the topic's
// configuration.
const (
	snapshotVersion = 1

	producerBytes = 20
	batchBytes    = 16
	messageBytes  = 17
)

// Encode appends the snapshot form of the table to dst. Equal tables encode to
// equal bytes.
func (t *Table) Encode(dst []byte) []byte {
	from := len(dst)
	be := binary.BigEndian
	dst = append(dst, snapshotVersion)
	dst = be.AppendUint32(dst, uint32(len(t.producers)))
	for _, k := range t.Keys(nil) {
		dst = t.producers[k.Producer].encode(dst, k.Producer)
	}
	dst = be.AppendUint32(dst, uint32(t.messages.len()))
	for _, m := range t.messages.queue[t.messages.head:] {
		dst = be.AppendUint64(dst, uint64(m.ms))
		dst = be.AppendUint64(dst, uint64(m.offset))
		dst = append(dst, byte(len(m.id)))
		dst = append(dst, m.id...)
	}
	return be.AppendUint32(dst, checksum(dst[from:]))
}

func (p *producer) encode(dst []byte, id int64) []byte {
	be := binary.BigEndian
	dst = be.AppendUint64(dst, uint64(id))
	dst = be.AppendUint16(dst, uint16(p.epoch))
	dst = be.AppendUint64(dst, uint64(p.total))
	dst = be.AppendUint16(dst, uint16(p.n))
	for i := range p.n {
		s := p.at(i)
		dst = be.AppendUint32(dst, uint32(s.sequence))
		dst = be.AppendUint32(dst, uint32(s.count))
		dst = be.AppendUint64(dst, uint64(s.offset))
	}
	return dst
}

// Decode reads the snapshot form; b must hold it exactly. It checks everything
// that Apply relies on and allocates no more than a small multiple of len(b).
// Its errors wrap ErrCorrupt.
func Decode(b []byte, limits Limits) (*Table, error) {
	if len(b) < 13 || b[0] != snapshotVersion {
		return nil, fmt.Errorf("%w: %d bytes, no version %d header", ErrCorrupt, len(b), snapshotVersion)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if checksum(body) != sum {
		return nil, fmt.Errorf("%w: checksum differs", ErrCorrupt)
	}
	t := New(limits)
	d := decoder{b: body[1:]}
	d.producers(t)
	d.messages(t)
	if d.err == "" && len(d.b) > 0 {
		d.fail("bytes follow the last message id")
	}
	if d.err != "" {
		return nil, fmt.Errorf("%w: %s", ErrCorrupt, d.err)
	}
	return t, nil
}

// decoder cuts fields off b; after the first failure it yields zeros.
type decoder struct {
	b   []byte
	err string
}

func (d *decoder) fail(what string) {
	if d.err == "" {
		d.err = what
	}
	d.b = nil
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail("cut short")
		return make([]byte, n)
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) u8() int    { return int(d.take(1)[0]) }
func (d *decoder) u16() int   { return int(binary.BigEndian.Uint16(d.take(2))) }
func (d *decoder) i32() int32 { return int32(binary.BigEndian.Uint32(d.take(4))) }
func (d *decoder) i64() int64 { return int64(binary.BigEndian.Uint64(d.take(8))) }

// count reads a number of items of at least size bytes each and refuses one
// that the rest cannot hold, before anything is allocated for it.
func (d *decoder) count(size, limit int) int {
	n := int64(uint32(d.i32()))
	if n > int64(limit) || n*int64(size) > int64(len(d.b)) {
		d.fail("more items than bytes")
		return 0
	}
	return int(n)
}

func (d *decoder) producers(t *Table) {
	last := int64(-1)
	for range d.count(producerBytes+batchBytes, ProducersMax) {
		id := d.i64()
		p := d.producer()
		if d.err != "" {
			return
		}
		if id <= last {
			d.fail("producer ids do not rise")
			return
		}
		t.producers[id] = p
		last = id
	}
}

// producer reads one producer. Its batches must be the tail of the total
// records: gapless, ending at the last sequence, at rising offsets.
func (d *decoder) producer() *producer {
	p := &producer{epoch: int16(d.u16()), total: d.i64()}
	p.n = d.u16()
	if p.n == 0 || p.n > WindowMax || p.n*batchBytes > len(d.b) || p.epoch < 0 || p.total <= 0 {
		d.fail("producer out of bounds")
		return nil
	}
	p.window = make([]stored, p.n)
	records, end := int64(0), int64(0)
	for i := range p.window {
		s := stored{sequence: d.i32(), count: d.i32(), offset: d.i64()}
		if s.sequence < 0 || s.count <= 0 || s.offset < end || s.offset > math.MaxInt64-int64(s.count) {
			d.fail("batch out of bounds")
			return nil
		}
		p.window[i] = s
		records += int64(s.count)
		end = s.offset + int64(s.count)
	}
	first := p.total - records
	for _, s := range p.window {
		// A build that stores retries again leaves gaps, and must come to be judged.
		if remembers && (first < 0 || int64(s.sequence) != first%sequences) {
			d.fail("sequences have a gap")
			return nil
		}
		first += int64(s.count)
	}
	return p
}

func (d *decoder) messages(t *Table) {
	m := &t.messages
	for range d.count(messageBytes+1, MessageIDsMax) {
		ms, offset := d.i64(), d.i64()
		id := string(d.take(d.u8()))
		if d.err != "" {
			return
		}
		if _, dup := m.known[id]; dup || id == "" || offset < 0 {
			d.fail("message id out of bounds")
			return
		}
		if m.len() > 0 && ms < m.queue[len(m.queue)-1].ms {
			d.fail("message times go back")
			return
		}
		m.known[id] = seen{ms: ms, offset: offset}
		m.queue = append(m.queue, message{id: id, ms: ms, offset: offset})
	}
}

func checksum(b []byte) uint32 {
	return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
}
