package commitlog

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"logbroker/internal/storage"
)

// Recovery has two halves. inspect reads and decides, and changes nothing: what
// the State refers to must be there and whole. settle then brings the
// directory to the State. settle can be interrupted anywhere and repeated: it
// only removes what the State does not refer to, and cuts the active segment
// at a position that inspect has verified.
//
// What a crash can leave behind, and what becomes of it:
//
//	bytes behind State.ActivePosition      cut off
//	segments with base ≥ State.End         removed (never acknowledged)
//	footer, index of the active segment    removed (sealed after the marker)
//	checkpoints that the State is below    removed
//	segments wholly below State.LogStart   removed (trimmed, unlink was lost)
//	*.tmp                                  removed

// findings is what inspect decided.
type findings struct {
	sealed []extent // in offset order, without gaps, up to the active segment
	active extent   // at State's position
	// cut says that the active .log is longer than State says.
	cut bool
	// checkpointed is how much of the active segment its checkpoint covers.
	checkpointed int64
	// create says that the active .log does not exist, which is right only for
	// an empty one.
	create bool
	// remove lists names in the directory that State does not refer to.
	remove []string
}

// listing is the log's own files in a directory.
type listing struct {
	bases  []int64 // of the .log files, sorted
	others []ownFile
}

// ownFile is a file of the log other than a .log.
type ownFile struct {
	name   string
	base   int64
	suffix string
}

// list reads the directory and leaves out every file that is not the log's.
func list(p *place) (listing, error) {
	names, err := p.fs.List(p.dir)
	if err != nil {
		return listing{}, fmt.Errorf("list %s: %w", p.dir, err)
	}
	slices.Sort(names)
	var ls listing
	for _, name := range names {
		base, suffix, ok := parseName(name)
		switch {
		case !ok:
		case suffix == logSuffix:
			ls.bases = append(ls.bases, base)
		default:
			ls.others = append(ls.others, ownFile{name: name, base: base, suffix: suffix})
		}
	}
	return ls, nil
}

// parseName splits "<20 digits><suffix>"; ok is false for names of others.
func parseName(name string) (base int64, suffix string, ok bool) {
	const digits = 20
	if len(name) <= digits {
		return 0, "", false
	}
	n, err := strconv.ParseUint(name[:digits], 10, 63)
	if err != nil {
		return 0, "", false
	}
	suffix = name[digits:]
	switch strings.TrimSuffix(suffix, storage.TmpSuffix()) {
	case logSuffix, indexSuffix, timeIndexSuffix, footerSuffix, checkpointSuffix:
		return int64(n), suffix, true
	}
	return 0, "", false
}

// check refuses a State that no Sync can have returned.
func (st State) check() error {
	ok := 0 <= st.LogStart && st.LogStart <= st.End &&
		0 <= st.ActiveBase && st.ActiveBase <= st.End && st.ActivePosition >= 0 &&
		(st.ActivePosition == 0) == (st.ActiveBase == st.End)
	if !ok {
		return fmt.Errorf("the state %+v contradicts itself: the marker it comes from is wrong", st)
	}
	return nil
}

// inspect compares the directory with st.
func inspect(p *place, st State) (*findings, error) {
	if err := st.check(); err != nil {
		return nil, err
	}
	ls, err := list(p)
	if err != nil {
		return nil, err
	}
	f := &findings{}
	if err := f.inspectSealed(p, st, ls.bases); err != nil {
		return nil, err
	}
	if err := f.inspectActive(p, st, slices.Contains(ls.bases, st.ActiveBase)); err != nil {
		return nil, err
	}
	f.sortOut(p, ls.others)
	return f, nil
}

// inspectSealed walks over the .log files below the active one, which must
// cover [LogStart, ActiveBase) without a gap, and over those above it.
func (f *findings) inspectSealed(p *place, st State, bases []int64) error {
	next := min(st.LogStart, st.ActiveBase) // first offset that is not covered
	for i, base := range bases {
		switch {
		case base == st.ActiveBase:
			continue
		case base >= st.End:
			f.remove = append(f.remove, fileName(base, logSuffix))
			continue
		case base > st.ActiveBase:
			return damaged(p.path(base, logSuffix), 0, "the marker has one segment from %d to %d, this file begins inside it",
				st.ActiveBase, st.End)
		}
		end := st.ActiveBase
		if i+1 < len(bases) {
			end = min(end, bases[i+1])
		}
		if end <= st.LogStart {
			f.remove = append(f.remove, fileName(base, logSuffix))
			continue
		}
		if base > next {
			return damaged(p.path(next, logSuffix), 0, "no file holds offsets [%d, %d)", next, base)
		}
		x, err := inspectSealedSegment(p, base, end)
		if err != nil {
			return err
		}
		f.sealed = append(f.sealed, x)
		next = x.end
	}
	if next < st.ActiveBase {
		return damaged(p.path(next, logSuffix), 0, "no file holds offsets [%d, %d)", next, st.ActiveBase)
	}
	return nil
}

// inspectSealedSegment checks that the segment has its footer and the length
// that the footer says, and reaches to end. Its bytes are not read here: that
// is the work of every Read and of Verify.
func inspectSealedSegment(p *place, base, end int64) (extent, error) {
	ft, err := readFooter(p, base)
	if err != nil {
		return extent{}, err
	}
	path := p.path(base, logSuffix)
	info, err := p.fs.Stat(path)
	if err != nil {
		return extent{}, fmt.Errorf("stat %s: %w", path, err)
	}
	if info.Size() != ft.length {
		return extent{}, damaged(path, min(info.Size(), ft.length), "the file has %d bytes, its footer says %d",
			info.Size(), ft.length)
	}
	if ft.end != end {
		return extent{}, damaged(p.path(ft.end, logSuffix), 0, "%s ends at offset %d, but the next segment there is begins at %d",
			fileName(base, logSuffix), ft.end, end)
	}
	return extent{footer: ft, sealed: true}, nil
}

// readFooter reads the footer of the sealed segment at base.
func readFooter(p *place, base int64) (footer, error) {
	path := p.path(base, footerSuffix)
	b, err := storage.ReadFile(p.fs, path)
	if storage.NotExist(err) {
		return footer{}, damaged(path, 0, "the footer of a sealed segment is missing")
	}
	if err != nil {
		return footer{}, err
	}
	ft, err := decodeFooter(b)
	if err != nil {
		return footer{}, damaged(path, 0, "the footer cannot be read: %v", err)
	}
	if ft.base != base || ft.end <= ft.base {
		return footer{}, damaged(path, 0, "the footer is the one of offsets [%d, %d)", ft.base, ft.end)
	}
	return ft, nil
}

// inspectActive reads the active segment up to the marker's position: batch
// checksums, dense offsets, the checksum of the whole.
func (f *findings) inspectActive(p *place, st State, exists bool) error {
	path := p.path(st.ActiveBase, logSuffix)
	if !exists {
		if st.ActivePosition > 0 {
			return damaged(path, 0, "the file is missing")
		}
		f.active, f.create = newExtent(st.ActiveBase), true
		return nil
	}
	file, err := p.fs.Open(path)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer file.Close() //nolint:errcheck // opened for reading: nothing can be lost by its close
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	if info.Size() < st.ActivePosition {
		return damaged(path, info.Size(), "the file has %d bytes, the marker says %d", info.Size(), st.ActivePosition)
	}
	known := readCheckpoint(p, st)
	x, err := scanActive(p, file, known, st)
	if errors.Is(err, ErrDamaged) && known.length > 0 {
		// The checkpoint may be to blame; without one the damage gets its place.
		known = newExtent(st.ActiveBase)
		x, err = scanActive(p, file, known, st)
	}
	if err != nil {
		return err
	}
	f.checkpointed = known.length
	if x.length > 0 {
		x.firstMs, x.lastMs = st.ActiveFirstAppendMs, st.LastAppendMs
	}
	f.active, f.cut = x, info.Size() > st.ActivePosition
	return nil
}

// scanActive reads the active segment from where known ends to the marker's
// position.
func scanActive(p *place, file storage.File, known extent, st State) (extent, error) {
	path := p.path(st.ActiveBase, logSuffix)
	x, err := scanOn(p, file, known, st.ActivePosition)
	if err != nil {
		return x, err
	}
	if x.end != st.End {
		return x, damaged(path, st.ActivePosition, "the file ends at offset %d here, the marker says %d", x.end, st.End)
	}
	if x.crc != st.ActiveCRC {
		// Every batch has its right checksum, so the wrong bit is in what they
		// leave out: a leader epoch. Which one cannot be told.
		return x, damaged(path, 0, "the file's checksum up to byte %d is %08x, the marker says %08x",
			st.ActivePosition, x.crc, st.ActiveCRC)
	}
	return x, nil
}

// sortOut marks for removal whatever is not the footer or an index of a sealed
// segment that stays, or the active one's checkpoint.
func (f *findings) sortOut(p *place, others []ownFile) {
	for _, o := range others {
		_, sealed := slices.BinarySearchFunc(f.sealed, o.base, func(x extent, base int64) int {
			return cmp.Compare(x.base, base)
		})
		if o.base == f.active.base && o.suffix == checkpointSuffix && f.checkpointed > 0 {
			continue
		}
		if !sealed || o.suffix == checkpointSuffix || strings.HasSuffix(o.name, storage.TmpSuffix()) {
			f.remove = append(f.remove, o.name)
		}
	}
	if len(f.remove) > 0 || f.cut {
		p.logger.Info("removing what the log's marker does not speak of",
			"dir", p.dir, "files", f.remove, "cut", f.cut)
	}
}

// settle brings the directory to st.
func (f *findings) settle(p *place, st State) error {
	for _, name := range f.remove {
		path := p.fs.PathJoin(p.dir, name)
		if err := p.fs.Remove(path); err != nil && !storage.NotExist(err) {
			return fmt.Errorf("remove %s: %w", path, err)
		}
	}
	path := p.path(st.ActiveBase, logSuffix)
	if f.cut {
		if err := storage.Truncate(p.fs, path, st.ActivePosition); err != nil {
			return err
		}
	}
	if f.create {
		file, err := p.fs.Create(path)
		if err != nil {
			return fmt.Errorf("create %s: %w", path, err)
		}
		if err := file.Close(); err != nil {
			return fmt.Errorf("close %s: %w", path, err)
		}
	}
	return storage.SyncDir(p.fs, p.dir)
}

func fileName(base int64, suffix string) string { return fmt.Sprintf("%020d%s", base, suffix) }
