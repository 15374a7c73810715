package metadata

import (
	"context"
	"slices"

	"logbroker/internal/errcode"
)

// How a replica is replaced by itself under a new id on the same node. Three
// commands say how far that is; the Raft shard's own membership is what counts,
// and lags behind the first and runs ahead of the others:
//
//	replace_replica   the new replica has an id and joins, the old one leaves
//	replica_left      the old one is no member of the shard any more
//	replica_promoted  the new one is a voter
//
// Each may be repeated, by anyone.

// replaceReplica carries out kindReplaceReplica. One replica of a partition is
// replaced at a time; it may itself be a replacement that was lost in turn.
func (m *machine) replaceReplica(next *Image, _ command, body replaceReplica) (result, error) {
	t, old, ok := next.PartitionByShard(body.Shard)
	if !ok {
		return result{}, errcode.New(errcode.UnknownTopicOrPartition, "shard %d is no partition; its topic was deleted", body.Shard)
	}
	at := slices.IndexFunc(old.Replicas, func(r Replica) bool { return r.Node == body.Node })
	if at < 0 {
		return result{}, errcode.New(errcode.InvalidRequest, "node %d has no replica of %s/%d", body.Node, t.Name, old.ID)
	}
	r := old.Replicas[at]
	if r.Replica > body.Replica {
		return result{TopicID: t.ID}, nil // it was replaced before
	}
	if err := mayReplace(t, old, r, body.Replica); err != nil {
		return result{}, err
	}
	p := next.changed(t, old)
	p.Founders = old.founders()
	p.Leaving = append(slices.Clone(old.Leaving), r.Replica)
	p.Replicas[at] = Replica{Node: r.Node, Replica: old.NextReplica, Incarnation: r.Incarnation, Joiner: true, Joining: true}
	p.NextReplica++
	return result{TopicID: t.ID}, nil
}

// mayReplace checks that replica, which is r's id, of p may be replaced.
func mayReplace(t *Topic, p *Partition, r Replica, replica uint64) error {
	other, busy := p.Joining()
	switch {
	case r.Replica != replica || !r.Started:
		return errcode.New(errcode.InvalidRequest, "replica %d of %s/%d never ran on node %d", replica, t.Name, p.ID, r.Node)
	case len(p.Replicas) < 3:
		return errcode.New(errcode.InvalidRequest, "%s/%d has %d replicas: without the lost one they are no majority, so it cannot be replaced",
			t.Name, p.ID, len(p.Replicas))
	case busy && other.Node != r.Node:
		return errcode.New(errcode.NotEnoughReplicas, "the replica of %s/%d on node %d is being replaced; one at a time", t.Name, p.ID, other.Node)
	}
	return nil
}

// replicaLeft carries out kindReplicaLeft. What is gone is gone: there is nothing
// to refuse.
func (m *machine) replicaLeft(next *Image, _ command, body ReplicaKey) (result, error) {
	t, old, ok := next.PartitionByShard(body.Shard)
	if !ok || !slices.Contains(old.Leaving, body.Replica) {
		return result{}, nil
	}
	p := next.changed(t, old)
	p.Leaving = slices.DeleteFunc(slices.Clone(old.Leaving), func(id uint64) bool { return id == body.Replica })
	if len(p.Leaving) == 0 {
		p.Leaving = nil // as a snapshot has it
	}
	return result{TopicID: t.ID}, nil
}

// replicaPromoted carries out kindReplicaPromoted.
func (m *machine) replicaPromoted(next *Image, _ command, body ReplicaKey) (result, error) {
	t, old, ok := next.PartitionByShard(body.Shard)
	if !ok {
		return result{}, nil
	}
	at := slices.IndexFunc(old.Replicas, func(r Replica) bool { return r.Replica == body.Replica })
	switch {
	case at < 0 || !old.Replicas[at].Joining:
		return result{}, nil // it was replaced in turn, or this is a repetition
	case len(old.Leaving) > 0:
		return result{}, errcode.New(errcode.InvalidRequest, "replica %d of %s/%d cannot vote before replica %d has left", body.Replica, t.Name, old.ID, old.Leaving[0])
	}
	next.changed(t, old).Replicas[at].Joining = false
	return result{TopicID: t.ID}, nil
}

// changed puts a copy of t into m, and returns its copy of the partition p, with
// replicas that may be changed too.
func (m *Image) changed(t *Topic, p *Partition) *Partition {
	c := *t
	c.Partitions = slices.Clone(t.Partitions)
	m.withTopic(&c, len(c.Partitions))
	out := &c.Partitions[p.ID]
	out.Replicas = slices.Clone(p.Replicas)
	return out
}

// ReplaceReplica gives node a replica under a new id in the place of replica k,
// which must never run again; nil where it was replaced before. When it returns
// nil the image shows it. INVALID_REQUEST where it cannot be replaced,
// NOT_ENOUGH_REPLICAS while another replica of the partition is being replaced,
// UNKNOWN_TOPIC_OR_PARTITION where the topic is gone.
func (s *Store) ReplaceReplica(ctx context.Context, node uint64, k ReplicaKey) error {
	_, err := s.propose(ctx, command{Kind: kindReplaceReplica}, replaceReplica{ReplicaKey: k, Node: node})
	return err
}

// ReplicaLeft records that a replaced replica is no member of its shard any more.
func (s *Store) ReplicaLeft(ctx context.Context, k ReplicaKey) error {
	_, err := s.propose(ctx, command{Kind: kindReplicaLeft}, k)
	return err
}

// ReplicaPromoted records that a replica that joined is a voter.
func (s *Store) ReplicaPromoted(ctx context.Context, k ReplicaKey) error {
	_, err := s.propose(ctx, command{Kind: kindReplicaPromoted}, k)
	return err
}
