package commitlog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"sync"
	"sync/atomic"

	"logbroker/internal/storage"
)

// castagnoli is the polynomial of CRC-32C. The table is made once and only
// read.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// place is what all segments of a log share.
type place struct {
	fs       storage.FS
	dir      string
	interval int64 // bytes between two index entries
	// checkpointBytes is Options.CheckpointBytes.
	checkpointBytes int64
	logger          *slog.Logger
}

const (
	logSuffix       = ".log"
	indexSuffix     = ".index"
	timeIndexSuffix = ".timeindex"
	footerSuffix    = ".footer"
)

// path returns the name of one of the files of the segment at base.
func (p *place) path(base int64, suffix string) string {
	return p.fs.PathJoin(p.dir, fileName(base, suffix))
}

// extent is how far a segment goes. It is never changed after it was
// published; the writer publishes another one. Bytes [0, size) of the file are
// written before an extent says so.
type extent struct {
	footer
	sealed bool
	// resident says that entries is the segment's index: from the segment's
	// creation until the Sync that writes the index files.
	resident bool
	// Elements of entries below len never change, so a published slice may
	// share its array with a longer one.
	entries []indexEntry
	// indexed is the position of the last index entry.
	indexed int64
}

// newExtent is the extent of an empty segment.
func newExtent(base int64) extent {
	return extent{footer: footer{base: base, end: base, maxTs: noTimestamp}, resident: true}
}

// add extends x by one batch of size bytes. It leaves out crc: that is done
// for many batches at once. The result is a function of the arguments alone,
// so that recovery rebuilds what Append had.
func (x *extent) add(next int64, size int, maxTs, interval int64) {
	if x.length-x.indexed >= interval {
		x.entries = append(x.entries, indexEntry{offset: x.end, position: x.length, maxTsBefore: x.maxTs})
		x.indexed = x.length
	}
	x.length += int64(size)
	x.end = next
	x.maxTs = max(x.maxTs, maxTs)
}

func (x *extent) info() SegmentInfo {
	return SegmentInfo{
		Base: x.base, End: x.end, Bytes: x.length, CRC: x.crc, Sealed: x.sealed,
		FirstAppendMs: x.firstMs, LastAppendMs: x.lastMs,
	}
}

// hintsMax bounds the positions that a segment remembers for readers that go
// on where they stopped.
const hintsMax = 8

// segment is one segment as readers see it.
type segment struct {
	*place
	base    int64
	logPath string // of the .log
	ext     atomic.Pointer[extent]

	// mu guards what follows. It is held while the file is opened and the index
	// loaded or rebuilt, so that this happens once; otherwise only for moments.
	mu sync.Mutex
	// users counts reads and pins. The .log is not unlinked while users > 0,
	// and not closed while a read has it.
	users int
	// dead says that the segment takes no more readers.
	dead bool
	// file is open for reading, or nil.
	file storage.File
	// stale are files that were replaced while reads had them.
	stale []storage.File
	// entries is the loaded index of a sealed segment while file is open.
	entries []indexEntry
	// hints are batches at which reads ended; offsets and positions fit each
	// other for the segment's whole life.
	hints    [hintsMax]indexEntry
	nextHint int
}

func newSegment(p *place, x extent) *segment {
	s := &segment{place: p, base: x.base, logPath: p.path(x.base, logSuffix)}
	s.ext.Store(&x)
	return s
}

// hold keeps the segment's files on disk until release. It returns false when
// the segment is dead.
func (s *segment) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return false
	}
	s.users++
	return true
}

// acquire is hold plus the file open and the index loaded. ok is false when the
// segment is dead; opened says that this call opened the file.
func (s *segment) acquire() (file storage.File, ok, opened bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return nil, false, false, nil
	}
	if s.file == nil {
		if err := s.openLocked(); err != nil {
			return nil, false, false, err
		}
		opened = true
	}
	s.users++
	return s.file, true, opened, nil
}

// openLocked opens the file and, where the index is not in memory, loads it.
func (s *segment) openLocked() error {
	f, err := s.fs.Open(s.logPath)
	if storage.NotExist(err) {
		return damaged(s.logPath, 0, "the file is missing")
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", s.logPath, err)
	}
	x := s.ext.Load()
	if !x.resident {
		if s.entries, err = loadIndex(s.place, x, f); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	s.file = f
	return nil
}

// locate returns a batch at or before the one that holds offset, the nearest
// that is known. The caller has acquired the segment.
func (s *segment) locate(offset int64) indexEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := searchOffset(s.indexLocked(), s.base, offset)
	for _, h := range s.hints {
		if h.offset <= offset && h.position > at.position {
			at = h
		}
	}
	return at
}

// locateTime returns a batch below which all timestamps of the segment are
// lower than tsMs. The caller has acquired the segment.
func (s *segment) locateTime(tsMs int64) indexEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return searchTime(s.indexLocked(), s.base, tsMs)
}

// indexLocked returns the entries to search. mu matters: dropIndex moves them
// from the extent to the segment.
func (s *segment) indexLocked() []indexEntry {
	if x := s.ext.Load(); x.resident {
		return x.entries
	}
	return s.entries
}

// release ends an acquire or a hold.
func (s *segment) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.users == 0 && (s.dead || len(s.stale) > 0) {
		s.closeLocked()
	}
}

// remember keeps the place at which a read ended, where the next one is likely
// to begin.
func (s *segment) remember(offset, position int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hints {
		if h.position == position {
			return
		}
	}
	s.hints[s.nextHint] = indexEntry{offset: offset, position: position}
	s.nextHint = (s.nextHint + 1) % hintsMax
}

// retire lets no more readers in and closes the file behind the last one. It
// returns true when nobody uses the segment any more.
func (s *segment) retire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
	if s.users == 0 {
		s.closeLocked()
	}
	return s.users == 0
}

// park closes the file of a segment that nobody reads at the moment. It returns
// false where somebody does.
func (s *segment) park() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users > 0 {
		return false
	}
	s.closeLocked()
	return true
}

// closeLocked closes the file, which was open for reading only: an error of
// that close concerns no data.
func (s *segment) closeLocked() {
	if s.file != nil {
		s.stale = append(s.stale, s.file)
	}
	for _, f := range s.stale {
		if err := f.Close(); err != nil {
			s.logger.Warn("a segment did not close", "file", s.logPath, "err", err)
		}
	}
	s.file, s.entries, s.stale = nil, nil, nil
}

// dropIndex hands the index of a sealed segment over from the writer, who has
// written it to disk, to the readers, who may forget it.
func (s *segment) dropIndex() {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := *s.ext.Load()
	if s.file != nil {
		s.entries = x.entries
	}
	x.entries, x.resident = nil, false
	s.ext.Store(&x)
}

// loadIndex reads the index files of a sealed segment, or rebuilds them from
// the .log where they are missing or do not decode.
func loadIndex(p *place, x *extent, log storage.File) ([]indexEntry, error) {
	offsets, errO := storage.ReadFile(p.fs, p.path(x.base, indexSuffix))
	times, errT := storage.ReadFile(p.fs, p.path(x.base, timeIndexSuffix))
	err := errors.Join(errO, errT)
	if err == nil {
		var entries []indexEntry
		if entries, err = decodeIndexes(offsets, times, x.base, x.end, x.length); err == nil {
			return entries, nil
		}
	}
	p.logger.Info("rebuilding the index of a segment", "file", p.path(x.base, logSuffix), "err", err)
	rebuilt, err := scanExtent(p, log, x.base, x.length)
	if err != nil {
		return nil, err
	}
	if rebuilt.end != x.end || rebuilt.crc != x.crc {
		return nil, damaged(p.path(x.base, logSuffix), 0, "the file has end offset %d and checksum %08x, its footer says %d and %08x",
			rebuilt.end, rebuilt.crc, x.end, x.crc)
	}
	// The files only save the next rebuild: a failure to write them (a full or
	// read-only disk) must not fail the read.
	if err := writeIndexes(p, &rebuilt); err != nil {
		p.logger.Warn("the rebuilt index was not written", "file", p.path(x.base, indexSuffix), "err", err)
	}
	return rebuilt.entries, nil
}

// writeIndexes writes both index files of x and syncs their bytes.
func writeIndexes(p *place, x *extent) error {
	offsets, times := encodeIndexes(x.entries, x.base, x.length)
	if err := storage.WriteFileSynced(p.fs, p.path(x.base, indexSuffix), offsets); err != nil {
		return err
	}
	return storage.WriteFileSynced(p.fs, p.path(x.base, timeIndexSuffix), times)
}
