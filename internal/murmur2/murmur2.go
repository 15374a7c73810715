// Package murmur2 is the hash by which Kafka's default partitioner spreads keys,
// so that a key finds the same partition whichever client publishes it. It is
// no general hash: the seed is Kafka's.
//
// Source: MurmurHash2 (Austin Appleby, public domain) with seed 0x9747b28c from
// Apache Kafka's Utils.murmur2; BuiltInPartitioner.partitionForKey.
package murmur2

// Sum returns the hash of data.
func Sum(data []byte) uint32 {
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

// Partition returns the partition of n that key belongs to.
func Partition(key []byte, n int) int32 {
	return int32(Sum(key)&0x7fffffff) % int32(n)
}
