package commitlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"

	"logbroker/internal/storage"
)

// A manifest, integers big-endian:
//
//	0  4  magic, "LBMF"
//	4  2  format version, 1
//	6  2  zero
//	8  8  log start offset
//	16 8  end offset
//	24 8  append time of the last batch, Unix milliseconds
//	32 4  number of segments, at least 1
//	36 4  CRC-32C of bytes [0, 36)
//
// then for each segment, in offset order and without gaps, a footer record
// (footer.go). The last segment is the active one; it alone may be empty.
const (
	manifestHeaderSize = 40
	manifestVersion    = 1
	manifestMagic      = "LBMF"
	copyBufferBytes    = 256 << 10
)

// Manifest says what a log was made of at one moment: its State, and every
// segment's length and checksum. It is all that a snapshot carries; the bytes of
// the segments go another way, see Staging. Segments roll as a function of
// replicated state, so two replicas whose manifests list the same segment hold
// the same bytes, and what one manifest calls active is a prefix of what a later
// one lists at that base.
type Manifest struct {
	State State
	// segments ≠ ∅, in offset order, without gaps; the last one is active.
	segments []footer
}

// Segments lists the manifest's segments in offset order; the last one is the
// active one.
func (m Manifest) Segments() []SegmentInfo {
	out := make([]SegmentInfo, len(m.segments))
	for i := range m.segments {
		x := extent{footer: m.segments[i], sealed: i+1 < len(m.segments)}
		out[i] = x.info()
	}
	return out
}

// Append appends the encoded manifest to dst.
func (m Manifest) Append(dst []byte) []byte {
	be := binary.BigEndian
	at := len(dst)
	dst = append(dst, manifestMagic...)
	dst = be.AppendUint16(dst, manifestVersion)
	dst = be.AppendUint16(dst, 0)
	dst = be.AppendUint64(dst, uint64(m.State.LogStart))
	dst = be.AppendUint64(dst, uint64(m.State.End))
	dst = be.AppendUint64(dst, uint64(m.State.LastAppendMs))
	dst = be.AppendUint32(dst, uint32(len(m.segments)))
	dst = be.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli))
	for _, x := range m.segments {
		dst = append(dst, x.encode()...)
	}
	return dst
}

// DecodeManifest reads a manifest that must fill b.
func DecodeManifest(b []byte) (Manifest, error) {
	be := binary.BigEndian
	switch {
	case len(b) < manifestHeaderSize || string(b[:4]) != manifestMagic:
		return Manifest{}, errors.New("this is no manifest of a log")
	case be.Uint16(b[4:]) != manifestVersion:
		return Manifest{}, fmt.Errorf("manifest version %d is not known; use a newer release", be.Uint16(b[4:]))
	case be.Uint16(b[6:]) != 0:
		return Manifest{}, errors.New("the manifest says what is not known; use a newer release")
	case be.Uint32(b[36:]) != crc32.Checksum(b[:36], castagnoli):
		return Manifest{}, errors.New("the manifest's checksum is wrong")
	}
	rest := b[manifestHeaderSize:]
	count := int64(be.Uint32(b[32:]))
	if count == 0 || int64(len(rest)) != count*footerSize {
		return Manifest{}, fmt.Errorf("a manifest of %d segments in %d bytes", count, len(b))
	}
	m := Manifest{
		State: State{
			LogStart: int64(be.Uint64(b[8:])), End: int64(be.Uint64(b[16:])), LastAppendMs: int64(be.Uint64(b[24:])),
		},
		segments: make([]footer, count),
	}
	for i := range m.segments {
		var err error
		if m.segments[i], err = decodeFooter(rest[i*footerSize : (i+1)*footerSize]); err != nil {
			return Manifest{}, fmt.Errorf("segment %d of the manifest: %w", i, err)
		}
	}
	m.setActive()
	return m, m.check()
}

// setActive fills the part of State that the last segment says.
func (m *Manifest) setActive() {
	x := &m.segments[len(m.segments)-1]
	m.State.ActiveBase, m.State.ActivePosition, m.State.ActiveCRC = x.base, x.length, x.crc
	m.State.ActiveFirstAppendMs = x.firstMs
}

func (m Manifest) check() error {
	if err := m.State.check(); err != nil {
		return err
	}
	last := len(m.segments) - 1
	for i, x := range m.segments {
		if i == 0 && x.base > m.State.LogStart || i > 0 && x.base != m.segments[i-1].end || i < last && x.length == 0 {
			return fmt.Errorf("segment %d of the manifest holds offsets [%d, %d), that leaves a gap", i, x.base, x.end)
		}
	}
	if end := m.segments[last].end; end != m.State.End {
		return fmt.Errorf("the manifest's segments end at offset %d, its head says %d", end, m.State.End)
	}
	return nil
}

// Trimmed returns the manifest with the log start offset raised to at least
// logStart, and without the segments below. The active segment stays; logStart
// must not be above the end.
func (m Manifest) Trimmed(logStart int64) Manifest {
	m.State.LogStart = max(m.State.LogStart, min(logStart, m.State.End))
	keep := 0
	for keep < len(m.segments)-1 && m.segments[keep].end <= m.State.LogStart {
		keep++
	}
	m.segments = slices.Clone(m.segments[keep:])
	return m
}

// Pinned is the log as it was at one moment. Its segments stay on disk until
// Close, whatever is trimmed.
type Pinned struct {
	state    State
	segments []*segment
	extents  []extent // of segments, at that moment

	// release runs once, whoever calls Close.
	release sync.Once
}

// Pin pins the log as it is now. The caller must Close it. It has no segments
// where the log is closed.
func (l *Log) Pin() *Pinned {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &Pinned{state: l.state()}
	for _, s := range l.view.Load().segments {
		// Segments of the view are alive: only the writer's methods retire
		// them, under mu, after they left the view.
		s.hold()
		x := *s.ext.Load()
		x.entries = nil
		p.segments, p.extents = append(p.segments, s), append(p.extents, x)
	}
	return p
}

// Manifest returns what the pinned log is made of. ErrClosed where the log was
// closed before Pin.
func (p *Pinned) Manifest() (Manifest, error) {
	if len(p.segments) == 0 {
		return Manifest{}, ErrClosed
	}
	m := Manifest{State: p.state}
	for i := range p.extents {
		m.segments = append(m.segments, p.extents[i].footer)
	}
	return m, nil
}

// Close releases the segments. It may be called more than once.
func (p *Pinned) Close() {
	p.release.Do(func() {
		for _, s := range p.segments {
			s.release()
		}
	})
}

// find returns the pinned segment at base.
func (p *Pinned) find(base int64) (*segment, *extent) {
	i, ok := slices.BinarySearchFunc(p.segments, base, func(s *segment, base int64) int {
		switch {
		case s.base < base:
			return -1
		case s.base > base:
			return 1
		}
		return 0
	})
	if !ok {
		return nil, nil
	}
	return p.segments[i], &p.extents[i]
}

// Has reports whether the pinned log has bytes [0, length) of the segment at base.
func (p *Pinned) Has(base, length int64) bool {
	s, x := p.find(base)
	return s != nil && x.length >= length
}

// CopySegment writes bytes [from, to) of the segment at base to w. It checks
// nothing: the receiver compares checksums. A file that is missing or shorter
// than it must be is a *DamageError.
func (p *Pinned) CopySegment(w io.Writer, base, from, to int64) error {
	s, x := p.find(base)
	if s == nil || from < 0 || from > to || to > x.length {
		return fmt.Errorf("the log has no bytes [%d, %d) of a segment at offset %d", from, to, base)
	}
	return copyRange(w, s.fs, s.logPath, from, to)
}

// copyRange opens a file of its own: a long transfer must not keep the readers'
// one.
func copyRange(w io.Writer, fs storage.FS, path string, from, to int64) error {
	file, err := fs.Open(path)
	if storage.NotExist(err) {
		return damaged(path, 0, "the file is missing")
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer file.Close() //nolint:errcheck // opened for reading: nothing can be lost by its close
	buf := make([]byte, min(copyBufferBytes, max(to-from, 1)))
	for at := from; at < to; {
		chunk := buf[:min(int64(len(buf)), to-at)]
		if err := readFull(file, path, chunk, at); err != nil {
			return err
		}
		if _, err := w.Write(chunk); err != nil {
			return err
		}
		at += int64(len(chunk))
	}
	return nil
}
