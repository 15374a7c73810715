package broker

import (
	"fmt"

	"logbroker/internal/raftnode"
	"logbroker/internal/storage"
)

// replacement is this node's replica of a shard in the place of one whose log was
// lost. It goes from Retired alone to Replica given to Started; where the log of
// Replica is lost too it begins again with a higher Retired.
type replacement struct {
	// Retired: no replica of this node up to this id ever starts again.
	Retired uint64 `json:"retired"`
	// Replica is the one in its place, 0 until the cluster has given it.
	Replica uint64 `json:"replica,omitempty"`
	// Started: the Raft log knows Replica, and it may have run.
	Started bool `json:"started,omitempty"`
	// Reached is an index that the log of Replica had reached for certain.
	Reached uint64 `json:"reached,omitempty"`
}

// merge returns what two copies of a replacement say together: the one that is
// further is right, see mergeCopies.
func (r replacement) merge(o replacement) replacement {
	switch {
	case r.Retired != o.Retired:
		if r.Retired < o.Retired {
			return o
		}
		return r
	case r.Replica != o.Replica:
		if r.Replica < o.Replica {
			return o
		}
		return r
	}
	r.Started, r.Reached = r.Started || o.Started, max(r.Reached, o.Reached)
	return r
}

// replace notes r. Copies of id share the old map.
func (id *identity) replace(shard uint64, r replacement) {
	id.Format, id.Replaced = identityFormat, with(id.Replaced, shard, r)
}

// replica returns the id of this node's replica of a shard in memory, 0 while it
// has none.
func (id *identity) replica(shard uint64) uint64 {
	if r, replaced := id.Replaced[shard]; replaced {
		return r.Replica
	}
	return id.NodeID
}

// retired lists every replica that must never start again.
func (id *identity) retired() (out []raftnode.ReplicaID) {
	for shard, r := range id.Replaced {
		for replica := id.NodeID; replica <= r.Retired; {
			out = append(out, raftnode.ReplicaID{Shard: shard, Replica: replica})
			next, err := raftnode.NextReplica(id.NodeID, replica)
			if err != nil {
				break // such a node had one replica only
			}
			replica = next
		}
	}
	return out
}

// replaceable reports whether the other founders are a majority without this
// node: only they can give it a new replica. Where they are none, a node that has
// lost its log is refused; waiting would not help.
func (id *identity) replaceable() bool {
	if id.NodeID > raftnode.NodeMax {
		return false
	}
	if id.Joined {
		return true
	}
	return 2*(len(id.Founders)-1) > len(id.Founders)
}

// wayOut is what is left to a node that cannot be repaired from others.
const wayOut = "give the node empty directories and a node_id that was never used, and join it through cluster.seeds"

// mayLoseRaftDir refuses a lost Raft directory where that cannot be healed. The
// incarnation in data_dir says whose directory it was; but one that holds
// something, and not whose it is, may be anybody's.
func mayLoseRaftDir(fs storage.FS, data *identity, raftDir string) error {
	name, err := foreignFile(fs, raftDir, raftDir)
	if err != nil {
		return err
	}
	if name != "" {
		return fmt.Errorf("the Raft directory %s holds %q but no %s that says whose it is: it may be another node's, and node %d must not vote with it; "+
			"put the right one back, or move this one away: with an empty one the node gets its replicas anew", raftDir, name, identityFile, data.NodeID)
	}
	if data.MetadataStarted && !data.replaceable() {
		return fmt.Errorf("the Raft directory %s of node %d is empty or gone: without its Raft log this node must not vote again, and there is no majority without it; %s",
			raftDir, data.NodeID, wayOut)
	}
	return nil
}

// The steps of a replacement, each durable on return.

func (f *founding) retire(shard, replica uint64) error {
	return f.changeReplacement(shard, func(r *replacement) { *r = replacement{Retired: replica} })
}

func (f *founding) given(shard, replica uint64) error {
	return f.changeReplacement(shard, func(r *replacement) { r.Replica = replica })
}

func (f *founding) replacementStarted(shard uint64) error {
	return f.changeReplacement(shard, func(r *replacement) { r.Started = true })
}

func (f *founding) changeReplacement(shard uint64, change func(*replacement)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ids.update(func(id *identity) {
		r := id.Replaced[shard]
		change(&r)
		id.replace(shard, r)
	})
}

func (f *founding) replacement(shard uint64) (replacement, bool) {
	id := f.identity()
	r, replaced := id.Replaced[shard]
	return r, replaced
}
