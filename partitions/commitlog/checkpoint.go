package commitlog

import (
	"encoding/binary"
	"errors"
	"fmt"

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
// been appended since, if that has become much, and forgets what sealed segments do not
// need any more. The caller has made the State of
// the last Sync durable, and appended nothing meanwhile. An error is one of the
// disk: the process should end.
func (l *Log) Checkpoint() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failure(); err != nil {
		return err
	}
	for ; len(l.obsolete) > 0; l.obsolete = l.obsolete[1:] {
		// A crash brings the name back; Open removes it.
		path := l.place.path(l.obsolete[0], checkpointSuffix)
		if err := l.place.fs.Remove(path); err != nil && !storage.NotExist(err) {
			return l.fail(fmt.Errorf("remove %s: %w", path, err))
		}
	}
	if l.dirty || l.tail.length-l.checkpointed < l.place.checkpointBytes {
		return nil
	}
	if err := storage.WriteFileAtomic(l.place.fs, l.place.path(l.tail.base, checkpointSuffix), encodeCheckpoint(&l.tail)); err != nil {
		return l.fail(err)
	}
	l.checkpointed = l.tail.length
	return nil
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
