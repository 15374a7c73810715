package commitlog

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

func TestVerifyWithoutAMarkerReportsATornTail(t *testing.T) {
	mem := newMem(t)
	_, st, segments := damageFixture(t, mem)
	last := segments[len(segments)-1]
	storagetest.Rewrite(t, mem, mem.PathJoin(dir, fileName(last.Base, logSuffix)), cut(3))
	report, err := Verify(mem, dir, VerifyOptions{})
	must(t, err)
	tail := report.Segments[len(report.Segments)-1].TailBytes
	if len(report.Damage) != 0 || tail == 0 || len(report.Segments) != len(segments) {
		t.Fatalf("%d bytes of tail, damage %v", tail, report.Damage)
	}
	if report, err = Verify(mem, dir, VerifyOptions{State: &st}); err != nil || len(report.Damage) != 1 {
		t.Fatalf("against the marker: %v, %v", report.Damage, err)
	}
	must(t, mem.Remove(mem.PathJoin(dir, fileName(segments[1].Base, logSuffix))))
	if report, err = Verify(mem, dir, VerifyOptions{}); err != nil || len(report.Damage) != 1 {
		t.Fatalf("with a segment missing: %v, %v", report.Damage, err)
	}
}

func TestVerifyDigestsBelowAnOffset(t *testing.T) {
	mem := newMem(t)
	s, _, segments := damageFixture(t, mem)
	below := segments[1].Base + 1 // inside or behind the second segment's first batch
	report, err := Verify(mem, dir, VerifyOptions{Below: below})
	must(t, err)
	h := sha256.New()
	for i := range s.entries {
		if i+1 < len(s.entries) && s.entries[i+1].BaseOffset <= segments[0].End {
			h.Write(s.stored[i])
		}
	}
	if got := report.Segments[0]; !bytes.Equal(got.SHA256[:], h.Sum(nil)) || got.DigestBytes != segments[0].Bytes {
		t.Fatalf("the first segment's digest covers %d bytes of %d", got.DigestBytes, segments[0].Bytes)
	}
	if got := report.Segments[2]; got.DigestBytes != 0 || got.Batches == 0 {
		t.Fatalf("the third segment's digest covers %d bytes", got.DigestBytes)
	}
	var records int64
	for _, r := range report.Segments {
		records += r.Records
	}
	if last := report.Segments[len(report.Segments)-1]; records != last.End {
		t.Fatalf("%d records up to offset %d", records, last.End)
	}
}

// FuzzScan: a segment file of any content is walked to its end or named
// damaged at a position inside it.
func FuzzScan(f *testing.F) {
	good := batch(f, 2, 10, 0, 'f')
	f.Add([]byte(good))
	f.Add(append(bytes.Clone(good), good...))
	f.Fuzz(func(t *testing.T, content []byte) {
		x, err := scanExtent(Options{Dir: dir}.place(), bytes.NewReader(content), 0, int64(len(content)))
		if err == nil && x.length != int64(len(content)) {
			t.Fatalf("%d of %d bytes", x.length, len(content))
		}
		if err != nil && damageOf(t, err).Position > int64(len(content)) {
			t.Fatal(err)
		}
	})
}

func BenchmarkAppend64KiB(b *testing.B) {
	l, err := Open(Options{FS: storage.OS(), Dir: b.TempDir()}, State{})
	must(b, err)
	defer l.Close()
	e := Entry{Batch: batch(b, 64, 1000, 0, 'b')}
	b.SetBytes(int64(len(e.Batch)))
	b.ReportAllocs()
	for b.Loop() {
		e.BaseOffset = l.End()
		must(b, l.Append([]Entry{e}, Config{SegmentBytes: 64 << 20}))
		if e.BaseOffset%(64*4096) == 0 { // keep the disk's use bounded
			l.Trim(e.BaseOffset)
			_, err := l.Sync()
			must(b, err)
			must(b, marked(l))
		}
	}
}

func BenchmarkRead(b *testing.B) {
	l, err := Open(Options{FS: storage.OS(), Dir: b.TempDir()}, State{})
	must(b, err)
	defer l.Close()
	e := Entry{Batch: batch(b, 64, 1000, 0, 'b')}
	for range 1024 {
		e.BaseOffset = l.End()
		must(b, l.Append([]Entry{e}, Config{SegmentBytes: 16 << 20}))
	}
	for _, size := range []int{64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			var total int64
			for offset := int64(0); b.Loop(); {
				buf, err = l.Read(buf[:0], offset, l.End(), size)
				must(b, err)
				total += int64(len(buf))
				offset += 64 * int64(len(buf)/len(e.Batch))
				if offset == l.End() {
					offset = 0
				}
			}
			b.SetBytes(total / int64(b.N))
		})
	}
}
