package groups

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/raftnode"
)

const (
	// tickInterval is how exactly sessions are timed.
	tickInterval = 100 * time.Millisecond
	// stallMax: after a longer pause between two ticks this process was stopped,
	// and its successor may have decided things meanwhile. It must be below the
	// shortest election plus the shortest session.
	stallMax = time.Second
	// lingerTime is how long after it lost a leadership a node still answers for
	// it, and leaderlessTime how long it says that a shard has no leader: so that
	// who asks need not wait for a time-out. A node that knows no leader for
	// longer may be cut off, and then it must not answer in place of the leader.
	lingerTime     = time.Second
	leaderlessTime = 3 * time.Second
	// movingRetryAfter is about the time in which a coordinator moves.
	movingRetryAfter = 50 * time.Millisecond
)

// coordinator is one coordinator shard's replica on this node. While it leads
// and its epoch is open, it serves: it answers members, times their sessions,
// and proposes what changes.
type coordinator struct {
	options *Options
	shard   uint64
	replica uint64
	machine *machine
	logger  *slog.Logger
	queue   *queue

	wake       chan struct{}   // capacity 1: lead has something to do
	ctx        context.Context // ends with stop
	cancel     context.CancelFunc
	goroutines sync.WaitGroup

	// mu guards what follows. It may be held when machine.mu is taken, never the
	// other way round; no callback is called under it.
	mu sync.Mutex
	// term and leader are Raft's last word, changedAt is when it came.
	term, leader uint64
	changedAt    time.Time
	led          bool // it served until changedAt
	// leaderChanged is closed and replaced whenever term or leader changes.
	leaderChanged chan struct{}
	serving       bool
	epoch         int32 // while serving
	// epochOver is closed and replaced whenever an epoch is opened here or comes
	// with a snapshot. Who takes it while serving has that of epoch: serving ends
	// before it is closed.
	epochOver chan struct{}
	released  bool // no heartbeat is held any more
	// awake is the time this process has been awake and serving: it does not
	// count pauses, so a process that was stopped does not find every session
	// expired. lastTick is when it was last moved on.
	awake    time.Duration
	lastTick time.Time
	// swept is the awake time of the last housekeeping.
	swept    time.Duration
	sessions map[string]map[string]*session // by group and member
	// dirty are groups whose assignment may have to change; made is what the
	// present one was made from, and busy the groups with a change under way.
	dirty map[string]bool
	busy  map[string]bool
	made  map[string]basis
}

func newCoordinator(o *Options, shard, replica uint64) *coordinator {
	ctx, cancel := context.WithCancel(context.Background())
	c := &coordinator{
		ctx: ctx, cancel: cancel,
		options: o, shard: shard, replica: replica, logger: o.Logger.With(slog.Uint64("shard", shard)),
		wake: make(chan struct{}, 1), queue: newQueue(),
		leaderChanged: make(chan struct{}), epochOver: make(chan struct{}),
	}
	c.machine = newMachine(c.epochOpened)
	c.forget()
	return c
}

// forget drops all soft state. c.mu is held, or c is new.
func (c *coordinator) forget() {
	c.sessions = map[string]map[string]*session{}
	c.dirty, c.busy, c.made = map[string]bool{}, map[string]bool{}, map[string]basis{}
}

// run starts the two goroutines; stop ends them. lead waits for Raft only while
// it does not serve, propose waits for one proposal at a time.
func (c *coordinator) run() {
	c.goroutines.Add(2)
	go c.lead()
	go c.propose()
}

func (c *coordinator) stop() {
	c.cancel()
	c.deposed("this node is shutting down")
	c.goroutines.Wait()
	c.queue.fail(errNotCoordinator(0))
}

func (c *coordinator) stopped() bool { return c.ctx.Err() != nil }

func (c *coordinator) stir() {
	select {
	case c.wake <- struct{}{}:
	default: // it is awake already and will look again
	}
}

// mayServe returns nil while this node coordinates, the refusal to answer while
// that is changing, and ErrElsewhere where this node has nothing to say.
func (c *coordinator) mayServe() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	since := time.Since(c.changedAt)
	switch {
	case c.stopped():
		return ErrElsewhere
	case c.serving && time.Since(c.lastTick) <= stallMax:
		return nil
	case c.serving, c.leader == c.replica:
		return errMoving("node %d is taking over the coordination of this group", c.options.NodeID)
	case c.leader == 0 && since < leaderlessTime:
		return errMoving("the group's coordinator shard %s has no leader at the moment", protocol.GroupShardName(int(c.shard-FirstShard)))
	case c.led && since < lingerTime:
		return errNotCoordinator(c.leader)
	}
	return ErrElsewhere
}

func errMoving(format string, args ...any) error {
	e := errcode.New(errcode.CoordinatorNotAvailable, format+"; try again", args...)
	e.RetryAfter = movingRetryAfter
	return e
}

// errNotCoordinator names the node of the replica that leads.
func errNotCoordinator(leader uint64) error {
	e := errcode.New(errcode.NotCoordinator, "this node does not coordinate the group any more; node %d does", raftnode.NodeOf(leader))
	if leader == 0 {
		e = errcode.New(errcode.NotCoordinator, "this node does not coordinate the group any more; try again")
	}
	e.RetryAfter = movingRetryAfter
	return e
}
