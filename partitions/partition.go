package partitions

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
	"logbroker/partitions/fsm"
)

// Partition is one replica on this node. Its methods may be called from any
// goroutine, also after it was stopped: then they refuse.
type Partition struct {
	spec    Spec // immutable; the configuration of now is in config
	options *Options
	raft    raft
	// machine is the replicated state; nil where quarantined.
	machine *fsm.FSM
	logger  *slog.Logger
	waiters waiters
	// host is told what needs one of the Host's goroutines.
	host attendant
	// dir is the replica's directory.
	dir string
	// transfers is the Host's, leases what is kept here for peers, catchUp fetches
	// from them.
	transfers *transfers
	leases    leases
	catchUp   catchUp

	// wake has capacity 1 and stirs the leadership goroutine.
	wake chan struct{}
	// stopping is closed when the replica is being stopped.
	stopping chan struct{}
	// goroutines counts the partition's own: leadership and completion.
	goroutines sync.WaitGroup

	// snapshotQueued is set from the request for a Raft snapshot until it ended.
	snapshotQueued atomic.Bool
	// snapshotIndex is the applied index at the last Raft snapshot, or at start.
	snapshotIndex atomic.Uint64
	// snapshotNotBefore puts off the next one after a failure: Unix nanoseconds.
	snapshotNotBefore atomic.Int64

	// mu guards the fields below. It is held while a command is handed to Raft's
	// queue (which fixes its order), never while its outcome is awaited. It is
	// taken by the apply goroutine for a moment at every epoch entry.
	mu     sync.Mutex
	state  string
	failed error  // why quarantined or damaged
	lost   error  // why it can never be complete again, though it runs
	note   string // what becomes of a replica that failed
	config TopicConfig
	// nodes and joining are Spec.Nodes and Spec.Joining as they are now.
	nodes   map[uint64]uint64
	joining uint64
	// term and leader are what Raft last told; leader is a replica id, 0 = none.
	term, leader uint64
	// leaderChanged is closed and replaced whenever term or leader changes.
	leaderChanged chan struct{}
	// serving ⇒ state = running ∧ leader = spec.Replica ∧ an epoch entry that was
	// proposed in term is applied ∧ epoch is its epoch.
	serving bool
	epoch   int32
	// epochOver is closed and replaced whenever an epoch entry is applied here: what
	// is in queue from an earlier epoch is stored by then, or never will be.
	epochOver chan struct{}
	// appendMs is the append time last stamped; it never goes back.
	appendMs int64
	queue    queue
	// queued is signalled when queue grows and at the stop.
	queued sync.Cond
	// drains counts the hand-overs under way: while > 0 nothing is taken into
	// queue. drained ≠ nil ⇔ drains > 0; it is closed when queue is empty.
	drains  int
	drained chan struct{}
	// completing: the completion goroutine was started.
	completing bool

	// idle is the retention goroutine's own; see expiry.go.
	idle idleness
}

// attendant is the part of the Host that partitions call back.
type attendant interface {
	leadershipChanged(p *Partition)
	snapshotWanted(p *Partition)
	// repairWanted has p.repair called until it is done.
	repairWanted(p *Partition)
	// giveUp quarantines a running replica; false = to be tried again.
	giveUp(p *Partition, why error) bool
}

func newPartition(s Spec, o *Options, r raft, a attendant) *Partition {
	p := &Partition{
		spec:    s,
		options: o,
		raft:    r,
		host:    a,
		logger: o.Logger.With(slog.String("topic", s.Topic), slog.Int("partition", int(s.Partition)),
			slog.Uint64("shard", s.Shard), slog.Uint64("replica", s.Replica)),
		wake:          make(chan struct{}, 1),
		stopping:      make(chan struct{}),
		state:         StateStarting,
		config:        s.Config,
		nodes:         s.Nodes,
		joining:       s.Joining,
		leaderChanged: make(chan struct{}),
		epochOver:     make(chan struct{}),
		transfers:     newTransfers(0),
	}
	p.queued.L = &p.mu
	p.catchUp.p = p
	return p
}

// run lets the replica serve and starts the leadership goroutine; finish ends
// it.
func (p *Partition) run() {
	p.mu.Lock()
	p.state = StateRunning
	p.mu.Unlock()
	p.snapshotIndex.Store(p.machine.AppliedIndex())
	p.goroutines.Add(1)
	go p.lead()
}

// refuse makes the partition refuse everything from now on. A quarantined
// replica stays quarantined.
func (p *Partition) refuse(state string, why error) {
	p.mu.Lock()
	if p.state != StateQuarantined {
		p.state, p.failed = state, why
	}
	p.serving = false
	p.mu.Unlock()
	p.host.leadershipChanged(p)
	p.stir()
}

// finish ends the partition's goroutines and waits for them. Raft must have
// ended every proposal, or be about to.
func (p *Partition) finish() {
	close(p.stopping)
	p.catchUp.endPrefetch()
	p.mu.Lock()
	p.queued.Broadcast()
	p.mu.Unlock()
	p.goroutines.Wait()
	p.waiters.wakeAll()
	p.leases.endAll()
}

// stir wakes the leadership goroutine.
func (p *Partition) stir() {
	select {
	case p.wake <- struct{}{}:
	default: // it is awake already and will look again
	}
}

// Spec returns what the replica was started with.
func (p *Partition) Spec() Spec { return p.spec }

// Quarantined reports whether the replica never runs again.
func (p *Partition) Quarantined() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state == StateQuarantined
}

// Note has Status say what becomes of a replica that is quarantined.
func (p *Partition) Note(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note = text
}

// Config returns the topic's configuration as last given.
func (p *Partition) Config() TopicConfig {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config
}

func (p *Partition) update(s Spec) {
	p.mu.Lock()
	p.config, p.nodes, p.joining = s.Config, s.Nodes, s.Joining
	p.mu.Unlock()
	p.stir()
}

// leaderEvent takes Raft's news about the leader.
func (p *Partition) leaderEvent(e raftnode.LeaderEvent) {
	p.mu.Lock()
	known := e.Term == p.term && e.Leader == p.leader
	if known || e.Term < p.term || e.Replica != p.spec.Replica {
		p.mu.Unlock()
		return
	}
	p.term, p.leader = e.Term, e.Leader
	p.serving = false // until an epoch entry of this term is applied
	close(p.leaderChanged)
	p.leaderChanged = make(chan struct{})
	p.mu.Unlock()
	p.host.leadershipChanged(p)
	p.stir()
}

// follows reports that another replica leads: consumers read there.
func (p *Partition) follows() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leader != 0 && p.leader != p.spec.Replica
}

// nodeOf returns the node of a replica, 0 where it is not known.
func (p *Partition) nodeOf(replica uint64) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes[replica]
}

// otherNodes returns the nodes of the other replicas, by replica id.
func (p *Partition) otherNodes() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var nodes []uint64
	for _, replica := range slices.Sorted(maps.Keys(p.nodes)) {
		if node := p.nodes[replica]; node != p.options.NodeID {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// Leader returns where the leader is believed to be.
func (p *Partition) Leader() LeaderHint {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := LeaderHint{Node: p.nodes[p.leader], Epoch: p.epoch, Serving: p.serving, Own: p.serving}
	if !p.serving && p.machine != nil {
		var opener uint64
		h.Epoch, opener, _ = p.machine.Epoch()
		h.Own = opener == p.spec.Replica
	}
	return h
}

// leadership is what OnLeadership would be told now.
func (p *Partition) leadership() Leadership {
	hint := p.Leader()
	return Leadership{
		Shard: p.spec.Shard, Topic: p.spec.Topic, TopicID: p.spec.TopicID, Partition: p.spec.Partition,
		Epoch: hint.Epoch, Leading: hint.Serving,
	}
}

// Status returns the replica's state.
func (p *Partition) Status() Status {
	s := Status{
		Shard: p.spec.Shard, Replica: p.spec.Replica, Topic: p.spec.Topic, TopicID: p.spec.TopicID,
		Partition: p.spec.Partition, Role: "unknown",
	}
	p.mu.Lock()
	s.State, s.Term, s.Leader, s.LeaderNode = p.state, p.term, p.leader, p.nodes[p.leader]
	s.Serving = p.serving
	if p.failed != nil {
		s.Err = p.failed.Error()
		if p.note != "" {
			s.Err += "; " + p.note
		}
	}
	p.mu.Unlock()
	if p.machine == nil || s.State == StateStopped {
		return s
	}
	switch s.Leader {
	case 0:
	case p.spec.Replica:
		s.Role = "leader"
	default:
		s.Role = "follower"
	}
	if r, ok := p.raft.Status(p.spec.Shard); ok {
		s.Term, s.Vote, s.Last, s.Commit = max(s.Term, r.Term), r.Vote, r.Last, r.Commit
	}
	if f := p.catchUp.progress.Load(); f != nil {
		s.FetchedBytes, s.FetchBytes = f.done.Load(), f.total
	}
	s.Applied = p.machine.AppliedIndex()
	s.Epoch, _, _ = p.machine.Epoch()
	s.LogStart, s.HighWatermark = p.machine.LogStart(), p.machine.HighWatermark()
	if log, ok := p.machine.Log(); ok {
		s.SizeBytes = log.SizeBytes()
	}
	return s
}

// servingEpoch returns the epoch this replica serves in, or why it does not
// serve.
func (p *Partition) servingEpoch() (int32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.serving {
		return 0, p.notServing()
	}
	return p.epoch, nil
}

// leaderlessRetryAfter is how long a client should wait where an election is
// going on: a few heartbeats.
const leaderlessRetryAfter = 50 * time.Millisecond

// notServing says why p does not serve. p.mu is held. Nothing was proposed, so
// every answer is definite.
func (p *Partition) notServing() error {
	var err *errcode.Error
	switch {
	case p.state == StateQuarantined || p.state == StateDamaged:
		return errcode.New(errcode.StorageError, "the replica of %s/%d on this node is %s and serves nothing; ask another node",
			p.spec.Topic, p.spec.Partition, p.state)
	case p.state != StateRunning:
		return errcode.New(errcode.NotLeaderOrFollower, "the replica of %s/%d on this node is stopped; ask another node",
			p.spec.Topic, p.spec.Partition)
	case p.leader == p.spec.Replica:
		err = errcode.New(errcode.LeaderNotAvailable, "%s/%d is just getting a new leader; retry",
			p.spec.Topic, p.spec.Partition)
	case p.leader == 0:
		err = errcode.New(errcode.NotEnoughReplicas,
			"%s/%d has no leader: an election is going on or too few replicas are up; retry", p.spec.Topic, p.spec.Partition)
	default:
		return errcode.New(errcode.NotLeaderOrFollower, "%s/%d is led by node %d; ask there",
			p.spec.Topic, p.spec.Partition, p.nodes[p.leader])
	}
	err.RetryAfter = leaderlessRetryAfter
	return err
}
