package groups

import (
	"encoding/binary"
	"math"
)

// coder writes a format or reads it: code that names each field once says both
// how it is written and how it is read, so that the two cannot differ. What is
// read is bounded by the bytes there are, and nothing read points into them.
//
// Numbers are varints, signed ones in zig-zag (encoding/binary); a text or blob
// is its length and its bytes, a list its length and its elements.
type coder struct {
	reading bool
	b       []byte // written so far, or still to be read
	bad     bool   // what is read is no such format
}

// fail notes that the bytes cannot be read; everything read from now on is zero.
func (x *coder) fail() { x.bad, x.b = true, nil }

func (x *coder) byte(v *byte) {
	switch {
	case !x.reading:
		x.b = append(x.b, *v)
	case len(x.b) == 0:
		*v = 0
		x.fail()
	default:
		*v, x.b = x.b[0], x.b[1:]
	}
}

func (x *coder) uint64(v *uint64) {
	if !x.reading {
		x.b = binary.AppendUvarint(x.b, *v)
		return
	}
	var n int
	if *v, n = binary.Uvarint(x.b); n <= 0 {
		*v = 0
		x.fail()
		return
	}
	x.b = x.b[n:]
}

func (x *coder) int64(v *int64) {
	if !x.reading {
		x.b = binary.AppendVarint(x.b, *v)
		return
	}
	var n int
	if *v, n = binary.Varint(x.b); n <= 0 {
		*v = 0
		x.fail()
		return
	}
	x.b = x.b[n:]
}

func (x *coder) int32(v *int32) {
	wide := int64(*v)
	x.int64(&wide)
	if *v = int32(wide); int64(*v) != wide {
		*v = 0
		x.fail()
	}
}

// length writes n, or reads the length of what has at least least bytes an
// element, which must be there.
func (x *coder) length(n, least int) int {
	wide := uint64(n)
	x.uint64(&wide)
	if x.reading && (wide > math.MaxInt32 || wide*uint64(least) > uint64(len(x.b))) {
		x.fail()
		return 0
	}
	return int(wide)
}

func (x *coder) text(v *string) {
	n := x.length(len(*v), 1)
	if !x.reading {
		x.b = append(x.b, *v...)
		return
	}
	*v, x.b = string(x.b[:n]), x.b[n:]
}

// blob is text in bytes; one of length 0 is read as nil.
func (x *coder) blob(v *[]byte) {
	var s string
	if !x.reading {
		s = string(*v)
	}
	x.text(&s)
	if x.reading {
		*v = nil
		if s != "" {
			*v = []byte(s)
		}
	}
}

// list codes the elements of a list, each of which has at least least bytes. An
// empty one is read as nil.
func list[T any](x *coder, v *[]T, least int, each func(*T, *coder)) {
	n := x.length(len(*v), least)
	if x.reading {
		*v = nil
		if n > 0 {
			*v = make([]T, n)
		}
	}
	for i := 0; i < n && !x.bad; i++ {
		each(&(*v)[i], x)
	}
}
