package consumer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// ErrClosed says that the reader or consumer is closed, or drained.
var ErrClosed = errors.New("the reader or consumer is closed")

// Header is a record header.
type Header = recordbatch.Header

// Record is one record as read. Key (nil: null), Value (nil: null) and Headers
// are the caller's to keep, not to change; keeping one keeps the memory of its
// whole batch.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Timestamp time.Time
	Key       []byte
	Value     []byte
	Headers   []Header

	// marks is where Consumer.Mark notes that the record is finished; nil for a
	// Reader's.
	marks *marks
}

// Reader reads one partition in offset order, following its leader. Its methods
// may be called from any number of goroutines; records are handed out once.
type Reader struct{ *feed }

// NewReader connects (servers are NATS URLs; none means
// nats://127.0.0.1:4222), finds the position to start at, and begins to fetch.
// It retries until ctx ends, but not for a server that cannot be reached at all
// or a topic or partition that does not exist.
func NewReader(ctx context.Context, servers []string, topic string, partition int32, opts ...Option) (*Reader, error) {
	o := defaultOptions()
	for _, opt := range opts {
		opt(&o)
	}
	if err := o.validateReader(); err != nil {
		return nil, err
	}
	c, err := client.Dial(ctx, servers, client.Options{Name: o.name, TLS: o.tls, Logger: o.logger})
	if err != nil {
		return nil, err
	}
	r := &Reader{newFeed(c, o, topic, partition)}
	if err := r.start(ctx); err != nil {
		c.Close()
		return nil, err
	}
	r.begin()
	return r, nil
}

// start finds out the topic's id, the high watermark and the first position.
func (r *Reader) start(ctx context.Context) error {
	latest, err := r.client.Offsets(ctx, r.topic, r.partition, protocol.TimestampLatest)
	if err != nil {
		return err
	}
	r.topicID, r.highWatermark = latest.TopicID, latest.Offset
	at := r.options.startOffset
	switch r.options.start {
	case startLatest:
		at = latest.Offset
	case startDefault, startEarliest:
		earliest, err := r.client.Offsets(ctx, r.topic, r.partition, protocol.TimestampEarliest)
		if err != nil {
			return err
		}
		at = earliest.Offset
	case startTime:
		found, err := r.client.Offsets(ctx, r.topic, r.partition, r.options.startTime.UnixMilli())
		if err != nil {
			return err
		}
		if at = found.Offset; at < 0 {
			at = latest.Offset
		}
	}
	r.position, r.fetchAt = at, at
	return nil
}

// Next returns the next record, waiting for it under ctx. An error of ctx loses
// nothing: the record is returned by the next call.
//
// Errors: ctx's; ErrClosed; OFFSET_OUT_OF_RANGE (see WithRange),
// UNKNOWN_TOPIC_ID (the topic was deleted), CORRUPT_MESSAGE and other refusals
// that a retry does not mend. These stay until SeekTo.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	return r.takeOne(ctx)
}

// Poll returns 1 to max records, waiting under ctx for the first. Errors: as
// Next, and then there are no records.
func (r *Reader) Poll(ctx context.Context, max int) ([]Record, error) {
	if max < 1 {
		return nil, fmt.Errorf("consumer: Poll(%d): ask for at least one record", max)
	}
	return r.take(ctx, nil, max)
}

// Records iterates over Next until ctx ends or reading fails: the last pair
// then holds the error. Stopping early loses nothing.
func (r *Reader) Records(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for {
			rec, err := r.Next(ctx)
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

// Position is the offset of the next record to be returned.
func (r *Reader) Position() int64 { return r.at() }

// HighWatermark is the partition's high watermark as last heard: the offset
// after the last committed record. At first it is that of NewReader.
func (r *Reader) HighWatermark() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.highWatermark
}

// SeekTo moves the position to offset, and clears the error that ended
// reading, if any. Whether offset exists shows at the next record.
func (r *Reader) SeekTo(offset int64) { r.seekTo(offset, nil) }

// Close stops fetching and disconnects. Calls under way end with ErrClosed.
// Closing twice is harmless.
func (r *Reader) Close() error {
	first := r.halt()
	<-r.done
	if first {
		r.client.Close()
	}
	return nil
}
