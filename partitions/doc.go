// Package partitions runs the partition replicas of one node: it starts and
// stops them, follows who leads, appends, reads, trims and expires.
//
// A partition is one dragonboat shard. Its replicated state lives in the state
// machine of package fsm, its bytes in package commitlog; this package is what
// stands around them: the leadership protocol, the ordered propose queue, long
// poll, retention. It knows no transport, no topic metadata beyond a Spec, and
// it never looks into a batch.
//
// Start at Host, then Partition.Append (the produce path), Partition.Read (the
// fetch path) and leadership.go (when a replica may serve).
package partitions
