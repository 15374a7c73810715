package producer

import "logbroker/internal/murmur2"

// Partitioner picks the partition of a record that names none: a number below
// partitions, or Sticky to let the producer choose. It is called from any
// goroutine and must not keep key.
type Partitioner func(topic string, key []byte, partitions int) int32

// Sticky as a Partitioner's answer means: wherever the current batch is being
// filled. The producer moves to another partition with a batch's end, once the
// partition has got 64 KiB (or a full batch, if that is less), and at once where a request to it failed.
const Sticky int32 = -1

// DefaultPartitioner is Kafka's: murmur2 of the key, sticky for a nil key.
// Source: Apache Kafka, BuiltInPartitioner.partitionForKey.
func DefaultPartitioner(_ string, key []byte, partitions int) int32 {
	if key == nil {
		return Sticky
	}
	return murmur2.Partition(key, partitions)
}
