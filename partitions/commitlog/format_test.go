package commitlog

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// golden compares got with a file of hexadecimal bytes. The format on disk may
// change only with a new version number, and then the old vector stays.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join("testdata", "vectors", name))
	must(t, err)
	if h := hex.EncodeToString(got); h != strings.Join(strings.Fields(string(want)), "") {
		t.Errorf("%s changed, it is now\n%s", name, h)
	}
}

func vectorFooter() footer {
	return footer{base: 1000, end: 1234, length: 5678, crc: 0xcafebabe, firstMs: 1_700_000_000_000, lastMs: 1_700_000_001_000, maxTs: 1_600_000_000_000}
}

func vectorIndex() []indexEntry {
	return []indexEntry{
		{offset: 1010, position: 4100, maxTsBefore: 1_500_000_000_000},
		{offset: 1200, position: 5000, maxTsBefore: 1_600_000_000_000},
	}
}

func TestFormatsOnDisk(t *testing.T) {
	f := vectorFooter()
	golden(t, "footer.v1.hex", f.encode())
	if got, err := decodeFooter(f.encode()); err != nil || got != f {
		t.Errorf("decoded %+v, %v", got, err)
	}
	offsets, times := encodeIndexes(vectorIndex(), f.base, f.length)
	golden(t, "index.v1.hex", offsets)
	golden(t, "timeindex.v1.hex", times)
	got, err := decodeIndexes(offsets, times, f.base, f.end, f.length)
	if err != nil || !slices.Equal(got, vectorIndex()) {
		t.Errorf("decoded %+v, %v", got, err)
	}
	m := Manifest{State: State{LogStart: 1005, End: 1300, LastAppendMs: 1_700_000_001_000}, segments: []footer{f, f}}
	m.segments[1].base, m.segments[1].end = 1234, 1300
	m.setActive()
	golden(t, "manifest.v1.hex", m.Append(nil))
	if got, err := DecodeManifest(m.Append(nil)); err != nil || got.State != m.State || !slices.Equal(got.segments, m.segments) {
		t.Errorf("decoded %+v, %v", got, err)
	}
}

func TestEveryFlippedBitOfAFooterOrIndexIsNoticed(t *testing.T) {
	f := vectorFooter()
	offsets, times := encodeIndexes(vectorIndex(), f.base, f.length)
	ft := f.encode()
	for _, b := range [][]byte{ft, offsets, times} {
		for i := range 8 * len(b) {
			b[i/8] ^= 1 << (i % 8)
			_, errF := decodeFooter(ft)
			_, errI := decodeIndexes(offsets, times, f.base, f.end, f.length)
			if errF == nil && errI == nil {
				t.Fatalf("bit %d of %q: not noticed", i, b[:4])
			}
			b[i/8] ^= 1 << (i % 8)
		}
	}
}

func FuzzDecodeFooter(f *testing.F) {
	f.Add(vectorFooter().encode())
	f.Add([]byte(footerMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == footerSize { // a right checksum, so that the fields are met
			binary.BigEndian.PutUint32(b[64:], crc32.Checksum(b[:64], castagnoli))
		}
		if ft, err := decodeFooter(b); err == nil {
			if again, err := decodeFooter(ft.encode()); err != nil || again != ft {
				t.Fatalf("%+v became %+v, %v", ft, again, err)
			}
		}
	})
}

func FuzzDecodeIndexes(f *testing.F) {
	v := vectorFooter()
	offsets, times := encodeIndexes(vectorIndex(), v.base, v.length)
	f.Add(offsets, times)
	f.Add([]byte(offsetIndexMagic), []byte(timeIndexMagic))
	f.Fuzz(func(t *testing.T, o, ti []byte) {
		for _, b := range [][]byte{o, ti} {
			if len(b) >= indexHeaderSize { // a right checksum, so that the entries are met
				binary.BigEndian.PutUint32(b[28:], indexCRC(b))
			}
		}
		entries, err := decodeIndexes(o, ti, v.base, v.end, v.length)
		if err != nil {
			return
		}
		o2, t2 := encodeIndexes(entries, v.base, v.length)
		again, err := decodeIndexes(o2, t2, v.base, v.end, v.length)
		if err != nil || !slices.Equal(again, entries) {
			t.Fatalf("%v: %v became %v", err, entries, again)
		}
	})
}
