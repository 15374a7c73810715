package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"logbroker/broker/groups"
	"logbroker/broker/metadata"
	"logbroker/internal/raftnode"
)

// A node whose log of a shard in memory is lost gets a new replica of it from the
// others: over the Raft port, because without its metadata it has nothing else.
// The shard's own membership is all that is kept of it: it holds every id that was
// ever given, and changes of it are ordered, so whoever asks whom however often
// gets one new replica.

// replaceRequest asks for a replica in the place of one that must never start
// again.
type replaceRequest struct {
	Shard uint64 `json:"shard"`
	// Retired: this replica of the sender's and all before it are gone for good.
	Retired uint64 `json:"retired"`
	// Probe asks only whether the shard has a majority, and changes nothing.
	Probe bool `json:"probe,omitempty"`
}

// laterError is why a node cannot be given a replica yet.
type laterError struct{ error }

// giveReplica answers kindReplace.
func (f *founding) giveReplica(ctx context.Context, id identity, request handshake, reply *handshakeReply) error {
	f.mu.Lock()
	renew := f.renew
	f.mu.Unlock()
	switch {
	case request.Replace == nil:
		return errors.New("a replacement of nothing")
	case id.ClusterID == "" || renew == nil:
		reply.Later = "it is still starting"
		return nil
	case f.knows(id, request.From) != knownSame:
		return fmt.Errorf("node %d is not known under this data directory: %s", request.From.NodeID, wayOut)
	}
	replica, err := renew(ctx, request.From, *request.Replace)
	var later laterError
	if errors.As(err, &later) {
		reply.Later = later.Error()
		return nil
	}
	reply.Replica = replica
	return err
}

// renew gives m a new replica of r.Shard, as a non-voting one, and removes the
// lost one from the shard for good. It may be repeated, also on several nodes at
// once.
func (b *Broker) renew(ctx context.Context, m member, r replaceRequest) (uint64, error) {
	if last := groups.FirstShard + uint64(b.store.Image().GroupShards); r.Shard < metadata.ShardID || r.Shard >= last {
		return 0, fmt.Errorf("shard %d is neither the metadata nor a shard of consumer groups", r.Shard)
	}
	if b.handlers.Load() == nil {
		return 0, laterError{errors.New("it is still starting")}
	}
	if r.Shard == metadata.ShardID && b.alive(m.NodeID) {
		// Either it has just ended, or somebody copied its data directory.
		return 0, laterError{fmt.Errorf("node %d was still heard of a moment ago", m.NodeID)}
	}
	b.addresses.learn(m)
	members, err := b.raft.Membership(ctx, r.Shard)
	if err != nil {
		return 0, laterError{fmt.Errorf("%s has no majority at the moment: %w", shardName(r.Shard), err)}
	}
	if r.Probe {
		return 0, nil
	}
	var given uint64
	for _, replica := range slices.Concat(replicasOf(members.Voters, m), replicasOf(members.NonVoters, m)) {
		_, votes := members.Voters[replica]
		switch {
		case replica <= r.Retired:
			if err := b.raft.RemoveReplica(ctx, r.Shard, replica); err != nil {
				return 0, laterError{err}
			}
			b.logger.Warn("removed a replica whose log its node has lost", "shard", shardName(r.Shard), "node", m.NodeID, "replica", replica)
		case votes:
			return 0, fmt.Errorf("node %d asks for the replica after %d, but its replica %d of %s votes already: an old copy of its data directory was put back; %s",
				m.NodeID, r.Retired, replica, shardName(r.Shard), wayOut)
		default:
			given = replica
		}
	}
	if given != 0 {
		return given, nil // by an earlier request whose answer was lost
	}
	return b.addAfter(ctx, m, r, members)
}

// addAfter adds a replica for m above all ids that members knows.
func (b *Broker) addAfter(ctx context.Context, m member, r replaceRequest, members raftnode.Membership) (uint64, error) {
	replica, err := raftnode.NextReplica(m.NodeID, append(everGiven(members), r.Retired)...)
	if err != nil {
		return 0, err
	}
	if err := b.raft.AddNonVoting(ctx, r.Shard, replica, m.Incarnation); err != nil {
		return 0, laterError{err}
	}
	b.logger.Info("added a replica without a vote in the place of a lost one", "shard", shardName(r.Shard), "node", m.NodeID, "replica", replica)
	return replica, nil
}

// everGiven returns the ids of all present and former replicas of a shard.
func everGiven(m raftnode.Membership) []uint64 {
	out := slices.Collect(maps.Keys(m.Removed))
	return slices.AppendSeq(slices.AppendSeq(out, maps.Keys(m.Voters)), maps.Keys(m.NonVoters))
}

// replicasOf returns m's replicas among some members of a shard.
func replicasOf(members map[uint64]string, m member) (out []uint64) {
	for replica, incarnation := range members {
		if incarnation == m.Incarnation {
			out = append(out, replica)
		}
	}
	return out
}

// askReplica asks the founders until one of them has carried r out, and returns
// its answer. say is told now and then why it takes longer.
func (f *founding) askReplica(ctx context.Context, r replaceRequest, say func(reason string)) (uint64, error) {
	for wait := foundingRetryMin; ; wait = min(2*wait, foundingRetryMax) {
		replica, reason, err := f.tryReplace(ctx, r)
		if err != nil || reason == "" {
			return replica, err
		}
		say(reason)
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("stopped while %s", reason)
		case <-time.After(wait):
		}
	}
}

// tryReplace asks each founder once. reason is why to try again, "" = done.
func (f *founding) tryReplace(ctx context.Context, r replaceRequest) (replica uint64, reason string, err error) {
	self, id := f.self(), f.identity()
	for _, m := range id.Founders {
		if m.NodeID == self.NodeID {
			continue
		}
		addr, ok := f.addresses.resolve(m.Incarnation)
		if !ok {
			addr = m.RaftAddr
		}
		reply, err := f.ask(ctx, addr, handshake{Kind: kindReplace, From: self, Replace: &r})
		switch {
		case reply.ClusterID != "" && reply.ClusterID != id.ClusterID:
			reason = fmt.Sprintf("at %s, where node %d was, is another cluster", addr, m.NodeID)
		case errors.Is(err, errRefused):
			return 0, "", err
		case err != nil:
			reason = fmt.Sprintf("node %d is not reachable: %v", m.NodeID, err)
		case reply.Later != "":
			reason = fmt.Sprintf("node %d: %s", m.NodeID, reply.Later)
		default:
			return reply.Replica, "", nil
		}
	}
	return 0, fmt.Sprintf("%s waits for a majority of the other nodes to replace its replica here: %s", shardName(r.Shard), reason), nil
}

// replacer returns what brings this node's replicas of shards in memory back. say
// is told what it waits for.
func (b *Broker) replacer(start func(raftnode.Shard) error, say func(reason string)) *replacer {
	id := b.founding.identity()
	return &replacer{
		raft: b.raft, ids: b.founding, start: start, replaceable: id.replaceable(), raftDir: b.dirs.raft,
		ask: func(ctx context.Context, r replaceRequest) (uint64, error) { return b.founding.askReplica(ctx, r, say) },
		lost: func(s raftnode.Shard, why error) {
			b.metrics.DamageFound()
			b.logger.Error("this node gets a new replica from the others: its log is lost", "shard", shardName(s.ID), "replica", s.Replica, "err", why)
		},
	}
}

// replacing are shards in memory whose new replica on this node does not vote yet.
type replacing struct {
	mu     sync.Mutex // guards shards
	shards map[uint64]bool
}

func (r *replacing) begin(shard uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shards == nil {
		r.shards = map[uint64]bool{}
	}
	r.shards[shard] = true
}

func (r *replacing) end(shard uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.shards, shard)
}

// names returns what people call the shards.
func (r *replacing) names() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, shard := range slices.Sorted(maps.Keys(r.shards)) {
		out = append(out, shardName(shard))
	}
	return out
}

// promoteRetry is the wait before a replica that was replaced asks for its vote
// again.
const promoteRetry = time.Second

// promote gives this node's replica of shard its vote back, if it was replaced, as
// soon as it holds what the others have. It tries until ctx ends.
func (b *Broker) promote(ctx context.Context, shard uint64) {
	id := b.founding.identity()
	if _, replaced := id.Replaced[shard]; !replaced {
		return
	}
	b.replacing.begin(shard)
	replica := id.replica(shard)
	for {
		promoted, err := b.tryPromote(ctx, shard, replica, id.Incarnation)
		if err == nil {
			b.replacing.end(shard)
			if !promoted {
				return // long ago
			}
			b.logger.Info("the replica in the place of a lost one is complete and votes", "shard", shardName(shard), "replica", replica)
			return
		}
		if ctx.Err() == nil {
			b.logger.Warn("the replica in the place of a lost one has no vote yet; trying again", "shard", shardName(shard), "replica", replica, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(promoteRetry):
		}
	}
}

// tryPromote makes a voter of the replica; false where it was one already.
func (b *Broker) tryPromote(ctx context.Context, shard, replica uint64, incarnation string) (promoted bool, err error) {
	members, err := b.raft.Membership(ctx, shard)
	if err != nil {
		return false, err
	}
	if members.Voters[replica] == incarnation {
		return false, nil
	}
	if err := b.raft.ReadIndex(ctx, shard); err != nil { // it has all that was acknowledged
		return false, err
	}
	// From its first vote on a loss of its log must be noticed.
	if err := b.founding.reached(b.committed()); err != nil {
		return false, err
	}
	return true, b.raft.AddReplica(ctx, shard, replica, incarnation)
}

// voterOn returns the voting replica of shard on a node, for a transfer of its
// leadership. Only a node that leads the shard should ask.
func (b *Broker) voterOn(ctx context.Context, shard, node uint64) (uint64, error) {
	members, err := b.raft.Membership(ctx, shard)
	if err != nil {
		return 0, err
	}
	for replica := range members.Voters {
		if raftnode.NodeOf(replica) == node {
			return replica, nil
		}
	}
	return 0, fmt.Errorf("node %d has no vote in %s", node, shardName(shard))
}
