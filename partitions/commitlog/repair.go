package commitlog

import (
	"fmt"

	"logbroker/internal/storage"
)

// A sealed segment that is damaged or gone is replaced alone. A whole copy is
// staged first (staging.go); then the damaged file gets a second name aside, for
// people to look at, and the copy takes its name. A crash in between leaves the
// damage, or a segment of which some files are old and whole, or new: Open and
// Scrub tell, and the replacement is done again.

// Segment returns the base offset of the segment that the damaged file belongs to;
// ok is false where it is no file of a segment.
func (e *DamageError) Segment(fs storage.FS) (base int64, ok bool) {
	base, _, ok = parseName(fs.PathBase(e.File))
	return base, ok
}

// Holds reports whether file lies in the log's directory.
func (l *Log) Holds(file string) bool { return l.place.fs.PathDir(file) == l.place.dir }

// Sealed returns the sealed segment at base as something to fetch: as it was
// written, whatever its files hold now. It may be one that no Sync has finished yet:
// what finishes it writes the same footer and index beside the copy.
func (l *Log) Sealed(base int64) (w Want, ok bool) {
	for _, s := range l.view.Load().segments {
		if x := s.ext.Load(); x.base == base {
			return Want{foot: x.footer, sealed: true}, x.sealed
		}
	}
	return Want{}, false
}

// Sealed returns the sealed segment at base as something to fetch.
func (m Manifest) Sealed(base int64) (w Want, ok bool) {
	for i, x := range m.segments[:len(m.segments)-1] {
		if x.base == base {
			return Want{foot: m.segments[i], sealed: true}, true
		}
	}
	return Want{}, false
}

// Replace puts the staged copy of a sealed segment in the place of the log's own,
// durably, and what was there into the directory aside. Reads that are running
// may still find the damage; later ones read the copy. It may run beside everything
// else.
func (l *Log) Replace(w Want, s *Staging, aside string) error {
	for _, seg := range l.view.Load().segments {
		if seg.base != w.foot.base {
			continue
		}
		if !seg.hold() {
			return ErrClosed
		}
		defer seg.release()
		if err := moveIn(l.place, w, s, aside); err != nil {
			return err
		}
		seg.reopen()
		return nil
	}
	return nil // trimmed meanwhile
}

// ReplaceIn is Log.Replace for a log in opts.Dir that no Log has open.
func ReplaceIn(opts Options, w Want, s *Staging, aside string) error {
	return moveIn(opts.place(), w, s, aside)
}

func moveIn(p *place, w Want, s *Staging, aside string) error {
	base := w.foot.base
	staged, err := s.staged(base)
	if err != nil {
		return err
	}
	if staged != w.foot {
		return fmt.Errorf("no copy of the segment at offset %d is staged", base)
	}
	if err := setAside(p, base, aside); err != nil {
		return err
	}
	for _, suffix := range []string{logSuffix, indexSuffix, timeIndexSuffix, footerSuffix} {
		from, to := s.place.path(base, suffix), p.path(base, suffix)
		if err := p.fs.Rename(from, to); err != nil {
			return fmt.Errorf("rename %s to %s: %w", from, to, err)
		}
	}
	if err := storage.SyncDir(p.fs, p.dir); err != nil {
		return err
	}
	return storage.SyncDir(p.fs, s.place.dir)
}

// setAside gives what is there of a segment's .log a second name in dir. An
// earlier one there of the same segment stays, and the later is not kept.
func setAside(p *place, base int64, dir string) error {
	path := p.path(base, logSuffix)
	if _, err := p.fs.Stat(path); storage.NotExist(err) {
		return nil
	}
	if err := storage.MkdirAll(p.fs, dir); err != nil {
		return err
	}
	kept := p.fs.PathJoin(dir, fileName(base, logSuffix))
	if _, err := p.fs.Stat(kept); err == nil {
		return nil
	}
	if err := p.fs.Link(path, kept); err != nil {
		return fmt.Errorf("keep %s as %s: %w", path, kept, err)
	}
	return storage.SyncDir(p.fs, dir)
}

// reopen makes the next read open the file by its name again.
func (s *segment) reopen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.stale = append(s.stale, s.file)
	}
	s.file, s.entries = nil, nil
}
