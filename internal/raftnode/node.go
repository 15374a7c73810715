package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/statemachine"
)

// Node is one running dragonboat NodeHost: all replicas of this process's node.
// Its methods may be called from any goroutine.
type Node struct {
	options  Options
	logger   *slog.Logger
	host     *dragonboat.NodeHost
	store    *logStore
	leaders  *leaderQueue
	sessions sync.Map // shard id → *client.Session (NoOP, shared, immutable)
	close    sync.Once
}

// Open starts a NodeHost in o.Dir and, unless o.Transport is given, puts it on
// e's port. It returns an error that names the fault where the directory
// belongs to another incarnation or deployment, or is in use.
func Open(e *Endpoint, o Options) (*Node, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	if e == nil && o.Transport == nil {
		return nil, errors.New("raftnode: neither an endpoint nor a transport is given")
	}
	return open(e, o)
}

// Close stops every replica, the transport and the log store, and returns when
// they are stopped. Proposals in flight end as unknown. The Endpoint stays open
// and goes on serving handshakes.
func (n *Node) Close() {
	n.close.Do(func() {
		n.host.Close()
		n.leaders.close()
	})
}

// StartOnDisk starts the local replica s with an on-disk state machine. It
// returns once the replica is registered; the machine's Open runs later.
func (n *Node) StartOnDisk(s Shard, create func(shard, replica uint64) statemachine.IOnDiskStateMachine) error {
	return n.startError(s, n.host.StartOnDiskReplica(s.Members, s.Join, create, n.shardConfig(s)))
}

// StartInMemory starts the local replica s with a state machine that lives in
// memory and is rebuilt from snapshot and log at every start.
func (n *Node) StartInMemory(s Shard, create func(shard, replica uint64) statemachine.IStateMachine) error {
	return n.startError(s, n.host.StartReplica(s.Members, s.Join, create, n.shardConfig(s)))
}

func (n *Node) startError(s Shard, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("raftnode: start shard %d replica %d: %w", s.ID, s.Replica, err)
}

// Stop stops the local replica of shard. Its data stay.
func (n *Node) Stop(shard uint64) error {
	if err := n.host.StopShard(shard); err != nil {
		return fmt.Errorf("raftnode: stop shard %d: %w", shard, err)
	}
	n.sessions.Delete(shard)
	return nil
}

// HasReplica reports whether this node's Raft log knows the replica, which is
// so from its first start until RemoveData. A replica that the metadata calls
// started and that is not here has lost its log and must never start again
// under that id.
func (n *Node) HasReplica(shard, replica uint64) bool {
	return n.host.HasNodeInfo(shard, replica)
}

// RemoveData deletes the Raft log and snapshots of a replica that was removed
// from its shard's membership. The replica must be stopped; RemoveData waits
// for it to be unloaded. Calling it for a current member breaks the shard.
func (n *Node) RemoveData(ctx context.Context, shard, replica uint64) error {
	ctx, cancel := n.bound(ctx)
	defer cancel()
	if err := n.host.SyncRemoveData(ctx, shard, replica); err != nil {
		return fmt.Errorf("raftnode: remove data of shard %d replica %d: %w", shard, replica, err)
	}
	return nil
}

// session returns the shard's NoOP session. On-disk machines panic with any
// other kind, and de-duplication is the state machines' own.
func (n *Node) session(shard uint64) *client.Session {
	if s, ok := n.sessions.Load(shard); ok {
		return s.(*client.Session)
	}
	s, _ := n.sessions.LoadOrStore(shard, n.host.GetNoOPSession(shard))
	return s.(*client.Session)
}

// shardConfig is the dragonboat configuration of every replica.
func (n *Node) shardConfig(s Shard) config.Config {
	return config.Config{
		ReplicaID:           s.Replica,
		ShardID:             s.ID,
		CheckQuorum:         true,
		PreVote:             true,
		ElectionRTT:         n.options.ElectionRTT,
		HeartbeatRTT:        n.options.HeartbeatRTT,
		SnapshotEntries:     s.SnapshotEntries,
		CompactionOverhead:  s.CompactionOverhead,
		OrderedConfigChange: true,
		MaxInMemLogSize:     uint64(n.options.MaxInFlightBytes),
		IsNonVoting:         s.NonVoting,
		// Quiesce stays off: it hides a dead leader of an idle shard.
	}
}

// bound gives ctx a deadline where it has none: dragonboat asks for one.
func (n *Node) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, defaultTimeout)
}

// defaultTimeout bounds control operations whose context has no deadline.
const defaultTimeout = 10 * time.Second
