package raftnode

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
)

// errUnknownTarget: the replica's node is not known, or has no address yet. The
// message is dropped, Raft sends it again.
var errUnknownTarget = errors.New("raftnode: target address unknown")

// registryFactory gives dragonboat a registry in which a target is an
// incarnation and the address is asked for at every message.
type registryFactory struct {
	resolve func(incarnation string) (string, bool)
}

// Create implements config.NodeRegistryFactory. With a factory set dragonboat
// validates every target by id.IsNodeHostID, that is as a UUID.
func (f registryFactory) Create(_ string, streams uint64, _ config.TargetValidator) (raftio.INodeRegistry, error) {
	return &registry{resolve: f.resolve, streams: max(streams, 1)}, nil
}

// registry maps (shard, replica) to the incarnation that holds the replica.
// dragonboat adds to it at bootstrap, at membership changes and for the sender
// of every received message.
type registry struct {
	resolve func(incarnation string) (string, bool)
	streams uint64   // connections per remote node, by shard
	targets sync.Map // raftio.NodeInfo → *target
}

// target is one replica's place.
type target struct {
	incarnation string
	// last is the last answer with its connection key, so that a steady address
	// costs no allocation per message.
	last atomic.Pointer[resolved]
}

type resolved struct{ address, key string }

// Close implements raftio.INodeRegistry.
func (r *registry) Close() error { return nil }

// Add implements raftio.INodeRegistry. The first place wins: a replica never
// moves to another incarnation under its id, so a second one is a stray.
func (r *registry) Add(shard, replica uint64, incarnation string) {
	id := raftio.NodeInfo{ShardID: shard, ReplicaID: replica}
	if _, known := r.targets.Load(id); !known {
		r.targets.LoadOrStore(id, &target{incarnation: incarnation})
	}
}

// Remove implements raftio.INodeRegistry.
func (r *registry) Remove(shard, replica uint64) {
	r.targets.Delete(raftio.NodeInfo{ShardID: shard, ReplicaID: replica})
}

// RemoveShard implements raftio.INodeRegistry.
func (r *registry) RemoveShard(shard uint64) {
	r.targets.Range(func(id, _ any) bool {
		if id.(raftio.NodeInfo).ShardID == shard {
			r.targets.Delete(id)
		}
		return true
	})
}

// Resolve implements raftio.INodeRegistry: address and connection key of a
// replica. A new address makes a new key, hence a new connection at once; the
// old one closes when idle.
func (r *registry) Resolve(shard, replica uint64) (string, string, error) {
	v, ok := r.targets.Load(raftio.NodeInfo{ShardID: shard, ReplicaID: replica})
	if !ok {
		return "", "", errUnknownTarget
	}
	t := v.(*target)
	address, ok := r.resolve(t.incarnation)
	if !ok {
		return "", "", errUnknownTarget
	}
	if last := t.last.Load(); last != nil && last.address == address {
		return last.address, last.key, nil
	}
	now := &resolved{address: address, key: fmt.Sprintf("%s-%d", address, shard%r.streams)}
	t.last.Store(now)
	return now.address, now.key, nil
}
