package commitlog

import (
	"bytes"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

// checkpointed leaves in mem a log with one segment, synced, and checkpointed at
// every sync, of which there is one after every ten entries. What the last sync
// added has no checkpoint where last is false: a crash came between.
func checkpointed(t *testing.T, mem storage.FS, last bool) (*stream, State) {
	t.Helper()
	s := newStream(t, rand.New(rand.NewPCG(5, 5)), 100)
	l, err := Open(Options{FS: mem, Dir: dir, IndexIntervalBytes: 300, CheckpointBytes: 1}, State{})
	must(t, err)
	var st State
	for i := range s.entries {
		must(t, l.Append(s.entries[i:i+1], Config{}))
		if i%10 < 9 {
			continue
		}
		st, err = l.Sync()
		must(t, err)
		if i < len(s.entries)-1 || last {
			must(t, marked(l))
		}
	}
	must(t, l.Close())
	return s, st
}

// counting returns fs and a count of the bytes that reads asked it for.
func counting(fs storage.FS, suffix string) (storage.FS, *atomic.Int64) {
	var n atomic.Int64
	return storagetest.Wrap(fs, func(op storagetest.Op) (int, error) {
		if op.Kind == storagetest.Read && strings.HasSuffix(op.Path, suffix) {
			n.Add(int64(op.Bytes))
		}
		return 0, nil
	}), &n
}

func TestOpenReadsOnlyWhatCameAfterTheCheckpoint(t *testing.T) {
	for _, last := range []bool{true, false} {
		mem := newMem(t)
		s, st := checkpointed(t, mem, last)
		fs, read := counting(mem, logSuffix)
		l := openMem(t, fs, st)
		var want int64
		if !last {
			for _, b := range s.stored[90:] {
				want += int64(len(b))
			}
		}
		if read.Load() != want {
			t.Errorf("the checkpoint is the last: %v: Open read %d bytes of a segment of %d, want %d", last, read.Load(), st.ActivePosition, want)
		}
		// Nothing else tells the two logs apart.
		full := newMem(t)
		_, fullState := checkpointed(t, full, true)
		must(t, full.Remove(full.PathJoin(dir, fileName(0, checkpointSuffix))))
		whole := openMem(t, full, fullState)
		x, y := *l.active.segment.ext.Load(), *whole.active.segment.ext.Load()
		if x.footer != y.footer || x.indexed != y.indexed || len(x.entries) != len(y.entries) {
			t.Errorf("opened with %+v, without a checkpoint %+v", x.footer, y.footer)
		}
		for i := range x.entries {
			if x.entries[i] != y.entries[i] {
				t.Fatalf("index entry %d is %+v, without a checkpoint %+v", i, x.entries[i], y.entries[i])
			}
		}
		checkContent(t, s, l)
	}
}

func TestACheckpointThatDoesNotFitIsOfNoAccount(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"flipped in the head": flip(20), "flipped in the index": flip(100), "flipped at the end": flip(-1),
		"cut short": cut(3), "empty": func([]byte) []byte { return nil }, "of another file": func([]byte) []byte { return bytes.Repeat([]byte("x"), 300) },
	} {
		mem := newMem(t)
		s, st := checkpointed(t, mem, true)
		storagetest.Rewrite(t, mem, mem.PathJoin(dir, fileName(0, checkpointSuffix)), damage)
		fs, read := counting(mem, logSuffix)
		l := openMem(t, fs, st)
		if read.Load() != st.ActivePosition {
			t.Errorf("%s: %d of %d bytes were read", name, read.Load(), st.ActivePosition)
		}
		checkContent(t, s, l)
		for _, n := range dirNames(t, mem) {
			if strings.HasSuffix(n, checkpointSuffix) {
				t.Errorf("%s: %s is left", name, n)
			}
		}
	}
	// One that is ahead of the marker speaks of what may be cut off.
	mem := newMem(t)
	s, st := checkpointed(t, mem, true)
	st.End, st.ActivePosition, st.ActiveCRC = s.entries[50].BaseOffset, 0, 0
	for _, b := range s.stored[:50] {
		st.ActivePosition += int64(len(b))
	}
	st.ActiveCRC = crc32.Checksum(bytes.Join(s.stored[:50], nil), castagnoli)
	l := openMem(t, mem, st)
	checkContent(t, s, l)
}

// Damage below the checkpoint is not met by Open; whoever reads there meets it.
func TestDamageBelowTheCheckpointIsMetByReadAndScrub(t *testing.T) {
	mem := newMem(t)
	s, st := checkpointed(t, mem, false)
	path := mem.PathJoin(dir, fileName(0, logSuffix))
	storagetest.Rewrite(t, mem, path, flip(80))
	l := openMem(t, mem, st)
	if _, err := scrubAll(l); damageOf(t, err).File != path {
		t.Errorf("scrub: %v", err)
	}
	checkReadsUnderDamage(t, l, s, true, path)
}

func TestDamageAboveTheCheckpointIsNamedByOpenWithItsPlace(t *testing.T) {
	mem := newMem(t)
	_, st := checkpointed(t, mem, false)
	storagetest.Rewrite(t, mem, mem.PathJoin(dir, fileName(0, logSuffix)), flip(-1))
	_, err := Open(Options{FS: mem, Dir: dir, IndexIntervalBytes: 300}, st)
	if d := damageOf(t, err); d.Position < st.ActivePosition/2 {
		t.Errorf("the damage is at the end, the error says %d of %d", d.Position, st.ActivePosition)
	}
}

func FuzzDecodeCheckpoint(f *testing.F) {
	x := newExtent(7)
	for i := range int64(5) {
		x.add(8+i, 400, i, 300)
	}
	f.Add(encodeCheckpoint(&x))
	f.Add(encodeCheckpoint(&extent{footer: footer{base: 1, end: 1, maxTs: noTimestamp}}))
	f.Add([]byte("LBFT"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := decodeCheckpoint(b)
		if err != nil {
			return
		}
		if again := encodeCheckpoint(&x); !bytes.Equal(again, b) {
			y, err := decodeCheckpoint(again)
			if err != nil || y.footer != x.footer || len(y.entries) != len(x.entries) {
				t.Errorf("%x decodes, and differently once encoded: %v", b, err)
			}
		}
	})
}
