package raftnode

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// openStore opens a log store in dir of fs, without a NodeHost.
func openStore(t testing.TB, fs vfs.FS, dir string) (*logStore, *syncStats) {
	t.Helper()
	syncs := newSyncStats()
	o := Options{Dir: dir, FS: fs}.withDefaults()
	files, err := newHostFS(o, syncs)
	if err != nil {
		t.Fatal(err)
	}
	c := config.NodeHostConfig{}
	c.Expert.FS = files
	c.Expert.LogDB = config.GetTinyMemLogDBConfig()
	c.Expert.LogDB.KVWriteBufferSize = 64 << 10
	factory := &logStoreFactory{options: o}
	if _, err := factory.Create(c, nil, []string{dir}, []string{dir}); err != nil {
		t.Fatal(err)
	}
	return factory.store, syncs
}

func update(term, vote, commit uint64, entries ...pb.Entry) pb.Update {
	return pb.Update{ShardID: 1, ReplicaID: 1, State: pb.State{Term: term, Vote: vote, Commit: commit}, EntriesToSave: entries}
}

func save(t testing.TB, s *logStore, updates ...pb.Update) {
	t.Helper()
	if err := s.SaveRaftState(updates, 1); err != nil {
		t.Fatal(err)
	}
}

func TestOneFsyncPerProposalOnEveryReplica(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.found(testShard)
	c.must(testShard, "warm-up")
	c.settled(testShard, 1)
	before := make([]uint64, len(c.nodes))
	for i, n := range c.nodes {
		before[i] = n.node.SyncStats().Count
	}
	const proposals = 100
	for range proposals {
		p, err := leader.node.Propose(testShard, make([]byte, 1<<10), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	c.settled(testShard, proposals+1)
	for i, n := range c.nodes {
		each := float64(n.node.SyncStats().Count-before[i]) / proposals
		t.Logf("node %d: %.2f fsyncs per proposal", n.id, each)
		if each > 1.1 {
			t.Errorf("node %d: %.2f fsyncs per proposal, want about 1", n.id, each)
		}
	}
	stats := leader.node.SyncStats()
	if last := stats.Buckets[len(stats.Buckets)-1]; stats.Sum <= 0 || last > stats.Count || leader.node.LogBytes() < proposals<<10 {
		t.Errorf("stats %+v, log bytes %d", stats, leader.node.LogBytes())
	}
}

func TestUpdateThatSavesNothingIsDroppedAndCommitAloneIsNotSynced(t *testing.T) {
	s, syncs := openStore(t, vfs.NewMem(), "/raft")
	defer s.Close()
	steps := []struct {
		name  string
		ud    pb.Update
		syncs uint64
	}{
		{"vote", update(2, 1, 0), 1},
		{"entries only", update(0, 0, 0, pb.Entry{Index: 1, Term: 2}), 1},
		{"commit only", update(2, 1, 1), 0},
		{"nothing", update(0, 0, 0), 0},
		{"the same state", update(2, 1, 1), 0},
		{"commit after nothing", update(2, 1, 2), 0},
		{"term", update(3, 0, 2), 1},
	}
	for _, step := range steps {
		before := syncs.count.Load()
		save(t, s, step.ud)
		if got := syncs.count.Load() - before; got != step.syncs {
			t.Errorf("%s: %d syncs, want %d", step.name, got, step.syncs)
		}
	}
	if got := s.status(1, 1); got != (ReplicaState{Replica: 1, Term: 3, Commit: 2, Last: 1}) {
		t.Errorf("status %+v", got)
	}
}

// history is a random but legal series of writes of one replica, with what must
// be there after a crash.
type history struct {
	random         *rand.Rand
	hard           pb.State
	last, snapshot uint64
	lastTerm       map[uint64]uint64 // index → term of the entry
}

func (h *history) entries(n int) []pb.Entry {
	if h.last > h.hard.Commit && h.random.IntN(4) == 0 {
		h.last = h.hard.Commit + h.random.Uint64N(h.last-h.hard.Commit) // a new leader overwrites
	}
	out := make([]pb.Entry, n)
	for i := range out {
		h.last++
		h.lastTerm[h.last] = h.hard.Term
		out[i] = pb.Entry{Index: h.last, Term: h.hard.Term, Type: pb.ApplicationEntry, Cmd: make([]byte, h.random.IntN(5000))}
	}
	return out
}

// step writes one thing to s.
func (h *history) step(t *testing.T, s *logStore) {
	ud := update(0, 0, 0)
	switch h.random.IntN(8) {
	case 0:
		h.hard.Term++
		h.hard.Vote = h.random.Uint64N(4)
		ud.State = h.hard
	case 1:
		if h.hard.Vote == 0 {
			h.hard.Vote = 1 + h.random.Uint64N(3)
		}
		ud.State = h.hard
	case 2, 3:
		ud.EntriesToSave = h.entries(1 + h.random.IntN(3))
	case 4:
		h.hard.Term++
		ud.State = h.hard
		ud.EntriesToSave = h.entries(1)
	case 5:
		h.hard.Commit = h.last
		ud.State = h.hard
	case 6: // saves nothing
	case 7:
		h.compact(t, s)
		return
	}
	save(t, s, ud)
}

func (h *history) compact(t *testing.T, s *logStore) {
	if h.hard.Commit <= h.snapshot+2 {
		return
	}
	h.snapshot = h.hard.Commit
	ud := pb.Update{ShardID: 1, ReplicaID: 1, Snapshot: pb.Snapshot{
		Dummy: true, ShardID: 1, Index: h.snapshot, Term: h.lastTerm[h.snapshot], Filepath: "x",
		Membership: pb.Membership{Addresses: map[uint64]string{1: "a"}},
	}}
	if err := s.SaveSnapshots([]pb.Update{ud}); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveEntriesTo(1, 1, h.snapshot-2); err != nil {
		t.Fatal(err)
	}
}

// check compares what a store reads after a crash with what was acknowledged.
func (h *history) check(t *testing.T, s *logStore) {
	t.Helper()
	state, err := s.ReadRaftState(1, 1, h.snapshot)
	if err != nil {
		t.Fatal(err)
	}
	if state.State.Term != h.hard.Term || state.State.Vote != h.hard.Vote || state.State.Commit > h.hard.Commit {
		t.Fatalf("hard state %+v after the crash, %+v before", state.State, h.hard)
	}
	if got := s.status(1, 1); got.Last != h.last || got.Term != h.hard.Term {
		t.Fatalf("status %+v after the crash, last was %d", got, h.last)
	}
	if found, err := s.read(1, 1); err != nil || found != (LogTail{Last: h.last, Term: h.hard.Term, Vote: h.hard.Vote}) {
		t.Fatalf("the check before found %+v, %v", found, err)
	}
	if state.EntryCount > 0 {
		entries, _, err := s.IterateEntries(nil, 0, 1, 1, state.FirstIndex, h.last+1, 1<<30)
		if err != nil || uint64(len(entries)) != state.EntryCount {
			t.Fatalf("%d entries, %v; want %d", len(entries), err, state.EntryCount)
		}
		for _, e := range entries {
			if e.Term != h.lastTerm[e.Index] {
				t.Fatalf("entry %d has term %d, was written with %d", e.Index, e.Term, h.lastTerm[e.Index])
			}
		}
	}
}

func TestPowerLossKeepsVotesAndEntries(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := &history{random: rand.New(rand.NewPCG(seed, 1)), hard: pb.State{Term: 1, Vote: 1}, lastTerm: make(map[uint64]uint64)}
			fs := vfs.NewStrictMem()
			s, _ := openStore(t, fs, "/raft")
			if _, err := s.ReadRaftState(1, 1, 0); !errors.Is(err, raftio.ErrNoSavedLog) {
				t.Fatalf("a new replica: %v", err)
			}
			save(t, s, update(1, 1, 0))
			for range 4 {
				for range h.random.IntN(40) {
					h.step(t, s)
				}
				// The power goes: nothing is written from here on, what was not
				// synced is forgotten. What did not reach the disk may lag in
				// commit index only.
				fs.SetIgnoreSyncs(true)
				_ = s.Close()
				fs.ResetToSyncedState()
				fs.SetIgnoreSyncs(false)
				s, _ = openStore(t, fs, "/raft")
				h.check(t, s)
				h.hard.Commit = max(s.status(1, 1).Commit, h.snapshot)
			}
			_ = s.Close()
		})
	}
}

// A process killed between write and fsync leaves bytes that the next process
// reads. What it has read must not be lost to a power cut after that.
func TestWhatARestartReadsIsDurable(t *testing.T) {
	fs := vfs.NewStrictMem()
	killed, _ := openStore(t, fs, "/raft") // never closed: kill -9
	save(t, killed, update(1, 1, 0))
	fs.SetIgnoreSyncs(true) // killed in the fsync
	save(t, killed, update(2, 3, 0, pb.Entry{Index: 1, Term: 2}))
	fs.SetIgnoreSyncs(false)
	s, _ := openStore(t, fs, "/raft")
	before, err := s.ReadRaftState(1, 1, 0)
	if err != nil || before.State.Vote != 3 || before.EntryCount != 1 {
		t.Fatalf("after the kill: %+v, %v", before, err)
	}
	fs.SetIgnoreSyncs(true)
	_ = s.Close()
	fs.ResetToSyncedState()
	fs.SetIgnoreSyncs(false)
	s, _ = openStore(t, fs, "/raft")
	defer s.Close()
	after, err := s.ReadRaftState(1, 1, 0)
	if err != nil || before != after {
		t.Fatalf("read %+v, after the power cut %+v, %v", before, after, err)
	}
}

func TestTailThatContradictsTheSnapshotIsHidden(t *testing.T) {
	s, _ := openStore(t, vfs.NewMem(), "/raft")
	save(t, s, update(3, 1, 0, entriesFrom(1, 20, 3)...))
	installed := update(5, 0, 10)
	installed.Snapshot = pb.Snapshot{Dummy: true, ShardID: 1, Index: 10, Term: 5, Filepath: "x"}
	save(t, s, installed)
	if got := s.status(1, 1).Last; got != 10 {
		t.Fatalf("last %d after a snapshot at 10", got)
	}
	state, err := s.ReadRaftState(1, 1, 10)
	if err != nil || state.EntryCount != 0 || s.status(1, 1).Last != 10 {
		t.Fatalf("state %+v, %v: entries of term 3 above a snapshot of term 5", state, err)
	}
	save(t, s, update(0, 0, 0, entriesFrom(11, 13, 5)...))
	state, err = s.ReadRaftState(1, 1, 10)
	if err != nil || state.FirstIndex != 11 || state.EntryCount != 3 {
		t.Fatalf("state %+v, %v after new entries 11–13", state, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func entriesFrom(first, last, term uint64) (out []pb.Entry) {
	for i := first; i <= last; i++ {
		out = append(out, pb.Entry{Index: i, Term: term})
	}
	return out
}

// overlapDB fails the test when two writes of one replica overlap.
type overlapDB struct {
	raftio.ILogDB
	t    *testing.T
	busy [3]atomic.Int32
}

func (d *overlapDB) write(replica uint64) {
	if d.busy[replica].Add(1) != 1 {
		d.t.Error("two writes of one replica overlap")
	}
	waitTick()
	d.busy[replica].Add(-1)
}

func (d *overlapDB) SaveRaftState(updates []pb.Update, _ uint64) error {
	for _, ud := range updates {
		d.write(ud.ReplicaID)
	}
	return nil
}

func (d *overlapDB) SaveSnapshots(updates []pb.Update) error {
	return d.SaveRaftState(updates, 0)
}

func (d *overlapDB) RemoveEntriesTo(_, replica, _ uint64) error { d.write(replica); return nil }

func TestWritesOfOneReplicaNeverOverlap(t *testing.T) {
	s := &logStore{
		ILogDB: &overlapDB{t: t}, fatal: func(error) {},
		replicas: make(map[raftio.NodeInfo]*replicaLog), scratch: make([][]pb.Update, execShards+1),
	}
	ud := func(replica uint64) pb.Update {
		return pb.Update{ShardID: 1, ReplicaID: replica, EntriesToSave: entriesFrom(1, 1, 1), Snapshot: pb.Snapshot{Index: 1}}
	}
	var wg sync.WaitGroup
	run := func(write func() error) {
		wg.Go(func() {
			for range 20 {
				if err := write(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	run(func() error { return s.SaveRaftState([]pb.Update{ud(1), ud(2)}, 1) })
	run(func() error { return s.SaveSnapshots([]pb.Update{ud(1), ud(2)}) })
	run(func() error { return s.RemoveEntriesTo(1, 1, 1) })
	run(func() error { return s.RemoveEntriesTo(1, 2, 1) })
	wg.Wait()
}

func TestFatalHearsOfAFailedSyncFirst(t *testing.T) {
	var heard error
	fail := vfs.OnIndex(0, vfs.OpSync)
	f := &logFile{File: must(vfs.Wrap(vfs.NewMem(), fail).Create("/x.log")), fs: &hostFS{
		syncs: newSyncStats(), fatal: func(err error) { heard = err },
	}}
	if err := f.Sync(); err == nil || heard == nil {
		t.Fatalf("sync: %v, Fatal heard %v", err, heard)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
