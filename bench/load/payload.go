package load

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"
)

// poolBytes is how much payload is made before the clock starts. Records are
// taken from it in turn, so it must be larger than any batch: a codec that met
// the same bytes twice in one batch would shrink what is meant to be random.
const poolBytes = 8 << 20

// payload is what values are cut from.
type payload struct {
	kind string
	data []byte
	// ends are the ends of the records in data, ascending. nil for random bytes,
	// which are cut anywhere.
	ends []int
	size int // of a random record
	// largest is the length of the longest value.
	largest int
	pool    int // bytes; random data is longer by a record, so that one can begin anywhere
}

// newPayload makes pool bytes of payload.
func newPayload(s *Spec, pool int) *payload {
	p := &payload{kind: s.Payload, size: s.RecordSize, pool: pool, largest: s.RecordSize}
	random := rand.New(rand.NewPCG(s.Seed, 1))
	if s.Payload == PayloadJSON {
		p.fillEvents(random)
		return p
	}
	p.data = make([]byte, pool+s.RecordSize)
	for at := 0; at+8 <= len(p.data); at += 8 {
		binary.LittleEndian.PutUint64(p.data[at:], random.Uint64())
	}
	return p
}

// fillEvents makes events whose lengths lie within 15 % of the record size and
// are the record size on average.
func (p *payload) fillEvents(random *rand.Rand) {
	shop := newShop(random)
	for len(p.data) < p.pool {
		spread := p.size * 15 / 100
		shorter := random.IntN(spread + 1)
		for _, length := range [...]int{p.size - shorter, p.size + shorter} {
			p.data = shop.event(p.data, length)
			p.ends = append(p.ends, len(p.data))
			p.largest = max(p.largest, length)
		}
	}
}

// cursor hands out the values of a payload one after the other.
type cursor struct {
	p  *payload
	at int // next: a position in p.data, or a number in p.ends
}

// cursor returns cursor n of so many, each beginning elsewhere.
func (p *payload) cursor(n, of int) *cursor {
	if p.ends != nil {
		return &cursor{p: p, at: len(p.ends) * n / of}
	}
	return &cursor{p: p, at: p.pool / of * n}
}

// next returns the next value, which is not the caller's to change.
func (c *cursor) next() []byte {
	p := c.p
	if p.ends == nil {
		value := p.data[c.at : c.at+p.size]
		if c.at += p.size; c.at >= p.pool {
			c.at -= p.pool
		}
		return value
	}
	from := 0
	if c.at > 0 {
		from = p.ends[c.at-1]
	}
	value := p.data[from:p.ends[c.at]]
	c.at = (c.at + 1) % len(p.ends)
	return value
}

// stampStart is how an event begins; the send time follows, in microseconds of
// Unix time, as so many digits.
const (
	stampStart  = `{"ts":`
	stampDigits = 16
)

// stamp writes the intended send time into a value: the first field of an
// event; the first eight bytes of random ones, mixed with the next eight, or a
// codec would find the year in every record.
func stamp(kind string, value []byte, at time.Time) {
	if kind == PayloadJSON {
		strconv.AppendInt(value[len(stampStart):len(stampStart)], at.UnixMicro(), 10)
		return
	}
	binary.BigEndian.PutUint64(value, uint64(at.UnixMicro())^binary.BigEndian.Uint64(value[8:]))
}

// stamped reads what stamp has written.
func stamped(kind string, value []byte) (time.Time, error) {
	if kind != PayloadJSON {
		if len(value) < recordSizeMin {
			return time.Time{}, fmt.Errorf("a value of %d bytes is not of this load", len(value))
		}
		return time.UnixMicro(int64(binary.BigEndian.Uint64(value) ^ binary.BigEndian.Uint64(value[8:]))), nil
	}
	var micros int64
	if len(value) < len(stampStart)+stampDigits {
		return time.Time{}, fmt.Errorf("a value of %d bytes is not of this load", len(value))
	}
	for _, digit := range value[len(stampStart) : len(stampStart)+stampDigits] {
		if digit < '0' || digit > '9' {
			return time.Time{}, fmt.Errorf("the value %.40q is not of this load", value)
		}
		micros = micros*10 + int64(digit-'0')
	}
	return time.UnixMicro(micros), nil
}

// newKeys returns n different keys; nil for none.
func newKeys(n int) [][]byte {
	keys := make([][]byte, n)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "key-%08d", i)
	}
	return keys
}
