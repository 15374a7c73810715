package handler

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// Headers of a plain message that mean something here. Their names are matched
// without regard to case.
const (
	HeaderKey      = "Lb-Key"      // the record's key
	HeaderMsgID    = "Nats-Msg-Id" // stored once per id
	headerExpected = "Nats-Expected-"
)

// publishBatchBytesMax bounds a batch of messages that wait together.
const publishBatchBytesMax = 256 << 10

// message is a plain message that is not answered yet.
type message struct {
	record recordbatch.Record
	id     string // the publisher's, "" = none
	topic  *metadata.Topic
	size   int // upper bound of the record's encoded size
	start  time.Time
	ack    func(*protocol.PubAck)
}

// Publish stores one plain message and answers in the shape of a JetStream
// publish acknowledgement. It never blocks; done is called exactly once, and
// must not block.
//
// The message goes to the leader of a partition like any client's batch, so it
// does not matter which node took it. The partition is picked by the key, else
// by the message id, else it is one that has a leader. Refusals and unknown
// outcomes are tried again until Options.PublishTimeout; every batch that is
// sent carries a message id (the publisher's or one made here), so that trying
// again stores nothing twice.
func (h *Handler) Publish(r PublishRequest, done func(*protocol.PubAck)) {
	m := message{start: h.options.Clock(), ack: done}
	if !h.gate.enter() {
		h.acknowledge(m, refusal(errShuttingDown()))
		return
	}
	err := h.publish(r, &m)
	if errcode.Of(err) == errcode.UnknownTopicOrPartition && h.offsetsPool.submit(func() { h.publishLate(r, m) }) {
		return
	}
	h.unlessNil(m, err)
}

// publishLate tries again after a barrier: this node may not have heard yet of
// a topic that was created a moment ago elsewhere. It may block.
func (h *Handler) publishLate(r PublishRequest, m message) {
	ctx, cancel := context.WithTimeout(h.ctx, h.options.OffsetsTimeout)
	defer cancel()
	err := h.options.Metadata.Barrier(ctx)
	if err == nil {
		err = h.publish(r, &m)
	}
	h.unlessNil(m, err)
}

// unlessNil refuses m with err; nil means that the publisher has it.
func (h *Handler) unlessNil(m message, err error) {
	if err != nil {
		h.acknowledge(m, refusal(err))
		h.gate.exit()
	}
}

// publish checks r and hands it to the publisher, which ends it after nil.
func (h *Handler) publish(r PublishRequest, m *message) error {
	if h.options.Producer == nil {
		return errcode.New(errcode.NotImplemented, "node %d takes no plain messages", h.options.NodeID)
	}
	if err := protocol.ValidateTopicName(r.Topic); err != nil {
		return err
	}
	topic, ok := h.options.Metadata.Image().Topic(r.Topic)
	if !ok || len(topic.Partitions) == 0 {
		return errcode.New(errcode.UnknownTopicOrPartition, "topic %q does not exist; create it with `logbroker topic create`", r.Topic)
	}
	m.topic = topic
	m.record = recordbatch.Record{TimestampMs: m.start.UnixMilli(), Value: r.Value}
	if m.record.Value == nil {
		m.record.Value = []byte{} // an empty message is not a null value
	}
	if err := m.takeHeaders(r.Header); err != nil {
		return err
	}
	m.size = recordbatch.RecordSize(m.record.Key, m.record.Value, m.record.Headers)
	if recordbatch.HeaderSize+m.size > int(topic.Config.MaxBatchBytes) {
		return errcode.New(errcode.MessageTooLarge, "the message has %d bytes with its headers; topic %q takes batches up to %d (max_batch_bytes)",
			m.size, topic.Name, topic.Config.MaxBatchBytes)
	}
	return h.publisher.add(m)
}

// takeHeaders moves headers into the record. They are put in order, so that
// equal messages give equal records.
func (m *message) takeHeaders(header map[string][]string) error {
	for _, name := range slices.Sorted(maps.Keys(header)) {
		values := header[name]
		switch {
		case len(values) == 0:
		case strings.EqualFold(name, HeaderKey):
			m.record.Key = []byte(values[0])
		case strings.EqualFold(name, HeaderMsgID):
			m.id = values[0]
		case len(name) >= len(headerExpected) && strings.EqualFold(name[:len(headerExpected)], headerExpected):
			return errcode.New(errcode.InvalidRequest, "header %s is not supported; publish without expectations", clip(name))
		default:
			for _, v := range values {
				m.record.Headers = append(m.record.Headers, recordbatch.Header{Key: name, Value: []byte(v)})
			}
		}
	}
	if len(m.id) > protocol.MsgIDBytesMax {
		return errcode.New(errcode.InvalidRequest, "%s has %d bytes; at most %d are allowed", HeaderMsgID, len(m.id), protocol.MsgIDBytesMax)
	}
	if strings.HasPrefix(m.id, ownIDPrefix) {
		return errcode.New(errcode.InvalidRequest, "%s must not begin with a NUL byte", HeaderMsgID)
	}
	return nil
}

// acknowledge answers one message.
func (h *Handler) acknowledge(m message, ack *protocol.PubAck) {
	code := errcode.None
	if ack.Error != nil {
		code = errcode.Code(int16(ack.Error.ErrCode))
	}
	h.metrics.Request("publish", code, h.options.Clock().Sub(m.start))
	m.ack(ack)
}

// refusal returns err as an acknowledgement. The outer code is HTTP-like, as
// JetStream's are; err_code is ours.
func refusal(err error) *protocol.PubAck {
	e := errcode.From(err)
	return &protocol.PubAck{Error: &protocol.PubAckError{
		Code: httpLike(e.Code), ErrCode: uint16(e.Code), Description: e.Error(),
	}}
}

func httpLike(c errcode.Code) int {
	switch c {
	case errcode.InvalidRequest, errcode.InvalidTopic, errcode.NotImplemented:
		return 400
	case errcode.UnknownTopicOrPartition, errcode.UnknownTopicID:
		return 404
	case errcode.RequestTimedOut:
		return 408
	case errcode.MessageTooLarge:
		return 413
	case errcode.Throttled:
		return 429
	}
	if c.Retriable() {
		return 503
	}
	return 500
}
