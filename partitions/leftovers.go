package partitions

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"logbroker/internal/storage"
)

// ReplicaKey names a replica.
type ReplicaKey struct{ Shard, Replica uint64 }

// Leftovers lists the replicas that have a directory here and are neither
// running nor quarantined by this Host: those not started yet, and those whose
// topic was deleted while the node was down. Only the metadata can tell which,
// so call it when every wanted replica was started, and compare with an image
// that is not stale.
func (h *Host) Leftovers() ([]ReplicaKey, error) {
	found := map[ReplicaKey]bool{}
	names, err := h.options.FS.List(h.options.Dir)
	if err != nil && !storage.NotExist(err) {
		return nil, fmt.Errorf("list %s: %w", h.options.Dir, err)
	}
	for _, name := range names {
		if k, ok := replicaDirectory(name); ok {
			found[k] = true
		}
	}
	h.mu.RLock()
	for _, r := range h.replicas {
		delete(found, ReplicaKey{Shard: r.spec.Shard, Replica: r.spec.Replica})
	}
	h.mu.RUnlock()
	left := make([]ReplicaKey, 0, len(found))
	for k := range found {
		left = append(left, k)
	}
	slices.SortFunc(left, ReplicaKey.compare)
	return left, nil
}

// Discard deletes the files and the Raft log of a leftover for good. ErrStarted
// where a replica of the shard runs here.
func (h *Host) Discard(k ReplicaKey) error {
	if err := h.reserve(Spec{Shard: k.Shard, Replica: k.Replica}); err != nil {
		return err
	}
	defer h.release(k.Shard)
	if err := h.removeDirectory(h.options.FS.PathJoin(h.options.Dir, k.directory())); err != nil {
		return err
	}
	return h.removeRaftLog(k.Shard, k.Replica)
}

// RaftLogs lists the replicas that this node's Raft log knows, those of shards
// that are no partitions too.
func (h *Host) RaftLogs() ([]ReplicaKey, error) {
	known, err := h.options.Node.Replicas()
	if err != nil {
		return nil, err
	}
	out := make([]ReplicaKey, len(known))
	for i, id := range known {
		out[i] = ReplicaKey{Shard: id.Shard, Replica: id.Replica}
	}
	return out, nil
}

// DiscardRaftLog deletes the Raft log of a replica that was replaced and is no
// member of its shard any more. Its directory stays as it is.
func (h *Host) DiscardRaftLog(k ReplicaKey) error {
	if p, ok := h.Get(k.Shard); ok && p.spec.Replica == k.Replica {
		return fmt.Errorf("replica %d of shard %d: %w", k.Replica, k.Shard, ErrStarted)
	}
	return h.removeRaftLog(k.Shard, k.Replica)
}

// directory is the name of the replica's directory.
func (k ReplicaKey) directory() string { return fmt.Sprintf("%d-%d", k.Shard, k.Replica) }

// replicaDirectory returns the replica whose directory is called name.
func replicaDirectory(name string) (k ReplicaKey, ok bool) {
	n, err := fmt.Sscanf(name, "%d-%d", &k.Shard, &k.Replica)
	return k, err == nil && n == 2 && name == k.directory()
}

func (k ReplicaKey) compare(other ReplicaKey) int {
	return cmp.Or(cmp.Compare(k.Shard, other.Shard), cmp.Compare(k.Replica, other.Replica))
}

// removeRaftLog deletes what Raft has of a replica that does not run.
func (h *Host) removeRaftLog(shard, replica uint64) error {
	if h.options.Node.HasReplica(shard, replica) {
		ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
		defer cancel()
		if err := h.options.Node.RemoveData(ctx, shard, replica); err != nil {
			return err
		}
	}
	h.tails.forget(ReplicaKey{Shard: shard, Replica: replica})
	return nil
}
