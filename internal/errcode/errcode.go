// Package errcode is the one table of error codes that logbroker answers with.
//
// It holds codes, their names, whether a client may retry, and the error type
// that carries a code through the program. It knows no transport. Start at
// Code, then at Error.
//
// Numbers and names are those of the Apache Kafka protocol guide ("Error
// codes") wherever Kafka has the case; codes of our own start at 1000 so that
// they can never meet one of Kafka's.
package errcode

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Code is an error code as it goes over the wire.
type Code int16

// The codes. A code is never renumbered.
const (
	None                     Code = 0
	UnknownServerError       Code = -1
	OffsetOutOfRange         Code = 1
	CorruptMessage           Code = 2
	UnknownTopicOrPartition  Code = 3
	LeaderNotAvailable       Code = 5
	NotLeaderOrFollower      Code = 6
	RequestTimedOut          Code = 7
	MessageTooLarge          Code = 10
	OffsetMetadataTooLarge   Code = 12
	CoordinatorNotAvailable  Code = 15
	NotCoordinator           Code = 16
	InvalidTopic             Code = 17
	NotEnoughReplicas        Code = 19
	IllegalGeneration        Code = 22
	InvalidGroupID           Code = 24
	UnknownMemberID          Code = 25
	RebalanceInProgress      Code = 27
	TopicAuthorizationFailed Code = 29
	UnsupportedVersion       Code = 35
	TopicAlreadyExists       Code = 36
	InvalidPartitions        Code = 37
	InvalidReplicationFactor Code = 38
	InvalidConfig            Code = 40
	InvalidRequest           Code = 42
	UnsupportedMessageFormat Code = 43
	OutOfOrderSequence       Code = 45
	InvalidProducerEpoch     Code = 47
	StorageError             Code = 56
	UnknownProducerID        Code = 59
	NonEmptyGroup            Code = 68
	GroupIDNotFound          Code = 69
	FencedLeaderEpoch        Code = 74
	UnknownLeaderEpoch       Code = 75
	UnsupportedCompression   Code = 76
	OffsetNotAvailable       Code = 78
	GroupMaxSizeReached      Code = 81
	FencedInstanceID         Code = 82
	GroupSubscribedToTopic   Code = 86
	InvalidRecord            Code = 87
	Throttled                Code = 89
	UnknownTopicID           Code = 100
	DuplicateRegistration    Code = 101
	FencedMemberEpoch        Code = 110
	UnreleasedInstanceID     Code = 111
	StaleMemberEpoch         Code = 113
	TooManyProducers         Code = 1000
	DiskReserve              Code = 1001
	ShuttingDown             Code = 1002
	NotImplemented           Code = 1003
	NodeNotFound             Code = 1004
	PartitionNotOwned        Code = 1005
	GroupStateTooLarge       Code = 1006
)

type entry struct {
	name      string
	retriable bool
}

// table names every code. retriable means: the same request may succeed later
// without anything being changed by the caller.
var table = map[Code]entry{
	None:                     {"NONE", false},
	UnknownServerError:       {"UNKNOWN_SERVER_ERROR", false},
	OffsetOutOfRange:         {"OFFSET_OUT_OF_RANGE", false},
	CorruptMessage:           {"CORRUPT_MESSAGE", false},
	UnknownTopicOrPartition:  {"UNKNOWN_TOPIC_OR_PARTITION", false},
	LeaderNotAvailable:       {"LEADER_NOT_AVAILABLE", true},
	NotLeaderOrFollower:      {"NOT_LEADER_OR_FOLLOWER", true},
	RequestTimedOut:          {"REQUEST_TIMED_OUT", true},
	MessageTooLarge:          {"MESSAGE_TOO_LARGE", false},
	OffsetMetadataTooLarge:   {"OFFSET_METADATA_TOO_LARGE", false},
	CoordinatorNotAvailable:  {"COORDINATOR_NOT_AVAILABLE", true},
	NotCoordinator:           {"NOT_COORDINATOR", true},
	InvalidTopic:             {"INVALID_TOPIC_EXCEPTION", false},
	NotEnoughReplicas:        {"NOT_ENOUGH_REPLICAS", true},
	IllegalGeneration:        {"ILLEGAL_GENERATION", false},
	InvalidGroupID:           {"INVALID_GROUP_ID", false},
	UnknownMemberID:          {"UNKNOWN_MEMBER_ID", false},
	RebalanceInProgress:      {"REBALANCE_IN_PROGRESS", true},
	TopicAuthorizationFailed: {"TOPIC_AUTHORIZATION_FAILED", false},
	UnsupportedVersion:       {"UNSUPPORTED_VERSION", false},
	TopicAlreadyExists:       {"TOPIC_ALREADY_EXISTS", false},
	InvalidPartitions:        {"INVALID_PARTITIONS", false},
	InvalidReplicationFactor: {"INVALID_REPLICATION_FACTOR", false},
	InvalidConfig:            {"INVALID_CONFIG", false},
	InvalidRequest:           {"INVALID_REQUEST", false},
	UnsupportedMessageFormat: {"UNSUPPORTED_FOR_MESSAGE_FORMAT", false},
	OutOfOrderSequence:       {"OUT_OF_ORDER_SEQUENCE_NUMBER", false},
	InvalidProducerEpoch:     {"INVALID_PRODUCER_EPOCH", false},
	StorageError:             {"KAFKA_STORAGE_ERROR", true},
	UnknownProducerID:        {"UNKNOWN_PRODUCER_ID", false},
	NonEmptyGroup:            {"NON_EMPTY_GROUP", false},
	GroupIDNotFound:          {"GROUP_ID_NOT_FOUND", false},
	FencedLeaderEpoch:        {"FENCED_LEADER_EPOCH", true},
	UnknownLeaderEpoch:       {"UNKNOWN_LEADER_EPOCH", true},
	UnsupportedCompression:   {"UNSUPPORTED_COMPRESSION_TYPE", false},
	OffsetNotAvailable:       {"OFFSET_NOT_AVAILABLE", true},
	GroupMaxSizeReached:      {"GROUP_MAX_SIZE_REACHED", false},
	FencedInstanceID:         {"FENCED_INSTANCE_ID", false},
	GroupSubscribedToTopic:   {"GROUP_SUBSCRIBED_TO_TOPIC", false},
	InvalidRecord:            {"INVALID_RECORD", false},
	Throttled:                {"THROTTLED", true},
	UnknownTopicID:           {"UNKNOWN_TOPIC_ID", false},
	DuplicateRegistration:    {"DUPLICATE_BROKER_REGISTRATION", false},
	FencedMemberEpoch:        {"FENCED_MEMBER_EPOCH", false},
	UnreleasedInstanceID:     {"UNRELEASED_INSTANCE_ID", true},
	StaleMemberEpoch:         {"STALE_MEMBER_EPOCH", false},
	TooManyProducers:         {"TOO_MANY_PRODUCERS", true},
	DiskReserve:              {"DISK_RESERVE_REACHED", true},
	ShuttingDown:             {"SHUTTING_DOWN", true},
	NotImplemented:           {"NOT_IMPLEMENTED", false},
	NodeNotFound:             {"NODE_NOT_FOUND", false},
	PartitionNotOwned:        {"PARTITION_NOT_OWNED", false},
	GroupStateTooLarge:       {"GROUP_STATE_TOO_LARGE", false},
}

// String returns the code's name, or its number where it has none (a newer
// peer's code).
func (c Code) String() string {
	if e, ok := table[c]; ok {
		return e.name
	}
	return "CODE_" + strconv.Itoa(int(c))
}

// Retriable reports whether the same request may succeed later unchanged. An
// unknown code is not retriable.
func (c Code) Retriable() bool { return table[c].retriable }

// Codes returns every code of the table, for tests that walk it.
func Codes() []Code {
	out := make([]Code, 0, len(table))
	for c := range table {
		out = append(out, c)
	}
	return out
}

// Error is a refusal with a code. Message says what happened and what to do
// next. RetryAfter, when not zero, is the least time to wait before a retry.
type Error struct {
	Code       Code
	Message    string
	RetryAfter time.Duration
}

// Error returns "NAME: message".
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code.String()
	}
	return e.Code.String() + ": " + e.Message
}

// Is reports whether target is an *Error with the same code, so that
// errors.Is(err, errcode.New(errcode.InvalidTopic, "")) and the sentinels of
// the client packages work whatever the message says.
func (e *Error) Is(target error) bool {
	var t *Error
	return errors.As(target, &t) && t.Code == e.Code
}

// New returns an *Error with a formatted message.
func New(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...)}
}

// Of returns the code that err carries: None for nil, UnknownServerError for
// an error without a code.
func Of(err error) Code {
	if err == nil {
		return None
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return UnknownServerError
}

// From returns err as an *Error: itself where it is or wraps one, otherwise an
// UnknownServerError with err's text. From(nil) is nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: UnknownServerError, Message: err.Error()}
}
