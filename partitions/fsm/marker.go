package fsm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"

	"logbroker/internal/storage"
	"logbroker/partitions/commitlog"
)

// The files of a replica, in its directory:
//
//	marker             the only root: two slots, see slots.go
//	log-<generation>/  the commit log
//
// generation counts the logs that the replica has had: 1, and one more with
// each full snapshot from a peer, so that a snapshot is put beside what is
// there and takes its place by one marker write.
const (
	markerName = "marker"
	logPrefix  = "log-"
)

// markerTmp is where the marker file is written before it gets its name.
func markerTmp() string { return markerName + storage.TmpSuffix() }

// Marker is what the marker says beside the epochs and the producer table:
// everything that a restart starts from.
//
// Invariant: everything the durable marker speaks of is durable, because it is
// written after it. What is on disk beyond it is of no account: Open removes
// it, and Raft gives it again.
type Marker struct {
	// Revision rises by one with every write of the marker: of two, the one with
	// the higher revision counts.
	Revision           uint64
	ShardID, ReplicaID uint64
	Generation         uint64
	// Applied is the index of the last entry of the Raft log that is in this
	// state; what Open returns.
	Applied uint64
	// LastAppendMs is the append time of the last batch.
	LastAppendMs int64
	Log          commitlog.State
	Config       Config
}

// LogDir returns the directory of the commit log below the replica's.
func (m Marker) LogDir(fs storage.FS, dir string) string {
	return fs.PathJoin(dir, fmt.Sprintf("%s%d", logPrefix, m.Generation))
}

const logStateBytes = 52

func appendLogState(b []byte, s commitlog.State) []byte {
	be := binary.BigEndian
	for _, v := range []int64{s.LogStart, s.End, s.ActiveBase, s.ActivePosition} {
		b = be.AppendUint64(b, uint64(v))
	}
	b = be.AppendUint32(b, s.ActiveCRC)
	b = be.AppendUint64(b, uint64(s.ActiveFirstAppendMs))
	return be.AppendUint64(b, uint64(s.LastAppendMs))
}

func decodeLogState(b []byte) commitlog.State {
	i64 := func(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }
	return commitlog.State{
		LogStart: i64(0), End: i64(8), ActiveBase: i64(16), ActivePosition: i64(24),
		ActiveCRC:           binary.BigEndian.Uint32(b[32:]),
		ActiveFirstAppendMs: i64(36), LastAppendMs: i64(44),
	}
}

// ReadMarker reads the marker of the replica in dir. The error matches
// os.ErrNotExist where there is none, and wraps commitlog.ErrDamaged where its
// bytes are not what was written.
func ReadMarker(fs storage.FS, dir string) (Marker, error) {
	got, err := readSlots(fs, fs.PathJoin(dir, markerName))
	return got.Marker, err
}

// obsolete reports whether name is a file or directory of ours that m does not
// speak of.
func (m Marker) obsolete(name string) bool {
	switch {
	case strings.HasSuffix(name, storage.TmpSuffix()):
		return true
	case strings.HasPrefix(name, logPrefix):
		return name != fmt.Sprintf("%s%d", logPrefix, m.Generation)
	default:
		return false
	}
}

func damaged(path, reason string) error {
	return &commitlog.DamageError{File: path, Reason: reason}
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
