package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"logbroker/broker/metadata"
	"logbroker/internal/protocol"
	"logbroker/internal/raftnode"
	"logbroker/partitions"
)

const (
	// replaceInterval is the time between two looks at replacements under way.
	replaceInterval = 500 * time.Millisecond
	// replaceTimeout bounds one partition's part of a look.
	replaceTimeout = 5 * time.Second
	// replaceLagMax is how many commands a replica may be behind its leader and
	// still count as complete when another one is to be replaced.
	replaceLagMax = 1000
)

// replaceHost is the part of partitions.Host that replacements looks at.
type replaceHost interface {
	Get(shard uint64) (*partitions.Partition, bool)
	All() []*partitions.Partition
}

// replaceStore is the part of metadata.Store that replacements reads and writes.
type replaceStore interface {
	Image() *metadata.Image
	Changed(after uint64) <-chan struct{}
	ReplaceReplica(ctx context.Context, node uint64, k metadata.ReplicaKey) error
	ReplicaLeft(ctx context.Context, k metadata.ReplicaKey) error
	ReplicaPromoted(ctx context.Context, k metadata.ReplicaKey) error
}

// replaceRaft is the part of raftnode.Node that changes memberships.
type replaceRaft interface {
	Membership(ctx context.Context, shard uint64) (raftnode.Membership, error)
	AddNonVoting(ctx context.Context, shard, replica uint64, incarnation string) error
	AddReplica(ctx context.Context, shard, replica uint64, incarnation string) error
	RemoveReplica(ctx context.Context, shard, replica uint64) error
}

// replacements has replicas that were quarantined replaced by others under new ids on
// the same nodes. One goroutine, run, does all of it. The metadata say how far each
// replacement is, the Raft shard's membership counts, and every step may be done
// again, so whoever crashes, another one goes on.
//
//	the node with the quarantined replica   asks the metadata for a new id
//	the same node (replicas)                records the new one in its Raft log and starts it, to join
//	the node that leads the partition       removes the old one from the shard, adds the new one without
//	                                        a vote, waits until it is complete, gives it its vote
type replacements struct {
	host  replaceHost
	store replaceStore
	raft  replaceRaft
	// statuses asks nodes for their replicas of a shard.
	statuses func(ctx context.Context, nodes []uint64, shard uint64) map[uint64]*protocol.ReplicaStatus
	nodeID   uint64
	logger   *slog.Logger
	// wake, of capacity 1, says that a replica was quarantined.
	wake <-chan struct{}

	// goals is what a joining replica must have applied to be complete: what this
	// leader had applied after the replica's fetch had ended.
	goals map[metadata.ReplicaKey]uint64
	// said is what was last logged of a shard.
	said map[uint64]string
}

// run follows the image until ctx ends. It blocks on Raft, on the metadata and on
// other nodes.
func (r *replacements) run(ctx context.Context) {
	r.goals, r.said = map[metadata.ReplicaKey]uint64{}, map[uint64]string{}
	for {
		image := r.store.Image()
		busy := r.request(ctx, image)
		busy = r.drive(ctx, image) || busy
		var again <-chan time.Time
		if busy {
			again = time.After(replaceInterval)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.store.Changed(image.Index):
		case <-r.wake:
		case <-again:
		}
	}
}

// errNeverReplaced says that a replica cannot be replaced whatever happens.
var errNeverReplaced = errors.New("it cannot be replaced")

// request asks for the replacement of what is quarantined here. It reports whether
// something is to be tried again.
func (r *replacements) request(ctx context.Context, image *metadata.Image) (again bool) {
	for _, p := range r.host.All() {
		if !p.Quarantined() {
			continue
		}
		spec := p.Spec()
		_, part, ok := image.PartitionByShard(spec.Shard)
		if !ok {
			continue // its topic was deleted
		}
		if mine, here := part.ReplicaOn(r.nodeID); !here || mine.Replica != spec.Replica {
			continue // it is replaced already, and the new one starts
		}
		bounded, cancel := context.WithTimeout(ctx, replaceTimeout)
		err := r.replace(bounded, part, metadata.ReplicaKey{Shard: spec.Shard, Replica: spec.Replica})
		cancel()
		logger := r.logger.With("topic", spec.Topic, "partition", spec.Partition, "shard", spec.Shard, "replica", spec.Replica)
		if err == nil {
			p.Note("it is being replaced")
			r.say(logger.Info, spec.Shard, "a quarantined replica is to be replaced under a new id", "")
			continue
		}
		again = again || !errors.Is(err, errNeverReplaced)
		p.Note("it is not replaced: " + err.Error())
		r.say(logger.Warn, spec.Shard, "a quarantined replica is not replaced for now", err.Error())
	}
	return again
}

// say logs what is news.
func (r *replacements) say(log func(msg string, args ...any), shard uint64, message, reason string) {
	if r.said[shard] == message+reason {
		return
	}
	r.said[shard] = message + reason
	if reason == "" {
		log(message)
		return
	}
	log(message, "reason", reason)
}

// replace asks for the replacement of this node's replica k where the others can
// carry it: a majority of all replicas must be complete without it, else the
// shard's membership would be changed while nobody knows who has what.
func (r *replacements) replace(ctx context.Context, part *metadata.Partition, k metadata.ReplicaKey) error {
	if len(part.Replicas) < 3 {
		return fmt.Errorf("%w: the partition has %d replicas, and without this one they are no majority", errNeverReplaced, len(part.Replicas))
	}
	others := slices.DeleteFunc(part.Voters(), func(node uint64) bool { return node == r.nodeID })
	found := r.statuses(ctx, others, k.Shard)
	var leader *protocol.ReplicaStatus
	for _, s := range found {
		if s.Serving && (leader == nil || s.Epoch > leader.Epoch) {
			leader = s
		}
	}
	if leader == nil {
		return errors.New("the partition has no leader")
	}
	complete := 0
	for _, s := range found {
		if s.State == partitions.StateRunning && s.FetchBytes == 0 && s.Applied+replaceLagMax >= leader.Applied {
			complete++
		}
	}
	if need := len(part.Replicas)/2 + 1; complete < need {
		return fmt.Errorf("of the other replicas %d are complete, it takes %d", complete, need)
	}
	return r.store.ReplaceReplica(ctx, r.nodeID, k)
}

// drive does what is left of the replacements in the partitions that this node
// leads. It reports whether there may be more to do.
func (r *replacements) drive(ctx context.Context, image *metadata.Image) (again bool) {
	joining := map[metadata.ReplicaKey]bool{}
	for _, a := range image.Replacements() {
		if _, here := a.Partition.ReplicaOn(r.nodeID); !here {
			continue
		}
		again = true
		joining[metadata.ReplicaKey{Shard: a.Partition.Shard, Replica: a.Replica.Replica}] = true
		p, ok := r.host.Get(a.Partition.Shard)
		if !ok || !p.Leader().Serving {
			continue // another one does it, or will
		}
		logger := r.logger.With("topic", a.Topic.Name, "partition", a.Partition.ID, "shard", a.Partition.Shard)
		bounded, cancel := context.WithTimeout(ctx, replaceTimeout)
		if err := r.step(bounded, a, p, logger); err != nil && ctx.Err() == nil {
			r.say(logger.Warn, a.Partition.Shard, "the replacement of a replica has to wait", err.Error())
		}
		cancel()
	}
	for k := range r.goals {
		if !joining[k] {
			delete(r.goals, k)
		}
	}
	return again
}

// step takes one replacement as far as it goes now.
func (r *replacements) step(ctx context.Context, a metadata.Assignment, p *partitions.Partition, logger *slog.Logger) error {
	shard := a.Partition.Shard
	for _, old := range a.Partition.Leaving {
		// It comes first: Raft takes no second member on the same node.
		if err := r.raft.RemoveReplica(ctx, shard, old); err != nil {
			return err
		}
		logger.Info("a replica that was lost is removed from its shard", "replica", old)
		if err := r.store.ReplicaLeft(ctx, metadata.ReplicaKey{Shard: shard, Replica: old}); err != nil {
			return err
		}
	}
	k := metadata.ReplicaKey{Shard: shard, Replica: a.Replica.Replica}
	return r.promote(ctx, a.Replica, k, p, logger)
}

// promote adds the joining replica, and gives it its vote when it is complete.
func (r *replacements) promote(ctx context.Context, joining metadata.Replica, k metadata.ReplicaKey, p *partitions.Partition, logger *slog.Logger) error {
	members, err := r.raft.Membership(ctx, k.Shard)
	if err != nil {
		return err
	}
	_, votes := members.Voters[k.Replica]
	if _, added := members.NonVoters[k.Replica]; !added && !votes {
		if err := r.raft.AddNonVoting(ctx, k.Shard, k.Replica, joining.Incarnation); err != nil {
			return err
		}
		logger.Info("a replica is added to its shard without a vote", "replica", k.Replica, "node", joining.Node)
	}
	if !votes {
		if !r.complete(ctx, joining.Node, k, p) {
			return nil
		}
		if err := r.raft.AddReplica(ctx, k.Shard, k.Replica, joining.Incarnation); err != nil {
			return err
		}
		logger.Info("a replica that joined is complete and is given its vote", "replica", k.Replica, "node", joining.Node)
	}
	return r.store.ReplicaPromoted(ctx, k)
}

// complete reports whether the joining replica has all that this leader had
// applied when it first saw that the replica fetches no more. Raft's own progress
// says nothing: it counts a replica as complete whose fetch has not ended.
func (r *replacements) complete(ctx context.Context, node uint64, k metadata.ReplicaKey, p *partitions.Partition) bool {
	s := r.statuses(ctx, []uint64{node}, k.Shard)[node]
	if s == nil || s.Replica != k.Replica || s.State != partitions.StateRunning || s.FetchBytes > 0 {
		delete(r.goals, k)
		return false
	}
	goal, ok := r.goals[k]
	if !ok {
		goal = p.Status().Applied
		r.goals[k] = goal
	}
	return s.Applied >= goal
}
