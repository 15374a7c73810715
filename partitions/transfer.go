package partitions

import (
	"context"
	"time"

	"logbroker/internal/errcode"
)

// A hand-over that Raft starts while the target is behind fails easily: the
// target does not stand for election as long as it has committed entries that
// it has not applied (dragonboat logs "campaign skipped"), and the old leader
// drops every proposal until it gives up after an election time-out. So the
// leader first takes no more appends, has those in flight answered, lets a quorum
// round carry the commit index to the followers and gives them a moment to apply.
// That costs the producers some milliseconds and spares them the time-out.

const (
	// drainTimeout bounds the first two steps of a hand-over.
	drainTimeout = time.Second
	// settleTime lets the target apply what the quorum round told it is
	// committed.
	settleTime = 10 * time.Millisecond
	// handOverTimeout is how long a hand-over may take until it is given up:
	// one election round among live replicas takes a tenth of it.
	handOverTimeout = 300 * time.Millisecond
	// handOverRetryAfter is the pause before the next try, in which appends are
	// taken again.
	handOverRetryAfter = time.Second
)

// TransferLeader hands leadership to the replica on node toNode and waits until
// it leads; it tries again until ctx ends. Meanwhile appends are refused for
// moments with LEADER_NOT_AVAILABLE. Errors: NODE_NOT_FOUND where that node has
// no replica, NOT_LEADER_OR_FOLLOWER where this replica does not lead or another
// one took over, REQUEST_TIMED_OUT at ctx's end (the hand-over may still
// happen).
func (p *Partition) TransferLeader(ctx context.Context, toNode uint64) error {
	to, ok := p.replicaOn(toNode)
	if !ok {
		return errcode.New(errcode.NodeNotFound, "node %d has no replica of %s/%d; choose one of its replicas' nodes",
			toNode, p.spec.Topic, p.spec.Partition)
	}
	for tries := 0; ; tries++ {
		if tries > 0 {
			p.pause(ctx, handOverRetryAfter)
		}
		leader, _, err := p.leaderNow()
		switch {
		case err != nil:
			return err
		case leader == to:
			return nil
		case ctx.Err() != nil:
			return errcode.New(errcode.RequestTimedOut, "%s/%d did not change its leader in time; see whether the replica is up to date",
				p.spec.Topic, p.spec.Partition)
		case leader == 0 && tries > 0:
			continue // an election is going on
		case leader != p.spec.Replica:
			return errcode.New(errcode.NotLeaderOrFollower, "this node does not lead %s/%d; ask the one that does",
				p.spec.Topic, p.spec.Partition)
		}
		if err := p.handTo(ctx, to); err != nil {
			return err
		}
	}
}

// pause waits for d, or until the leader changes or there is nothing left to
// wait for.
func (p *Partition) pause(ctx context.Context, d time.Duration) {
	leader, changed, err := p.leaderNow()
	if err != nil || leader != p.spec.Replica && leader != 0 {
		return
	}
	end := time.NewTimer(d)
	defer end.Stop()
	select {
	case <-end.C:
	case <-changed:
	case <-p.stopping:
	case <-ctx.Done():
	}
}

// handTo makes one try, with no appends in flight.
func (p *Partition) handTo(ctx context.Context, to uint64) error {
	drained := p.beginDrain()
	defer p.endDrain()
	bounded, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	select {
	case <-drained:
		// An error means no quorum: then the hand-over cannot happen either.
		if p.raft.ReadIndex(bounded, p.spec.Shard) != nil {
			return nil
		}
	case <-bounded.Done():
		return nil // not drained in time; the next try may be luckier
	case <-p.stopping:
		return nil
	}
	p.pause(bounded, settleTime)
	if err := p.raft.Transfer(p.spec.Shard, to); err != nil {
		return errcode.New(errcode.NotLeaderOrFollower, "%s/%d: %v", p.spec.Topic, p.spec.Partition, err)
	}
	bounded, cancel = context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	for leader := p.spec.Replica; leader == p.spec.Replica || leader == 0; {
		p.pause(bounded, handOverTimeout)
		var err error
		if leader, _, err = p.leaderNow(); err != nil || bounded.Err() != nil {
			return err
		}
	}
	return nil
}

// beginDrain has Append refuse until endDrain; the channel is closed when
// nothing is in flight.
func (p *Partition) beginDrain() (drained <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drains++
	if p.drained == nil {
		p.drained = make(chan struct{})
		p.checkDrained()
	}
	return p.drained
}

func (p *Partition) endDrain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drains--
	if p.drains == 0 {
		p.drained = nil
	}
}

// checkDrained closes p.drained once nothing is in flight. p.mu is held.
func (p *Partition) checkDrained() {
	if p.drained == nil || p.queue.n > 0 {
		return
	}
	select {
	case <-p.drained:
	default:
		close(p.drained)
	}
}

func (p *Partition) replicaOn(node uint64) (replica uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for replica, n := range p.nodes {
		if n == node && replica != p.joining {
			return replica, true
		}
	}
	return 0, false
}

// otherVoters returns the other replicas that vote, in random order.
func (p *Partition) otherVoters() (replicas []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for replica := range p.nodes {
		if replica != p.spec.Replica && replica != p.joining {
			replicas = append(replicas, replica)
		}
	}
	return replicas
}

// leaderNow returns the leading replica, and a channel that is closed when that
// changes.
func (p *Partition) leaderNow() (leader uint64, changed <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == StateStopped || p.state == StateQuarantined {
		return 0, nil, p.notServing()
	}
	return p.leader, p.leaderChanged, nil
}
