package cluster

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
)

// dial opens a plain NATS connection to a node, as any client may.
func (c *Cluster) dial(id uint64, opts ...nats.Option) *nats.Conn {
	c.tb.Helper()
	nc, err := nats.Connect(c.Info(id).ClientURL, append(opts, nats.IgnoreDiscoveredServers(), nats.Timeout(waitTimeout))...)
	if err != nil {
		c.tb.Fatalf("connecting to node %d: %v", id, err)
	}
	c.tb.Cleanup(nc.Close)
	return nc
}

// waitAnswered returns when a node answers produce requests to a partition. It
// leads a moment before its subscription stands.
func (c *Cluster) waitAnswered(nc *nats.Conn, topic string, partition int32) {
	c.tb.Helper()
	c.WaitFor("produce requests to "+topic+" are answered", func() bool {
		_, err := nc.Request(protocol.ProduceSubject(topic, partition), nil, time.Second)
		return err == nil
	})
}

// codeOf returns the code of an answer by the form that answers on subject
// have; ok is false where it has not that form, or refuses without a message.
func codeOf(subject string, data []byte) (code errcode.Code, ok bool) {
	switch {
	case strings.HasPrefix(subject, protocol.PrefixPublish):
		var ack protocol.PubAck
		if json.Unmarshal(data, &ack) != nil {
			return 0, false
		}
		if ack.Error == nil {
			return errcode.None, ack.Sequence > 0
		}
		return errcode.Code(int16(ack.Error.ErrCode)), ack.Error.Description != ""
	case strings.HasPrefix(subject, protocol.PrefixFetch), strings.HasPrefix(subject, protocol.PrefixFetchFrom):
		r, err := protocol.DecodeFetchReply(data)
		return r.Code, err == nil && (r.Message != "" || r.Code == errcode.None)
	case strings.HasPrefix(subject, protocol.PrefixProduce), strings.HasPrefix(subject, protocol.PrefixOffsets):
		r, err := protocol.DecodeProduceReply(data)
		return r.Code, err == nil && (r.Message != "" || r.Code == errcode.None)
	}
	var e protocol.Envelope[json.RawMessage]
	if json.Unmarshal(data, &e) != nil || e.Error == nil {
		return errcode.None, e.Version == protocol.ControlVersion
	}
	return e.Error.Code, e.Error.Message != "" && e.Error.Name == e.Error.Code.String()
}

// batchOf builds an uncompressed batch of one record per value.
func batchOf(tb testing.TB, values ...string) recordbatch.Batch {
	tb.Helper()
	b := recordbatch.NewBuilder()
	for i, v := range values {
		b.Append(1_700_000_000_000+int64(i), nil, []byte(v), nil)
	}
	batch, err := b.Build(nil, recordbatch.None)
	if err != nil {
		tb.Fatal(err)
	}
	return batch
}

// recount makes the CRC right again after bytes were changed.
func recount(b recordbatch.Batch) recordbatch.Batch {
	const atCRC, covered = 17, 21 // PARTITION.md's table, which is Kafka's
	binary.BigEndian.PutUint32(b[atCRC:], crc32.Checksum(b[covered:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// produceRequest puts a header in front of batches.
func produceRequest(topicID uint64, epoch int32, msgID string, batches ...recordbatch.Batch) []byte {
	out := (&protocol.ProduceRequest{TopicID: topicID, Epoch: epoch, MsgID: msgID}).AppendHeader(nil)
	for _, b := range batches {
		out = append(out, b...)
	}
	return out
}

// produceRaw sends one produce request and returns the reply.
func produceRaw(nc *nats.Conn, topic string, partition int32, request []byte, timeout time.Duration) (protocol.ProduceReply, error) {
	m, err := nc.Request(protocol.ProduceSubject(topic, partition), request, timeout)
	if err != nil {
		return protocol.ProduceReply{}, err
	}
	return protocol.DecodeProduceReply(m.Data)
}

// fetchRaw sends one fetch request and returns its first reply.
func fetchRaw(nc *nats.Conn, subject string, r protocol.FetchRequest, timeout time.Duration) (protocol.FetchReply, error) {
	m, err := nc.Request(subject, r.Append(nil), timeout)
	if err != nil {
		return protocol.FetchReply{}, err
	}
	return protocol.DecodeFetchReply(m.Data)
}
