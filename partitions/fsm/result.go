package fsm

import "logbroker/internal/errcode"

// Verdict is what became of a command.
type Verdict uint8

// The verdicts. Their numbers are part of the replicated protocol only within
// one process (a result never leaves the node that proposed), yet are not
// renumbered. Zero is no verdict: the result of an empty entry.
const (
	// Appended: the batch is stored; the offset is that of its first record.
	Appended Verdict = iota + 1
	// Duplicate: the batch was stored before; the offset is that of the first
	// copy, or -1 where the table no longer knows it.
	Duplicate
	// Fenced: the command carries another leader epoch than the partition's,
	// which is in the offset's place. Nothing was changed.
	Fenced
	// OutOfOrder, InvalidProducerEpoch, UnknownProducer, TooManyProducers: the
	// producer table refused the batch (see package producerstate).
	OutOfOrder
	InvalidProducerEpoch
	UnknownProducer
	TooManyProducers
	// Malformed: the command cannot be decoded. Nothing was changed.
	Malformed
	// Applied: an epoch, trim, expire or configure command took effect. The
	// offset is the epoch's start, the log start after the trim, the number of
	// producers forgotten, or 0.
	Applied
	// Stale: an epoch entry not above the current epoch, which is in the
	// offset's place. Nothing was changed.
	Stale
)

// Code returns the error code that answers a produce request with this
// verdict: None where the batch is stored.
func (v Verdict) Code() errcode.Code {
	switch v {
	case Appended, Duplicate, Applied:
		return errcode.None
	case Fenced, Stale:
		return errcode.NotLeaderOrFollower
	case OutOfOrder:
		return errcode.OutOfOrderSequence
	case InvalidProducerEpoch:
		return errcode.InvalidProducerEpoch
	case UnknownProducer:
		return errcode.UnknownProducerID
	case TooManyProducers:
		return errcode.TooManyProducers
	case Malformed:
		return errcode.CorruptMessage
	default:
		return errcode.UnknownServerError
	}
}

const (
	verdictShift = 56
	offsetMask   = 1<<verdictShift - 1
)

// EncodeResult packs a verdict and an offset into a result value. The offset
// must lie in [-2^55, 2^55), which no log leaves.
func EncodeResult(v Verdict, offset int64) uint64 {
	return uint64(v)<<verdictShift | uint64(offset)&offsetMask
}

// DecodeResult unpacks a result value.
func DecodeResult(value uint64) (Verdict, int64) {
	const sign = 64 - verdictShift
	return Verdict(value >> verdictShift), int64(value<<sign) >> sign
}
