package raftnode

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/plugin/tan"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// logStoreFactory makes the node's log store: tan behind logStore.
type logStoreFactory struct {
	options Options
	store   *logStore // set by Create
}

// Name implements config.LogDBFactory. It is written into the directory at its
// first start; a store under another name refuses the directory.
func (f *logStoreFactory) Name() string { return tan.Factory.Name() }

// Create implements config.LogDBFactory. tan syncs before it returns from
// SaveRaftState, rejects flipped bits and runs on any vfs.FS.
func (f *logStoreFactory) Create(c config.NodeHostConfig, busy config.LogDBCallback, dirs, wals []string) (raftio.ILogDB, error) {
	inner, err := tan.Factory.Create(c, busy, dirs, wals)
	if err != nil {
		return nil, fmt.Errorf("raftnode: open the Raft log: %w", err)
	}
	files, ok := c.Expert.FS.(*hostFS)
	if !ok {
		return nil, errors.Join(errors.New("raftnode: the Raft log needs the wrapped file system"), inner.Close())
	}
	f.store = &logStore{
		ILogDB:   inner,
		files:    files,
		tanDir:   filepath.Join(dirs[0], "tandb"),
		fatal:    f.options.fatal,
		replicas: make(map[raftio.NodeInfo]*replicaLog),
		scratch:  make([][]pb.Update, execShards+1),
	}
	return f.store, nil
}

// logStore stands between dragonboat and tan and closes six of tan's holes:
//
//   - A SaveSnapshots or RemoveEntriesTo that rotates the log file while a
//     SaveRaftState of the same replica is between its write and its sync makes
//     that sync hit the new file; the old one was closed unsynced. So the writes
//     of a replica are serialised.
//   - An update with entries and no hard state blanks tan's cached hard state, so
//     that the next commit index looks like a vote and is synced too: two fsyncs
//     per proposal. So the last hard state is filled in.
//   - An update that saves nothing blanks the cache in the same way, and is
//     written and synced. So it is dropped. (Both belong together: they keep what
//     tan believes the hard state to be equal to what it is.)
//   - Bytes that a killed process wrote and did not sync are read back after a
//     restart and acted upon, and a power cut can still take them. So logs are
//     synced before a replica's state is read.
//   - Nothing keeps the log from being compacted past what the state machine has
//     on disk. So that is waited for, and checked; see durable.go.
//   - Entries above an installed snapshot that contradict it come back after a
//     restart. So they are recognised and hidden.
//   - Damage ends the process, or goes unnoticed. So a replica's files are read
//     before tan gets to see them; see check.go.
//
// It also remembers term, vote, commit and last index of every replica, which
// can be seen nowhere else.
type logStore struct {
	raftio.ILogDB
	files  *hostFS
	tanDir string
	fatal  func(error)

	entryBytes atomic.Uint64

	// scratch[w] is the update list that exec shard w passes on; dragonboat never
	// runs one exec shard twice at a time, and keeps its own list to itself.
	scratch [][]pb.Update

	// mu guards the map, not the logs in it.
	mu       sync.RWMutex
	replicas map[raftio.NodeInfo]*replicaLog
}

// replicaLog is what logStore knows of one replica.
type replicaLog struct {
	// write is held for a whole write to tan, fsync included. SaveRaftState holds
	// several, every other method one: no cycle can form.
	write sync.Mutex

	// state guards the fields below; held for a moment only. They change under
	// write and state both.
	state sync.Mutex
	hard  pb.State
	last  uint64 // index of the last entry, or of the snapshot above it
	// durable is the state machine; nil where it does not tell how far it would come
	// back.
	durable durableMachine
	// received is the OnDiskIndex of the peers' snapshots saved here, at most.
	received uint64

	// checking is held while the files are checked, checked says that they are
	// whole: see logStore.check.
	checking sync.Mutex
	checked  atomic.Bool
	found    LogTail // set before checked
}

func (s *logStore) replica(shard, replica uint64) *replicaLog {
	id := raftio.NodeInfo{ShardID: shard, ReplicaID: replica}
	s.mu.RLock()
	r := s.replicas[id]
	s.mu.RUnlock()
	if r != nil {
		return r
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r = s.replicas[id]; r == nil {
		r = new(replicaLog)
		s.replicas[id] = r
	}
	return r
}

// status returns what is known of a replica; zeros before its first start.
func (s *logStore) status(shard, replica uint64) ReplicaState {
	r := s.replica(shard, replica)
	r.state.Lock()
	defer r.state.Unlock()
	return ReplicaState{Replica: replica, Term: r.hard.Term, Vote: r.hard.Vote, Commit: r.hard.Commit, Last: r.last}
}

// prepare returns ud as it is passed to tan, and whether it saves anything.
// r.write is held.
func (r *replicaLog) prepare(ud pb.Update) (pb.Update, bool) {
	stateChanged := !pb.IsEmptyState(ud.State) && !pb.IsStateEqual(ud.State, r.hard)
	if len(ud.EntriesToSave) == 0 && pb.IsEmptySnapshot(ud.Snapshot) && !stateChanged {
		return ud, false
	}
	if pb.IsEmptyState(ud.State) {
		ud.State = r.hard
	}
	return ud, true
}

// saved takes over what tan has made durable. r.write is held.
func (r *replicaLog) saved(ud *pb.Update) {
	r.state.Lock()
	defer r.state.Unlock()
	if !pb.IsEmptyState(ud.State) {
		r.hard = ud.State
	}
	if !pb.IsEmptySnapshot(ud.Snapshot) {
		r.last = ud.Snapshot.Index
	}
	if n := len(ud.EntriesToSave); n > 0 {
		r.last = ud.EntriesToSave[n-1].Index
	}
}

// SaveRaftState implements raftio.ILogDB: durable on return.
func (s *logStore) SaveRaftState(updates []pb.Update, worker uint64) error {
	out := s.list(worker)
	for i := range updates {
		r := s.replica(updates[i].ShardID, updates[i].ReplicaID)
		r.write.Lock()
		defer r.write.Unlock()
		r.receives(&updates[i].Snapshot)
		if ud, saves := r.prepare(updates[i]); saves {
			out = append(out, ud)
		}
	}
	defer s.putList(worker, out)
	if len(out) == 0 {
		return nil
	}
	if err := s.ILogDB.SaveRaftState(out, worker); err != nil {
		return s.failed("save entries and votes", err)
	}
	for i := range out {
		s.replica(out[i].ShardID, out[i].ReplicaID).saved(&out[i])
		s.entryBytes.Add(entryBytes(out[i].EntriesToSave))
	}
	return nil
}

func entryBytes(entries []pb.Entry) (n uint64) {
	for i := range entries {
		n += uint64(len(entries[i].Cmd))
	}
	return n
}

func (s *logStore) list(worker uint64) []pb.Update {
	if worker < uint64(len(s.scratch)) {
		return s.scratch[worker][:0]
	}
	return nil
}

// putList keeps the list's memory and lets go of what it points to.
func (s *logStore) putList(worker uint64, list []pb.Update) {
	if worker < uint64(len(s.scratch)) {
		clear(list)
		s.scratch[worker] = list[:0]
	}
}

// SaveSnapshots implements raftio.ILogDB.
func (s *logStore) SaveSnapshots(updates []pb.Update) error {
	for i := range updates {
		if pb.IsEmptySnapshot(updates[i].Snapshot) {
			continue
		}
		s.replica(updates[i].ShardID, updates[i].ReplicaID).receives(&updates[i].Snapshot)
		if err := s.awaitDurable(&updates[i]); err != nil {
			return s.failed("save a snapshot record", err)
		}
		err := s.serially(updates[i].ShardID, updates[i].ReplicaID, func() error {
			if err := s.checkSnapshot(&updates[i]); err != nil {
				return err
			}
			return s.ILogDB.SaveSnapshots(updates[i : i+1])
		})
		if err != nil {
			return s.failed("save a snapshot record", err)
		}
	}
	return nil
}

// RemoveEntriesTo implements raftio.ILogDB.
func (s *logStore) RemoveEntriesTo(shard, replica, index uint64) error {
	err := s.serially(shard, replica, func() error {
		if err := s.checkCompaction(shard, replica, index); err != nil {
			return err
		}
		return s.ILogDB.RemoveEntriesTo(shard, replica, index)
	})
	return s.failed("compact the log", err)
}

// RemoveNodeData implements raftio.ILogDB.
func (s *logStore) RemoveNodeData(shard, replica uint64) error {
	err := s.serially(shard, replica, func() error {
		if err := s.check(shard, replica); errors.Is(err, ErrLogDamaged) {
			return s.removeDamaged(shard, replica)
		}
		return s.ILogDB.RemoveNodeData(shard, replica)
	})
	if err != nil {
		return s.failed("remove a replica", err)
	}
	s.forget(shard, replica)
	return nil
}

// ImportSnapshot implements raftio.ILogDB. It is for repair tools, with no
// replica running; the next ReadRaftState takes over what it wrote.
func (s *logStore) ImportSnapshot(snapshot pb.Snapshot, replica uint64) error {
	err := s.serially(snapshot.ShardID, replica, func() error { return s.ILogDB.ImportSnapshot(snapshot, replica) })
	if err != nil {
		return s.failed("import a snapshot", err)
	}
	s.forget(snapshot.ShardID, replica)
	return nil
}

func (s *logStore) forget(shard, replica uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.replicas, raftio.NodeInfo{ShardID: shard, ReplicaID: replica})
}

func (s *logStore) serially(shard, replica uint64, write func() error) error {
	r := s.replica(shard, replica)
	r.write.Lock()
	defer r.write.Unlock()
	return write()
}

// ReadRaftState implements raftio.ILogDB. dragonboat calls it once per start of
// a replica, with the index of its newest snapshot.
func (s *logStore) ReadRaftState(shard, replica, snapshotIndex uint64) (raftio.RaftState, error) {
	if err := s.check(shard, replica); err != nil {
		return raftio.RaftState{}, err
	}
	if err := s.files.syncLogs(s.directory(shard, replica)); err != nil {
		return raftio.RaftState{}, s.failed("sync the log before reading it", err)
	}
	state, err := s.ILogDB.ReadRaftState(shard, replica, snapshotIndex)
	if err != nil {
		return state, err // ErrNoSavedLog is no fault
	}
	stale, err := s.contradictsSnapshot(shard, replica, snapshotIndex, state)
	if err != nil {
		return state, s.failed("read the log above the snapshot", err)
	}
	if stale {
		state.FirstIndex, state.EntryCount = 0, 0
	}
	// What a snapshot holds is committed. dragonboat applies entries before it
	// saves the commit index, and takes snapshots beside both, so a crash can leave
	// a snapshot above the saved commit index, at which dragonboat panics.
	state.State.Commit = max(state.State.Commit, snapshotIndex)
	r := s.replica(shard, replica)
	r.state.Lock()
	defer r.state.Unlock()
	r.hard, r.last = state.State, snapshotIndex
	if state.EntryCount > 0 {
		r.last = state.FirstIndex + state.EntryCount - 1
	}
	return state, nil
}

// contradictsSnapshot reports whether the entries above the newest snapshot
// belong to another history. A follower that got the snapshot because its log
// disagreed keeps its old tail in tan. Terms never fall along a log, so an entry
// right above the snapshot with a lower term cannot follow it; taken for a tail
// it would make this replica's last term lower than it was, and the replica could
// vote for a candidate that lacks committed entries.
func (s *logStore) contradictsSnapshot(shard, replica, snapshotIndex uint64, state raftio.RaftState) (bool, error) {
	if snapshotIndex == 0 || state.EntryCount == 0 {
		return false, nil
	}
	snapshot, err := s.GetSnapshot(shard, replica)
	if err != nil || snapshot.Index != snapshotIndex {
		return false, err
	}
	next := snapshotIndex + 1
	entries, _, err := s.IterateEntries(nil, 0, shard, replica, next, next+1, 0)
	if err != nil || len(entries) == 0 {
		return false, err
	}
	return entries[0].Term < snapshot.Term, nil
}

// failed tells Fatal of a storage error and returns it; dragonboat panics on it.
func (s *logStore) failed(what string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("raftnode: %s: %w", what, err)
	s.fatal(err)
	return err
}
