package producer

// Partitioner picks the partition of a record that names none: a number below
// partitions, or Sticky to let the producer choose. It is called from any
// goroutine and must not keep key.
type Partitioner func(topic string, key []byte, partitions int) int32

// Sticky as a Partitioner's answer means: wherever the current batch is being
// filled. The producer moves to another partition with every batch.
const Sticky int32 = -1

// DefaultPartitioner is Kafka's: murmur2 of the key, sticky for a nil key.
// Source: Apache Kafka, BuiltInPartitioner.partitionForKey.
func DefaultPartitioner(_ string, key []byte, partitions int) int32 {
	if key == nil {
		return Sticky
	}
	return int32(murmur2(key)&0x7fffffff) % int32(partitions)
}

// murmur2 is the 32-bit MurmurHash2 with Kafka's seed.
// Source: Austin Appleby, MurmurHash2 (public domain); seed 0x9747b28c from
// Apache Kafka, Utils.murmur2.
func murmur2(data []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := uint32(seed) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> r
		h = h*m ^ k*m
	}
	for i := len(data) - 1; i >= 0; i-- {
		h ^= uint32(data[i]) << (8 * i)
		if i == 0 {
			h *= m
		}
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
