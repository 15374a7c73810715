package recordbatch

import (
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"logbroker/internal/errcode"
)

// zstdWindow is how far back, in bytes, the zstd encoder looks: a whole batch,
// of the largest size topics take, as the encoder copies the window every time
// it moves. It bounds the encoder's memory.
const zstdWindow = 1 << 20

// compress appends src, compressed by codec, to dst; for None it appends
// nothing. What it writes is what Kafka's own clients read:
//
//   - snappy: one raw block. Kafka's Java client writes the xerial stream
//     framing but reads both, as librdkafka and franz-go do.
//   - lz4: one frame of independent blocks of 64 KiB, as the Java client writes
//     it (it does not read dependent blocks).
//   - zstd: one frame at the fastest level.
//
// lz4 and zstd checksums are left out: the batch has its own CRC.
func compress(dst, src []byte, codec Codec) ([]byte, error) {
	switch codec {
	case None:
		return dst, nil
	case Gzip:
		return compressGzip(dst, src)
	case Snappy:
		return compressSnappy(dst, src), nil
	case Lz4:
		return compressLz4(dst, src)
	case Zstd:
		return compressZstd(dst, src)
	}
	return dst, errcode.New(errcode.UnsupportedCompression, "unknown codec %d", int8(codec))
}

// appendWriter is an io.Writer that appends to a slice.
type appendWriter struct{ b []byte }

// Write appends p and never fails.
func (w *appendWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// gzipEncoder is a gzip writer with the slice it writes to.
type gzipEncoder struct {
	w   *gzip.Writer
	out appendWriter
}

var gzipEncoders = sync.Pool{New: func() any { return &gzipEncoder{w: gzip.NewWriter(nil)} }}

func compressGzip(dst, src []byte) ([]byte, error) {
	e := gzipEncoders.Get().(*gzipEncoder)
	defer gzipEncoders.Put(e)
	e.out.b = dst
	e.w.Reset(&e.out)
	_, err := e.w.Write(src)
	if err == nil {
		err = e.w.Close()
	}
	out := e.out.b
	e.out.b = nil // the pool must not keep the caller's buffer
	return out, encodeError(Gzip, err)
}

// lz4Encoder is an lz4 frame writer with the slice it writes to.
type lz4Encoder struct {
	w   *lz4.Writer
	out appendWriter
}

var lz4Encoders = sync.Pool{New: func() any { return &lz4Encoder{w: lz4.NewWriter(nil)} }}

func compressLz4(dst, src []byte) ([]byte, error) {
	e := lz4Encoders.Get().(*lz4Encoder)
	defer lz4Encoders.Put(e)
	e.out.b = dst
	e.w.Reset(&e.out)
	err := e.w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false))
	if err == nil {
		_, err = e.w.Write(src)
	}
	if err == nil {
		err = e.w.Close()
	}
	out := e.out.b
	e.out.b = nil
	return out, encodeError(Lz4, err)
}

func compressSnappy(dst, src []byte) []byte {
	at := len(dst)
	dst = slices.Grow(dst, s2.MaxEncodedLen(len(src)))
	block := s2.EncodeSnappy(dst[at:cap(dst)], src) // in place, as there is room
	return dst[:at+len(block)]
}

// zstdEncoders holds encoders without goroutines: concurrency 1 and EncodeAll
// only. A dropped encoder is plain garbage.
var zstdEncoders = sync.Pool{New: func() any {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(zstdWindow),
		zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderCRC(false))
	if err != nil {
		panic(fmt.Sprintf("recordbatch: zstd encoder options: %v", err)) // programmer error: constants
	}
	return e
}}

func compressZstd(dst, src []byte) ([]byte, error) {
	e := zstdEncoders.Get().(*zstd.Encoder)
	defer zstdEncoders.Put(e)
	return e.EncodeAll(src, dst), nil
}

// encodeError names the codec that failed. Encoders that write to memory do
// not fail; if one ever does, the caller may still send uncompressed.
func encodeError(codec Codec, err error) error {
	if err == nil {
		return nil
	}
	return errcode.New(errcode.UnknownServerError, "compressing by %s: %v; use another codec", codec, err)
}
