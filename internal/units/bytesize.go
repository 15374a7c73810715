// Package units reads and prints sizes and durations as people write them, in
// configuration files and in topic settings alike. It bounds nothing: what is
// too small or too large is its caller's to say.
package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ByteSize is a number of bytes that reads and prints as `64KiB`, `1GiB`,
// `1GB` or a plain number.
type ByteSize int64

// The binary units.
const (
	KiB ByteSize = 1 << 10
	MiB ByteSize = 1 << 20
	GiB ByteSize = 1 << 30
	TiB ByteSize = 1 << 40
)

type sizeUnit struct {
	suffix string
	bytes  int64
}

// sizeUnits is in the order in which suffixes are tried: longer ones first.
var sizeUnits = [...]sizeUnit{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
}

// ParseByteSize reads a size. Suffixes KiB MiB GiB TiB are powers of 1024, KB
// MB GB TB powers of 1000, B or none is bytes; the case does not matter; only
// whole numbers are taken. -1 is allowed (it means "no limit" where a key says so).
func ParseByteSize(s string) (ByteSize, error) {
	digits, unit := strings.TrimSpace(s), int64(1)
	for _, u := range sizeUnits {
		if len(digits) > len(u.suffix) && strings.EqualFold(digits[len(digits)-len(u.suffix):], u.suffix) {
			digits, unit = strings.TrimSpace(digits[:len(digits)-len(u.suffix)]), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size; write it like 64KiB, 1GiB, 1GB or 65536", s)
	}
	if n < -1 || (n < 0 && unit != 1) {
		return 0, fmt.Errorf("%q is a negative size; only -1 (no limit) is allowed", s)
	}
	if n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is larger than a size can be", s)
	}
	return ByteSize(n * unit), nil
}

// UnmarshalText reads a size; see ParseByteSize.
func (b *ByteSize) UnmarshalText(text []byte) error {
	v, err := ParseByteSize(string(text))
	if err == nil {
		*b = v
	}
	return err
}

// MarshalText prints the size; see String.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String prints the size with the largest binary unit that divides it.
func (b ByteSize) String() string {
	for i := 3; i >= 0; i-- {
		u := sizeUnits[i]
		if b != 0 && int64(b)%u.bytes == 0 {
			return strconv.FormatInt(int64(b)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// FormatDuration prints d without zero minutes and seconds: 168h, not 168h0m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
