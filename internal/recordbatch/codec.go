package recordbatch

import (
	"strconv"
	"strings"

	"logbroker/internal/errcode"
)

// Codec is how the records of a batch are compressed, numbered as in the
// batch's attributes.
type Codec int8

// The codecs.
const (
	None Codec = iota
	Gzip
	Snappy
	Lz4
	Zstd
)

// codecNames are the names by Codec, as configuration and clients spell them.
var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

// Known reports whether c is one of the five codecs.
func (c Codec) Known() bool { return c >= None && c <= Zstd }

// String returns the codec's name, or "codec(n)" for an unknown number.
func (c Codec) String() string {
	if c.Known() {
		return codecNames[c]
	}
	return "codec(" + strconv.Itoa(int(c)) + ")"
}

// ParseCodec returns the codec of that name, in any case. The empty name is
// None. Error: UNSUPPORTED_COMPRESSION_TYPE.
func ParseCodec(name string) (Codec, error) {
	if name == "" {
		return None, nil
	}
	for i, n := range codecNames {
		if strings.EqualFold(n, name) {
			return Codec(i), nil
		}
	}
	return None, errcode.New(errcode.UnsupportedCompression,
		"unknown codec %q; use none, gzip, snappy, lz4 or zstd", name)
}
