package raftnode

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"logbroker/internal/raftnode/tanfiles"
	"logbroker/internal/storage"
)

// ErrLogDamaged says that files of a replica's Raft log hold something else than
// what was written. The replica has forgotten what it acknowledged and must never
// start again under its id.
var ErrLogDamaged = errors.New("the Raft log is damaged")

// LogDamagedError is an ErrLogDamaged that says where.
type LogDamagedError struct {
	Shard, Replica uint64
	// Cause names the file and what is wrong with it.
	Cause error
}

// Error implements error.
func (e *LogDamagedError) Error() string {
	return fmt.Sprintf("raftnode: the Raft log of shard %d replica %d is damaged: %v", e.Shard, e.Replica, e.Cause)
}

// Unwrap makes ErrLogDamaged and the cause findable.
func (e *LogDamagedError) Unwrap() []error { return []error{ErrLogDamaged, e.Cause} }

// LogTail is how far a replica's Raft log reaches: the index of its last entry or
// newest snapshot, whichever is higher, and its newest term and vote.
type LogTail struct{ Last, Term, Vote uint64 }

// CheckLog reads the whole Raft log of a replica that has not been started, and
// says how far it reaches. It changes nothing on disk: neither where the log is
// damaged, nor where the end of it is gone, which only the caller can tell. Only
// for a replica that HasReplica knows. Errors: ErrLogDamaged, a *LogDamagedError; any
// other one says that the disk could not be asked.
func (n *Node) CheckLog(shard, replica uint64) (LogTail, error) {
	if err := n.enter(); err != nil {
		return LogTail{}, err
	}
	defer n.leave()
	return n.store.read(shard, replica)
}

// Reached returns how far the log of a replica reaches for certain: what is
// returned is durable, and never falls. ok is false before the first start.
func (n *Node) Reached(shard, replica uint64) (t LogTail, ok bool) {
	s := n.store.status(shard, replica)
	// Unlike the last entry the commit index never falls; it may be ahead of the log.
	t = LogTail{Last: min(s.Commit, s.Last), Term: s.Term, Vote: s.Vote}
	return t, t != LogTail{}
}

func (s *logStore) directory(shard, replica uint64) string {
	return filepath.Join(s.tanDir, fmt.Sprintf("node-%d-%d", shard, replica))
}

func (s *logStore) bootstrapRecord(shard, replica uint64) string {
	return filepath.Join(s.tanDir, "bootstrap", fmt.Sprintf("BOOTSTRAP-%d-%d", shard, replica))
}

// has reports whether there is a bootstrap record, whole or not.
func (s *logStore) has(shard, replica uint64) bool {
	_, err := s.files.Stat(s.bootstrapRecord(shard, replica))
	return err == nil
}

// read reads the replica's files, the first time it is asked.
func (s *logStore) read(shard, replica uint64) (LogTail, error) {
	r := s.replica(shard, replica)
	if r.checked.Load() {
		return r.tail(), nil
	}
	r.checking.Lock()
	defer r.checking.Unlock()
	if r.checked.Load() {
		return r.tail(), nil
	}
	var log tanfiles.Log
	var err error
	if s.has(shard, replica) {
		err = tanfiles.ReadBootstrap(s.files, s.bootstrapRecord(shard, replica))
	}
	if err == nil {
		log, err = tanfiles.Read(s.files, s.directory(shard, replica))
	}
	if err == nil {
		err = s.checkSnapshots(shard, replica, log.Snapshot)
	}
	if errors.As(err, new(*tanfiles.DamageError)) {
		return LogTail{}, &LogDamagedError{Shard: shard, Replica: replica, Cause: err}
	}
	if err != nil {
		return LogTail{}, fmt.Errorf("raftnode: %w", err)
	}
	r.found = LogTail{Last: max(log.Last, log.Snapshot.Index), Term: log.Term, Vote: log.Vote}
	r.checked.Store(true)
	return r.found, nil
}

// tail is how far the log of a replica that was checked reaches: as it was found,
// or where it has been started since as it is now.
func (r *replicaLog) tail() LogTail {
	r.state.Lock()
	defer r.state.Unlock()
	if r.last == 0 && pb.IsEmptyState(r.hard) {
		return r.found
	}
	return LogTail{Last: r.last, Term: r.hard.Term, Vote: r.hard.Vote}
}

// check stands before the first time that tan opens a replica's files.
func (s *logStore) check(shard, replica uint64) error {
	_, err := s.read(shard, replica)
	return err
}

// GetSnapshot implements raftio.ILogDB.
func (s *logStore) GetSnapshot(shard, replica uint64) (pb.Snapshot, error) {
	if err := s.check(shard, replica); err != nil {
		return pb.Snapshot{}, err
	}
	return s.ILogDB.GetSnapshot(shard, replica)
}

// GetBootstrapInfo implements raftio.ILogDB. tan panics where the record is
// damaged.
func (s *logStore) GetBootstrapInfo(shard, replica uint64) (pb.Bootstrap, error) {
	if !s.has(shard, replica) {
		return pb.Bootstrap{}, raftio.ErrNoBootstrapInfo
	}
	if err := s.check(shard, replica); err != nil {
		return pb.Bootstrap{}, err
	}
	return s.ILogDB.GetBootstrapInfo(shard, replica)
}

// removeDamaged removes what tan cannot open: the record by which the replica is
// known comes last.
func (s *logStore) removeDamaged(shard, replica uint64) error {
	if err := s.files.RemoveAll(s.directory(shard, replica)); err != nil {
		return err
	}
	if err := storage.SyncDir(s.files, s.tanDir); err != nil {
		return err
	}
	record := s.bootstrapRecord(shard, replica)
	if err := s.files.RemoveAll(record); err != nil {
		return err
	}
	return storage.SyncDir(s.files, filepath.Dir(record))
}
