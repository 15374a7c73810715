package fsm

import (
	"encoding/binary"
	"fmt"
	"time"

	"logbroker/internal/recordbatch"
	"logbroker/partitions/commitlog"
	"logbroker/partitions/producerstate"
)

// commandVersion is the first byte of every command.
const commandVersion = 1

// The kinds of command: the second byte. A kind is never renumbered.
const (
	kindProduce   = 1
	kindEpoch     = 2
	kindTrim      = 3
	kindExpire    = 4
	kindConfigure = 5
)

// ProduceHeaderSize is the size of the header of a produce command without its
// message id: the same as that of the native produce request, so that a
// request becomes a command in place.
const ProduceHeaderSize = 15

// MsgIDBytesMax is the longest message id, in bytes.
const MsgIDBytesMax = producerstate.MessageIDBytesMax

// Sizes in bytes of the commands and their parts.
const (
	commandHeaderBytes = 6 // version, kind, leader epoch
	epochBytes         = commandHeaderBytes + 8
	trimBytes          = commandHeaderBytes + 8
	configureBytes     = commandHeaderBytes + configBytes
	expireHeaderBytes  = commandHeaderBytes + 4
	expireKeyBytes     = 14
)

// ProduceHeader is what a produce command says besides its batch.
type ProduceHeader struct {
	// LeaderEpoch must be the partition's epoch when the command is applied.
	LeaderEpoch int32
	// AppendTimeMs is the leader's clock when it proposed, in milliseconds
	// since 1970. Where it lies before an earlier append, that one counts.
	AppendTimeMs int64
	// MsgID names a plain publish for two minutes; empty for none. At most
	// MsgIDBytesMax bytes.
	MsgID string
}

// Epoch is the entry by which a new leader opens its epoch.
type Epoch struct {
	Epoch   int32
	Replica uint64
}

// EncodeProduce writes the header of a produce command right before the batch
// that begins at buf[batchAt], and returns the command, which is a part of buf:
//
//	off size field
//	0   1    version = 1
//	1   1    kind = 1
//	2   4    leader epoch
//	6   8    append time, ms
//	14  1    length n of the message id
//	15  n    message id
//	15+n …   one RecordBatch v2, base offset and leader epoch not yet set
//
// All integers are big endian. batchAt must be at least ProduceHeaderSize plus
// the length of the message id.
func EncodeProduce(buf []byte, batchAt int, h ProduceHeader) []byte {
	if len(h.MsgID) > MsgIDBytesMax || batchAt < ProduceHeaderSize+len(h.MsgID) {
		panic("fsm: no room for the header of a produce command")
	}
	cmd := buf[batchAt-len(h.MsgID)-ProduceHeaderSize:]
	cmd[0], cmd[1] = commandVersion, kindProduce
	binary.BigEndian.PutUint32(cmd[2:], uint32(h.LeaderEpoch))
	binary.BigEndian.PutUint64(cmd[6:], uint64(h.AppendTimeMs))
	cmd[14] = byte(len(h.MsgID))
	copy(cmd[ProduceHeaderSize:], h.MsgID)
	return cmd
}

// EncodeEpoch returns the command that opens an epoch: 2 header, 4 epoch, 8
// replica. It takes effect where the epoch is above the current one.
func EncodeEpoch(e Epoch) []byte {
	cmd := header(kindEpoch, epochBytes, e.Epoch)
	return binary.BigEndian.AppendUint64(cmd, e.Replica)
}

// EncodeTrim returns the command that moves the log start up to newLogStart,
// or to the high watermark where newLogStart lies above it: 2 header, 4 leader
// epoch, 8 offset.
func EncodeTrim(leaderEpoch int32, newLogStart int64) []byte {
	cmd := header(kindTrim, trimBytes, leaderEpoch)
	return binary.BigEndian.AppendUint64(cmd, uint64(newLogStart))
}

// EncodeExpire returns the command that forgets idle producers: 2 header, 4
// leader epoch, 4 number of keys, each 8 id, 2 epoch, 4 last sequence. A
// producer that has written since the leader took its key stays.
func EncodeExpire(leaderEpoch int32, keys []producerstate.Key) []byte {
	cmd := header(kindExpire, expireHeaderBytes+expireKeyBytes*len(keys), leaderEpoch)
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(len(keys)))
	for _, k := range keys {
		cmd = binary.BigEndian.AppendUint64(cmd, uint64(k.Producer))
		cmd = binary.BigEndian.AppendUint16(cmd, uint16(k.Epoch))
		cmd = binary.BigEndian.AppendUint32(cmd, uint32(k.LastSequence))
	}
	return cmd
}

// EncodeConfigure returns the command that replaces the replicated
// configuration: 2 header, 4 leader epoch, then the configuration (see
// Config). Zero fields of c take their defaults.
func EncodeConfigure(leaderEpoch int32, c Config) []byte {
	return c.WithDefaults().append(header(kindConfigure, configureBytes, leaderEpoch))
}

// Inspect says for people what a command does, and returns the batch of one that
// produces. It checks nothing.
func Inspect(cmd []byte) (what string, batch recordbatch.Batch) {
	if len(cmd) < commandHeaderBytes || cmd[0] != commandVersion {
		return "unknown", nil
	}
	switch cmd[1] {
	case kindProduce:
		p, _ := decodeProduce(cmd)
		return "produce", p.batch
	case kindEpoch:
		return fmt.Sprintf("epoch %d", binary.BigEndian.Uint32(cmd[2:])), nil
	case kindTrim:
		return "trim", nil
	case kindExpire:
		return "expire", nil
	case kindConfigure:
		return "configure", nil
	}
	return "unknown", nil
}

func decodeEpoch(cmd []byte) (e Epoch, ok bool) {
	if len(cmd) != epochBytes {
		return e, false
	}
	e.Epoch = int32(binary.BigEndian.Uint32(cmd[2:]))
	e.Replica = binary.BigEndian.Uint64(cmd[commandHeaderBytes:])
	return e, e.Epoch > 0
}

func decodeTrim(cmd []byte) (newLogStart int64, ok bool) {
	if len(cmd) != trimBytes {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(cmd[commandHeaderBytes:])), true
}

func decodeExpire(cmd []byte) (keys []producerstate.Key, ok bool) {
	if len(cmd) < expireHeaderBytes {
		return nil, false
	}
	n, b := int64(binary.BigEndian.Uint32(cmd[commandHeaderBytes:])), cmd[expireHeaderBytes:]
	if n*expireKeyBytes != int64(len(b)) {
		return nil, false
	}
	keys = make([]producerstate.Key, 0, n)
	for ; len(b) > 0; b = b[expireKeyBytes:] {
		keys = append(keys, producerstate.Key{
			Producer:     int64(binary.BigEndian.Uint64(b)),
			Epoch:        int16(binary.BigEndian.Uint16(b[8:])),
			LastSequence: int32(binary.BigEndian.Uint32(b[10:])),
		})
	}
	return keys, true
}

func decodeConfigure(cmd []byte) (c Config, ok bool) {
	if len(cmd) != configureBytes {
		return c, false
	}
	return decodeConfig(cmd[commandHeaderBytes:])
}

func header(kind byte, size int, epoch int32) []byte {
	cmd := append(make([]byte, 0, size), commandVersion, kind)
	return binary.BigEndian.AppendUint32(cmd, uint32(epoch))
}

// Config is the replicated configuration of a partition: what decides where
// segments roll and which producers are remembered. It is set by a configure
// command, never from a node's own settings, because two replicas that differ
// in it would write different segments and give different verdicts.
type Config struct {
	Segment   commitlog.Config
	Producers producerstate.Limits
}

// Defaults of the segment configuration until a configure command is applied.
const (
	SegmentBytesDefault = 256 << 20
	SegmentAgeDefault   = 168 * time.Hour
)

// WithDefaults returns c with its zero fields replaced by the defaults.
func (c Config) WithDefaults() Config {
	if c.Segment.SegmentBytes == 0 {
		c.Segment.SegmentBytes = SegmentBytesDefault
	}
	if c.Segment.SegmentAge == 0 {
		c.Segment.SegmentAge = SegmentAgeDefault
	}
	c.Producers = c.Producers.WithDefaults()
	return c
}

// Valid reports whether every field is within its bounds.
func (c Config) Valid() bool {
	return c.Segment.SegmentBytes > 0 && c.Segment.SegmentAge > 0 && c.Producers.Valid()
}

// append appends the encoded configuration: 8 segment bytes, 8 segment age in
// nanoseconds, 4 window, 4 producers, 4 message ids.
func (c Config) append(dst []byte) []byte {
	be := binary.BigEndian
	dst = be.AppendUint64(dst, uint64(c.Segment.SegmentBytes))
	dst = be.AppendUint64(dst, uint64(c.Segment.SegmentAge))
	dst = be.AppendUint32(dst, uint32(c.Producers.Window))
	dst = be.AppendUint32(dst, uint32(c.Producers.Producers))
	return be.AppendUint32(dst, uint32(c.Producers.MessageIDs))
}

// configBytes is the size of an encoded configuration.
const configBytes = 28

// decodeConfig reads configBytes bytes; ok is false where a field is out of
// bounds.
func decodeConfig(b []byte) (c Config, ok bool) {
	be := binary.BigEndian
	c.Segment.SegmentBytes = int64(be.Uint64(b))
	c.Segment.SegmentAge = time.Duration(be.Uint64(b[8:]))
	c.Producers.Window = int(be.Uint32(b[16:]))
	c.Producers.Producers = int(be.Uint32(b[20:]))
	c.Producers.MessageIDs = int(be.Uint32(b[24:]))
	return c, c.Valid()
}
