package commitlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"logbroker/internal/storage"
)

// The snapshot stream, integers big-endian:
//
//	0  4  magic, "LBSN"
//	4  2  format version, 1
//	6  2  zero
//	8  8  log start offset
//	16 8  end offset
//	24 8  append time of the last batch, Unix milliseconds
//	32 4  number of segments
//	36 4  CRC-32C of bytes [0, 36)
//
// then for each segment, in offset order and without gaps, a footer record
// (footer.go) and as many bytes of the .log as that says. The last segment is
// the active one; it alone may be empty.
const (
	snapshotHeaderSize = 40
	snapshotVersion    = 1
	snapshotMagic      = "LBSN"
	copyBufferBytes    = 256 << 10
)

// Pinned is the log as it was at one moment, for a snapshot. Its segments stay
// on disk until Close, whatever is trimmed.
type Pinned struct {
	state    State
	segments []*segment
	extents  []extent // of segments, at that moment

	// release runs once, whoever calls Close.
	release sync.Once
}

// Pin pins the log as it is now. The caller must Close it.
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

// State returns the state that Restore will return at the other end.
func (p *Pinned) State() State { return p.state }

// Close releases the segments. It may be called more than once.
func (p *Pinned) Close() {
	p.release.Do(func() {
		for _, s := range p.segments {
			s.release()
		}
	})
}

// WriteTo writes the pinned log as one stream for Restore and returns how many
// bytes it wrote. It checks what it reads: a damaged segment ends the stream
// with a *DamageError, and the receiver refuses that segment. It may run
// beside Append, Sync and Close.
func (p *Pinned) WriteTo(w io.Writer) (int64, error) {
	if len(p.segments) == 0 {
		return 0, ErrClosed
	}
	out := &countingWriter{w: w}
	if _, err := out.Write(p.header()); err != nil {
		return out.n, err
	}
	buf := make([]byte, copyBufferBytes)
	for i, s := range p.segments {
		if err := writeSegment(out, s, &p.extents[i], buf); err != nil {
			return out.n, err
		}
	}
	return out.n, nil
}

func (p *Pinned) header() []byte {
	be := binary.BigEndian
	b := append(make([]byte, 0, snapshotHeaderSize), snapshotMagic...)
	b = be.AppendUint16(b, snapshotVersion)
	b = be.AppendUint16(b, 0)
	b = be.AppendUint64(b, uint64(p.state.LogStart))
	b = be.AppendUint64(b, uint64(p.state.End))
	b = be.AppendUint64(b, uint64(p.state.LastAppendMs))
	b = be.AppendUint32(b, uint32(len(p.segments)))
	return be.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// countingWriter counts what it passes on.
type countingWriter struct {
	w io.Writer
	n int64
}

// Write passes b on.
func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// writeSegment writes one segment's frame and bytes. It opens a file of its
// own: a long transfer must not keep the readers' one.
func writeSegment(w io.Writer, s *segment, x *extent, buf []byte) error {
	if _, err := w.Write(x.encode()); err != nil {
		return err
	}
	file, err := s.fs.Open(s.logPath)
	if storage.NotExist(err) {
		return damaged(s.logPath, 0, "the file is missing")
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", s.logPath, err)
	}
	defer file.Close() //nolint:errcheck // opened for reading: nothing can be lost by its close
	var crc uint32
	for at := int64(0); at < x.length; {
		chunk := buf[:min(int64(len(buf)), x.length-at)]
		if err := readFull(file, s.logPath, chunk, at); err != nil {
			return err
		}
		crc = crc32.Update(crc, castagnoli, chunk)
		if _, err := w.Write(chunk); err != nil {
			return err
		}
		at += int64(len(chunk))
	}
	if crc != x.crc {
		return damaged(s.logPath, 0, "the checksum of the first %d bytes is %08x, not %08x", x.length, crc, x.crc)
	}
	return nil
}

// Restore replaces the segments in opts.Dir by the stream that Pinned.WriteTo
// wrote, checks and syncs all of it and returns the State to Open it with. It
// reads nothing behind the stream's end. The old segments are destroyed first:
// a marker that refers to them must be replaced before, or Dir must be a
// directory that no durable marker names yet. After an error Dir holds parts;
// the next Restore, or an Open with the zero State, removes them.
func Restore(opts Options, r io.Reader) (State, error) {
	p := opts.place()
	if err := storage.MkdirAll(p.fs, p.dir); err != nil {
		return State{}, err
	}
	if err := wipe(p); err != nil {
		return State{}, err
	}
	st, count, err := readSnapshotHeader(r)
	if err != nil {
		return State{}, fmt.Errorf("restore %s: %w", p.dir, err)
	}
	buf := make([]byte, copyBufferBytes)
	var last footer
	for i := range count {
		x, err := readFrame(r)
		if err != nil {
			return State{}, fmt.Errorf("restore %s: segment %d of %d: %w", p.dir, i+1, count, err)
		}
		if i == 0 && x.base > st.LogStart || i > 0 && x.base != last.end || i+1 < count && x.length == 0 {
			return State{}, fmt.Errorf("restore %s: segment %d of %d holds offsets [%d, %d), that leaves a gap",
				p.dir, i+1, count, x.base, x.end)
		}
		if err := restoreSegment(p, r, x, i+1 < count, buf); err != nil {
			return State{}, fmt.Errorf("restore %s: segment %d of %d: %w", p.dir, i+1, count, err)
		}
		last = x
	}
	st.ActiveBase, st.ActivePosition, st.ActiveCRC = last.base, last.length, last.crc
	st.ActiveFirstAppendMs = last.firstMs
	if st.End != last.end {
		return State{}, fmt.Errorf("restore %s: the segments end at offset %d, the stream's header says %d",
			p.dir, last.end, st.End)
	}
	if err := st.check(); err != nil {
		return State{}, fmt.Errorf("restore %s: %w", p.dir, err)
	}
	return st, storage.SyncDir(p.fs, p.dir)
}

// wipe removes all of the log's own files, durably.
func wipe(p *place) error {
	ls, err := list(p)
	if err != nil {
		return err
	}
	for _, base := range ls.bases {
		ls.others = append(ls.others, ownFile{name: fileName(base, logSuffix)})
	}
	for _, o := range ls.others {
		path := p.fs.PathJoin(p.dir, o.name)
		if err := p.fs.Remove(path); err != nil {
			return fmt.Errorf("remove %s: %w", path, err)
		}
	}
	return storage.SyncDir(p.fs, p.dir)
}

// readSnapshotHeader returns what the header says of the State and the number
// of segments, at least one.
func readSnapshotHeader(r io.Reader) (State, int, error) {
	var b [snapshotHeaderSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return State{}, 0, fmt.Errorf("read the stream's header: %w", err)
	}
	be := binary.BigEndian
	count := be.Uint32(b[32:])
	switch {
	case string(b[:4]) != snapshotMagic:
		return State{}, 0, fmt.Errorf("the stream is no snapshot of a log (magic %q)", b[:4])
	case be.Uint16(b[4:]) != snapshotVersion:
		return State{}, 0, fmt.Errorf("snapshot format version %d is not known; use a newer release", be.Uint16(b[4:]))
	case be.Uint32(b[36:]) != crc32.Checksum(b[:36], castagnoli) || count == 0:
		return State{}, 0, errors.New("the stream's header has a wrong checksum; send the snapshot again")
	}
	st := State{
		LogStart:     int64(be.Uint64(b[8:])),
		End:          int64(be.Uint64(b[16:])),
		LastAppendMs: int64(be.Uint64(b[24:])),
	}
	return st, int(count), nil
}

func readFrame(r io.Reader) (footer, error) {
	var b [footerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return footer{}, fmt.Errorf("read its frame: %w", err)
	}
	return decodeFooter(b[:])
}

// restoreSegment writes one segment and syncs its bytes; a sealed one gets its
// footer. Indexes are rebuilt by the first read.
func restoreSegment(p *place, r io.Reader, x footer, sealed bool, buf []byte) error {
	path := p.path(x.base, logSuffix)
	file, err := p.fs.Create(path)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	crc, err := copySegment(file, r, x.length, buf)
	if err == nil && crc != x.crc {
		err = fmt.Errorf("checksum %08x instead of %08x; send the snapshot again", crc, x.crc)
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if !sealed {
		return nil
	}
	return storage.WriteFileSynced(p.fs, p.path(x.base, footerSuffix), x.encode())
}

// copySegment copies length bytes and returns their CRC-32C.
func copySegment(w io.Writer, r io.Reader, length int64, buf []byte) (uint32, error) {
	var crc uint32
	for length > 0 {
		chunk := buf[:min(int64(len(buf)), length)]
		if _, err := io.ReadFull(r, chunk); err != nil {
			return 0, fmt.Errorf("read the stream: %w", err)
		}
		crc = crc32.Update(crc, castagnoli, chunk)
		if _, err := w.Write(chunk); err != nil {
			return 0, err
		}
		length -= int64(len(chunk))
	}
	return crc, nil
}
