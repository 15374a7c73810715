package consumer

import (
	"context"
	"errors"
	"iter"
	"time"

	"logbroker/internal/recordbatch"
)

// ErrClosed: the reader is closed.
var ErrClosed = errors.New("the reader is closed")

// Header is a record header.
type Header = recordbatch.Header

// Record is one record as read. Key, Value and Headers are the caller's to
// keep, not to change.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Timestamp time.Time
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Reader reads one partition in offset order.
type Reader struct{}

// NewReader connects and finds the position to start at.
func NewReader(ctx context.Context, servers []string, topic string, partition int32, opts ...Option) (*Reader, error) {
	panic("unwritten")
}

// Next returns the next record, waiting for it.
func (r *Reader) Next(ctx context.Context) (Record, error) { panic("unwritten") }

// Poll returns 1 to max records, waiting for the first.
func (r *Reader) Poll(ctx context.Context, max int) ([]Record, error) { panic("unwritten") }

// Records iterates until ctx ends or reading fails; the last pair holds the error.
func (r *Reader) Records(ctx context.Context) iter.Seq2[Record, error] { panic("unwritten") }

// Position is the offset of the next record to be returned.
func (r *Reader) Position() int64 { panic("unwritten") }

// HighWatermark is the partition's high watermark as last heard.
func (r *Reader) HighWatermark() int64 { panic("unwritten") }

// SeekTo moves the position to offset.
func (r *Reader) SeekTo(offset int64) { panic("unwritten") }

// Close stops fetching and disconnects.
func (r *Reader) Close() error { panic("unwritten") }
