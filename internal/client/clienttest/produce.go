package clienttest

import (
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
	"logbroker/partitions/producerstate"
)

// hooks are the injected faults.
type hooks struct {
	produce func(Produce) Fault
	fetch   func(Fetch) Fault
	offsets func() Fault
}

// Produce is a produce request as a hook sees it. N counts the requests to the
// partition from 1.
type Produce struct {
	Topic     string
	Partition int32
	Node      uint64
	N         int
	Batch     recordbatch.Batch
	Request   protocol.ProduceRequest
}

// Fault is what is to go wrong with a request. The zero Fault is none.
type Fault struct {
	// Drop loses the request before it is looked at.
	Drop bool
	// Refuse answers with this code and stores nothing.
	Refuse     errcode.Code
	RetryAfter time.Duration
	// DropReply does what was asked and loses the answer.
	DropReply bool
	// Answer does what was asked and answers with this code instead.
	Answer errcode.Code
	// Twice sends the answer two times.
	Twice bool
	// Hold, when not nil, keeps the answer back until it is closed.
	Hold <-chan struct{}
	// CutAfter loses the replies to a fetch after that many (0: none is lost).
	CutAfter int
	// Lose loses the reply to a fetch with that number, from 1.
	Lose int
	// LosePiece loses the piece with that number, from 1, of the first reply to a
	// fetch.
	LosePiece int
	pieces    bool // the client takes pieces
	// Corrupt flips a bit in the batches of a fetch.
	Corrupt bool
	// Beyond claims a high watermark below the batches of a fetch.
	Beyond bool
}

// OnProduce sets the hook for produce requests.
func (b *Broker) OnProduce(f func(Produce) Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hooks.produce = f
}

func (b *Broker) produce(p *partition, n *node, m *nats.Msg) {
	req, err := protocol.DecodeProduceRequest(m.Data)
	if err != nil {
		b.t.Error(err)
		return
	}
	batch := recordbatch.Batch(m.Data[req.BatchAt:])
	b.mu.Lock()
	b.counts["produce"]++
	b.counts["produce "+p.key()]++
	hook, number := b.hooks.produce, b.counts["produce "+p.key()]
	b.mu.Unlock()
	var fault Fault
	if hook != nil {
		fault = hook(Produce{p.topic.meta.Name, p.index, n.id, number, batch, req})
	}
	if fault.Drop {
		return
	}
	reply := b.answerProduce(p, n, req, batch, fault)
	b.send(n, m.Reply, reply.Append(nil), fault)
}

// send publishes an answer, subject to the fault.
func (b *Broker) send(n *node, to string, data []byte, fault Fault) {
	if fault.DropReply {
		return
	}
	publish := func() {
		b.publish(n, to, data)
		if fault.Twice {
			b.publish(n, to, data)
		}
	}
	if fault.Hold == nil {
		publish()
		return
	}
	b.spawn(func() {
		select {
		case <-fault.Hold:
			publish()
		case <-b.closed:
		}
	})
}

func (b *Broker) answerProduce(p *partition, n *node, req protocol.ProduceRequest, batch recordbatch.Batch, fault Fault) protocol.ProduceReply {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := protocol.ProduceReply{TopicID: p.topic.meta.ID, Epoch: p.epoch, Leader: p.leader, BaseOffset: -1}
	r.Code = b.refuse(p, n, req.TopicID, req.Epoch)
	if r.Code == errcode.None {
		r.Code, r.RetryAfterMs = fault.Refuse, uint32(fault.RetryAfter.Milliseconds())
	}
	if r.Code == errcode.None {
		b.store(p, batch, &r)
	}
	if fault.Answer != errcode.None {
		r.Code, r.BaseOffset = fault.Answer, -1
	}
	if r.Code != errcode.None {
		r.Message = "by the fake broker"
	}
	return r
}

// refuse says what a replica that is not the leader, or not of this epoch or
// topic, answers. b.mu is held.
func (b *Broker) refuse(p *partition, n *node, topicID uint64, epoch int32) errcode.Code {
	switch {
	case topicID != 0 && topicID != p.topic.meta.ID:
		return errcode.UnknownTopicID
	case n.id != p.leader:
		return errcode.NotLeaderOrFollower
	case epoch >= 0 && epoch < p.epoch:
		return errcode.FencedLeaderEpoch
	case epoch > p.epoch:
		return errcode.UnknownLeaderEpoch
	}
	return errcode.None
}

// store applies the batch as the state machine does. b.mu is held.
func (b *Broker) store(p *partition, batch recordbatch.Batch, r *protocol.ProduceReply) {
	if err := batch.Validate(int(p.topic.meta.MaxBatchBytes)); err != nil {
		r.Code = errcode.Of(err)
		return
	}
	verdict, offset := p.table.Apply(producerstate.Batch{
		Producer: batch.ProducerID(), Epoch: batch.ProducerEpoch(), Sequence: batch.BaseSequence(), Count: batch.Count(),
	}, p.end)
	switch verdict {
	case producerstate.Append:
		r.BaseOffset = p.end
		if b.discard {
			p.end += int64(batch.Count())
		} else {
			p.store(append([]byte(nil), batch...))
		}
	case producerstate.Duplicate:
		r.BaseOffset, r.Duplicate = offset, true
	case producerstate.OutOfOrder:
		r.Code = errcode.OutOfOrderSequence
	case producerstate.InvalidEpoch:
		r.Code = errcode.InvalidProducerEpoch
	case producerstate.UnknownProducer:
		r.Code = errcode.UnknownProducerID
	default:
		r.Code = errcode.TooManyProducers
	}
}
