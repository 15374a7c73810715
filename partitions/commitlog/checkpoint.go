package commitlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"logbroker/internal/storage"
)

// A checkpoint is what Open would find out by reading the begin of the active
// segment: so a restart reads only what came after it, however large segments
// are. The file <base>.checkpoint is a footer record (footer.go) of the segment's
// first bytes, 4 bytes length of the offset index, and the two index files
// (index.go), all big endian and each with its own checksum. It is written once a
// marker at or above it is durable, and speaks of nothing above that marker. One
// that is missing, does not decode or does not fit the marker is of no account:
// then all of the segment is read. The bytes it speaks of are checked by every
// read and by the scrub, as those of sealed segments are.
const (
	checkpointSuffix       = ".checkpoint"
	checkpointBytesDefault = 8 << 20
)

// Marked says that a durable marker carries the State of the FinishSync, or Sync, that
// returned last. What is to be done about that is begun beside the writer: see
// Checkpoint.
func (l *Log) Marked() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marked, l.markedStart = l.synced, l.durableStart
	if l.failed == nil {
		// An error stays, and ends the next Append or Sync.
		l.tidying.Go(func() { _ = l.Checkpoint() })
	}
}

// AwaitCheckpoint does, or waits for, what Checkpoint has to do for a restart to stay
// quick. It is called before a new marker is brought about.
func (l *Log) AwaitCheckpoint() error {
	l.mu.Lock()
	behind := l.behind()
	l.mu.Unlock()
	if !behind {
		return nil
	}
	return l.Checkpoint()
}

// behind reports whether much of the active segment is below the marker and not in
// its checkpoint. mu is held.
func (l *Log) behind() bool {
	done := int64(0)
	for _, c := range l.checkpoints {
		if c.base == l.marked.base {
			done = c.length
		}
	}
	return l.marked.length-done >= l.place.checkpointBytes
}

// Checkpoint lets the next Open read no more of the active segment than what has
// been appended since the last durable marker, if that has become much, forgets
// checkpoints that the marker does not need any more, and unlinks the segments
// below the marker's log start offset; those that a reader or a Pinned uses stay
// until the next call. It runs beside the writer, begun by Marked; who calls it
// waits for it. An error is one of the disk: the process should end.
func (l *Log) Checkpoint() error {
	l.beside.Lock()
	defer l.beside.Unlock()
	x, obsolete, trimmed, err := l.due()
	if err != nil {
		return err
	}
	// A crash brings names back; Open removes them.
	for _, s := range trimmed {
		if err := removeSegmentFiles(l.place, s.base); err != nil {
			return l.failBeside(err)
		}
	}
	for _, c := range obsolete {
		path := l.place.path(c.base, checkpointSuffix)
		if err := l.place.fs.Remove(path); err != nil && !storage.NotExist(err) {
			return l.failBeside(fmt.Errorf("remove %s: %w", path, err))
		}
	}
	if x.length == 0 {
		return nil
	}
	if err := storage.WriteFileAtomic(l.place.fs, l.place.path(x.base, checkpointSuffix), encodeCheckpoint(&x)); err != nil {
		return l.failBeside(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checkpoints = append(slices.DeleteFunc(l.checkpoints, func(c checkpoint) bool { return c.base == x.base }),
		checkpoint{base: x.base, length: x.length})
	return nil
}

// due returns what a checkpoint is to be written of, empty for nothing, the
// checkpoints that are to go, and the segments, which nobody uses any more. beside
// is held.
func (l *Log) due() (x extent, obsolete []checkpoint, trimmed []*segment, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failure(); err != nil {
		return x, nil, nil, err
	}
	var kept []checkpoint
	for _, c := range l.checkpoints {
		if c.base < l.marked.base {
			obsolete = append(obsolete, c)
		} else {
			kept = append(kept, c)
		}
	}
	var used []*segment
	for _, s := range l.trimmed {
		if l.removable(s) && s.retire() {
			trimmed = append(trimmed, s)
		} else {
			used = append(used, s)
		}
	}
	l.checkpoints, l.trimmed = kept, used
	if l.behind() {
		x = l.marked
	}
	return x, obsolete, trimmed, nil
}

// removable reports whether the durable marker speaks of s no more. One that was
// sealed after that Sync it has as its active segment, and needs it, even if nothing
// of it can be read. mu is held.
func (l *Log) removable(s *segment) bool {
	return s.base < l.marked.base && s.ext.Load().end <= l.markedStart
}

// checkpoint is how much of a segment its checkpoint covers.
type checkpoint struct{ base, length int64 }

// failBeside is fail for who does not hold mu.
func (l *Log) failBeside(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fail(err)
}

func encodeCheckpoint(x *extent) []byte {
	offsets, times := encodeIndexes(x.entries, x.base, x.length)
	b := binary.BigEndian.AppendUint32(x.encode(), uint32(len(offsets)))
	return append(append(b, offsets...), times...)
}

// decodeCheckpoint is the inverse of encodeCheckpoint, but for append times,
// which the marker knows.
func decodeCheckpoint(b []byte) (extent, error) {
	if len(b) < footerSize+4 {
		return extent{}, fmt.Errorf("%d bytes are no checkpoint", len(b))
	}
	ft, err := decodeFooter(b[:footerSize])
	if err != nil {
		return extent{}, err
	}
	n := int64(binary.BigEndian.Uint32(b[footerSize:]))
	b = b[footerSize+4:]
	if n > int64(len(b)) {
		return extent{}, errors.New("the offset index is cut short")
	}
	x := extent{footer: ft, resident: true}
	if x.entries, err = decodeIndexes(b[:n], b[n:], x.base, x.end, x.length); err != nil {
		return extent{}, err
	}
	if last := len(x.entries) - 1; last >= 0 {
		x.indexed = x.entries[last].position
	}
	return x, nil
}

// readCheckpoint returns what is known of the active segment's begin; an empty
// extent where there is no checkpoint that st vouches for.
func readCheckpoint(p *place, st State) extent {
	none := newExtent(st.ActiveBase)
	path := p.path(st.ActiveBase, checkpointSuffix)
	b, err := storage.ReadFile(p.fs, path)
	if storage.NotExist(err) {
		return none
	}
	x := none
	if err == nil {
		x, err = decodeCheckpoint(b)
	}
	if err == nil && (x.base != st.ActiveBase || x.length > st.ActivePosition || x.end > st.End) {
		err = fmt.Errorf("it is of offsets [%d, %d), the marker's segment of [%d, %d)", x.base, x.end, st.ActiveBase, st.End)
	}
	if err != nil {
		p.logger.Info("reading all of the active segment: its checkpoint is of no use", "file", path, "err", err)
		return none
	}
	return x
}
