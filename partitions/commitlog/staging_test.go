package commitlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

const stagingDir = "/staging"

// manifest pins l and returns what it is made of.
func manifest(t testing.TB, l *Log) (Manifest, *Pinned) {
	t.Helper()
	p := l.Pin()
	t.Cleanup(p.Close)
	m, err := p.Manifest()
	must(t, err)
	return m, p
}

// fetchAll copies what is missing of m from src, at most chunk bytes per transfer
// (0 = no bound), and returns how many bytes that was.
func fetchAll(s *Staging, m Manifest, own, src *Pinned, chunk int64) (copied int64, err error) {
	for {
		wants, _, err := s.Missing(m, own)
		if err != nil || len(wants) == 0 {
			return copied, err
		}
		in, err := s.Begin(wants[0], own)
		if err != nil {
			return copied, err
		}
		from, to := in.Position(), wants[0].Bytes()
		if chunk > 0 {
			to = min(to, from+chunk)
		}
		if err := src.CopySegment(in, wants[0].Base(), from, to); err != nil {
			return copied, errors.Join(err, in.Close())
		}
		copied += to - from
		if to < wants[0].Bytes() {
			err = in.Close() // the connection broke: begun again
		} else {
			err = in.Finish()
		}
		if err != nil {
			return copied, err
		}
	}
}

// rebuilt makes dir hold m, fetched from src into a staging of fs beside own.
func rebuilt(fs storage.FS, m Manifest, own, src *Pinned) (copied int64, err error) {
	s, err := OpenStaging(Options{FS: fs, Dir: stagingDir})
	if err != nil {
		return 0, err
	}
	if copied, err = fetchAll(s, m, own, src, 0); err != nil {
		return copied, err
	}
	return copied, Assemble(Options{FS: fs, Dir: dir}, m, own, s)
}

// grown returns a log with the first n batches of s.
func (s *stream) grown(t testing.TB, fs storage.FS, n int) *Log {
	t.Helper()
	l := openMem(t, fs, State{})
	for i := range n {
		must(t, s.append(l, i, i+1))
	}
	return l
}

func TestARebuiltLogIsTheOneOfThePinWhateverHappensAfterwards(t *testing.T) {
	s := newStream(t, rand.New(rand.NewPCG(11, 1)), 200)
	l := s.grown(t, newMem(t), 150)
	l.Trim(s.entries[30].BaseOffset + 1)
	m, p := manifest(t, l)
	want := l.Segments()
	for i := 150; i < 200; i++ { // goes on after the pin
		must(t, s.append(l, i, i+1))
	}
	l.Trim(l.End())
	_, err := l.Sync()
	must(t, err)
	must(t, marked(l))

	mem := newMem(t)
	decoded, err := DecodeManifest(m.Append(nil))
	must(t, err)
	_, err = rebuilt(mem, decoded, nil, p)
	must(t, err)
	mem.reset() // the power goes: everything must be durable
	copied := openMem(t, mem, decoded.State)
	checkContent(t, s, copied)
	if got := copied.Segments(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("rebuilt segments\n%+v\nthe source has\n%+v", got, want)
	}
	must(t, s.append(copied, 150, 151)) // and it goes on
	checkContent(t, s, copied)
}

func TestALogIsRebuiltEmptyAndTrimmedToItsEnd(t *testing.T) {
	for _, n := range []int{0, 20} {
		s := newStream(t, rand.New(rand.NewPCG(12, 1)), 30)
		l := s.grown(t, newMem(t), n)
		l.Trim(l.End())
		m, p := manifest(t, l)
		mem := newMem(t)
		_, err := rebuilt(mem, m, nil, p)
		must(t, err)
		copied := openMem(t, mem, m.State)
		if copied.LogStart() != l.End() || copied.End() != l.End() {
			t.Fatalf("rebuilt [%d, %d), want [%d, %[3]d)", copied.LogStart(), copied.End(), l.End())
		}
		must(t, s.append(copied, n, n+1))
		checkContent(t, s, copied)
	}
}

// TestOnlyWhatIsMissingIsFetched: whole segments that are here stay, of the one
// that was active the begin stays.
func TestOnlyWhatIsMissingIsFetched(t *testing.T) {
	s := newStream(t, rand.New(rand.NewPCG(13, 1)), 200)
	for i := range s.configs {
		s.configs[i] = Config{SegmentBytes: 3000}
	}
	src := s.grown(t, newMem(t), 200)
	m, p := manifest(t, src)
	for _, have := range []int{0, 1, 77, 150, 200} {
		mem := newMem(t)
		own := openMem(t, mem, State{})
		var bytes int64
		for i := range have {
			must(t, s.append(own, i, i+1))
			bytes += int64(len(s.stored[i]))
		}
		_, err := own.Sync()
		must(t, err)
		pin := own.Pin()
		st, err := OpenStaging(Options{FS: mem, Dir: stagingDir})
		must(t, err)
		_, missing, err := st.Missing(m, pin)
		must(t, err)
		copied, err := fetchAll(st, m, pin, p, 0)
		must(t, err)
		if want := src.SizeBytes() - bytes; copied != want || missing != want {
			t.Errorf("with %d of 200 batches here %d bytes were copied and %d foreseen, %d are missing", have, copied, missing, want)
		}
		const other = "/log-2"
		must(t, Assemble(Options{FS: mem, Dir: other}, m, pin, st))
		pin.Close()
		must(t, own.Close())
		l, err := Open(Options{FS: mem, Dir: other}, m.State)
		must(t, err)
		checkContent(t, s, l)
		must(t, l.Close())
	}
}

// TestABrokenTransferGoesOnWhereItWas breaks each transfer after a few bytes, in
// the middle of batches, and has the power fail after each.
func TestABrokenTransferGoesOnWhereItWas(t *testing.T) {
	s := newStream(t, rand.New(rand.NewPCG(14, 1)), 60)
	src := s.grown(t, newMem(t), 60)
	m, p := manifest(t, src)
	mem := newMem(t)
	st, err := OpenStaging(Options{FS: mem, Dir: stagingDir})
	must(t, err)
	longest := int64(0)
	for _, b := range s.stored {
		longest = max(longest, int64(len(b)))
	}
	copied, err := fetchAll(st, m, nil, p, longest+longest/2)
	must(t, err)
	if copied > 4*src.SizeBytes() {
		t.Errorf("%d bytes were copied for %d", copied, src.SizeBytes())
	}
	must(t, Assemble(Options{FS: mem, Dir: dir}, m, nil, st))
	checkContent(t, s, openMem(t, mem, m.State))
}

// TestWhatIsStagedServesEarlierAndLaterManifests: what was active in one manifest
// is longer, or sealed, in the next.
func TestWhatIsStagedServesEarlierAndLaterManifests(t *testing.T) {
	s := newStream(t, rand.New(rand.NewPCG(15, 1)), 120)
	src := s.grown(t, newMem(t), 40)
	early, _ := manifest(t, src)
	for i := 40; i < 120; i++ {
		must(t, s.append(src, i, i+1))
	}
	late, p := manifest(t, src)
	for name, order := range map[string][2]Manifest{"late first": {late, early}, "early first": {early, late}} {
		mem := newMem(t)
		st, err := OpenStaging(Options{FS: mem, Dir: stagingDir})
		must(t, err)
		first, err := fetchAll(st, order[0], nil, p, 0)
		must(t, err)
		second, err := fetchAll(st, order[1], nil, p, 0)
		must(t, err)
		if first+second != src.SizeBytes() {
			t.Errorf("%s: %d and %d bytes were copied, the log has %d", name, first, second, src.SizeBytes())
		}
		must(t, Assemble(Options{FS: mem, Dir: dir}, order[1], nil, st))
		mem.reset()
		l := openMem(t, mem, order[1].State)
		checkContent(t, s, l)
		end := l.End()
		must(t, l.Close())
		must(t, st.Drop(end))
		if left, err := list(st.place); err != nil || name == "early first" && len(left.bases) > 0 {
			t.Errorf("%s: %v is still staged, %v", name, left.bases, err)
		}
	}
}

func TestBytesThatAreNotTheSegmentAreRefusedAndFetchedAgain(t *testing.T) {
	srcMem := newMem(t)
	_, st, segments := damageFixture(t, srcMem)
	good := openMem(t, srcMem, st)
	m, p := manifest(t, good)
	storagetest.Rewrite(t, srcMem, srcMem.PathJoin(dir, fileName(segments[1].Base, logSuffix)), flip(200))
	mem := newMem(t)
	s, err := OpenStaging(Options{FS: mem, Dir: stagingDir})
	must(t, err)
	if _, err := fetchAll(s, m, nil, p, 0); !errors.Is(err, ErrNotTheSegment) {
		t.Fatalf("a damaged segment was taken: %v", err)
	}
	if err := Assemble(Options{FS: mem, Dir: dir}, m, nil, s); err == nil {
		t.Fatal("a log was made without the segment")
	}
	storagetest.Rewrite(t, srcMem, srcMem.PathJoin(dir, fileName(segments[1].Base, logSuffix)), flip(200)) // back again
	_, err = fetchAll(s, m, nil, p, 0)
	must(t, err)
	must(t, Assemble(Options{FS: mem, Dir: dir}, m, nil, s))
	must(t, openMem(t, mem, m.State).Close())
}

func TestAManifestRaisesItsLogStart(t *testing.T) {
	s := newStream(t, rand.New(rand.NewPCG(16, 1)), 100)
	src := s.grown(t, newMem(t), 100)
	m, p := manifest(t, src)
	segments := m.Segments()
	for _, at := range []int64{0, segments[1].Base, segments[2].Base + 1, segments[len(segments)-1].Base, src.End(), src.End() + 9} {
		got := m.Trimmed(at)
		must(t, got.check())
		if want := min(at, src.End()); got.State.LogStart != want {
			t.Errorf("trimmed to %d: the log start is %d", at, got.State.LogStart)
		}
		mem := newMem(t)
		_, err := rebuilt(mem, got, nil, p)
		must(t, err)
		checkContent(t, s, openMem(t, mem, got.State))
	}
	if m.State.LogStart != 0 || len(m.Segments()) != len(segments) {
		t.Error("the manifest that was trimmed has changed")
	}
}

// TestAnErrorOfAnyOperationOfRebuildingSurfaces fails every operation once, also
// where files of an earlier attempt are there.
func TestAnErrorOfAnyOperationOfRebuildingSurfaces(t *testing.T) {
	l := openMem(t, newMem(t), State{})
	for range 3 {
		one(t, l, 1, 10, 0, 0, Config{SegmentBytes: 100})
	}
	m, p := manifest(t, l)
	for at := 1; ; at++ {
		mem := newMem(t)
		damageFixture(t, mem)
		inj := &storagetest.Injector{At: at, Match: func(op storagetest.Op) bool {
			link := op.Kind == storagetest.Rename && !strings.HasSuffix(op.Path, footerSuffix)
			return op.Kind.Mutates() && !link // a link that fails becomes a copy
		}}
		_, err := rebuilt(storagetest.Wrap(mem, inj.Hook), m, nil, p)
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

// TestEveryFlippedByteOfAManifestIsNoticed: but for a footer's own fields, which
// its checksum covers too, all of it is under a checksum.
func TestEveryFlippedByteOfAManifestIsNoticed(t *testing.T) {
	l := openMem(t, newMem(t), State{})
	for range 4 {
		one(t, l, 1, 10, 0, 0, Config{SegmentBytes: 100})
	}
	m, _ := manifest(t, l)
	good := m.Append(nil)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := DecodeManifest(bad); err == nil {
			t.Fatalf("byte %d of %d flipped: read", i, len(good))
		}
		if _, err := DecodeManifest(good[:i]); err == nil {
			t.Fatalf("cut after byte %d of %d: read", i, len(good))
		}
	}
}

// FuzzDecodeManifest: whatever a peer sends is a manifest that checks, or refused.
func FuzzDecodeManifest(f *testing.F) {
	l := openMem(f, newMem(f), State{})
	empty, _ := manifest(f, l)
	f.Add(empty.Append(nil))
	for range 3 {
		one(f, l, 1, 10, 0, 0, Config{SegmentBytes: 100})
	}
	m, p := manifest(f, l)
	f.Add(m.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= manifestHeaderSize { // a right checksum, so that the fields are met
			binary.BigEndian.PutUint32(b[36:], crc32.Checksum(b[:36], castagnoli))
		}
		m, err := DecodeManifest(b)
		if err != nil {
			return
		}
		if !bytes.Equal(m.Append(nil), b) {
			t.Fatal("reads as a manifest with another form")
		}
		if _, err := rebuilt(newMem(t), m, nil, p); err == nil && m.State.End > l.End() {
			t.Fatal("a log was made of segments that nobody has")
		}
	})
}

// copyAll reads every segment of p.
func copyAll(p *Pinned) error {
	m, err := p.Manifest()
	if err != nil {
		return err
	}
	for _, x := range m.Segments() {
		if err := p.CopySegment(io.Discard, x.Base, 0, x.Bytes); err != nil {
			return err
		}
	}
	return nil
}
