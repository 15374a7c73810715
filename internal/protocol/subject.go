// Package protocol is the native wire: subject names, and the requests and
// replies that travel over them. It knows nothing of the transport that
// carries them (NATS) and nothing of what a request means.
//
// Data-plane messages (produce, fetch, offsets) are small fixed binary headers
// in front of record batches, big-endian, see data.go. Control-plane messages
// (metadata, admin, node to node) are JSON, see control.go. Both carry a
// version. Start at subject.go for who answers what.
package protocol

import (
	"strconv"
	"strings"

	"logbroker/internal/errcode"
)

// Subject prefixes. Topic tokens come last, so that NATS wildcards make
// per-topic permissions.
const (
	PrefixProduce   = "lb.p."        // lb.p.<partition>.<topic…>: one batch, answered by the leader
	PrefixFetch     = "lb.f."        // lb.f.<partition>.<topic…>: fetch from the leader
	PrefixFetchFrom = "lb.fr."       // lb.fr.<node>.<partition>.<topic…>: fetch from that node's replica
	PrefixOffsets   = "lb.o."        // lb.o.<partition>.<topic…>: earliest, latest, by time
	PrefixPublish   = "lb.pub."      // lb.pub.<topic…>: one plain message
	PrefixMetadata  = "lb.m."        // lb.m.<verb>: metadata, any node
	PrefixAdmin     = "lb.a."        // lb.a.<verb>: admin, any node
	PrefixGroup     = "lb.g."        // lb.g.<verb>.<group…>: group coordinator
	PrefixNode      = "lb.n."        // lb.n.<node>.<verb>: node to node, never open to clients
	SubjectLeaders  = "lb.i.leaders" // broadcast: which partitions a node leads, never open to clients
)

// QueueGroup is the queue group of the subjects that any one node may answer.
const QueueGroup = "lb"

// TopicNameBytesMax is the longest topic name, in bytes.
const TopicNameBytesMax = 249

// ProduceSubject returns the produce subject of a partition.
func ProduceSubject(topic string, partition int32) string {
	return partitionSubject(PrefixProduce, topic, partition)
}

// FetchSubject returns the subject to fetch from a partition's leader.
func FetchSubject(topic string, partition int32) string {
	return partitionSubject(PrefixFetch, topic, partition)
}

// FetchFromSubject returns the subject to fetch from one node's replica.
func FetchFromSubject(node uint64, topic string, partition int32) string {
	return partitionSubject(PrefixFetchFrom+strconv.FormatUint(node, 10)+".", topic, partition)
}

// OffsetsSubject returns the subject for offset look-ups.
func OffsetsSubject(topic string, partition int32) string {
	return partitionSubject(PrefixOffsets, topic, partition)
}

// NodeSubject returns the subject of one node's control verb.
func NodeSubject(node uint64, verb string) string {
	return PrefixNode + strconv.FormatUint(node, 10) + "." + verb
}

// ServerName is the name of a node's NATS server, by which a client knows that
// its connection stands with that node.
func ServerName(cluster string, node uint64) string {
	return cluster + "-" + strconv.FormatUint(node, 10)
}

func partitionSubject(prefix, topic string, partition int32) string {
	return prefix + strconv.FormatInt(int64(partition), 10) + "." + topic
}

// ValidateTopicName returns an INVALID_TOPIC_EXCEPTION that says what is wrong
// with name, or nil. The rule: 1 to 249 of [A-Za-z0-9._-], no empty token
// between dots (it becomes NATS subject tokens), not "." or "..".
func ValidateTopicName(name string) error {
	if name == "" {
		return errcode.New(errcode.InvalidTopic, "the topic name is empty; use 1 to %d of A-Z a-z 0-9 . _ -", TopicNameBytesMax)
	}
	if len(name) > TopicNameBytesMax {
		return errcode.New(errcode.InvalidTopic, "the topic name has %d bytes; at most %d are allowed", len(name), TopicNameBytesMax)
	}
	for i := range len(name) {
		if !topicByte(name[i]) {
			return errcode.New(errcode.InvalidTopic, "topic name %q: byte %q is not allowed; use A-Z a-z 0-9 . _ -", name, name[i])
		}
	}
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return errcode.New(errcode.InvalidTopic, "topic name %q: a dot must stand between two other characters", name)
	}
	return nil
}

func topicByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '.' || b == '_' || b == '-'
}
