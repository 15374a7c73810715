package recordbatch

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"logbroker/internal/errcode"
)

// compressed returns size zero bytes compressed by codec.
func compressed(t *testing.T, codec Codec, size int) []byte {
	t.Helper()
	out, err := compress(nil, make([]byte, size), codec)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDecompressionIsBoundedExactly(t *testing.T) {
	const size = 1 << 20
	for codec := Gzip; codec <= Zstd; codec++ {
		src := compressed(t, codec, size)
		for _, dst := range [][]byte{nil, make([]byte, 0, 100), make([]byte, 0, 2*size)} {
			out, err := decompress(dst, src, codec, size)
			if err != nil || !bytes.Equal(out, make([]byte, size)) {
				t.Errorf("%v within the limit: %d bytes, %v", codec, len(out), err)
			}
			_, err = decompress(dst, src, codec, size-1)
			if errcode.Of(err) != errcode.MessageTooLarge {
				t.Errorf("%v a byte over the limit: %v", codec, err)
			}
		}
	}
}

// Several frames in a row are one block to gzip, lz4 and zstd; the limit is for
// all of them together, whatever the first one says.
func TestTheLimitCoversAllFrames(t *testing.T) {
	const size, frames = 300_000, 5
	for _, codec := range []Codec{Gzip, Lz4, Zstd} {
		src := bytes.Repeat(compressed(t, codec, size), frames)
		out, err := decompress(nil, src, codec, frames*size)
		if err != nil || len(out) != frames*size {
			t.Errorf("%v within the limit: %d bytes, %v", codec, len(out), err)
		}
		for _, limit := range []int{1, size - 1, size, 2*size + 1, frames*size - 1} {
			_, err = decompress(nil, src, codec, limit)
			if errcode.Of(err) != errcode.MessageTooLarge {
				t.Errorf("%v, limit %d: %v", codec, limit, err)
			}
		}
	}
}

func TestBombsTakeLittleMoreMemoryThanTheLimit(t *testing.T) {
	const bomb, limit = 16 << 20, 1 << 20
	zstdStreamed := Batch(readVector(t, "refused-zstd-bomb")).Records()
	for name, c := range map[string]struct {
		codec Codec
		src   []byte
	}{
		"gzip":          {Gzip, compressed(t, Gzip, bomb)},
		"snappy":        {Snappy, compressed(t, Snappy, bomb)},
		"lz4":           {Lz4, compressed(t, Lz4, bomb)},
		"zstd":          {Zstd, compressed(t, Zstd, bomb)},
		"zstd streamed": {Zstd, zstdStreamed},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			// The limit, what growing to it leaves behind, and the codec.
			const allowed = 4*limit + 1<<20
			if taken := allocated(func() { _, err = decompress(nil, c.src, c.codec, limit) }); taken > allowed {
				t.Errorf("took %d bytes for a limit of %d", taken, limit)
			}
			wantCode(t, err, errcode.MessageTooLarge)
		})
	}
}

// allocated returns how many bytes f takes from the heap in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestClaimsAreRefusedBeforeMemoryIsTaken(t *testing.T) {
	for name, limit := range map[string]int{
		"refused-snappy-claim": DecompressedBytesMax,
		"refused-zstd-claim":   DecompressedBytesMax,
		"refused-zstd-ratio":   DecompressedBytesMax,
	} {
		batch := Batch(readVector(t, name))
		var err error
		taken := allocated(func() { _, err = batch.Iterate(IterateOptions{MaxDecompressedBytes: limit}) })
		if err == nil || taken > 64<<10 {
			t.Errorf("%s: %v, took %d bytes", name, err, taken)
		}
	}
}

func TestSnappyBlocksCannotClaimMoreThanTheirBytesAllow(t *testing.T) {
	block := append(binary.AppendUvarint(nil, 60<<20), 0, 0)
	_, err := decompress(nil, block, Snappy, DecompressedBytesMax)
	wantCode(t, err, errcode.CorruptMessage)
	// The densest real block stays within the ratio.
	dense := compressed(t, Snappy, 8<<20)
	if _, err := decompress(nil, dense, Snappy, 8<<20); err != nil {
		t.Errorf("%d bytes for 8 MiB: %v", len(dense), err)
	}
}

func TestXerialStreams(t *testing.T) {
	header := append(xerialMagic[:], 0, 0, 0, 1, 0, 0, 0, 1)
	block := func(p []byte) []byte {
		b := compressSnappy(nil, p)
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	}
	two := append(append(bytes.Clone(header), block([]byte("first "))...), block([]byte("second"))...)
	out, err := decompress(nil, two, Snappy, 12)
	if err != nil || string(out) != "first second" {
		t.Fatalf("%q, %v", out, err)
	}
	_, err = decompress(nil, two, Snappy, 11)
	wantCode(t, err, errcode.MessageTooLarge)
	for name, bad := range map[string][]byte{
		"length cut short": append(bytes.Clone(header), 0, 0),
		"block cut short":  two[:len(two)-1],
		"negative length":  append(bytes.Clone(header), 0xff, 0xff, 0xff, 0xff, 1),
		"no snappy block":  append(bytes.Clone(header), 0, 0, 0, 2, 5, 5),
	} {
		_, err := decompress(nil, bad, Snappy, 1<<20)
		if errcode.Of(err) != errcode.CorruptMessage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGarbageAndCutBlocksAreCorrupt(t *testing.T) {
	for codec := Gzip; codec <= Zstd; codec++ {
		good := compressed(t, codec, 100_000)
		for name, src := range map[string][]byte{
			"nothing":  {},
			"one byte": {0xff},
			"garbage":  bytes.Repeat([]byte{0xa5}, 100),
			"cut":      good[:len(good)-9],
		} {
			_, err := decompress(nil, src, codec, 1<<20)
			if errcode.Of(err) != errcode.CorruptMessage {
				t.Errorf("%v %s: %v", codec, name, err)
			}
		}
		// The pooled decoder works on after a failure.
		if _, err := decompress(nil, good, codec, 1<<20); err != nil {
			t.Errorf("%v after failures: %v", codec, err)
		}
	}
}

func TestLegacyLz4FramesAreRefused(t *testing.T) {
	_, err := decompress(nil, []byte{0x02, 0x21, 0x4c, 0x18, 1, 0, 0, 0, 0}, Lz4, 1<<20)
	wantCode(t, err, errcode.CorruptMessage)
}

func TestUnknownCodecs(t *testing.T) {
	_, err := decompress(nil, []byte("x"), Codec(5), 10)
	wantCode(t, err, errcode.UnsupportedCompression)
	_, err = compress(nil, []byte("x"), Codec(5))
	wantCode(t, err, errcode.UnsupportedCompression)
}
