package groups

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/raftnode"
)

// FirstShard is the first coordinator shard; the others follow.
const FirstShard = 2

// Raft is what coordinators need of the Raft layer; NodeRaft has it.
type Raft interface {
	// Propose queues cmd where the local replica leads and returns what waits for
	// the outcome. An error wraps raftnode.ErrRefused.
	Propose(shard uint64, cmd []byte, timeout time.Duration) (WaitOr, error)
	// ReadIndex returns once the local replica has applied all that was
	// acknowledged before the call.
	ReadIndex(ctx context.Context, shard uint64) error
}

// WaitOr is raftnode.Proposal.WaitOr: it waits for an outcome, or until giveUp is
// closed and grace has gone by since.
type WaitOr func(giveUp <-chan struct{}, grace time.Duration) (raftnode.Result, error)

// NodeRaft makes Raft of a raftnode.Node.
type NodeRaft struct{ Node *raftnode.Node }

// Propose is Raft's.
func (r NodeRaft) Propose(shard uint64, cmd []byte, timeout time.Duration) (WaitOr, error) {
	p, err := r.Node.Propose(shard, cmd, timeout)
	if err != nil {
		return nil, err
	}
	return p.WaitOr, nil
}

// ReadIndex is Raft's. It gives up soon where there is no majority.
func (r NodeRaft) ReadIndex(ctx context.Context, shard uint64) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	return r.Node.ReadIndex(ctx, shard)
}

// Metadata is what coordinators need of metadata.Store.
type Metadata interface {
	Image() *metadata.Image
	// Changed is closed once the image's index is above after.
	Changed(after uint64) <-chan struct{}
	// Barrier returns once Image shows all that was acknowledged before.
	Barrier(ctx context.Context) error
}

// Metrics receives what coordinators did. Its methods must not block.
type Metrics interface {
	// GroupRebalanced is called when a group's assignment has changed.
	GroupRebalanced()
	// OffsetsCommitted is called with the number of partitions committed.
	OffsetsCommitted(n int)
}

type noMetrics struct{}

func (noMetrics) GroupRebalanced()     {}
func (noMetrics) OffsetsCommitted(int) {}

// Coordination is the news that this node began or ceased to coordinate a shard.
type Coordination struct {
	Shard   uint64
	Epoch   int32 // of the coordination; epochs of a shard only rise
	Serving bool
}

// Options configures a Host. Raft and Metadata have no default.
type Options struct {
	NodeID   uint64
	Raft     Raft
	Metadata Metadata

	// SessionTimeout and HeartbeatInterval hold for members that name none.
	// Defaults 45 s and 3 s.
	SessionTimeout, HeartbeatInterval time.Duration
	// OffsetRetention is how long a group without members keeps its offsets.
	// Default 168 h.
	OffsetRetention time.Duration
	// HousekeepingInterval is the time between two looks for groups and offsets
	// that can go. Default 10 s.
	HousekeepingInterval time.Duration
	// ProposeTimeout bounds one proposal, in Raft ticks, which run late on a busy
	// machine: an answer must be there within 5 s. Default 3 s.
	ProposeTimeout time.Duration

	Clock func() time.Time // stamps entries; default time.Now
	// ClockTrusted reports whether this node's clock agrees with the other nodes'.
	// While it does not, no group expires: a clock a day ahead would let offsets
	// go a day early. Default: always.
	ClockTrusted func() bool

	// QuorumLost reports whether a majority of the nodes with replicas is gone. Then
	// this node refuses what it would else leave to the coordinator. Default: never.
	QuorumLost func() bool
	// OnCoordination takes the news that this node began or ceased to coordinate a
	// shard, in order for each shard. It must not block. Default: nobody is told.
	OnCoordination func(Coordination)

	Logger  *slog.Logger // default: discard
	Metrics Metrics      // default: none
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.SessionTimeout, 45 * time.Second},
		{&o.HeartbeatInterval, 3 * time.Second},
		{&o.OffsetRetention, 168 * time.Hour},
		{&o.HousekeepingInterval, 10 * time.Second},
		{&o.ProposeTimeout, 3 * time.Second},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.ClockTrusted == nil {
		o.ClockTrusted = func() bool { return true }
	}
	if o.QuorumLost == nil {
		o.QuorumLost = func() bool { return false }
	}
	if o.OnCoordination == nil {
		o.OnCoordination = func(Coordination) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
	return o
}

// Host holds this node's replicas of the coordinator shards. Its methods may be
// called from any goroutine.
type Host struct {
	options Options

	// mu guards what follows.
	mu           sync.RWMutex
	coordinators map[uint64]*coordinator // by shard
	closed       bool
}

// NewHost returns a Host without replicas.
func NewHost(o Options) *Host {
	return &Host{options: o.withDefaults(), coordinators: make(map[uint64]*coordinator)}
}

// StateMachine makes the state machine of a local replica, for
// raftnode.Node.StartInMemory, and starts its coordinator's goroutines.
func (h *Host) StateMachine(shard, replica uint64) statemachine.IStateMachine {
	c := newCoordinator(&h.options, shard, replica)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.coordinators[shard] = c
		c.run()
	}
	return c.machine
}

// LeaderEvent takes Raft's news of a shard's leader; of other shards it is ignored.
func (h *Host) LeaderEvent(e raftnode.LeaderEvent) {
	h.mu.RLock()
	c := h.coordinators[e.Shard]
	h.mu.RUnlock()
	if c != nil {
		c.leaderEvent(e)
	}
}

// Release answers the heartbeats that are held, and holds none from now on.
func (h *Host) Release() {
	for _, c := range h.all() {
		c.release()
	}
}

// Close stops coordinating and waits for the goroutines. The state machines
// belong to Raft, which must be closed before or after.
func (h *Host) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	for _, c := range h.all() {
		c.stop()
	}
}

// all returns the coordinators by shard.
func (h *Host) all() []*coordinator {
	h.mu.RLock()
	defer h.mu.RUnlock()
	out := make([]*coordinator, 0, len(h.coordinators))
	for _, shard := range slices.Sorted(maps.Keys(h.coordinators)) {
		out = append(out, h.coordinators[shard])
	}
	return out
}

// ErrElsewhere is what a request meets on a node that has nothing to say about
// its group: somebody else answers.
var ErrElsewhere = errors.New("another node coordinates this group")

// Shard returns the coordinator shard of a group.
func (h *Host) Shard(group string) (uint64, error) {
	shards := h.options.Metadata.Image().GroupShards
	if shards == 0 {
		return 0, errcode.New(errcode.NotImplemented, "this cluster was founded without consumer groups")
	}
	return FirstShard + uint64(protocol.GroupShard(group, shards)), nil
}

// of returns the coordinator of a group if it serves here. ErrElsewhere means
// that this node should be silent. Where a majority is gone nobody else can
// answer, so nobody is to be silent.
func (h *Host) of(group string) (*coordinator, error) {
	shard, err := h.Shard(group)
	if err != nil {
		return nil, err
	}
	h.mu.RLock()
	c := h.coordinators[shard]
	h.mu.RUnlock()
	err = ErrElsewhere
	if c != nil {
		err = c.mayServe()
	}
	if errors.Is(err, ErrElsewhere) && h.options.QuorumLost() {
		err = errMoving("the group's coordinator shard %s has no majority: too many of its nodes are gone; start them", protocol.GroupShardName(int(shard-FirstShard)))
	}
	return c, err
}

// Route returns nil where this node coordinates the group, ErrElsewhere where it
// has nothing to say about it, and otherwise the refusal to answer with.
func (h *Host) Route(group string) error {
	_, err := h.of(group)
	return err
}

// Serving returns the shards that this node coordinates.
func (h *Host) Serving() []uint64 {
	out := []uint64{}
	for _, c := range h.all() {
		if c.mayServe() == nil {
			out = append(out, c.shard)
		}
	}
	return out
}

// Leader returns the replica that leads shard as far as this node knows, 0 for
// none.
func (h *Host) Leader(shard uint64) uint64 {
	h.mu.RLock()
	c := h.coordinators[shard]
	h.mu.RUnlock()
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}
