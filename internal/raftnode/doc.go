// Package raftnode is the only wrapper of dragonboat.NodeHost: it starts and
// stops replicas, proposes, reads, moves leaders, changes membership, and owns
// everything dragonboat lets its user bring along: the transport, the node
// registry, the file system, the log store's wrapper and the logger.
//
// It is not a place for what a command means: commands and state machines
// belong to the packages that start shards. It knows no topic, no partition and
// no client protocol. `shard` is dragonboat's word for a Raft group and is used
// here and nowhere above.
//
// Where to start: Listen makes the Endpoint (the Raft port), Open puts a Node
// on it. Then propose.go for the one rule that matters most to a caller: an
// error of a proposal is either ErrRefused (it was not and will not be applied)
// or ErrUnknown (it may have been, or may yet be).
//
// Files: options.go (what is configured and why), node.go (life of a Node and
// its replicas), propose.go, read.go, membership.go, leader.go (leader events),
// endpoint.go, frame.go and transport.go (the TCP port and its wire),
// transfer.go (leader transfers under load), registry.go (incarnation to
// address), logstore.go (what stands between dragonboat and the tan log store),
// check.go (is a replica's log whole, before tan sees it; package tanfiles),
// fs.go (nothing preallocated, no host name on disk), identity.go (whose
// directory it is), logger.go, metrics.go. Package chantransport replaces the
// network in deterministic tests.
package raftnode
