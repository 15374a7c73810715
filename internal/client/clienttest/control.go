package clienttest

import (
	"encoding/json"
	"strings"

	"github.com/nats-io/nats.go"

	"logbroker/internal/protocol"
)

// OnControl sets what a control subject (lb.m.… or lb.a.…) answers.
func (b *Broker) OnControl(subject string, f func(body []byte) (any, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.control[subject] = f
}

// subscribeControl makes n answer metadata and whatever OnControl names.
func (b *Broker) subscribeControl(n *node) {
	for _, subject := range []string{protocol.PrefixMetadata + ">", protocol.PrefixAdmin + ">"} {
		if _, err := n.nc.QueueSubscribe(subject, protocol.QueueGroup, func(m *nats.Msg) { b.answerControl(n, m) }); err != nil {
			b.t.Error(err)
		}
	}
}

func (b *Broker) answerControl(n *node, m *nats.Msg) {
	b.mu.Lock()
	b.counts[m.Subject]++
	hook := b.control[m.Subject]
	b.mu.Unlock()
	var body any
	var err error
	switch {
	case hook != nil:
		body, err = hook(m.Data)
	case strings.HasSuffix(m.Subject, "."+protocol.VerbMetadata):
		body = b.metadata(m.Data)
	case strings.HasSuffix(m.Subject, "."+protocol.VerbProducerID):
		body = b.producerID()
	default:
		return
	}
	if body == nil && err == nil {
		return // the hook wants no answer
	}
	out, err := json.Marshal(protocol.Envelope[any]{Version: protocol.ControlVersion, Error: protocol.NewControlError(err), Body: body})
	if err != nil {
		b.t.Error(err)
		return
	}
	b.publish(n, m.Reply, out)
}

func (b *Broker) producerID() protocol.ProducerIDReply {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nextID++
	return protocol.ProducerIDReply{ProducerID: b.nextID, Window: b.Window, ExpiryMs: b.Expiry.Milliseconds()}
}

func (b *Broker) metadata(body []byte) protocol.MetadataReply {
	var req protocol.MetadataRequest
	if err := json.Unmarshal(body, &req); err != nil {
		b.t.Error(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	out := protocol.MetadataReply{ClusterID: "fake", ClusterName: clusterName, Index: b.index}
	for _, n := range b.nodes {
		m := protocol.NodeMetadata{ID: n.id}
		if !n.hide {
			m.ClientURLs = []string{n.url()}
		}
		out.Nodes = append(out.Nodes, m)
	}
	for _, t := range b.topics {
		if len(req.Topics) > 0 && !contains(req.Topics, t.meta.Name) {
			continue
		}
		m := t.meta
		m.Partitions = nil
		for _, p := range t.parts {
			m.Partitions = append(m.Partitions, protocol.PartitionMetadata{Partition: p.index, Leader: p.leader, Epoch: p.epoch})
		}
		out.Topics = append(out.Topics, m)
	}
	return out
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
