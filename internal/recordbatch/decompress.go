package recordbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"logbroker/internal/errcode"
)

// decompressStart is the least room, in bytes, that a stream decoder begins with.
const decompressStart = 4 << 10

// decompress writes the decompressed src over dst, reusing its memory, and
// returns at most limit bytes. What a block claims is checked against limit
// before memory is taken for it; gzip and lz4 claim nothing and grow by
// doubling up to the limit. For None it returns src itself.
//
// Errors: MESSAGE_TOO_LARGE (over limit), CORRUPT_MESSAGE (not the codec's
// format), UNSUPPORTED_COMPRESSION_TYPE.
func decompress(dst, src []byte, codec Codec, limit int) ([]byte, error) {
	dst = dst[:0]
	switch codec {
	case None:
		return src, nil
	case Gzip:
		return decompressGzip(dst, src, limit)
	case Snappy:
		return decompressSnappy(dst, src, limit)
	case Lz4:
		return decompressLz4(dst, src, limit)
	case Zstd:
		return decompressZstd(dst, src, limit)
	}
	return dst, errcode.New(errcode.UnsupportedCompression, "unknown codec %d; use none, gzip, snappy, lz4 or zstd", int8(codec))
}

// errLimit is the refusal of a block that is larger than the caller allows.
func errLimit(codec Codec, limit int) error {
	return errcode.New(errcode.MessageTooLarge,
		"%s records decompress to more than %d bytes; raise the decompression limit if the batch is trusted", codec, limit)
}

// errDecode is the refusal of bytes that are not the codec's format.
func errDecode(codec Codec, err error) error {
	return errcode.New(errcode.CorruptMessage, "%s records do not decompress: %v; the producer wrote a broken batch, skip it", codec, err)
}

// gzipDecoder is a gzip reader with the reader it reads from.
type gzipDecoder struct {
	r   gzip.Reader
	src bytes.Reader
}

var gzipDecoders = sync.Pool{New: func() any { return new(gzipDecoder) }}

func decompressGzip(dst, src []byte, limit int) ([]byte, error) {
	d := gzipDecoders.Get().(*gzipDecoder)
	defer gzipDecoders.Put(d)
	defer d.src.Reset(nil) // the pool must not keep the caller's batch
	d.src.Reset(src)
	if err := d.r.Reset(&d.src); err != nil {
		return dst, errDecode(Gzip, err)
	}
	return readBounded(dst, &d.r, len(src), limit, Gzip)
}

// lz4Magic opens an lz4 frame. The library also reads the legacy frame, whose
// blocks are 8 MiB, and skips skippable frames; no Kafka client writes either.
const lz4Magic = 0x184D2204

// lz4Decoder is an lz4 frame reader with the reader it reads from. A frame
// makes it take at most one block of 4 MiB besides the output.
type lz4Decoder struct {
	r   *lz4.Reader
	src bytes.Reader
}

var lz4Decoders = sync.Pool{New: func() any { return &lz4Decoder{r: lz4.NewReader(nil)} }}

func decompressLz4(dst, src []byte, limit int) ([]byte, error) {
	if len(src) < 4 || binary.LittleEndian.Uint32(src) != lz4Magic {
		return dst, errDecode(Lz4, errors.New("no lz4 frame"))
	}
	d := lz4Decoders.Get().(*lz4Decoder)
	defer lz4Decoders.Put(d)
	defer d.r.Reset(nil)
	defer d.src.Reset(nil)
	d.src.Reset(src)
	d.r.Reset(&d.src)
	return readBounded(dst, d.r, len(src), limit, Lz4)
}

// readBounded reads r to its end into dst, which it grows to limit+1 bytes at
// the most: the one byte over tells "full" from "too much".
func readBounded(dst []byte, r io.Reader, srcSize, limit int, codec Codec) ([]byte, error) {
	if cap(dst) == 0 {
		dst = make([]byte, 0, min(max(4*srcSize, decompressStart), limit+1))
	}
	for {
		if len(dst) > limit {
			return dst, errLimit(codec, limit)
		}
		if len(dst) == cap(dst) {
			grown := make([]byte, len(dst), min(2*cap(dst), limit+1))
			copy(grown, dst)
			dst = grown
		}
		n, err := r.Read(dst[len(dst):min(cap(dst), limit+1)])
		dst = dst[:len(dst)+n]
		if err == io.EOF && len(dst) <= limit {
			return dst, nil
		}
		if err != nil && err != io.EOF {
			return dst, errDecode(codec, err)
		}
	}
}

// xerialHeaderSize is the size of the xerial stream header: the magic of 8
// bytes, version, lowest compatible version (4 bytes each). Blocks follow, each
// a length of 4 bytes, big endian, and a raw snappy block. Source of the
// format: SnappyOutputStream of xerial/snappy-java, which Kafka's Java client
// writes.
const xerialHeaderSize = 16

// xerialMagic opens a xerial stream.
var xerialMagic = [8]byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

func decompressSnappy(dst, src []byte, limit int) ([]byte, error) {
	if len(src) < xerialHeaderSize || [8]byte(src) != xerialMagic {
		return appendSnappyBlock(dst, src, limit)
	}
	for src = src[xerialHeaderSize:]; len(src) > 0; {
		if len(src) < 4 {
			return dst, errDecode(Snappy, errors.New("xerial block length cut short"))
		}
		size := binary.BigEndian.Uint32(src)
		src = src[4:]
		if uint64(size) > uint64(len(src)) {
			return dst, errDecode(Snappy, fmt.Errorf("xerial block of %d bytes, %d left", size, len(src)))
		}
		var err error
		if dst, err = appendSnappyBlock(dst, src[:size], limit); err != nil {
			return dst, err
		}
		src = src[size:]
	}
	return dst, nil
}

// snappyRatioMax bounds what one byte of a snappy block can stand for: the best
// element copies 64 bytes and takes 3. A block that claims more is refused
// before memory is taken for it.
const snappyRatioMax = 22

// appendSnappyBlock appends one raw snappy block, decompressed.
func appendSnappyBlock(dst, block []byte, limit int) ([]byte, error) {
	size, err := s2.DecodedLen(block)
	if err != nil {
		return dst, errDecode(Snappy, err)
	}
	if size > limit-len(dst) {
		return dst, errLimit(Snappy, limit)
	}
	if size > snappyRatioMax*len(block) {
		return dst, errDecode(Snappy, fmt.Errorf("a block of %d bytes claims to hold %d", len(block), size))
	}
	at := len(dst)
	dst = slices.Grow(dst, size)
	if _, err := s2.Decode(dst[at:at+size], block); err != nil { // in place, as there is room
		return dst, errDecode(Snappy, err)
	}
	return dst[:at+size], nil
}

// zstdDecoder is a zstd decoder with the memory limit it is set to. It runs
// without goroutines: concurrency 1 and DecodeAll only.
type zstdDecoder struct {
	d     *zstd.Decoder
	limit int
}

// zstdDecoders begin with the default limit, which nearly every caller keeps.
var zstdDecoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(DecompressedBytesMax))
	if err != nil {
		panic(fmt.Sprintf("recordbatch: zstd decoder options: %v", err)) // programmer error: constants
	}
	return &zstdDecoder{d: d, limit: DecompressedBytesMax}
}}

func decompressZstd(dst, src []byte, limit int) ([]byte, error) {
	d := zstdDecoders.Get().(*zstdDecoder)
	defer zstdDecoders.Put(d)
	if d.limit != limit {
		if err := d.d.ResetWithOptions(nil, zstd.WithDecoderMaxMemory(uint64(limit))); err != nil {
			return dst, errDecode(Zstd, err)
		}
		d.limit = limit
	}
	out, err := d.d.DecodeAll(src, dst)
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return dst, errLimit(Zstd, limit)
	}
	if err != nil {
		return dst, errDecode(Zstd, err)
	}
	return out, nil
}
