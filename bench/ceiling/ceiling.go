// Package ceiling measures what a machine does without a broker: its disk, its
// syncs, one core at what brokers and clients spend their time on, its loopback.
// The figures stand beside those of a load that runs right after. It takes two
// seconds and is no benchmark of the machine: it says of what order the limits
// are.
//
// Start at Measure.
package ceiling

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

	"logbroker/bench/load"
)

// How long each figure is measured.
const (
	diskTime  = 500 * time.Millisecond
	coreTime  = 200 * time.Millisecond
	sampleMax = 8 << 20 // bytes of payload that are compressed in turn
)

const (
	writeBytes = 1 << 20 // of a sequential write
	fileMax    = 1 << 30 // bytes of the file at most
	syncBytes  = 64 << 10
	copyBytes  = 64 << 20 // more than a core's caches hold
)

// Measure measures the machine for the load of s, with files below dir ("" is
// the system's place for temporary files), which it removes. It stops early when
// ctx ends. Errors: of the file system and the network.
func Measure(ctx context.Context, dir string, s load.Spec) (_ *load.Ceiling, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("measuring the machine by itself: %w; --ceiling=false leaves that out", err)
		}
	}()
	if dir, err = os.MkdirTemp(dir, "logbroker-bench-ceiling-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c := &load.Ceiling{}
	if c.DiskWriteMBPerS, err = diskWrite(ctx, dir); err != nil {
		return nil, err
	}
	if c.SyncP50Ms, c.SyncP99Ms, err = syncs(ctx, dir); err != nil {
		return nil, err
	}
	if c.LoopbackMBPerS, err = loopback(coreTime); err != nil {
		return nil, err
	}
	if c.ZstdMBPerS, c.ZstdRatio, err = compression(s.Sample(sampleMax), s.BatchBytes); err != nil {
		return nil, err
	}
	memory(c)
	return c, ctx.Err()
}

// noise is n bytes that neither a disk nor a link can shrink.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

func diskWrite(ctx context.Context, dir string) (mbPerS float64, err error) {
	f, err := os.CreateTemp(dir, "sequential-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	chunk, start, sum := noise(writeBytes), time.Now(), 0
	for sum < fileMax && time.Since(start) < diskTime && ctx.Err() == nil {
		n, err := f.Write(chunk)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	return megabytes(sum, time.Since(start)), nil
}

func syncs(ctx context.Context, dir string) (p50Ms, p99Ms float64, err error) {
	f, err := os.CreateTemp(dir, "synced-")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	chunk, start := noise(syncBytes), time.Now()
	var took []time.Duration
	for len(took) == 0 || time.Since(start) < diskTime && ctx.Err() == nil {
		began := time.Now()
		if _, err := f.Write(chunk); err != nil {
			return 0, 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, 0, fmt.Errorf("fdatasync: %w", err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	at := func(percent int) float64 { return took[(len(took)-1)*percent/100].Seconds() * 1000 }
	return at(50), at(99), nil
}

// compression compresses data batch by batch as the producer does.
func compression(data []byte, batch int) (mbPerS, ratio float64, err error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return 0, 0, fmt.Errorf("zstd: %w", err)
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	var out []byte
	in, compressed, start := 0, 0, time.Now()
	for at := 0; in == 0 || time.Since(start) < coreTime; at += batch {
		if at+batch > len(data) {
			at = 0
		}
		out = e.EncodeAll(data[at:min(at+batch, len(data))], out[:0])
		in, compressed = in+min(batch, len(data)), compressed+len(out)
	}
	return megabytes(in, time.Since(start)), float64(in) / float64(compressed), nil
}

// memory measures what costs a core memory bandwidth.
func memory(c *load.Ceiling) {
	from, to := noise(copyBytes), make([]byte, copyBytes)
	copy(to, from) // its pages exist now
	c.CopyMBPerS = repeat(func() int { return copy(to, from) })
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := uint32(0)
	c.CRC32CMBPerS = repeat(func() int {
		sum = crc32.Update(sum, table, from)
		return len(from)
	})
	if !bytes.Equal(from[:8], to[:8]) || sum == 0 {
		c.CopyMBPerS, c.CRC32CMBPerS = 0, 0 // cannot be; keeps the work from being optimized away
	}
}

// repeat does work, which says how many bytes it took, for a while.
func repeat(work func() int) (mbPerS float64) {
	sum, start := 0, time.Now()
	for sum == 0 || time.Since(start) < coreTime {
		sum += work()
	}
	return megabytes(sum, time.Since(start))
}

func megabytes(n int, took time.Duration) float64 { return float64(n) / 1e6 / took.Seconds() }
