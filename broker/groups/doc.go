// Package groups is the coordinator of consumer groups: who is a member, which
// partition belongs to whom, and how far each group has read.
//
// A few Raft shards, the coordinator shards, hold all groups; a group's name
// says which (protocol.GroupShard). Whoever leads a shard coordinates its
// groups. Replicated are members, ownership and committed offsets; heartbeat
// timers are soft state of the coordinator, and after a leader change every
// member gets a full session time-out again.
//
// It is no transport (requests come from package handler), it reads and writes
// no records, and it knows topics only through the metadata image.
//
// assign.go is pure: which member should have which partition. machine.go is
// the replicated state machine, apply.go and reconcile.go are what its commands
// do; they hold the rule that a partition never has two owners. coordinator.go
// is a shard on its leader, with sessions.go (timers, held answers), queue.go
// (commands travel to Raft in batches) and lead.go (when it may serve).
// command.go is the format of those commands, written with coder.go.
//
// What waits is bounded: a shard's queue holds 20,000 operations or 32 MiB, and
// beyond that a request is refused with THROTTLED and the time after which to
// try again; an entry holds 8,192 operations or 512 KiB; a commit is answered
// when its context ends at the latest.
// requests.go is what clients ask. Start at Host.
package groups
