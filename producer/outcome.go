package producer

import (
	"errors"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// kind says what the end of an attempt means for its batch.
type kind int

const (
	kindStored   kind = iota
	kindRetry         // send it again, in order
	kindGap           // OUT_OF_ORDER: a forerunner is missing
	kindIdentity      // the broker does not know this producer id or epoch (any more)
	kindFatal         // no retry mends it
)

// outcome is the end of one attempt.
type outcome struct {
	kind      kind
	ambiguous bool // the attempt may have stored the batch, or may still do so
	silent    bool // there was no answer in time
	err       error
	offset    int64 // kindStored: of the first record, -1 when the broker has forgotten it
	duplicate bool
}

// sole codes are given by the leader about itself before it proposes. They are
// definite when the reply's epoch is the request's: a request that names an
// epoch is proposed by the leader of that epoch or by nobody.
func sole(c errcode.Code) bool {
	switch c {
	case errcode.Throttled, errcode.DiskReserve, errcode.NotEnoughReplicas, errcode.LeaderNotAvailable, errcode.ShuttingDown:
		return true
	}
	return false
}

// classify judges a reply to a request that named leader epoch sentEpoch.
func classify(r protocol.ProduceReply, sentEpoch int32) outcome {
	if r.Code == errcode.None {
		return outcome{kind: kindStored, offset: r.BaseOffset, duplicate: r.Duplicate}
	}
	o := outcome{kind: kindRetry, err: client.Refusal(r.Code, r.Message, r.RetryAfterMs)}
	switch r.Code {
	case errcode.OutOfOrderSequence:
		o.kind = kindGap
	case errcode.UnknownProducerID, errcode.InvalidProducerEpoch:
		o.kind = kindIdentity
	case errcode.MessageTooLarge, errcode.InvalidRecord, errcode.UnsupportedCompression, errcode.UnsupportedMessageFormat,
		errcode.TopicAuthorizationFailed, errcode.InvalidTopic, errcode.InvalidRequest, errcode.UnsupportedVersion, errcode.NotImplemented:
		o.kind = kindFatal
	case errcode.CorruptMessage, errcode.TooManyProducers, errcode.UnknownTopicOrPartition, errcode.UnknownTopicID:
		// Definite. Damage on the way is mended by sending again; whether a
		// topic is gone is looked up in the metadata.
	default:
		// NOT_LEADER is ambiguous: for a moment around a leader change two
		// replicas get the request, and the other one may have taken it.
		o.ambiguous = !sole(r.Code) || sentEpoch < 0 || r.Epoch != sentEpoch
	}
	return o
}

// failed judges an attempt that ended without a reply.
func failed(err error) outcome {
	o := outcome{kind: kindRetry, ambiguous: !client.Definite(err), silent: errors.Is(err, client.ErrTimeout), err: err}
	switch errcode.Of(err) {
	case errcode.MessageTooLarge, errcode.TopicAuthorizationFailed:
		o.kind, o.ambiguous = kindFatal, false
	}
	return o
}

// rerouted reports whether err may mean that another node leads by now.
func rerouted(err error) bool {
	switch errcode.Of(err) {
	case errcode.Throttled, errcode.DiskReserve, errcode.TooManyProducers, errcode.OutOfOrderSequence, errcode.CorruptMessage:
		return false
	}
	return true
}

// topicGone reports whether err says that the topic is not what it was.
func topicGone(err error) bool {
	c := errcode.Of(err)
	return c == errcode.UnknownTopicID || c == errcode.UnknownTopicOrPartition || errors.Is(err, client.ErrNoResponders)
}
