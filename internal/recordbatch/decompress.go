package recordbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
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
// before memory is taken for it; where nothing is claimed, memory grows step by
// step up to the limit. For None it returns src itself.
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

// zstdWindowMax is the largest window, in bytes, a zstd frame may ask for: what
// the highest level of the reference encoder uses when it streams, as Kafka's
// Java client does. DecodeAll takes no memory for the window.
const zstdWindowMax = 128 << 20

// zstdBlockMax is the most bytes one block of a zstd frame decompresses to.
const zstdBlockMax = 128 << 10

// zstdRatioMax bounds what one byte of a zstd frame can stand for: a run of
// 128 KiB takes a block of 4 bytes. A frame that claims more is refused before
// memory is taken for it.
const zstdRatioMax = zstdBlockMax / 4

// zstdDecoders holds decoders without goroutines: concurrency 1 and DecodeAll
// only. They never write past the capacity they are given, which is the bound;
// the memory limit of their own is out of the way, as it would also limit the
// window.
var zstdDecoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(math.MaxInt32),
		zstd.WithDecoderMaxWindow(zstdWindowMax),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(fmt.Sprintf("recordbatch: zstd decoder options: %v", err)) // programmer error: constants
	}
	return d
}}

func decompressZstd(dst, src []byte, limit int) ([]byte, error) {
	size, err := zstdSize(src, limit)
	if err != nil {
		return dst, err
	}
	d := zstdDecoders.Get().(*zstd.Decoder)
	defer zstdDecoders.Put(d)
	for {
		if cap(dst) < size {
			dst = make([]byte, 0, size)
		}
		room := min(cap(dst), limit+zstdBlockMax)
		out, err := d.DecodeAll(src, dst[:0:room])
		if err == nil && len(out) <= limit {
			return out, nil
		}
		// The decoder does not always name want of room as the cause. It is
		// ruled out where a whole block would still have fit, and at the limit
		// plus a block that means: not a byte over the limit was written.
		full := err == nil || errors.Is(err, zstd.ErrDecoderSizeExceeded) || len(out) > room-zstdBlockMax
		if !full {
			return dst, errDecode(Zstd, err)
		}
		if err == nil || room == limit+zstdBlockMax {
			return dst, errLimit(Zstd, limit)
		}
		size = min(4*room, limit) + zstdBlockMax
	}
}

// zstdSize returns how many bytes to have room for at first: what the frame
// says, or a guess where a streaming encoder could not say.
func zstdSize(src []byte, limit int) (int, error) {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return 0, errDecode(Zstd, err)
	}
	if !h.HasFCS {
		return min(max(4*len(src), decompressStart), limit), nil
	}
	if h.FrameContentSize > uint64(limit) {
		return 0, errLimit(Zstd, limit)
	}
	if h.FrameContentSize/zstdRatioMax > uint64(len(src)) {
		return 0, errDecode(Zstd, fmt.Errorf("a frame of %d bytes claims to hold %d", len(src), h.FrameContentSize))
	}
	return max(int(h.FrameContentSize), 1), nil
}
