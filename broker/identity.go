package broker

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/google/uuid"

	"logbroker/broker/metadata"
	"logbroker/internal/storage"
)

// identityFormat is the newest version of the data directory's layout. A directory
// with a higher one was written by a newer logbroker and is refused. A directory
// is of firstFormat until it has a replacement: who does not know of those would
// start what must never start again.
const (
	firstFormat    = 1
	identityFormat = 2
)

// identityFile holds a node's identity, once in data_dir and once in raft_dir.
const identityFile = "node.json"

// lockFile is what storage.LockDir leaves in a directory.
const lockFile = "LOCK"

// member is one founder of the cluster: a first voter of the metadata shard.
type member struct {
	NodeID      uint64 `json:"node_id"`
	Incarnation string `json:"incarnation"`
	RaftAddr    string `json:"raft_addr"`
}

// identity is who this node is. It stands in data_dir and in raft_dir, so that
// a directory that was lost, swapped or copied from another node is noticed
// before anything votes with it.
//
// Invariants: Incarnation never changes. ClusterID changes once, from "" to
// its value. Once MetadataStarted, the Raft directory must hold the metadata
// replica's log; it is set before that log is first written.
type identity struct {
	Format      int    `json:"format"`
	ClusterName string `json:"cluster_name"`
	NodeID      uint64 `json:"node_id"`
	Incarnation string `json:"incarnation"`
	// ClusterID is empty until the cluster was founded or joined.
	ClusterID string `json:"cluster_id"`
	// Founders are the metadata shard's first voters; peers' addresses for the
	// time before the metadata image is loaded.
	Founders []member `json:"founders"`
	// Joined: this node came later, through a seed, as a non-voting metadata replica.
	Joined bool `json:"joined"`
	// MetadataStarted: the metadata replica is known to the Raft log and was started.
	MetadataStarted bool `json:"metadata_started"`
	// GroupsStarted: the Raft log knows this node's replicas of the coordinator
	// shards of consumer groups, and they may have run.
	GroupsStarted bool `json:"groups_started,omitempty"`
	// MetadataApplied is an index up to which the metadata was committed and
	// durable on this node, so its Raft log reaches at least there unless it was
	// cut short. GroupsApplied is the same for the coordinator shards, by shard
	// id. They only rise.
	MetadataApplied uint64            `json:"metadata_applied"`
	GroupsApplied   map[uint64]uint64 `json:"groups_applied,omitempty"`
	// Replaced holds, by shard id, the replicas of the metadata and of the
	// coordinator shards that stand in the place of ones whose log was lost. What
	// is said above holds for the shards that are not in it.
	Replaced map[uint64]replacement `json:"replaced,omitempty"`
}

// members returns the founders as the first members of a shard.
func (id *identity) members() map[uint64]string {
	out := make(map[uint64]string, len(id.Founders))
	for _, m := range id.Founders {
		out[m.NodeID] = m.Incarnation
	}
	return out
}

// reached returns the index that the log of shard is recorded to have reached.
func (id *identity) reached(shard uint64) uint64 {
	if r, replaced := id.Replaced[shard]; replaced {
		return r.Reached
	}
	if shard == metadata.ShardID {
		return id.MetadataApplied
	}
	return id.GroupsApplied[shard]
}

// raise records that logs reach as far as indexes says, and reports whether that
// is further than what was recorded. Maps are replaced, never written: copies of
// id share them.
func (id *identity) raise(indexes map[uint64]uint64) (further bool) {
	for shard, index := range indexes {
		if index <= id.reached(shard) {
			continue
		}
		further = true
		if r, replaced := id.Replaced[shard]; replaced {
			r.Reached = index
			id.replace(shard, r)
		} else {
			id.raiseFirst(shard, index)
		}
	}
	return further
}

// raiseFirst records how far the log of a node's first replica of shard reaches.
func (id *identity) raiseFirst(shard, index uint64) {
	switch {
	case shard == metadata.ShardID:
		id.MetadataApplied = max(id.MetadataApplied, index)
	case index > id.GroupsApplied[shard]:
		id.GroupsApplied = with(id.GroupsApplied, shard, index)
	}
}

// with returns m with one more entry. m itself stays.
func with[V any](m map[uint64]V, shard uint64, v V) map[uint64]V {
	out := make(map[uint64]V, len(m)+1)
	maps.Copy(out, m)
	out[shard] = v
	return out
}

// identityStore keeps the two copies of an identity.
type identityStore struct {
	fs               storage.FS
	dataDir, raftDir string
	id               identity
}

// openIdentity reads the two copies, or makes a new identity where both
// directories are empty. Every error says what is wrong in one line.
func openIdentity(dirs directories, clusterName string, nodeID uint64) (*identityStore, error) {
	fs, dataDir, raftDir := dirs.fs, dirs.data, dirs.raft
	s := &identityStore{fs: fs, dataDir: dataDir, raftDir: raftDir}
	data, err := readIdentity(fs, dataDir)
	if err != nil {
		return nil, err
	}
	raft, err := readIdentity(fs, raftDir)
	if err != nil {
		return nil, err
	}
	if data == nil && raft == nil {
		return s, s.create(clusterName, nodeID)
	}
	if raft == nil && data.ClusterID != "" {
		if err := mayLoseRaftDir(fs, data, raftDir); err != nil {
			return nil, err
		}
	}
	if s.id, err = reconcileCopies(data, raft, dataDir, raftDir); err != nil {
		return nil, err
	}
	if err := s.id.matches(clusterName, nodeID, dataDir); err != nil {
		return nil, err
	}
	return s, s.write()
}

// create writes a fresh identity, but only into empty directories: a directory
// with files and no identity belongs to something else, or has lost its own.
func (s *identityStore) create(clusterName string, nodeID uint64) error {
	for _, dir := range []string{s.dataDir, s.raftDir} {
		if name, err := foreignFile(s.fs, dir, s.raftDir); err != nil {
			return err
		} else if name != "" {
			return fmt.Errorf("directory %s holds %q but no %s: it is no data directory of logbroker; name an empty one", dir, name, identityFile)
		}
	}
	s.id = identity{Format: firstFormat, ClusterName: clusterName, NodeID: nodeID, Incarnation: uuid.NewString()}
	return s.write()
}

// foreignFile returns a name in dir that a fresh directory would not have.
func foreignFile(fs storage.FS, dir, raftDir string) (string, error) {
	names, err := fs.List(dir)
	if err != nil {
		return "", fmt.Errorf("cannot read directory %s: %w", dir, err)
	}
	slices.Sort(names)
	for _, name := range names {
		fresh := name == lockFile || name == identityFile+storage.TmpSuffix() || name == "lost+found" || filepath.Join(dir, name) == filepath.Clean(raftDir)
		if !fresh {
			return name, nil
		}
	}
	return "", nil
}

// reconcileCopies returns the identity both copies agree on. One may lag the
// other by one write, because a crash can fall between the two.
func reconcileCopies(data, raft *identity, dataDir, raftDir string) (identity, error) {
	switch {
	case raft == nil:
		return *data, nil // crashed between the first two writes, or lost: every log is missing
	case data == nil:
		return identity{}, fmt.Errorf("the data directory %s is empty, but %s holds the Raft log of node %d: put the data directory back, "+
			"or empty both and use a node_id that was never used", dataDir, raftDir, raft.NodeID)
	case data.Incarnation != raft.Incarnation:
		return identity{}, fmt.Errorf("%s belongs to node %d (incarnation %s), %s to node %d (incarnation %s): the directories of two nodes are mixed up",
			dataDir, data.NodeID, data.Incarnation, raftDir, raft.NodeID, raft.Incarnation)
	case data.ClusterID != "" && raft.ClusterID != "" && data.ClusterID != raft.ClusterID:
		return identity{}, fmt.Errorf("%s belongs to cluster %s, %s to cluster %s", dataDir, data.ClusterID, raftDir, raft.ClusterID)
	}
	return mergeCopies(data, raft), nil
}

// mergeCopies returns what the two copies of one identity say together. Fields
// only ever go from empty to set and indexes only rise, so whatever one copy has
// more than the other is true: the other missed a write, or is an old one that
// was put back.
func mergeCopies(a, b *identity) identity {
	id := *a
	if a.ClusterID == "" {
		id.ClusterID, id.Founders, id.Joined = b.ClusterID, b.Founders, b.Joined
	}
	id.MetadataStarted = a.MetadataStarted || b.MetadataStarted
	id.GroupsStarted = a.GroupsStarted || b.GroupsStarted
	id.raiseFirst(metadata.ShardID, b.MetadataApplied)
	for shard, index := range b.GroupsApplied {
		id.raiseFirst(shard, index)
	}
	for shard, r := range b.Replaced {
		id.replace(shard, r.merge(id.Replaced[shard]))
	}
	return id
}

// matches refuses the directory of another node or of a newer version.
func (id *identity) matches(clusterName string, nodeID uint64, dataDir string) error {
	switch {
	case id.NodeID != nodeID:
		return fmt.Errorf("directory %s belongs to node %d, the configuration says cluster.node_id %d", dataDir, id.NodeID, nodeID)
	case id.ClusterName != clusterName:
		return fmt.Errorf("directory %s belongs to cluster %q, the configuration says cluster.name %q", dataDir, id.ClusterName, clusterName)
	}
	return nil
}

// readIdentity returns nil where dir has no identity.
func readIdentity(fs storage.FS, dir string) (*identity, error) {
	path := filepath.Join(dir, identityFile)
	raw, err := storage.ReadFile(fs, path)
	if storage.NotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	var id identity
	if err := json.Unmarshal(raw, &id); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): restore it from the copy in the other directory", path, err)
	}
	if id.Format > identityFormat {
		return nil, fmt.Errorf("%s has format %d, this logbroker knows formats up to %d: use the newer logbroker that wrote it", path, id.Format, identityFormat)
	}
	if id.Format < 1 || id.Incarnation == "" || id.NodeID == 0 {
		return nil, fmt.Errorf("%s is damaged: format, incarnation or node_id is missing", path)
	}
	return &id, nil
}

// update changes the identity durably: first beside the Raft log, then beside
// the data, so that openIdentity can tell which copy is newer.
func (s *identityStore) update(change func(*identity)) error {
	change(&s.id)
	return s.write()
}

func (s *identityStore) write() error {
	if s.id.ClusterID == "" {
		return s.writeTo(s.dataDir, s.raftDir) // a new identity starts in data_dir
	}
	return s.writeTo(s.raftDir, s.dataDir)
}

// reached records durably how far logs reach, where that is further than is
// recorded. The copy in data_dir is enough, and half of the syncs: it outlives an
// old Raft directory that is put back, and an old data directory beside a whole
// Raft log does no harm.
func (s *identityStore) reached(indexes map[uint64]uint64) error {
	before := s.id
	if !s.id.raise(indexes) {
		return nil
	}
	err := s.writeTo(s.dataDir)
	if err != nil {
		s.id = before // so that the next call tries again
	}
	return err
}

// writeTo replaces the copies in dirs, one after the other.
func (s *identityStore) writeTo(dirs ...string) error {
	raw, err := json.MarshalIndent(s.id, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the node's identity: %w", err)
	}
	for _, dir := range dirs {
		if err := storage.WriteFileAtomic(s.fs, filepath.Join(dir, identityFile), append(raw, '\n')); err != nil {
			return fmt.Errorf("cannot write %s: %w", filepath.Join(dir, identityFile), err)
		}
	}
	return nil
}
