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
//	marker                              the only root: see Marker
//	log-<generation>/                   the commit log
//	producers-<generation>-<index>      producer table, as producerstate encodes it
//	epochs-<generation>-<index>         epoch history
//
// generation counts the logs that the replica has had: 1, and one more with
// each full snapshot from a peer, so that a snapshot is put beside what is
// there and takes its place by one marker write. index is the applied index at
// which the file's content came to be; a file whose content has not changed
// since keeps its name when the marker moves on. So a name stands for one
// content, and a newer file can never be taken for that of an older marker.
const (
	markerName      = "marker"
	logPrefix       = "log-"
	producersPrefix = "producers-"
	epochsPrefix    = "epochs-"
)

// markerTmp is where the next marker is written before it gets its name.
func markerTmp() string { return markerName + storage.TmpSuffix() }

// FileRef names a producers or epochs file and its content.
type FileRef struct {
	Index uint64 // part of the name
	Size  uint64 // in bytes; 0 means that there is no file and its content is empty
	CRC   uint32 // CRC-32C of the whole file
}

// Marker is what the marker file says: everything that a restart starts from.
//
// Invariant: everything the durable marker speaks of is durable, because it is
// written after it. What is on disk beyond it is of no account: Open removes
// it, and Raft gives it again.
type Marker struct {
	ShardID, ReplicaID uint64
	Generation         uint64
	// Applied is the index of the last entry of the Raft log that is in this
	// state; what Open returns.
	Applied uint64
	// LastAppendMs is the append time of the last batch.
	LastAppendMs int64
	Log          commitlog.State
	Config       Config
	Producers    FileRef
	Epochs       FileRef
}

// LogDir returns the directory of the commit log below the replica's.
func (m Marker) LogDir(fs storage.FS, dir string) string {
	return fs.PathJoin(dir, fmt.Sprintf("%s%d", logPrefix, m.Generation))
}

// ProducersFile returns the name of the producers file.
func (m Marker) ProducersFile() string { return m.file(producersPrefix, m.Producers) }

// EpochsFile returns the name of the epochs file.
func (m Marker) EpochsFile() string { return m.file(epochsPrefix, m.Epochs) }

func (m Marker) file(prefix string, r FileRef) string {
	return fmt.Sprintf("%s%d-%020d", prefix, m.Generation, r.Index)
}

// The marker file, big endian: 4 magic, 1 version, then the fields of Marker
// in order (logStateBytes for Log, configBytes for Config, 20 per FileRef),
// 4 CRC-32C of all before it.
const (
	markerMagic   = "LBpm"
	markerVersion = 1
	logStateBytes = 52
	fileRefBytes  = 20
	markerBytes   = 5 + 5*8 + logStateBytes + configBytes + 2*fileRefBytes + 4
)

func (m Marker) encode() []byte {
	be := binary.BigEndian
	b := append(make([]byte, 0, markerBytes), markerMagic...)
	b = append(b, markerVersion)
	for _, v := range []uint64{m.ShardID, m.ReplicaID, m.Generation, m.Applied, uint64(m.LastAppendMs)} {
		b = be.AppendUint64(b, v)
	}
	b = appendLogState(b, m.Log)
	b = m.Config.append(b)
	for _, r := range []FileRef{m.Producers, m.Epochs} {
		b = be.AppendUint64(b, r.Index)
		b = be.AppendUint64(b, r.Size)
		b = be.AppendUint32(b, r.CRC)
	}
	return be.AppendUint32(b, checksum(b))
}

func decodeMarker(b []byte) (m Marker, ok bool) {
	if len(b) != markerBytes || string(b[:4]) != markerMagic || b[4] != markerVersion {
		return m, false
	}
	be := binary.BigEndian
	body := b[:markerBytes-4]
	if checksum(body) != be.Uint32(b[markerBytes-4:]) {
		return m, false
	}
	b = b[5:]
	m.ShardID, m.ReplicaID, m.Generation = be.Uint64(b), be.Uint64(b[8:]), be.Uint64(b[16:])
	m.Applied, m.LastAppendMs = be.Uint64(b[24:]), int64(be.Uint64(b[32:]))
	b = b[40:]
	m.Log = decodeLogState(b)
	b = b[logStateBytes:]
	m.Config, ok = decodeConfig(b)
	b = b[configBytes:]
	for _, r := range []*FileRef{&m.Producers, &m.Epochs} {
		r.Index, r.Size, r.CRC = be.Uint64(b), be.Uint64(b[8:]), be.Uint32(b[16:])
		b = b[fileRefBytes:]
	}
	return m, ok && m.Generation > 0
}

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
	path := fs.PathJoin(dir, markerName)
	b, err := storage.ReadFile(fs, path)
	if err != nil {
		return Marker{}, err
	}
	m, ok := decodeMarker(b)
	if !ok {
		return Marker{}, damaged(path, "not a marker of this version, or its checksum differs")
	}
	return m, nil
}

// readRef reads the file that r names and checks that it is the one r means.
func readRef(fs storage.FS, path string, r FileRef) ([]byte, error) {
	if r.Size == 0 {
		return nil, nil
	}
	b, err := storage.ReadFile(fs, path)
	if storage.NotExist(err) {
		return nil, damaged(path, "the marker names it and it is gone")
	}
	if err != nil {
		return nil, err
	}
	if uint64(len(b)) != r.Size || checksum(b) != r.CRC {
		return nil, damaged(path, "length or checksum differs from the marker's")
	}
	return b, nil
}

// obsolete reports whether name is a file or directory of ours that m does not
// speak of.
func (m Marker) obsolete(name string) bool {
	switch {
	case strings.HasSuffix(name, storage.TmpSuffix()):
		return true
	case strings.HasPrefix(name, producersPrefix):
		return m.Producers.Size == 0 || name != m.ProducersFile()
	case strings.HasPrefix(name, epochsPrefix):
		return m.Epochs.Size == 0 || name != m.EpochsFile()
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
