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

// Checkpoint lets the next Open read no more of the active segment than what has
// been appended since the last durable marker, if that has become much, and
// forgets checkpoints that the marker does not need any more. It may run beside
// the writer, who need not wait for it: it is called once after each marker, at
// the latest before the next. An error is one of the disk: the process should end.
func (l *Log) Checkpoint() error {
	l.beside.Lock()
	defer l.beside.Unlock()
	x, obsolete, err := l.checkpointDue()
	if err != nil {
		return err
	}
	for _, base := range obsolete {
		// A crash brings the name back; Open removes it.
		path := l.place.path(base, checkpointSuffix)
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
	return nil
}

// checkpointDue returns what a checkpoint is to be written of, empty for nothing,
// and the segments whose checkpoint is to go. It counts both as done.
func (l *Log) checkpointDue() (x extent, obsolete []int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failure(); err != nil {
		return x, nil, err
	}
	kept := l.checkpoints[:0]
	done := int64(0)
	for _, c := range l.checkpoints {
		switch {
		case c.base < l.marked.base:
			obsolete = append(obsolete, c.base)
			continue
		case c.base == l.marked.base:
			done = c.length
			continue
		}
		kept = append(kept, c)
	}
	if l.marked.length-done >= l.place.checkpointBytes {
		x, done = l.marked, l.marked.length
	}
	if done > 0 {
		kept = append(kept, checkpoint{base: l.marked.base, length: done})
	}
	l.checkpoints = kept
	return x, obsolete, nil
}

// checkpoint is how much of a segment its checkpoint covers.
type checkpoint struct{ base, length int64 }

// failBeside is fail for who does not hold mu.
func (l *Log) failBeside(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fail(err)
}

// PreSync makes durable what has been appended so far, beside the writer, so that
// the next Sync, which the writer has to wait for, finds little left to do. An
// error is one of the disk, and comes out of the next Sync too.
func (l *Log) PreSync() error {
	l.beside.Lock()
	defer l.beside.Unlock()
	l.mu.Lock()
	if err := l.failure(); err != nil {
		l.mu.Unlock()
		return err
	}
	sealed, active := slices.Clone(l.sealed), l.active
	l.mu.Unlock()
	for _, w := range sealed {
		if err := w.preSync(l.back, w.seal); err != nil {
			return err
		}
	}
	return active.preSync(l.back, active.file.Sync)
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
