package producer

import "errors"

// Errors of this package. Refusals by the broker are *errcode.Error values and
// are found through errors.Is on the errors returned here.
var (
	// ErrUnknownOutcome: the delivery time-out passed while it was not known
	// whether the record is stored. It may be stored, once. What Send returns
	// wraps the last thing heard.
	ErrUnknownOutcome = errors.New("outcome unknown: the record may or may not be stored; read the partition before sending it again")
	// ErrDeliveryTimeout: the delivery time-out passed and the record is
	// certainly not stored. What Send returns wraps the last refusal.
	ErrDeliveryTimeout = errors.New("the record was not stored within the delivery time-out")
	// ErrClosed: the producer is closed; the record was not sent.
	ErrClosed = errors.New("the producer is closed")
	// ErrBufferFull: TrySend found no room (WithBufferBytes).
	ErrBufferFull = errors.New("the producer's buffer is full: wait for acks, or raise WithBufferBytes")
	// ErrNotReady: TrySend met a topic whose metadata is still being fetched.
	ErrNotReady = errors.New("the topic's metadata is being fetched: try again in a moment, or use SendAsync, which waits")
	// ErrRecordTooLarge: the record alone exceeds the topic's max_batch_bytes
	// (or WithBufferBytes). It was not sent.
	ErrRecordTooLarge = errors.New("the record is too large")
	// ErrNoSuchPartition: Record.Partition, or what the partitioner returned,
	// is not a partition of the topic.
	ErrNoSuchPartition = errors.New("no such partition")
)
