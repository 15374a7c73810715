package metadata

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/raftnode"
)

// Raft is what Store needs of the Raft layer; *raftnode.Node has it.
type Raft interface {
	// ProposeWait returns the state machine's answer, or an error that wraps
	// raftnode.ErrRefused (never applied) or raftnode.ErrUnknown.
	ProposeWait(ctx context.Context, shard uint64, cmd []byte) (raftnode.Result, error)
	// ReadIndex returns once the local replica has applied all that was
	// acknowledged before the call.
	ReadIndex(ctx context.Context, shard uint64) error
	// Leader returns the leader's replica id and term as the local replica sees
	// them.
	Leader(shard uint64) (replica, term uint64, ok bool)
}

// Options configures a Store. The zero value is good.
type Options struct {
	// Logger takes the log lines. Default: discard.
	Logger *slog.Logger
	// AttemptTimeout bounds one proposal; after it the same command is proposed
	// again. Default 2 s.
	AttemptTimeout time.Duration
	// RetryDelay is the wait between two attempts. Default 50 ms.
	RetryDelay time.Duration
	// Clock stamps commands. Default time.Now.
	Clock func() time.Time
}

// Store is this node's copy of the metadata and the way to change it.
//
// The order of use: NewStore, raftnode.Open (whose Resolve may ask the Store),
// Attach, StartInMemory with the Store's StateMachine, Barrier. Until Barrier
// has returned, the image may be an old one that is being replayed: whoever
// starts replicas must wait for it.
type Store struct {
	logger         *slog.Logger
	attemptTimeout time.Duration
	retryDelay     time.Duration
	clock          func() time.Time

	raft    atomic.Pointer[Raft]
	image   atomic.Pointer[Image]
	replica atomic.Uint64 // replica id of the local state machine, 0 until it was made

	// mu guards changed and orders its replacement after the image's.
	mu      sync.Mutex
	changed chan struct{} // closed and replaced with each new image

	ids producerBlock
}

// NewStore returns a Store with an empty image, not yet attached to Raft.
func NewStore(o Options) *Store {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.AttemptTimeout == 0 {
		o.AttemptTimeout = 2 * time.Second
	}
	if o.RetryDelay == 0 {
		o.RetryDelay = 50 * time.Millisecond
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	s := &Store{
		logger: o.Logger, attemptTimeout: o.AttemptTimeout, retryDelay: o.RetryDelay, clock: o.Clock,
		changed: make(chan struct{}), ids: newProducerBlock(),
	}
	s.image.Store(&Image{})
	return s
}

// Attach gives the Store the Raft node that it proposes to. Before it, every
// proposal is refused with LEADER_NOT_AVAILABLE.
func (s *Store) Attach(raft Raft) { s.raft.Store(&raft) }

// StateMachine makes the state machine of the local metadata replica, for
// raftnode.Node.StartInMemory.
func (s *Store) StateMachine(_, replica uint64) statemachine.IStateMachine {
	s.replica.Store(replica)
	return NewStateMachine(s.publish)
}

// publish makes m the image and wakes who waits. It is called from the apply
// goroutine, or by no one else.
func (s *Store) publish(m *Image) {
	s.image.Store(m)
	s.mu.Lock()
	old := s.changed
	s.changed = make(chan struct{})
	s.mu.Unlock()
	close(old)
}

// Image returns the newest image this node has applied. It never blocks.
func (s *Store) Image() *Image { return s.image.Load() }

// Changed returns a channel that is closed once the image's index is above
// after.
func (s *Store) Changed(after uint64) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Image().Index > after {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return s.changed
}

// WaitFor returns the first image, the current one included, for which cond
// holds. It ends with ctx's error. cond is called from this goroutine.
func (s *Store) WaitFor(ctx context.Context, cond func(*Image) bool) (*Image, error) {
	for {
		m := s.Image()
		if cond(m) {
			return m, nil
		}
		select {
		case <-s.Changed(m.Index):
		case <-ctx.Done():
			return m, ctx.Err()
		}
	}
}

// IsLeader reports whether this node's metadata replica leads, as far as it
// knows: good enough to decide who balances, not for correctness.
func (s *Store) IsLeader() bool {
	leader, ok := s.LeaderReplica()
	return ok && leader == s.replica.Load()
}

// LeaderReplica returns the replica id that leads the metadata shard as far as
// this node knows.
func (s *Store) LeaderReplica() (uint64, bool) {
	raft := s.raft.Load()
	if raft == nil {
		return 0, false
	}
	replica, _, ok := (*raft).Leader(ShardID)
	return replica, ok
}

// encode returns a command's bytes. The types of this package always encode.
func encode(c command, body any) []byte {
	c.Version = commandVersion
	var err error
	if c.Body, err = json.Marshal(body); err != nil {
		panic(err)
	}
	data, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return data
}
