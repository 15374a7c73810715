package producer

import (
	"sync"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// recordOverhead is what a record is charged besides its bytes: its pending
// entry. It is given back only after the callback, so that callbacks that fall
// behind are bounded too.
const recordOverhead = 32

// batchAt is where the encoded batch begins in batch.request. The producer
// sends no message ids.
const batchAt = protocol.ProduceRequestHeaderSize

// pending is a record that waits for its callback.
type pending struct {
	done        func(Receipt, error)
	timestampMs int64
}

// batch is the records that travel together. It is filled under partition.mu;
// once taken by the partition's goroutine it is that goroutine's, and after
// completion the callback goroutine's, which recycles it.
type batch struct {
	builder *recordbatch.Builder // nil once encoded
	// request is the produce request: header, then the encoded batch.
	request []byte
	records []pending
	created time.Time
	// limit is the size, uncompressed, at which it is closed.
	limit int
	// bytes are reserved for the encoded records.
	bytes int64
	// calls are all attempts: late replies of earlier ones count.
	calls []*client.Call
}

// pools recycles batches and builders of one producer.
type pools struct {
	batches  sync.Pool
	builders sync.Pool
}

func (p *pools) get(now time.Time) *batch {
	b, ok := p.batches.Get().(*batch)
	if !ok {
		b = new(batch)
	}
	b.builder, ok = p.builders.Get().(*recordbatch.Builder)
	if !ok {
		b.builder = recordbatch.NewBuilderBehind(batchAt)
	}
	b.created = now
	return b
}

func (p *pools) put(b *batch) {
	p.putBuilder(b)
	clear(b.records) // let go of the callbacks
	clear(b.calls)
	*b = batch{request: b.request[:0], records: b.records[:0], calls: b.calls[:0]}
	p.batches.Put(b)
}

func (p *pools) putBuilder(b *batch) {
	if b.builder != nil {
		b.builder.Reset()
		p.builders.Put(b.builder)
		b.builder = nil
	}
}

// append adds a record that is charged with size bytes.
func (b *batch) append(r *Record, timestampMs, size int64, done func(Receipt, error)) {
	b.builder.Append(timestampMs, r.Key, r.Value, r.Headers)
	b.records = append(b.records, pending{done, timestampMs})
	b.bytes += size
}

// encode builds the request, once; number and message fill in what is still
// missing then. Its bytes after batchAt change only in the producer fields and
// the CRC from then on.
func (b *batch) encode(codec Compression, p *pools) error {
	out, err := b.builder.Take(b.request, codec)
	if err != nil {
		return err
	}
	b.request = out
	p.putBuilder(b)
	return nil
}

// number writes the producer fields.
func (b *batch) number(id int64, epoch int16, sequence int32) {
	recordbatch.Batch(b.request[batchAt:]).SetProducer(id, epoch, sequence)
}

// message returns the request for a leader. It is valid until the next call.
func (b *batch) message(l client.Leader) []byte {
	h := protocol.ProduceRequest{TopicID: l.TopicID, Epoch: l.Epoch}
	h.AppendHeader(b.request[:0])
	return b.request
}

// cancel ends all attempts: nothing that still comes for them matters.
func (b *batch) cancel() {
	for i, c := range b.calls {
		if c != nil {
			c.Cancel()
		}
		b.calls[i] = nil
	}
	b.calls = b.calls[:0]
}
