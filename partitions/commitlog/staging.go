package commitlog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"logbroker/internal/storage"
)

// Staging collects, in a directory of its own, segments that a log lacks, until
// Assemble makes a log of them and of those the log has. A staged segment is
//
//	<base>.log      bytes from the segment's begin, perhaps more than are checked
//	<base>.footer   says how many of them are: dense batches, every checksum
//	                right, and the whole of the checksum that a manifest gave
//	<base>.index, <base>.timeindex   of exactly the footer's length
//
// Bytes without a footer are what an interrupted transfer left: the next one goes
// on behind their last whole batch. What is staged outlives a crash, and may be
// older or newer than the manifest that is wanted now, because the bytes of a
// segment never change: only its length does.
//
// One goroutine at a time.
type Staging struct {
	place *place
}

// OpenStaging makes opts.Dir, whose parent must exist, a Staging.
func OpenStaging(opts Options) (*Staging, error) {
	p := opts.place()
	return &Staging{place: p}, storage.MkdirAll(p.fs, p.dir)
}

// Want is a segment, or the begin of one, that a manifest lists.
type Want struct {
	foot   footer
	sealed bool
}

// Base is the offset of the segment's first record.
func (w Want) Base() int64 { return w.foot.base }

// Bytes is the length that is wanted, from the segment's begin.
func (w Want) Bytes() int64 { return w.foot.length }

// End is the offset behind the last record of it.
func (w Want) End() int64 { return w.foot.end }

// Missing lists what m needs and neither own (nil = no log) nor s has, and the
// bytes that are to be fetched for it.
func (s *Staging) Missing(m Manifest, own *Pinned) (wants []Want, bytes int64, err error) {
	for i, x := range m.segments {
		w := Want{foot: x, sealed: i+1 < len(m.segments)}
		if x.length == 0 || own.has(x) {
			continue
		}
		staged, err := s.staged(x.base)
		if err != nil {
			return nil, 0, err
		}
		if staged == x || !w.sealed && staged.length >= x.length {
			continue
		}
		if w.sealed && staged.length >= x.length { // of no use, and in the way
			if err := s.Remove(x.base); err != nil {
				return nil, 0, err
			}
			staged.length = 0
		}
		wants = append(wants, w)
		bytes += x.length - max(staged.length, own.prefix(x))
	}
	return wants, bytes, nil
}

// has reports whether p has exactly the segment x.
func (p *Pinned) has(x footer) bool {
	if p == nil {
		return false
	}
	_, have := p.find(x.base)
	return have != nil && have.length == x.length && have.crc == x.crc && have.end == x.end
}

// prefix returns how many bytes of the segment x begin as p's do.
func (p *Pinned) prefix(x footer) int64 {
	if p == nil {
		return 0
	}
	if _, have := p.find(x.base); have != nil && have.length <= x.length {
		return have.length
	}
	return 0
}

// staged returns the footer of what is staged and checked at base; its length is
// 0 where nothing is. A footer that cannot be read is removed: the bytes are
// checked again or fetched again.
func (s *Staging) staged(base int64) (footer, error) {
	path := s.place.path(base, footerSuffix)
	b, err := storage.ReadFile(s.place.fs, path)
	if storage.NotExist(err) {
		return footer{}, nil
	}
	if err != nil {
		return footer{}, err
	}
	x, err := decodeFooter(b)
	if err == nil && x.base == base {
		info, err := s.place.fs.Stat(s.place.path(base, logSuffix))
		if err == nil && info.Size() >= x.length {
			return x, nil
		}
		if err != nil && !storage.NotExist(err) {
			return footer{}, err
		}
	}
	if err := s.place.fs.Remove(path); err != nil {
		return footer{}, fmt.Errorf("remove %s: %w", path, err)
	}
	return footer{}, nil
}

// Incoming is one segment on its way into a Staging.
type Incoming struct {
	staging *Staging
	want    Want
	file    storage.File
	path    string
	// position is the next byte that Write takes.
	position int64
}

// Begin opens the segment w for writing behind what is there of it: bytes of an
// interrupted transfer, or those that own has. The caller must Finish or Close it.
func (s *Staging) Begin(w Want, own *Pinned) (*Incoming, error) {
	in := &Incoming{staging: s, want: w, path: s.place.path(w.foot.base, logSuffix)}
	x, err := s.begun(in.path, w)
	if err != nil {
		return nil, err
	}
	fs := s.place.fs
	if n := own.prefix(w.foot); n > x {
		if x, err = s.copyOwn(in.path, w, own, n); err != nil {
			return nil, err
		}
	}
	if x == 0 {
		in.file, err = fs.Create(in.path)
	} else if err = storage.Truncate(fs, in.path, x); err == nil {
		in.file, err = fs.OpenForAppend(in.path)
	}
	if err != nil {
		return nil, fmt.Errorf("begin %s: %w", in.path, err)
	}
	in.position = x
	return in, nil
}

// begun returns how many bytes of whole batches with right checksums, not more
// than wanted, the file at path begins with.
func (s *Staging) begun(path string, w Want) (int64, error) {
	file, err := s.place.fs.Open(path)
	if storage.NotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	defer file.Close() //nolint:errcheck // opened for reading: nothing can be lost by its close
	info, err := file.Stat()
	if err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	x, err := scanExtent(s.place, file, w.foot.base, min(info.Size(), w.foot.length))
	if err != nil && !errors.Is(err, ErrDamaged) {
		return 0, err
	}
	return x.length, nil
}

// copyOwn makes path the first n bytes of own's segment, and returns how many of
// them can be used.
func (s *Staging) copyOwn(path string, w Want, own *Pinned, n int64) (int64, error) {
	file, err := s.place.fs.Create(path)
	if err != nil {
		return 0, fmt.Errorf("create %s: %w", path, err)
	}
	err = own.CopySegment(file, w.foot.base, 0, n)
	if err := errors.Join(err, file.Close()); err != nil && !errors.Is(err, ErrDamaged) {
		return 0, err
	}
	return s.begun(path, w)
}

// Position is the next byte that Write takes.
func (in *Incoming) Position() int64 { return in.position }

// Write appends b, which must not go past the segment's wanted length.
func (in *Incoming) Write(b []byte) (int, error) {
	if in.position+int64(len(b)) > in.want.foot.length {
		return 0, fmt.Errorf("%s gets more than %d bytes", in.path, in.want.foot.length)
	}
	n, err := in.file.Write(b)
	in.position += int64(n)
	return n, err
}

// Close gives the transfer up; what is there stays for the next Begin.
func (in *Incoming) Close() error { return in.file.Close() }

// ErrNotTheSegment says that a staged file is not what the manifest lists: a
// source sent other bytes, or our own begin of the segment was not the segment's.
// The file is removed, and the whole is to be fetched again.
var ErrNotTheSegment = errors.New("these are not the bytes of the segment")

// Finish checks the whole file, batch by batch and against the manifest's
// checksum, makes it durable and then says so by a footer.
func (in *Incoming) Finish() error {
	err := in.file.Sync()
	if err = errors.Join(err, in.file.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", in.path, err)
	}
	p, want := in.staging.place, in.want.foot
	x, err := in.scan()
	if err == nil && (x.length != want.length || x.crc != want.crc || x.end != want.end) {
		err = fmt.Errorf("%s has %d bytes up to offset %d with checksum %08x, wanted are %d, %d and %08x: %w",
			in.path, x.length, x.end, x.crc, want.length, want.end, want.crc, ErrNotTheSegment)
	} else if errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrNotTheSegment, err)
	}
	if errors.Is(err, ErrNotTheSegment) {
		return errors.Join(err, removeSegmentFiles(p, want.base))
	}
	if err != nil {
		return err
	}
	x.footer = want // with the append times, which the bytes do not tell
	if err := writeIndexes(p, &x); err != nil {
		return err
	}
	// The name of the .log must be durable before the footer's.
	if err := storage.SyncDir(p.fs, p.dir); err != nil {
		return err
	}
	return storage.WriteFileAtomic(p.fs, p.path(want.base, footerSuffix), want.encode())
}

func (in *Incoming) scan() (extent, error) {
	file, err := in.staging.place.fs.Open(in.path)
	if err != nil {
		return extent{}, fmt.Errorf("open %s: %w", in.path, err)
	}
	defer file.Close() //nolint:errcheck // opened for reading: nothing can be lost by its close
	return scanExtent(in.staging.place, file, in.want.foot.base, in.want.foot.length)
}

// Remove removes what is staged at base.
func (s *Staging) Remove(base int64) error { return removeSegmentFiles(s.place, base) }

// Drop removes what is staged of segments that lie wholly below offset: a log
// that has come past them does not need them any more.
func (s *Staging) Drop(offset int64) error {
	ls, err := list(s.place)
	if err != nil {
		return err
	}
	for _, base := range ls.bases {
		x, err := s.staged(base)
		if err != nil {
			return err
		}
		if x.length > 0 && x.end > offset || x.length == 0 && base >= offset {
			continue
		}
		if err := removeSegmentFiles(s.place, base); err != nil {
			return err
		}
	}
	return nil
}

// Assemble makes opts.Dir hold exactly the log that m describes, durably, from
// what own (nil = no log) and s have of it. Sealed segments are linked, not
// copied. The directory must be one that no durable marker names; after an error
// it holds parts, and the next Assemble removes them. Own must be durable.
func Assemble(opts Options, m Manifest, own *Pinned, s *Staging) error {
	p := opts.place()
	if err := storage.MkdirAll(p.fs, p.dir); err != nil {
		return err
	}
	if err := wipe(p); err != nil {
		return err
	}
	for i, x := range m.segments {
		if x.length == 0 {
			continue // the active one; Open creates it
		}
		if err := assembleSegment(p, x, i+1 < len(m.segments), own, s); err != nil {
			return fmt.Errorf("assemble %s: the segment at offset %d: %w", p.dir, x.base, err)
		}
	}
	return storage.SyncDir(p.fs, p.dir)
}

func assembleSegment(p *place, x footer, sealed bool, own *Pinned, s *Staging) error {
	from := s.place
	if own.has(x) {
		seg, _ := own.find(x.base)
		from = seg.place
	} else {
		staged, err := s.staged(x.base)
		switch {
		case err != nil:
			return err
		case staged.length < x.length:
			return errors.New("it is neither here nor staged")
		case sealed && (staged.length > x.length || staged.crc != x.crc):
			return fmt.Errorf("what is staged is not the sealed segment: %w", ErrNotTheSegment)
		}
	}
	if !sealed {
		return copyBegin(p, from, x) // it will grow: never a second name of a file that is kept
	}
	return linkSegment(p, from, x)
}

// linkSegment gives the sealed segment x in from a second name in p; where the
// file system cannot, it is copied. An index that is not there is built by the
// first read.
func linkSegment(p, from *place, x footer) error {
	if err := p.fs.Link(from.path(x.base, logSuffix), p.path(x.base, logSuffix)); err != nil {
		if err := copyBegin(p, from, x); err != nil {
			return err
		}
	}
	for _, suffix := range []string{indexSuffix, timeIndexSuffix} {
		_ = p.fs.Link(from.path(x.base, suffix), p.path(x.base, suffix))
	}
	return storage.WriteFileSynced(p.fs, p.path(x.base, footerSuffix), x.encode())
}

// copyBegin copies the first bytes of a segment, as many as x has.
func copyBegin(p, from *place, x footer) error {
	path := p.path(x.base, logSuffix)
	file, err := p.fs.Create(path)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	sum := &checksumWriter{w: file}
	err = copyRange(sum, from.fs, from.path(x.base, logSuffix), 0, x.length)
	if err == nil && sum.crc != x.crc {
		err = fmt.Errorf("checksum %08x instead of %08x: %w", sum.crc, x.crc, ErrNotTheSegment)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// checksumWriter sums up what it passes on.
type checksumWriter struct {
	w   io.Writer
	crc uint32
}

// Write passes b on.
func (c *checksumWriter) Write(b []byte) (int, error) {
	c.crc = crc32.Update(c.crc, castagnoli, b)
	return c.w.Write(b)
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
