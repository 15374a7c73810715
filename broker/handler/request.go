package handler

import (
	"time"

	"logbroker/internal/errcode"
)

// PartitionRequest is one data-plane request to one partition. Payload is the
// encoded request as it came over the wire; a produce request's Payload
// belongs to the handler from the call on, because it is turned into the
// replicated command in place.
type PartitionRequest struct {
	Topic     string
	Partition int32
	Payload   []byte
	// AnyReplica lets a replica that is not the leader answer (fetch only).
	AnyReplica bool
}

// PublishRequest is one plain message of a client that speaks no batches.
// Header holds the message's headers by name. Value belongs to the handler
// from the call on.
type PublishRequest struct {
	Topic  string
	Header map[string][]string
	Value  []byte
}

// Plane says which set of control verbs a request is meant for.
type Plane int

// The planes of control verbs.
const (
	PlaneMetadata Plane = iota // what clients ask to find their way
	PlaneAdmin                 // what operators ask
	PlaneNode                  // what one broker asks another, never open to clients
)

// Metrics receives what was served. Its methods are called on the request
// path: they must not block and must not allocate much.
type Metrics interface {
	// Request is called once per answered request with the name of the
	// request (produce, fetch, offsets, publish or a control verb).
	Request(api string, code errcode.Code, took time.Duration)
	// Produced is called for each batch that was stored, or recognised as a
	// duplicate of a stored one.
	Produced(topic string, records, bytes int, duplicate bool)
	// Fetched is called for each reply that carried batches.
	Fetched(records, bytes int)
}

type noMetrics struct{}

func (noMetrics) Request(string, errcode.Code, time.Duration) {}
func (noMetrics) Produced(string, int, int, bool)             {}
func (noMetrics) Fetched(int, int)                            {}
