package protocol

import (
	"encoding/binary"

	"logbroker/internal/errcode"
)

// Version is the version byte of every data-plane message.
const Version = 1

// MsgIDBytesMax bounds the de-duplication id of a plain publish.
const MsgIDBytesMax = 255

// EpochUnknown is the leader epoch of a client that knows none yet: it is
// never refused for its epoch.
const EpochUnknown int32 = -1

// Header sizes in bytes.
const (
	ProduceRequestHeaderSize = 15 // + message id
	ProduceReplySize         = 48 // + message
	FetchRequestSize         = 34
	FetchReplyHeaderSize     = 49 // + message or batches
	OffsetsRequestSize       = 22
	OffsetsReplySize         = 48 // + message
)

// ProduceRequest asks the leader to append one batch.
//
//	off size field
//	0   1    version = 1
//	1   1    flags = 0
//	2   8    topic id
//	10  4    leader epoch the client believes in, -1 unknown
//	14  1    length n of the message id
//	15  n    message id (plain publishes), else empty
//	15+n …   one RecordBatch v2
//
// The header is exactly as long as the header of the replicated produce
// command, so that the broker can turn a request into a command in place.
type ProduceRequest struct {
	TopicID uint64
	Epoch   int32
	MsgID   string
	// BatchAt is where the batch begins in the encoded message.
	BatchAt int
}

// AppendHeader appends the encoded header; the batch follows it.
func (r *ProduceRequest) AppendHeader(dst []byte) []byte {
	dst = append(dst, Version, 0)
	dst = binary.BigEndian.AppendUint64(dst, r.TopicID)
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.Epoch))
	dst = append(dst, byte(len(r.MsgID)))
	return append(dst, r.MsgID...)
}

// DecodeProduceRequest decodes the header and returns where the batch begins.
func DecodeProduceRequest(b []byte) (ProduceRequest, error) {
	if err := checkHeader(b, ProduceRequestHeaderSize, "produce request"); err != nil {
		return ProduceRequest{}, err
	}
	at := ProduceRequestHeaderSize + int(b[14])
	if len(b) < at {
		return ProduceRequest{}, short("produce request", len(b), at)
	}
	return ProduceRequest{
		TopicID: binary.BigEndian.Uint64(b[2:]),
		Epoch:   int32(binary.BigEndian.Uint32(b[10:])),
		MsgID:   string(b[ProduceRequestHeaderSize:at]),
		BatchAt: at,
	}, nil
}

// FlagDuplicate marks a produce reply for a batch that was stored before.
const FlagDuplicate = 1 << 0

// ProduceReply answers a produce request.
//
//	0   1  version      1  1  flags (bit 0 duplicate)   2  2  code
//	4   4  retry after, ms                              8  8  topic id
//	16  4  leader epoch                                 20 8  leader node hint, 0 unknown
//	28  8  base offset (-1 on error)                    36 8  append time, ms
//	44  4  length of the error message, which follows
//
// A refusal that a node gives before it proposes (THROTTLED, DISK_RESERVE,
// NOT_ENOUGH_REPLICAS, LEADER_NOT_AVAILABLE, SHUTTING_DOWN) has the leader epoch
// that the replica itself opened, 0 where it has opened none: only where that is
// the request's epoch is it certain that nobody else stores the batch.
type ProduceReply struct {
	Code         errcode.Code
	Duplicate    bool
	RetryAfterMs uint32
	TopicID      uint64
	Epoch        int32
	Leader       uint64
	BaseOffset   int64
	AppendTimeMs int64
	Message      string
}

// Append appends the encoded reply.
func (r *ProduceReply) Append(dst []byte) []byte {
	var flags byte
	if r.Duplicate {
		flags |= FlagDuplicate
	}
	dst = append(dst, Version, flags)
	dst = binary.BigEndian.AppendUint16(dst, uint16(r.Code))
	dst = binary.BigEndian.AppendUint32(dst, r.RetryAfterMs)
	dst = binary.BigEndian.AppendUint64(dst, r.TopicID)
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.Epoch))
	dst = binary.BigEndian.AppendUint64(dst, r.Leader)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.BaseOffset))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.AppendTimeMs))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(r.Message)))
	return append(dst, r.Message...)
}

// DecodeProduceReply decodes a reply.
func DecodeProduceReply(b []byte) (ProduceReply, error) {
	if err := checkHeader(b, ProduceReplySize, "produce reply"); err != nil {
		return ProduceReply{}, err
	}
	msg, err := tail(b, ProduceReplySize, binary.BigEndian.Uint32(b[44:]), "produce reply")
	if err != nil {
		return ProduceReply{}, err
	}
	return ProduceReply{
		Code:         errcode.Code(binary.BigEndian.Uint16(b[2:])),
		Duplicate:    b[1]&FlagDuplicate != 0,
		RetryAfterMs: binary.BigEndian.Uint32(b[4:]),
		TopicID:      binary.BigEndian.Uint64(b[8:]),
		Epoch:        int32(binary.BigEndian.Uint32(b[16:])),
		Leader:       binary.BigEndian.Uint64(b[20:]),
		BaseOffset:   int64(binary.BigEndian.Uint64(b[28:])),
		AppendTimeMs: int64(binary.BigEndian.Uint64(b[36:])),
		Message:      string(msg),
	}, nil
}

// FetchRequest asks for whole batches from Offset on. It is a credit of
// MaxBytes: the broker answers with one or more replies whose batches together
// stay within it (but at least one batch), the last flagged as such. With
// nothing to read the broker waits up to MaxWaitMs and then answers one empty
// last reply.
//
//	0  1  version   1  1  flags (bit 0 pieces)   2  8  topic id   10 4  leader epoch, -1 unknown
//	14 8  offset    22 4  max bytes   26 4  max wait, ms   30 4  reserved = 0
type FetchRequest struct {
	TopicID   uint64
	Epoch     int32
	Offset    int64
	MaxBytes  uint32
	MaxWaitMs uint32
	// Pieces says that the client takes a reply in several messages; see
	// FetchReply. Without it every message holds whole batches.
	Pieces bool
}

// FlagPieces marks a fetch request whose replies may come in pieces.
const FlagPieces = 1 << 0

// Append appends the encoded request.
func (r *FetchRequest) Append(dst []byte) []byte {
	var flags byte
	if r.Pieces {
		flags |= FlagPieces
	}
	dst = append(dst, Version, flags)
	dst = binary.BigEndian.AppendUint64(dst, r.TopicID)
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.Epoch))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Offset))
	dst = binary.BigEndian.AppendUint32(dst, r.MaxBytes)
	dst = binary.BigEndian.AppendUint32(dst, r.MaxWaitMs)
	return binary.BigEndian.AppendUint32(dst, 0)
}

// DecodeFetchRequest decodes a request.
func DecodeFetchRequest(b []byte) (FetchRequest, error) {
	if err := checkHeader(b, FetchRequestSize, "fetch request"); err != nil {
		return FetchRequest{}, err
	}
	return FetchRequest{
		TopicID:   binary.BigEndian.Uint64(b[2:]),
		Epoch:     int32(binary.BigEndian.Uint32(b[10:])),
		Offset:    int64(binary.BigEndian.Uint64(b[14:])),
		MaxBytes:  binary.BigEndian.Uint32(b[22:]),
		MaxWaitMs: binary.BigEndian.Uint32(b[26:]),
		Pieces:    b[1]&FlagPieces != 0,
	}, nil
}

// Flags of a fetch reply.
const (
	FlagLast = 1 << 0 // the last reply to the request, or its last piece
	FlagMore = 1 << 1 // another piece of the same reply follows
)

// FetchReply is one of the replies to a fetch request. With Code None, Batches
// holds whole batches as stored; the first one may begin below the requested
// offset (the client skips). With an error, Message holds its text.
//
// Where the request allows it, a reply comes in pieces: messages that hold the
// batches together, in order, cut anywhere. They are numbered from 0 (modulo 256),
// all but the last have More set, and what their headers say from the topic id to
// the log start offset is the same. A reply in one message is piece 0 of one.
//
//	0  1  version        1  1  flags (bit 0 last, bit 1 more)   2  2  code    4  4  retry after, ms
//	8  8  topic id       16 4  leader epoch                     20 8  leader node hint
//	28 8  high watermark                                        36 8  log start offset
//	44 1  piece number   45 4  length of the message, or of the batches
type FetchReply struct {
	Code          errcode.Code
	Last          bool
	More          bool
	Piece         uint8
	RetryAfterMs  uint32
	TopicID       uint64
	Epoch         int32
	Leader        uint64
	HighWatermark int64
	LogStart      int64
	Message       string
	// Batches aliases the decoded buffer.
	Batches []byte
}

// AppendHeader appends the encoded header for a payload of n bytes, which
// follows it: the batches, or the message where Code is not None.
func (r *FetchReply) AppendHeader(dst []byte, n int) []byte {
	var flags byte
	if r.Last {
		flags |= FlagLast
	}
	if r.More {
		flags |= FlagMore
	}
	dst = append(dst, Version, flags)
	dst = binary.BigEndian.AppendUint16(dst, uint16(r.Code))
	dst = binary.BigEndian.AppendUint32(dst, r.RetryAfterMs)
	dst = binary.BigEndian.AppendUint64(dst, r.TopicID)
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.Epoch))
	dst = binary.BigEndian.AppendUint64(dst, r.Leader)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.HighWatermark))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.LogStart))
	dst = append(dst, r.Piece)
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}

// DecodeFetchReply decodes a reply; Batches aliases b.
func DecodeFetchReply(b []byte) (FetchReply, error) {
	if err := checkHeader(b, FetchReplyHeaderSize, "fetch reply"); err != nil {
		return FetchReply{}, err
	}
	payload, err := tail(b, FetchReplyHeaderSize, binary.BigEndian.Uint32(b[45:]), "fetch reply")
	if err != nil {
		return FetchReply{}, err
	}
	r := FetchReply{
		Code:          errcode.Code(binary.BigEndian.Uint16(b[2:])),
		Last:          b[1]&FlagLast != 0,
		More:          b[1]&FlagMore != 0,
		Piece:         b[44],
		RetryAfterMs:  binary.BigEndian.Uint32(b[4:]),
		TopicID:       binary.BigEndian.Uint64(b[8:]),
		Epoch:         int32(binary.BigEndian.Uint32(b[16:])),
		Leader:        binary.BigEndian.Uint64(b[20:]),
		HighWatermark: int64(binary.BigEndian.Uint64(b[28:])),
		LogStart:      int64(binary.BigEndian.Uint64(b[36:])),
	}
	if r.Code == errcode.None {
		r.Batches = payload
	} else {
		r.Message = string(payload)
	}
	return r, nil
}

// FetchReplyGoesOn reports whether message, not decoded yet, is a piece that
// another one follows.
func FetchReplyGoesOn(message []byte) bool {
	return len(message) >= FetchReplyHeaderSize && message[1]&FlagMore != 0
}

// Follows reports whether r is the piece that comes after prev.
func (r *FetchReply) Follows(prev *FetchReply) bool {
	return prev.More && r.Piece == prev.Piece+1 && r.Code == prev.Code && r.TopicID == prev.TopicID && r.Epoch == prev.Epoch &&
		r.Leader == prev.Leader && r.HighWatermark == prev.HighWatermark && r.LogStart == prev.LogStart
}

// Special timestamps of an offsets request (Kafka's ListOffsets values).
const (
	TimestampLatest   int64 = -1
	TimestampEarliest int64 = -2
)

// OffsetsRequest asks for the earliest offset, the latest (the high
// watermark), or the first offset whose timestamp is >= TimestampMs.
//
//	0  1  version   1  1  flags = 0   2  8  topic id   10 4  leader epoch   14 8  timestamp, ms
type OffsetsRequest struct {
	TopicID     uint64
	Epoch       int32
	TimestampMs int64
}

// Append appends the encoded request.
func (r *OffsetsRequest) Append(dst []byte) []byte {
	dst = append(dst, Version, 0)
	dst = binary.BigEndian.AppendUint64(dst, r.TopicID)
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.Epoch))
	return binary.BigEndian.AppendUint64(dst, uint64(r.TimestampMs))
}

// DecodeOffsetsRequest decodes a request.
func DecodeOffsetsRequest(b []byte) (OffsetsRequest, error) {
	if err := checkHeader(b, OffsetsRequestSize, "offsets request"); err != nil {
		return OffsetsRequest{}, err
	}
	return OffsetsRequest{
		TopicID:     binary.BigEndian.Uint64(b[2:]),
		Epoch:       int32(binary.BigEndian.Uint32(b[10:])),
		TimestampMs: int64(binary.BigEndian.Uint64(b[14:])),
	}, nil
}

// OffsetsReply answers an offsets request. Offset is -1 where no record has a
// timestamp that late.
//
//	0  1  version   1  1  flags   2  2  code   4  4  retry after, ms   8  8  topic id
//	16 4  leader epoch   20 8  leader node hint   28 8  offset   36 8  timestamp, ms
//	44 4  length of the message, which follows
type OffsetsReply struct {
	Code         errcode.Code
	RetryAfterMs uint32
	TopicID      uint64
	Epoch        int32
	Leader       uint64
	Offset       int64
	TimestampMs  int64
	Message      string
}

// Append appends the encoded reply. It has the layout of a ProduceReply.
func (r *OffsetsReply) Append(dst []byte) []byte {
	p := ProduceReply{
		Code: r.Code, RetryAfterMs: r.RetryAfterMs, TopicID: r.TopicID, Epoch: r.Epoch,
		Leader: r.Leader, BaseOffset: r.Offset, AppendTimeMs: r.TimestampMs, Message: r.Message,
	}
	return p.Append(dst)
}

// DecodeOffsetsReply decodes a reply.
func DecodeOffsetsReply(b []byte) (OffsetsReply, error) {
	p, err := DecodeProduceReply(b)
	if err != nil {
		return OffsetsReply{}, err
	}
	return OffsetsReply{
		Code: p.Code, RetryAfterMs: p.RetryAfterMs, TopicID: p.TopicID, Epoch: p.Epoch,
		Leader: p.Leader, Offset: p.BaseOffset, TimestampMs: p.AppendTimeMs, Message: p.Message,
	}, nil
}

func checkHeader(b []byte, size int, what string) error {
	if len(b) < size {
		return short(what, len(b), size)
	}
	if b[0] != Version {
		return errcode.New(errcode.UnsupportedVersion, "%s has version %d; this side speaks version %d", what, b[0], Version)
	}
	return nil
}

func tail(b []byte, at int, n uint32, what string) ([]byte, error) {
	if uint64(len(b)-at) != uint64(n) {
		return nil, errcode.New(errcode.InvalidRequest, "%s says %d bytes follow its header; %d do", what, n, len(b)-at)
	}
	return b[at:], nil
}

func short(what string, have, want int) error {
	return errcode.New(errcode.InvalidRequest, "%s is cut short: %d bytes, at least %d needed", what, have, want)
}
