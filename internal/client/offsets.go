package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// offsetsAttempt is the time-out of one offsets request.
const offsetsAttempt = 2 * time.Second

// Offsets asks a partition's leader for the first offset whose timestamp is
// timestampMs or later, for the earliest (protocol.TimestampEarliest) or for
// the latest, the high watermark (protocol.TimestampLatest). It retries until
// ctx ends. The reply's Code is always None.
//
// Errors: *errcode.Error for a refusal that a retry does not mend; ctx's,
// wrapped with the last thing heard.
func (c *Client) Offsets(ctx context.Context, topic string, partition int32, timestampMs int64) (protocol.OffsetsReply, error) {
	meta, err := c.Topic(ctx, topic)
	if err != nil {
		return protocol.OffsetsReply{}, err
	}
	if partition < 0 || int(partition) >= len(meta.Partitions) {
		return protocol.OffsetsReply{}, errcode.New(errcode.UnknownTopicOrPartition,
			"topic %q has %d partitions, 0 to %d; there is no partition %d", topic, len(meta.Partitions), len(meta.Partitions)-1, partition)
	}
	for n := 1; ; n++ {
		reply, err := c.offsetsOnce(ctx, topic, partition, timestampMs)
		if err == nil || !retriable(err) {
			return reply, err
		}
		c.Stale(topic)
		sleep(ctx, max(Backoff(n, retrySpaceMin, retrySpaceMax), retryAfter(err)))
		if ctx.Err() != nil {
			return reply, fmt.Errorf("offsets of %s/%d: %w (%w)", topic, partition, err, context.Cause(ctx))
		}
	}
}

func (c *Client) offsetsOnce(ctx context.Context, topic string, partition int32, timestampMs int64) (protocol.OffsetsReply, error) {
	leader := c.Leader(topic, partition)
	req := protocol.OffsetsRequest{TopicID: leader.TopicID, Epoch: leader.Epoch, TimestampMs: timestampMs}
	done := make(chan answer, 1)
	call, err := c.Conn(leader.Node).Call(Request{
		Subject: protocol.OffsetsSubject(topic, partition),
		Payload: req.Append(nil),
		Timeout: offsetsAttempt,
	}, func(data []byte, err error) {
		if err == nil && c.oldRefusal(data, leader.Epoch) {
			return // another replica may still answer
		}
		offer(done, answer{data: data, err: err})
	})
	if err != nil {
		return protocol.OffsetsReply{}, err
	}
	defer call.Cancel()
	select {
	case a := <-done:
		if a.err != nil {
			return protocol.OffsetsReply{}, a.err
		}
		return c.offsetsReply(topic, partition, a.data)
	case <-ctx.Done():
		return protocol.OffsetsReply{}, context.Cause(ctx)
	case <-c.ctx.Done():
		return protocol.OffsetsReply{}, ErrClosed
	}
}

// oldRefusal reports whether data is a NOT_LEADER of an epoch before the one
// the client knows: it comes from a replica that has lost its leadership.
func (c *Client) oldRefusal(data []byte, known int32) bool {
	r, err := protocol.DecodeOffsetsReply(data)
	return err == nil && r.Code == errcode.NotLeaderOrFollower && r.Epoch < known
}

func (c *Client) offsetsReply(topic string, partition int32, data []byte) (protocol.OffsetsReply, error) {
	r, err := protocol.DecodeOffsetsReply(data)
	if err != nil {
		return r, err
	}
	c.Learn(topic, partition, Leader{TopicID: r.TopicID, Node: r.Leader, Epoch: r.Epoch})
	if r.Code == errcode.None {
		return r, nil
	}
	return r, Refusal(r.Code, r.Message, r.RetryAfterMs)
}

// Refusal makes an error of what a data-plane reply says. The code must not be
// None.
func Refusal(code errcode.Code, message string, retryAfterMs uint32) error {
	e := errcode.New(code, "%s", message)
	e.RetryAfter = time.Duration(retryAfterMs) * time.Millisecond
	return e
}

// Definite reports whether err, from a call, proves that nobody got the
// request.
func Definite(err error) bool {
	return errors.Is(err, ErrNoResponders) || errors.Is(err, ErrNotSent)
}
