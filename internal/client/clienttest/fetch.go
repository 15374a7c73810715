package clienttest

import (
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

const (
	// replyBytes is about how much one reply to a fetch holds.
	replyBytes = 64 << 10
	// pieceBytes is how much of it a piece holds: little, so that cuts go through
	// headers and records in every test.
	pieceBytes = 700
)

// Fetch is a fetch request as a hook sees it. N counts the requests from 1.
type Fetch struct {
	Node    uint64
	N       int
	Request protocol.FetchRequest
}

// OnFetch sets the hook for fetch requests.
func (b *Broker) OnFetch(f func(Fetch) Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hooks.fetch = f
}

// OnOffsets sets the hook for offsets requests.
func (b *Broker) OnOffsets(f func() Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hooks.offsets = f
}

func (b *Broker) fetch(p *partition, n *node, m *nats.Msg) {
	req, err := protocol.DecodeFetchRequest(m.Data)
	if err != nil {
		b.t.Error(err)
		return
	}
	b.mu.Lock()
	b.counts["fetch"]++
	hook, number := b.hooks.fetch, b.counts["fetch"]
	b.mu.Unlock()
	var fault Fault
	if hook != nil {
		fault = hook(Fetch{n.id, number, req})
	}
	if fault.Drop {
		return
	}
	b.spawn(func() { b.answerFetch(p, n, req, m.Reply, fault) })
}

func (b *Broker) answerFetch(p *partition, n *node, req protocol.FetchRequest, to string, fault Fault) {
	wait := time.NewTimer(time.Duration(req.MaxWaitMs) * time.Millisecond)
	defer wait.Stop()
	for {
		b.mu.Lock()
		r := protocol.FetchReply{TopicID: p.topic.meta.ID, Epoch: p.epoch, Leader: p.leader, HighWatermark: p.end, LogStart: p.logStart, Last: true}
		if r.Code = b.refuse(p, n, req.TopicID, req.Epoch); r.Code == errcode.None {
			r.Code = fault.Refuse
		}
		if r.Code == errcode.None && (req.Offset < p.logStart || req.Offset > p.end) {
			r.Code = errcode.OffsetOutOfRange
		}
		batches, grown := p.from(req.Offset, int(req.MaxBytes)), p.grown
		b.mu.Unlock()
		if r.Code != errcode.None {
			b.send(n, to, append(r.AppendHeader(nil, 4), "fake"...), Fault{DropReply: fault.DropReply})
			return
		}
		if len(batches) > 0 {
			fault.pieces = req.Pieces
			b.sendBatches(n, r, batches, to, fault)
			return
		}
		select {
		case <-grown:
		case <-wait.C:
			b.send(n, to, r.AppendHeader(nil, 0), fault)
			return
		case <-b.closed:
			return
		}
	}
}

// from returns the batches from offset on, at least one, at most maxBytes.
// Broker.mu is held.
func (p *partition) from(offset int64, maxBytes int) [][]byte {
	var out [][]byte
	size := 0
	for _, raw := range p.batches {
		if recordbatch.Batch(raw).NextOffset() <= offset {
			continue
		}
		if size += len(raw); len(out) > 0 && size > maxBytes {
			break
		}
		out = append(out, raw)
	}
	return out
}

// sendBatches sends the stream of replies, subject to the fault.
func (b *Broker) sendBatches(n *node, r protocol.FetchReply, batches [][]byte, to string, fault Fault) {
	var replies [][]byte
	for raw := range slices.Values(batches) {
		if k := len(replies); k > 0 && len(replies[k-1]) < replyBytes {
			replies[k-1] = append(replies[k-1], raw...)
		} else {
			replies = append(replies, slices.Clone(raw))
		}
	}
	if fault.Corrupt {
		replies[0][len(replies[0])-1] ^= 1
	}
	if fault.Beyond {
		r.HighWatermark = recordbatch.Batch(batches[0]).BaseOffset()
	}
	for i, payload := range replies {
		if fault.Lose == i+1 {
			continue
		}
		if fault.CutAfter > 0 && i >= fault.CutAfter {
			return
		}
		r.Last = i == len(replies)-1
		if !fault.pieces {
			b.send(n, to, append(r.AppendHeader(nil, len(payload)), payload...), fault)
			continue
		}
		if i > 0 {
			fault.LosePiece = 0
		}
		b.sendPieces(n, r, payload, to, fault)
	}
}

// sendPieces sends one reply in pieces.
func (b *Broker) sendPieces(n *node, r protocol.FetchReply, payload []byte, to string, fault Fault) {
	last := r.Last
	for number := 1; number == 1 || len(payload) > 0; number++ {
		now := min(len(payload), pieceBytes)
		r.Piece, r.More = uint8(number-1), now < len(payload)
		r.Last = last && !r.More
		if fault.LosePiece != number {
			b.send(n, to, append(r.AppendHeader(nil, now), payload[:now]...), fault)
		}
		payload = payload[now:]
	}
}

func (b *Broker) offsets(p *partition, n *node, m *nats.Msg) {
	req, err := protocol.DecodeOffsetsRequest(m.Data)
	if err != nil {
		b.t.Error(err)
		return
	}
	b.mu.Lock()
	b.counts["offsets"]++
	hook := b.hooks.offsets
	b.mu.Unlock()
	var fault Fault
	if hook != nil {
		fault = hook()
	}
	b.mu.Lock()
	r := protocol.OffsetsReply{TopicID: p.topic.meta.ID, Epoch: p.epoch, Leader: p.leader, Offset: -1}
	if r.Code = b.refuse(p, n, req.TopicID, req.Epoch); r.Code == errcode.None {
		r.Code = fault.Refuse
	}
	if r.Code == errcode.None {
		r.Offset, r.TimestampMs = p.offsetAt(req.TimestampMs)
	}
	b.mu.Unlock()
	b.send(n, m.Reply, r.Append(nil), fault)
}

// offsetAt answers an offsets request. Broker.mu is held.
func (p *partition) offsetAt(timestampMs int64) (offset, at int64) {
	switch timestampMs {
	case protocol.TimestampLatest:
		return p.end, -1
	case protocol.TimestampEarliest:
		return p.logStart, -1
	}
	for _, raw := range p.batches {
		it, err := recordbatch.Batch(raw).Iterate(recordbatch.IterateOptions{})
		if err != nil {
			return -1, -1
		}
		for it.Next() {
			if r := it.Record(); r.TimestampMs >= timestampMs {
				return r.Offset, r.TimestampMs
			}
		}
	}
	return -1, -1
}
