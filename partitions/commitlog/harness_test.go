package commitlog

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"logbroker/internal/recordbatch"
	"logbroker/internal/storage"
)

// dir is where tests on a file system in memory keep a log; its parent is not
// the root so that the directory's own name has to be made durable too.
const dir = "/data/p"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("unexpected error: %v", err)
	}
}

// newMem returns a strict file system with the parent of dir.
func newMem(t testing.TB) *memFS {
	t.Helper()
	mem := storage.NewStrictMem()
	must(t, storage.MkdirAll(mem, "/data"))
	return &memFS{FS: mem, reset: mem.ResetToSyncedState}
}

// memFS is a strict memory file system with its power switch.
type memFS struct {
	storage.FS
	reset func()
}

// batch builds one batch of records records with timestamps from tsMs on.
func batch(t testing.TB, records, valueBytes int, tsMs int64, fill byte) recordbatch.Batch {
	t.Helper()
	b := recordbatch.NewBuilder()
	value := bytes.Repeat([]byte{fill}, valueBytes)
	for i := range records {
		b.Append(tsMs+int64(i), nil, value, nil)
	}
	out, err := b.Build(nil, recordbatch.None)
	must(t, err)
	return recordbatch.Batch(out)
}

// stream is a replicated sequence of entries, each with the configuration that
// holds at it, and the log that they make.
type stream struct {
	entries []Entry
	configs []Config
	stored  [][]byte // the batches as they must stand in the log
}

// newStream makes n entries from rng. Segments of the configurations in it
// hold a few batches.
func newStream(t testing.TB, rng *rand.Rand, n int) *stream {
	s := &stream{}
	var offset, nowMs int64 = 0, 1_000
	cfg := Config{SegmentBytes: 2000}
	for i := range n {
		if rng.IntN(25) == 0 {
			cfg = Config{SegmentBytes: int64(500 + rng.IntN(3000)), SegmentAge: msec(rng.IntN(3) * 200)}
		}
		nowMs += int64(rng.IntN(60)) - 5 // sometimes back, which must not count
		b := batch(t, 1+rng.IntN(5), rng.IntN(120), rng.Int64N(100_000), byte(i))
		e := Entry{Batch: b, BaseOffset: offset, Epoch: int32(i / 40), AppendTimeMs: nowMs}
		stored := bytes.Clone(b)
		recordbatch.Batch(stored).SetBaseOffset(offset)
		recordbatch.Batch(stored).SetPartitionLeaderEpoch(e.Epoch)
		s.entries, s.configs, s.stored = append(s.entries, e), append(s.configs, cfg), append(s.stored, stored)
		offset = recordbatch.Batch(stored).NextOffset()
	}
	return s
}

// group returns the end of a call that begins at entry from and has at most n
// entries of one configuration.
func (s *stream) group(from, n int) int {
	to := from + 1
	for to < len(s.entries) && to < from+n && s.configs[to] == s.configs[from] {
		to++
	}
	return to
}

// at returns the number of the entry that begins at offset.
func (s *stream) at(offset int64) int {
	for i := range s.entries {
		if s.entries[i].BaseOffset >= offset {
			return i
		}
	}
	return len(s.entries)
}

// append appends entries [from, to) in one call.
func (s *stream) append(l *Log, from, to int) error {
	return l.Append(s.entries[from:to], s.configs[from])
}

// content reads the log from the first batch that offset is in to its end.
func content(l *Log, offset int64, maxBytes int) ([]byte, error) {
	var all []byte
	for {
		b, err := l.Read(nil, offset, l.End(), maxBytes)
		if err != nil {
			return nil, err
		}
		if len(b) == 0 {
			return all, nil
		}
		all = append(all, b...)
		for len(b) > 0 {
			var one recordbatch.Batch
			if one, b, err = recordbatch.Parse(b); err != nil {
				return nil, err
			}
			offset = one.NextOffset()
		}
	}
}

// checkContent fails unless the log holds exactly the stream's batches from its
// log start offset to its end.
func checkContent(t *testing.T, s *stream, l *Log) {
	t.Helper()
	first, last := 0, s.at(l.End())
	for first < last && recordbatch.Batch(s.stored[first]).NextOffset() <= l.LogStart() {
		first++
	}
	want := bytes.Join(s.stored[first:last], nil)
	got, err := content(l, l.LogStart(), 700)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Fatalf("the log [%d, %d) has %d bytes, want %d", l.LogStart(), l.End(), len(got), len(want))
	}
}

// openMem opens a log in mem with small index intervals.
func openMem(t testing.TB, fs storage.FS, st State) *Log {
	t.Helper()
	l, err := Open(Options{FS: fs, Dir: dir, IndexIntervalBytes: 300}, st)
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	return l
}

// damageOf returns the DamageError of err.
func damageOf(t testing.TB, err error) *DamageError {
	t.Helper()
	var d *DamageError
	if !errors.As(err, &d) || !errors.Is(err, ErrDamaged) {
		t.Fatalf("want a DamageError, got %v", err)
	}
	return d
}
func msec(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// marked does what follows a durable marker, and waits for it.
func marked(l *Log) error {
	l.Marked()
	return l.Checkpoint()
}
