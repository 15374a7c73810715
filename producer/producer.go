package producer

import (
	"context"
	"time"

	"logbroker/internal/recordbatch"
)

// Header is a record header.
type Header = recordbatch.Header

// Record is one record to send. Key, Value and Headers are copied before Send,
// SendAsync or TrySend return (nil Key and nil Value mean null).
type Record struct {
	Topic string
	// Partition, when not nil, is used as it is; nil asks the partitioner.
	Partition *int32
	Key       []byte
	Value     []byte
	Headers   []Header
	// Timestamp is stored in milliseconds. Zero means now.
	Timestamp time.Time
}

// Receipt says where a record is stored, for good, on a majority's disks.
type Receipt struct {
	Topic     string
	Partition int32
	Offset    int64
	// Timestamp of the record as stored.
	Timestamp time.Time
	// Duplicate: an earlier attempt had stored it, this is that copy's offset.
	Duplicate bool
}

// Producer sends records to a cluster.
type Producer struct{}

// New connects to the cluster and takes a producer id.
func New(ctx context.Context, servers []string, opts ...Option) (*Producer, error) {
	panic("unwritten")
}

// Send sends a record and waits until it is stored.
func (p *Producer) Send(ctx context.Context, r Record) (Receipt, error) { panic("unwritten") }

// SendAsync hands a record over and returns; done (may be nil) is called
// exactly once, in the order of the partition.
func (p *Producer) SendAsync(ctx context.Context, r Record, done func(Receipt, error)) {
	panic("unwritten")
}

// TrySend is SendAsync that never waits: it refuses instead, and then done is
// not called.
func (p *Producer) TrySend(r Record, done func(Receipt, error)) error { panic("unwritten") }

// Flush sends what is buffered without lingering and waits for the callbacks
// of every record handed over before the call.
func (p *Producer) Flush(ctx context.Context) error { panic("unwritten") }

// Close flushes until ctx ends, fails what is left, and disconnects.
func (p *Producer) Close(ctx context.Context) error { panic("unwritten") }
