package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/config"
	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/dragonboat/v4/statemachine"
)

// The engine's shape. execShards and logShards are written into the directory
// at its first start and must never change; the others may. dragonboat's
// defaults are made for hundreds of cores.
const (
	execShards     = 16 // frozen
	logShards      = 16 // frozen
	commitShards   = 16
	applyShards    = 16
	snapshotShards = 16
	closeShards    = 8
)

// logWriteBufferBytes is tan's marshalling buffer, one per exec shard. Its
// default of 128 MiB allocates 2 GiB and makes every write touch cold memory.
const logWriteBufferBytes = 4 << 20

// Node is one running dragonboat NodeHost: all replicas of this process's node.
// Its methods may be called from any goroutine.
type Node struct {
	options  Options
	logger   *slog.Logger
	host     *dragonboat.NodeHost
	store    *logStore
	syncs    *syncStats
	leaders  *leaderQueue
	replicas sync.Map // shard id → *replica, for every replica started here
	stopped  sync.Map // shard id → *replica: the last one that Stop stopped

	// closing is cancelled when Close begins; it ends every blocking wait.
	closing context.Context
	cancel  context.CancelFunc
	// life keeps host alive during a call: NodeHost.Close sets fields to nil
	// that its methods use. Calls hold it for reading, Close for writing.
	life   sync.RWMutex
	closed bool
}

// replica is what a Node keeps of a replica that runs here.
type replica struct {
	id      uint64
	session *client.Session // NoOP: the only kind on-disk machines allow
	applied atomic.Uint64   // of a state machine in memory, see watchedMachine
	// unloaded is closed when dragonboat has closed the state machine, which it
	// does when none of its workers has the replica any more.
	unloaded chan struct{}
	unload   func() // closes unloaded
}

// Open starts a NodeHost in o.Dir and, unless o.Transport is given, puts it on
// e's port. It returns an error that names the fault where the directory
// belongs to another incarnation or deployment, or is in use.
func Open(e *Endpoint, o Options) (*Node, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	transport, address := o.Transport, o.Advertise
	if transport == nil {
		if e == nil {
			return nil, errors.New("raftnode: neither an endpoint nor a transport is given")
		}
		transport, address = &tcpFactory{endpoint: e, options: o}, e.Addr()
	}
	transport = transferFactory{transport, time.Duration(o.ElectionRTT) * o.RTT * 3 / 4}
	syncs := newSyncStats()
	files, err := newHostFS(o, syncs)
	if err != nil {
		return nil, err
	}
	if err := prepareIdentity(files); err != nil {
		return nil, err
	}
	routeDragonboatLogs(o.Logger, o.RaftLevel)
	n := &Node{options: o, logger: o.Logger, syncs: syncs, leaders: newLeaderQueue(o.OnLeader)}
	n.closing, n.cancel = context.WithCancel(context.Background())
	stores := &logStoreFactory{options: o}
	n.host, err = dragonboat.NewNodeHost(n.hostConfig(files, transport, stores, address))
	if err == nil && n.host == nil {
		// NewNodeHost recovers from its own panics and then returns nothing.
		err = errors.New("dragonboat could not open it, see the log lines before")
	}
	if err != nil {
		n.cancel()
		n.leaders.close()
		return nil, openError(o, err)
	}
	n.store = stores.store
	return n, nil
}

// hostConfig is the NodeHost's configuration.
func (n *Node) hostConfig(files *hostFS, transport TransportFactory, stores *logStoreFactory, address string) config.NodeHostConfig {
	o := n.options
	logDB := config.GetTinyMemLogDBConfig()
	logDB.Shards = logShards
	logDB.KVWriteBufferSize = logWriteBufferBytes
	return config.NodeHostConfig{
		DeploymentID:        o.DeploymentID,
		NodeHostID:          o.Incarnation,
		NodeHostDir:         files.dir,
		RTTMillisecond:      uint64(o.RTT / time.Millisecond),
		RaftAddress:         address,
		EnableMetrics:       true,
		RaftEventListener:   n.leaders,
		MaxSendQueueSize:    uint64(o.MaxInFlightBytes),
		MaxReceiveQueueSize: uint64(o.MaxInFlightBytes),
		Expert: config.ExpertConfig{
			LogDBFactory:        stores,
			TransportFactory:    transport,
			NodeRegistryFactory: registryFactory{resolve: o.Resolve},
			FS:                  files,
			LogDB:               logDB,
			Engine: config.EngineConfig{
				ExecShards:     execShards,
				CommitShards:   commitShards,
				ApplyShards:    applyShards,
				SnapshotShards: snapshotShards,
				CloseShards:    closeShards,
			},
		},
	}
}

// Close stops every replica, the transport and the log store, and returns when
// they are stopped. Proposals in flight end as unknown. The Endpoint stays open
// and goes on serving handshakes. A second call does nothing.
func (n *Node) Close() {
	n.cancel()
	n.life.Lock()
	if n.closed {
		n.life.Unlock()
		return
	}
	n.closed = true
	n.life.Unlock()
	n.host.Close()
	n.leaders.close()
}

// enter begins a call into the host; every nil error is paired with leave.
func (n *Node) enter() error {
	n.life.RLock()
	if n.closed {
		n.life.RUnlock()
		return dragonboat.ErrClosed
	}
	return nil
}

func (n *Node) leave() { n.life.RUnlock() }

// StartOnDisk starts the local replica s with an on-disk state machine. It
// returns once the replica is registered; the machine's Open runs later. create
// must not call this Node.
func (n *Node) StartOnDisk(s Shard, create func(shard, replica uint64) statemachine.IOnDiskStateMachine) error {
	return n.start(s, func(r *replica, c config.Config) error {
		return n.host.StartOnDiskReplica(s.Members, s.Join, n.durably(r.unload, create), c)
	})
}

// StartInMemory starts the local replica s with a state machine that lives in
// memory and is rebuilt from snapshot and log at every start.
func (n *Node) StartInMemory(s Shard, create func(shard, replica uint64) statemachine.IStateMachine) error {
	return n.start(s, func(r *replica, c config.Config) error {
		return n.host.StartReplica(s.Members, s.Join, n.watched(r, create), c)
	})
}

func (n *Node) start(s Shard, run func(*replica, config.Config) error) error {
	if err := n.enter(); err != nil {
		return err
	}
	defer n.leave()
	promoted, err := n.promoted(s)
	if err != nil {
		return fmt.Errorf("raftnode: start shard %d replica %d: %w", s.ID, s.Replica, err)
	}
	s.NonVoting = s.NonVoting && !promoted
	r := &replica{id: s.Replica, session: n.host.GetNoOPSession(s.ID), unloaded: make(chan struct{})}
	r.unload = sync.OnceFunc(func() { close(r.unloaded) })
	if err := n.afterPredecessor(s); err != nil {
		return fmt.Errorf("raftnode: start shard %d replica %d: %w", s.ID, s.Replica, err)
	}
	// Stored first: a state machine or leader event may call back at once.
	if _, running := n.replicas.LoadOrStore(s.ID, r); running {
		return fmt.Errorf("raftnode: start shard %d replica %d: a replica of this shard runs here already", s.ID, s.Replica)
	}
	if err := n.afterUnload(func() error { return run(r, n.shardConfig(s)) }); err != nil {
		n.replicas.Delete(s.ID)
		return fmt.Errorf("raftnode: start shard %d replica %d: %w", s.ID, s.Replica, err)
	}
	return nil
}

// promoted reports whether the newest snapshot of a replica that was added as
// non-voting has it among the voters. dragonboat must be told what the replica was
// as of that snapshot: it takes a promotion from the log, and only from there, and
// panics over its own addition in the log of what it was told is a voter.
func (n *Node) promoted(s Shard) (bool, error) {
	if !s.NonVoting || !n.store.has(s.ID, s.Replica) {
		return false, nil
	}
	snapshot, err := n.store.GetSnapshot(s.ID, s.Replica)
	if err != nil {
		return false, fmt.Errorf("read the snapshot record: %w", err)
	}
	_, votes := snapshot.Membership.Addresses[s.Replica]
	return votes, nil
}

// afterPredecessor waits until a replica of the shard that had another id and was
// just stopped is unloaded: dragonboat panics where it finds two.
func (n *Node) afterPredecessor(s Shard) error {
	v, ok := n.stopped.Load(s.ID)
	if !ok || v.(*replica).id == s.Replica {
		return nil
	}
	limit := time.NewTimer(defaultTimeout)
	defer limit.Stop()
	select {
	case <-v.(*replica).unloaded:
		n.stopped.CompareAndDelete(s.ID, v)
		return nil
	case <-n.closing.Done():
		return dragonboat.ErrClosed
	case <-limit.C:
		return fmt.Errorf("replica %d of the shard is still being unloaded; try again", v.(*replica).id)
	}
}

// afterUnload runs a start again while a replica that was just stopped is still
// being unloaded, which dragonboat does in the background.
func (n *Node) afterUnload(run func() error) error {
	limit := time.NewTimer(defaultTimeout)
	defer limit.Stop()
	for {
		err := run()
		if !errors.Is(err, dragonboat.ErrShardAlreadyExist) {
			return err
		}
		select {
		case <-n.closing.Done():
			return dragonboat.ErrClosed
		case <-limit.C:
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Stop stops the local replica of shard. Its data stay. The replica is unloaded
// in the background; a start of the same replica waits for that.
func (n *Node) Stop(shard uint64) error {
	if err := n.enter(); err != nil {
		return err
	}
	defer n.leave()
	if r, running := n.replicas.LoadAndDelete(shard); running {
		n.stopped.Store(shard, r)
	}
	if err := n.host.StopShard(shard); err != nil {
		return fmt.Errorf("raftnode: stop shard %d: %w", shard, err)
	}
	return nil
}

// HasReplica reports whether this node's Raft log knows the replica, which is
// so from its first start until RemoveData. A replica that the metadata calls
// started and that is not here has lost its log and must never start again
// under that id. Whether the log is whole CheckLog says.
func (n *Node) HasReplica(shard, replica uint64) bool {
	if n.enter() != nil {
		return false
	}
	defer n.leave()
	return n.store.has(shard, replica)
}

// BootstrapOnDisk records durably that the replica s with an on-disk state machine
// is one of s.Members, or joins, and starts nothing: HasReplica knows it from here
// on, and a later start needs no Members. nil where it is known already.
func (n *Node) BootstrapOnDisk(s Shard) error { return n.bootstrap(s, pb.OnDiskStateMachine) }

// BootstrapInMemory is BootstrapOnDisk for a state machine that lives in memory.
func (n *Node) BootstrapInMemory(s Shard) error { return n.bootstrap(s, pb.RegularStateMachine) }

func (n *Node) bootstrap(s Shard, machine pb.StateMachineType) error {
	if err := n.enter(); err != nil {
		return err
	}
	defer n.leave()
	if n.store.has(s.ID, s.Replica) {
		return nil
	}
	record := pb.NewBootstrapInfo(s.Join, machine, s.Members)
	if err := n.store.SaveBootstrapInfo(s.ID, s.Replica, record); err != nil {
		return n.store.failed("record a new replica", err)
	}
	return nil
}

// ReplicaID names one replica of the cluster.
type ReplicaID struct{ Shard, Replica uint64 }

// Replicas lists every replica that this node's Raft log knows, running or not.
func (n *Node) Replicas() ([]ReplicaID, error) {
	if err := n.enter(); err != nil {
		return nil, err
	}
	defer n.leave()
	known, err := n.store.ListNodeInfo()
	if err != nil {
		return nil, fmt.Errorf("raftnode: list replicas: %w", err)
	}
	out := make([]ReplicaID, len(known))
	for i, id := range known {
		out[i] = ReplicaID{Shard: id.ShardID, Replica: id.ReplicaID}
	}
	return out, nil
}

// RemoveData deletes the Raft log and snapshots of a replica that was removed
// from its shard's membership. The replica must be stopped; RemoveData waits
// for it to be unloaded. Another replica of the shard may run here: the one that
// took its place. Calling it for a current member breaks the shard.
func (n *Node) RemoveData(ctx context.Context, shard, id uint64) error {
	ctx, cancel := n.bound(ctx)
	defer cancel()
	if err := n.enter(); err != nil {
		return err
	}
	defer n.leave()
	remove := func() error { return n.host.SyncRemoveData(ctx, shard, id) }
	if r, runs := n.replicas.Load(shard); runs && r.(*replica).id != id {
		remove = func() error { return n.removeBeside(ctx, shard, id) }
	}
	if err := remove(); err != nil {
		return fmt.Errorf("raftnode: remove data of shard %d replica %d: %w", shard, id, err)
	}
	return nil
}

// removeBeside is dragonboat's SyncRemoveData, which refuses where any replica of
// the shard runs.
func (n *Node) removeBeside(ctx context.Context, shard, replica uint64) error {
	for {
		err := n.host.RemoveData(shard, replica)
		if !errors.Is(err, dragonboat.ErrShardNotStopped) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
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

// defaultTimeout bounds control operations whose context has no deadline.
const defaultTimeout = 10 * time.Second

// bound returns ctx with a deadline (dragonboat asks for one) that also ends
// when the node closes.
func (n *Node) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	cancelDeadline := context.CancelFunc(func() {})
	if _, ok := ctx.Deadline(); !ok {
		ctx, cancelDeadline = context.WithTimeout(ctx, defaultTimeout)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(n.closing, cancel)
	return ctx, func() { stop(); cancel(); cancelDeadline() }
}

// timeout turns ctx's deadline into the tick-rounded time-out that dragonboat's
// asynchronous calls take, never too small for it.
func (n *Node) timeout(ctx context.Context) time.Duration {
	left := defaultTimeout
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	return n.roundUp(left)
}

// roundUp makes d at least two ticks: dragonboat counts whole ticks and expires
// a request up to one tick early.
func (n *Node) roundUp(d time.Duration) time.Duration {
	return max(d, 2*n.options.RTT)
}
