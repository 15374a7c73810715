package fsm

import "encoding/binary"

// The epoch history says in which epoch, and so by which leader, each record
// was appended. It is a slice that is never changed in place: readers hold it.
//
// Invariants: epochs and starts rise strictly; every epoch but the last holds
// a record at or above the log start. So the history is no longer than the
// log, however often an idle partition changes its leader.

// epochBytesEach is the encoded size of one entry: 4 epoch, 8 replica, 8 start.
const epochBytesEach = 20

// current returns the last epoch of h, or the zero EpochStart.
func current(h []EpochStart) EpochStart {
	if len(h) == 0 {
		return EpochStart{}
	}
	return h[len(h)-1]
}

// withEpoch returns h with e opened. An epoch that holds no record is replaced.
func withEpoch(h []EpochStart, e EpochStart) []EpochStart {
	n := len(h)
	if n > 0 && h[n-1].Start == e.Start {
		n--
	}
	return append(append(make([]EpochStart, 0, n+1), h[:n]...), e)
}

// trimEpochs returns h without the epochs whose records all lie below logStart.
func trimEpochs(h []EpochStart, logStart int64) []EpochStart {
	n := 0
	for n+1 < len(h) && h[n+1].Start <= logStart {
		n++
	}
	return h[n:]
}

func appendEpochs(dst []byte, h []EpochStart) []byte {
	for _, e := range h {
		dst = binary.BigEndian.AppendUint32(dst, uint32(e.Epoch))
		dst = binary.BigEndian.AppendUint64(dst, e.Replica)
		dst = binary.BigEndian.AppendUint64(dst, uint64(e.Start))
	}
	return dst
}

// decodeEpochs reads what appendEpochs wrote; ok is false where an invariant
// does not hold.
func decodeEpochs(b []byte) (h []EpochStart, ok bool) {
	if len(b)%epochBytesEach != 0 {
		return nil, false
	}
	last := EpochStart{Start: -1}
	for ; len(b) > 0; b = b[epochBytesEach:] {
		e := EpochStart{
			Epoch:   int32(binary.BigEndian.Uint32(b)),
			Replica: binary.BigEndian.Uint64(b[4:]),
			Start:   int64(binary.BigEndian.Uint64(b[12:])),
		}
		if e.Epoch <= last.Epoch || e.Start <= last.Start {
			return nil, false
		}
		h, last = append(h, e), e
	}
	return h, true
}
