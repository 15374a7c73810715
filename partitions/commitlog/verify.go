package commitlog

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"logbroker/internal/storage"
)

// Report is what Verify found.
type Report struct {
	Segments []SegmentReport
	// Damage lists what cannot be trusted, in the order it was found. Empty
	// means: everything on disk is what was written. What Verify cannot see is
	// how far the log reached: that stands in the marker.
	Damage []*DamageError
}

// SegmentReport is one segment as its .log file is. For the last one Sealed is
// false and the append times are 0, unless it has a footer.
type SegmentReport struct {
	SegmentInfo
	File         string
	MaxTimestamp int64 // Unix milliseconds; math.MinInt64 without a batch
	Batches      int64
	Records      int64
	// SHA256 is the digest of the batches below VerifyOptions.Below; equal
	// replicas have equal ones.
	SHA256      [sha256.Size]byte
	DigestBytes int64 // how many bytes it covers
	// TailBytes is how much of the last segment lies behind its last whole
	// batch: a write that a crash cut short. In any other segment it is damage.
	TailBytes int64
}

// VerifyOptions narrow what Verify looks at.
type VerifyOptions struct {
	// State is the one of the durable marker, or nil where it is not known. With
	// it the active segment is held against the marker and what is newer is
	// left out. Without it the last segment counts as active, and damage in it
	// cannot be told from a write that a crash cut short: both show as
	// TailBytes.
	State *State
	// Below bounds the digests: they cover the batches that lie wholly below
	// this offset. ≤ 0 means all.
	Below int64
}

// Verify reads all segments in dir: batch by batch checksums and dense
// offsets, footers, the marker's State. It changes nothing; where a Log has
// the directory open, what is being written meanwhile shows as TailBytes. The
// error is one of reading; damage stands in the Report.
func Verify(fs storage.FS, dir string, o VerifyOptions) (Report, error) {
	p := Options{FS: fs, Dir: dir}.place()
	ls, err := list(p)
	if err != nil {
		return Report{}, err
	}
	if o.Below <= 0 {
		o.Below = math.MaxInt64
	}
	v := verifier{place: p, VerifyOptions: o}
	bases := v.within(ls.bases)
	for i, base := range bases {
		if err := v.segment(base, i == len(bases)-1); err != nil {
			return v.report, err
		}
		end := v.report.Segments[i].End
		if i+1 < len(bases) && end != bases[i+1] {
			err := damaged(p.path(base, logSuffix), v.report.Segments[i].Bytes,
				"the segment ends at offset %d, the next one begins at %d", end, bases[i+1])
			if err := v.note(err); err != nil {
				return v.report, err
			}
		}
	}
	return v.report, nil
}

// verifier is one run of Verify.
type verifier struct {
	VerifyOptions
	place  *place
	report Report
}

// within leaves out the segments that the State does not speak of, and notes
// it when the first or the last one it speaks of is missing.
func (v *verifier) within(bases []int64) []int64 {
	st := v.State
	if st == nil {
		return bases
	}
	for len(bases) > 1 && bases[1] <= st.LogStart {
		bases = bases[1:]
	}
	for len(bases) > 0 && bases[len(bases)-1] > st.ActiveBase {
		bases = bases[:len(bases)-1]
	}
	var missing error
	switch {
	case len(bases) == 0 || bases[len(bases)-1] != st.ActiveBase:
		missing = damaged(v.place.path(st.ActiveBase, logSuffix), 0, "the file is missing")
	case bases[0] > st.LogStart:
		missing = damaged(v.place.path(st.LogStart, logSuffix), 0, "no file holds offsets [%d, %d)", st.LogStart, bases[0])
	}
	if missing != nil {
		_ = v.note(missing) // it is damage, so note keeps it and returns nil
	}
	return bases
}

// note keeps damage and passes other errors on.
func (v *verifier) note(err error) error {
	var d *DamageError
	if errors.As(err, &d) {
		v.report.Damage = append(v.report.Damage, d)
		return nil
	}
	return err
}

// segment verifies one segment and adds its report.
func (v *verifier) segment(base int64, last bool) error {
	path := v.place.path(base, logSuffix)
	file, err := v.place.fs.Open(path)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer file.Close() //nolint:errcheck // opened for reading: nothing can be lost by its close
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	size, known := info.Size(), !last // known: size is where the segment must end
	if v.State != nil && base == v.State.ActiveBase {
		size, known = min(size, v.State.ActivePosition), true
	}
	r := SegmentReport{File: path, MaxTimestamp: noTimestamp, SegmentInfo: SegmentInfo{Base: base, End: base}}
	err = r.scan(&scanner{file: file, path: path, size: size, next: base}, v.Below)
	r.TailBytes = info.Size() - r.Bytes
	if err == nil || !known && errors.Is(err, ErrDamaged) {
		err = v.compare(&r, last)
	}
	v.report.Segments = append(v.report.Segments, r)
	return v.note(err)
}

// compare holds a segment whose batches are whole against the footer or, for
// the active one, the State.
func (v *verifier) compare(r *SegmentReport, last bool) error {
	st := v.State
	if st == nil || r.Base != st.ActiveBase {
		return r.compareFooter(v.place, last)
	}
	if r.Bytes != st.ActivePosition || r.End != st.End || r.CRC != st.ActiveCRC {
		return damaged(r.File, r.Bytes,
			"the file has %d whole bytes up to offset %d with checksum %08x, the marker says %d, %d and %08x",
			r.Bytes, r.End, r.CRC, st.ActivePosition, st.End, st.ActiveCRC)
	}
	r.FirstAppendMs, r.LastAppendMs = st.ActiveFirstAppendMs, st.LastAppendMs
	return nil
}

// scan reads all batches into the report, up to the first that is none.
func (r *SegmentReport) scan(s *scanner, below int64) error {
	digest := sha256.New()
	defer func() { digest.Sum(r.SHA256[:0]) }()
	for {
		b, err := s.scan()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := b.CheckCRC(); err != nil {
			return damaged(s.path, r.Bytes, "the batch at offset %d: %v", r.End, err)
		}
		r.CRC = crc32.Update(r.CRC, castagnoli, b)
		r.Batches++
		r.Records += s.next - r.End
		r.End, r.Bytes = s.next, r.Bytes+int64(len(b))
		r.MaxTimestamp = max(r.MaxTimestamp, b.MaxTimestamp())
		if s.next <= below {
			digest.Write(b)
			r.DigestBytes += int64(len(b))
		}
	}
}

// compareFooter holds the footer against what was read. The active segment has
// none, or one that a crash left there before a marker knew of it, which
// Open removes: it is not held against the log.
func (r *SegmentReport) compareFooter(p *place, last bool) error {
	ft, err := readFooter(p, r.Base)
	same := err == nil && ft.end == r.End && ft.length == r.Bytes && ft.crc == r.CRC
	switch {
	case same:
		r.Sealed, r.FirstAppendMs, r.LastAppendMs = true, ft.firstMs, ft.lastMs
		return nil
	case last && (err == nil || errors.Is(err, ErrDamaged)):
		return nil
	case err != nil:
		return err
	}
	return damaged(r.File, min(r.Bytes, ft.length),
		"the file has %d whole bytes up to offset %d with checksum %08x, its footer says %d, %d and %08x",
		r.Bytes, r.End, r.CRC, ft.length, ft.end, ft.crc)
}
