// Package metadata is what the whole cluster agrees on: its nodes, its topics
// with the placement of their partitions, and the producer ids handed out. It
// lives in one Raft group, the metadata shard, of which every node holds a
// replica.
//
// It is not the place for what changes by itself: who leads a partition is soft
// state (Leaders), told by the leaders and never replicated. It starts no
// replica and moves no data; others watch its Image and do so.
//
// Start at Image (image.go), which is all that readers need. Store (store.go) is
// the client that proposes changes; machine.go applies them; balancer.go keeps
// leaderships spread.
package metadata
