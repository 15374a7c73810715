package metadata

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/broker/placement"
	"logbroker/internal/errcode"
)

// BalancerOptions configures a Balancer. Image, Leaders, IsLeader, Alive and
// Transfer have no default.
type BalancerOptions struct {
	// Interval is the time between two rounds. Default 5 s.
	Interval time.Duration
	// MaxMoves bounds the moves that are under way at once. Default 4.
	MaxMoves int
	// MoveRounds is after how many intervals a move that was not seen in Leaders
	// counts as failed. Default 3. A failed partition is left alone for twice
	// that.
	MoveRounds int
	// Manual makes the balancer move only what BalanceNow asks for.
	Manual bool
	// Image returns the newest metadata image.
	Image func() *Image
	// Coordinators returns the shards that are no partitions and whose leaders are
	// spread as well, by themselves; their Leader and Fixed are not looked at.
	// Default: none.
	Coordinators func() []placement.Partition
	// Leaders is who leads what.
	Leaders *Leaders
	// IsLeader says whether this node's metadata replica leads; only there does
	// the balancer do anything by itself.
	IsLeader func() bool
	// Alive says whether a node answers now.
	Alive func(node uint64) bool
	// CaughtUp says whether a node's replica of a shard may take over. nil means
	// that all may.
	CaughtUp func(shard, node uint64) bool
	// Transfer asks node from, which leads shard, to hand over to node to. It
	// may return before that has happened. It is called from goroutines of the
	// balancer, at most MaxMoves at once, and must return soon after its context
	// ends, which is with the move.
	Transfer func(ctx context.Context, shard, from, to uint64) error
	// Logger takes the log lines. Default: discard.
	Logger *slog.Logger
}

// leaderlessRounds is for how many intervals a topic that has a partition
// without a leader is left alone: mostly an election is under way, and what it
// brings is not known yet.
const leaderlessRounds = 2

// forcedRounds bounds, in intervals, how long one BalanceNow goes on.
const forcedRounds = 20

// coordinators stands for the coordinator shards where topics are named: topic
// ids begin at 1.
const coordinators uint64 = 0

// Balancer keeps the leaders of each topic, and those of the coordinator shards,
// spread over the nodes that are alive, a few moves at a time. A move is over when Leaders shows it, or when
// its time is up.
type Balancer struct {
	o      BalancerOptions
	nudge  chan struct{}      // capacity 1
	ended  chan ended         // capacity MaxMoves: a transfer's goroutine never blocks on it
	forced atomic.Int64       // rounds for which BalanceNow still holds
	cancel context.CancelFunc // ends run
	wg     sync.WaitGroup     // run and the transfers

	// The rest belongs to run's goroutine.
	pending    map[uint64]*pendingMove // by shard; len ≤ MaxMoves
	held       map[uint64]int          // shard whose move failed → rounds to leave it alone
	leaderless map[uint64]int          // topic with a leaderless partition → rounds seen so
}

// pendingMove is a move under way. It keeps its place until it is settled and
// its transfer call has returned.
type pendingMove struct {
	placement.Move
	epoch    int32 // of the leadership that is to end
	rounds   int
	settled  bool
	failed   bool // settled without having happened
	returned bool
	cancel   context.CancelFunc
}

// ended says that a transfer call returned.
type ended struct {
	move *pendingMove
	err  error
}

// NewBalancer returns a Balancer that does nothing until Start.
func NewBalancer(o BalancerOptions) *Balancer {
	if o.Interval == 0 {
		o.Interval = 5 * time.Second
	}
	if o.MaxMoves == 0 {
		o.MaxMoves = 4
	}
	if o.MoveRounds == 0 {
		o.MoveRounds = 3
	}
	if o.Coordinators == nil {
		o.Coordinators = func() []placement.Partition { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Balancer{
		o: o, nudge: make(chan struct{}, 1), ended: make(chan ended, o.MaxMoves),
		pending: map[uint64]*pendingMove{}, held: map[uint64]int{}, leaderless: map[uint64]int{},
	}
}

// Start runs the balancer until ctx ends or Stop is called. Call it once.
func (b *Balancer) Start(ctx context.Context) {
	ctx, b.cancel = context.WithCancel(ctx)
	b.wg.Go(func() { b.run(ctx) })
}

// Stop ends the balancer, gives up the moves under way and waits for both.
// Without Start it does nothing.
func (b *Balancer) Stop() {
	if b.cancel != nil {
		b.cancel()
	}
	b.wg.Wait()
}

// Nudge asks for a round now. It never blocks.
func (b *Balancer) Nudge() {
	select {
	case b.nudge <- struct{}{}:
	default:
	}
}

// BalanceNow starts moving until the leaders are even, also where this node's
// metadata replica does not lead and where Manual is set. It returns how many
// moves that takes as things stand, and does not wait for them.
func (b *Balancer) BalanceNow() int {
	wanted := b.Wanted()
	if wanted > 0 {
		b.forced.Store(forcedRounds)
		b.Nudge()
	}
	return wanted
}

// Wanted returns how many leaderships would have to move now; 0 means even.
func (b *Balancer) Wanted() int {
	return len(b.moves(b.shards(), math.MaxInt))
}

// run is the balancer's one goroutine; Start starts it and Stop ends it. It
// blocks on its timer and channels only.
func (b *Balancer) run(ctx context.Context) {
	ticker := time.NewTicker(b.o.Interval)
	defer ticker.Stop()
	news := b.o.Leaders.Changed()
	for {
		var settling <-chan struct{} // news matter only to moves under way
		if len(b.pending) > 0 {
			settling = news
		}
		plan := true
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			b.age()
		case <-b.nudge:
		case <-settling:
			plan = false
		case e := <-b.ended:
			e.move.returned = true
			if e.err != nil && !e.move.settled {
				b.fail(e.move, e.err)
			}
			plan = false
		}
		news = b.o.Leaders.Changed() // before looking
		if freed := b.settle(); plan || freed {
			b.plan(ctx)
		}
	}
}

// age counts one interval for all that is measured in intervals.
func (b *Balancer) age() {
	m := b.o.Image()
	b.o.Leaders.Prune(m)
	for _, move := range b.pending {
		move.rounds++
	}
	for shard, rounds := range b.held {
		if b.held[shard] = rounds - 1; rounds <= 1 {
			delete(b.held, shard)
		}
	}
	if n := b.forced.Load(); n > 0 {
		b.forced.CompareAndSwap(n, n-1)
	}
	now := b.withLeaderless(b.shards())
	for id := range now {
		b.leaderless[id]++
	}
	for id := range b.leaderless {
		if !now[id] {
			delete(b.leaderless, id)
		}
	}
}

// withLeaderless returns the topics that have a partition without a leader that
// is alive.
func (b *Balancer) withLeaderless(shards []placement.Partition) map[uint64]bool {
	out := map[uint64]bool{}
	for _, p := range shards {
		if p.Leader == 0 || !b.o.Alive(p.Leader) {
			out[p.Topic] = true
		}
	}
	return out
}

// settle looks which moves are over, and reports whether places became free
// for more at once. After a failure the next interval is soon enough.
func (b *Balancer) settle() bool {
	freed := false
	for shard, move := range b.pending {
		node, epoch, ok := b.o.Leaders.Leader(shard)
		switch {
		case move.settled:
		case ok && (node != move.From || epoch > move.epoch):
			b.finish(move, node)
		case move.rounds >= b.o.MoveRounds:
			b.fail(move, context.DeadlineExceeded)
		}
		if move.settled && move.returned {
			delete(b.pending, shard)
			freed = freed || !move.failed
		}
	}
	return freed
}

// finish settles a move whose leadership went from where it was; to another
// node than was asked for is fine too, the next plan looks at it again.
func (b *Balancer) finish(move *pendingMove, leader uint64) {
	move.settled = true
	move.cancel()
	b.o.Logger.Info("leadership moved", slog.Uint64("shard", move.Shard), slog.Uint64("from", move.From), slog.Uint64("node", leader))
}

// fail settles a move that did not happen, and leaves its partition alone for a
// while, so that it does not keep others from moving. A replica that is still
// catching up is asked again in the next interval.
func (b *Balancer) fail(move *pendingMove, err error) {
	move.settled, move.failed = true, true
	move.cancel()
	b.held[move.Shard] = 2 * b.o.MoveRounds
	if errcode.Of(err) == errcode.LeaderNotAvailable {
		b.held[move.Shard] = 1
	}
	b.o.Logger.Warn("leadership did not move", slog.Uint64("shard", move.Shard), slog.Uint64("from", move.From),
		slog.Uint64("to", move.To), slog.Any("err", err))
}

// plan starts the moves there are places for.
func (b *Balancer) plan(ctx context.Context) {
	byItself := !b.o.Manual && b.o.IsLeader()
	free := b.o.MaxMoves - len(b.pending)
	if free <= 0 || !byItself && b.forced.Load() == 0 {
		return
	}
	moves := b.moves(b.planned(), free)
	if len(moves) == 0 && len(b.pending) == 0 {
		b.forced.Store(0)
	}
	for _, m := range moves {
		b.start(ctx, m)
	}
}

// moves returns at most n moves among shards. The coordinator shards are evened
// out by themselves: a coordinator does not move because partitions were created.
func (b *Balancer) moves(shards []placement.Partition, n int) []placement.Move {
	of := func(coordinator bool, n int) []placement.Move {
		some := slices.DeleteFunc(slices.Clone(shards), func(p placement.Partition) bool { return (p.Topic == coordinators) != coordinator })
		return placement.BalanceLeaders(placement.Leadership{Partitions: some, Alive: b.o.Alive, CaughtUp: b.o.CaughtUp}, n)
	}
	moves := of(true, n)
	return append(moves, of(false, n-len(moves))...)
}

// planned lists all shards as they will be when the pending moves are done. What
// is pending, held or in a topic that may be electing is fixed.
func (b *Balancer) planned() []placement.Partition {
	out := b.shards()
	leaderless := b.withLeaderless(out)
	for i := range out {
		p := &out[i]
		electing := leaderless[p.Topic] && b.leaderless[p.Topic] <= leaderlessRounds
		p.Fixed = electing || b.held[p.Shard] > 0
		if move := b.pending[p.Shard]; move != nil {
			p.Fixed = true
			if !move.settled {
				p.Leader = move.To
			}
		}
	}
	return out
}

// shards lists the coordinator shards and all partitions with their leaders.
func (b *Balancer) shards() []placement.Partition {
	m := b.o.Image()
	out := make([]placement.Partition, 0, m.PartitionCount())
	for _, p := range b.o.Coordinators() {
		out = append(out, placement.Partition{Topic: coordinators, Shard: p.Shard, Replicas: p.Replicas})
	}
	for _, t := range m.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			out = append(out, placement.Partition{Topic: t.ID, Shard: p.Shard, Replicas: p.Voters()})
		}
	}
	for i := range out {
		out[i].Leader, _, _ = b.o.Leaders.Leader(out[i].Shard)
	}
	return out
}

// start begins one move. Its goroutine ends with the transfer call, and is
// waited for by Stop.
func (b *Balancer) start(ctx context.Context, m placement.Move) {
	_, epoch, _ := b.o.Leaders.Leader(m.Shard)
	ctx, cancel := context.WithCancel(ctx)
	move := &pendingMove{Move: m, epoch: epoch, cancel: cancel}
	b.pending[m.Shard] = move
	b.o.Logger.Debug("moving a leadership", slog.Uint64("shard", m.Shard), slog.Uint64("from", m.From), slog.Uint64("to", m.To))
	b.wg.Go(func() {
		defer cancel()
		b.ended <- ended{move, b.o.Transfer(ctx, m.Shard, m.From, m.To)}
	})
}
