package commitlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"testing"

	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

// snapshot returns the stream of l as it is now.
func snapshot(t testing.TB, l *Log) []byte {
	t.Helper()
	p := l.Pin()
	defer p.Close()
	var out bytes.Buffer
	n, err := p.WriteTo(&out)
	must(t, err)
	if n != int64(out.Len()) {
		t.Fatalf("WriteTo returned %d for %d bytes", n, out.Len())
	}
	return out.Bytes()
}

func TestASnapshotIsTheLogAtThePinWhateverHappensAfterwards(t *testing.T) {
	s := newStream(t, rand.New(rand.NewPCG(11, 1)), 200)
	l := openMem(t, newMem(t), State{})
	for i := range 150 {
		must(t, s.append(l, i, i+1))
	}
	l.Trim(s.entries[30].BaseOffset + 1)
	p := l.Pin()
	defer p.Close()
	want := l.Segments()
	for i := 150; i < 200; i++ { // goes on after the pin
		must(t, s.append(l, i, i+1))
	}
	l.Trim(l.End())
	_, err := l.Sync()
	must(t, err)
	must(t, l.RemoveTrimmed())

	var stream bytes.Buffer
	_, err = p.WriteTo(&stream)
	must(t, err)
	stream.WriteString("what follows belongs to others")
	mem := newMem(t)
	st, err := Restore(Options{FS: mem, Dir: dir}, &stream)
	must(t, err)
	if st != p.State() {
		t.Fatalf("restored %+v, pinned %+v", st, p.State())
	}
	if rest, _ := io.ReadAll(&stream); string(rest) != "what follows belongs to others" {
		t.Fatalf("%d bytes are left in the stream", len(rest))
	}
	mem.reset() // the power goes: everything must be durable
	copied := openMem(t, mem, st)
	checkContent(t, s, copied)
	if got := copied.Segments(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("restored segments\n%+v\nthe source has\n%+v", got, want)
	}
	must(t, s.append(copied, 150, 151)) // and it goes on
	checkContent(t, s, copied)
}

func TestRestoreOfAnEmptyLogAndOfOneTrimmedToItsEnd(t *testing.T) {
	for _, n := range []int{0, 20} {
		s := newStream(t, rand.New(rand.NewPCG(12, 1)), 30)
		l := openMem(t, newMem(t), State{})
		for i := range n {
			must(t, s.append(l, i, i+1))
		}
		l.Trim(l.End())
		mem := newMem(t)
		st, err := Restore(Options{FS: mem, Dir: dir}, bytes.NewReader(snapshot(t, l)))
		must(t, err)
		copied := openMem(t, mem, st)
		if copied.LogStart() != l.End() || copied.End() != l.End() {
			t.Fatalf("restored [%d, %d), want [%d, %[3]d)", copied.LogStart(), copied.End(), l.End())
		}
		must(t, s.append(copied, n, n+1))
		checkContent(t, s, copied)
	}
}

func TestRestoreReplacesWhatWasThere(t *testing.T) {
	mem := newMem(t)
	damageFixture(t, mem)
	l := openMem(t, newMem(t), State{})
	one(t, l, 2, 20, 0, 7, Config{})
	st, err := Restore(Options{FS: mem, Dir: dir}, bytes.NewReader(snapshot(t, l)))
	must(t, err)
	if names := dirNames(t, mem); len(names) != 1 {
		t.Fatalf("the directory has %v", names)
	}
	if got := openMem(t, mem, st).SizeBytes(); got != l.SizeBytes() {
		t.Fatalf("%d bytes", got)
	}
}

// TestRestoreRefusesADamagedStream flips every byte and cuts at every length;
// the only bytes that may change unnoticed are none.
func TestRestoreRefusesADamagedStream(t *testing.T) {
	l := openMem(t, newMem(t), State{})
	for range 4 {
		one(t, l, 1, 10, 0, 0, Config{SegmentBytes: 100})
	}
	good := snapshot(t, l)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := Restore(Options{FS: newMem(t), Dir: dir}, bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d of %d flipped: restored", i, len(good))
		}
		if _, err := Restore(Options{FS: newMem(t), Dir: dir}, bytes.NewReader(good[:i])); err == nil {
			t.Fatalf("cut after byte %d of %d: restored", i, len(good))
		}
	}
}

func TestAnErrorOfAnyOperationOfRestoreSurfaces(t *testing.T) {
	l := openMem(t, newMem(t), State{})
	for range 3 {
		one(t, l, 1, 10, 0, 0, Config{SegmentBytes: 100})
	}
	stream := snapshot(t, l)
	for at := 1; ; at++ {
		mem := newMem(t)
		damageFixture(t, mem)
		inj := &storagetest.Injector{At: at}
		_, err := Restore(Options{FS: storagetest.Wrap(mem, inj.Hook), Dir: dir}, bytes.NewReader(stream))
		op, fired := inj.Fired()
		if !fired {
			must(t, err)
			return
		}
		if !errors.Is(err, storagetest.ErrInjected) {
			t.Fatalf("operation %d (%v): %v", at, op, err)
		}
	}
}

func TestADamagedSegmentIsNotSpreadBySnapshots(t *testing.T) {
	mem := newMem(t)
	_, st, segments := damageFixture(t, mem)
	rewrite(t, mem, mem.PathJoin(dir, fileName(segments[1].Base, logSuffix)), flip(200))
	l := openMem(t, mem, st)
	p := l.Pin()
	defer p.Close()
	var out bytes.Buffer
	_, err := p.WriteTo(&out)
	damageOf(t, err)
	if _, err := Restore(Options{FS: newMem(t), Dir: dir}, &out); err == nil {
		t.Fatal("the damaged stream was restored")
	}
}

func TestVerifyWithoutAMarkerReportsATornTail(t *testing.T) {
	mem := newMem(t)
	_, st, segments := damageFixture(t, mem)
	last := segments[len(segments)-1]
	rewrite(t, mem, mem.PathJoin(dir, fileName(last.Base, logSuffix)), cut(3))
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

// FuzzRestore: whatever comes over the network is restored as a log that opens,
// or refused.
func FuzzRestore(f *testing.F) {
	l := openMem(f, newMem(f), State{})
	f.Add(snapshot(f, l))
	for range 3 {
		one(f, l, 1, 10, 0, 0, Config{SegmentBytes: 100})
	}
	f.Add(snapshot(f, l))
	f.Fuzz(func(t *testing.T, stream []byte) {
		if len(stream) >= snapshotHeaderSize { // a right checksum, so that the fields are met
			binary.BigEndian.PutUint32(stream[36:], crc32.Checksum(stream[:36], castagnoli))
		}
		mem := newMem(t)
		st, err := Restore(Options{FS: mem, Dir: dir}, bytes.NewReader(stream))
		if err != nil {
			return
		}
		l, err := Open(Options{FS: mem, Dir: dir}, st)
		if err != nil {
			damageOf(t, err)
			return
		}
		must(t, l.Close())
	})
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
			must(b, l.RemoveTrimmed())
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
