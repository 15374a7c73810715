package raftnode

import (
	"errors"
	"testing"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/dragonboat/v4/statemachine"
)

// calmDB takes everything.
type calmDB struct {
	raftio.ILogDB
	calls    int
	snapshot pb.Snapshot
}

func (d *calmDB) SaveRaftState([]pb.Update, uint64) error { return nil }
func (d *calmDB) SaveSnapshots(u []pb.Update) error {
	d.calls++
	d.snapshot = u[0].Snapshot
	return nil
}
func (d *calmDB) GetSnapshot(_, _ uint64) (pb.Snapshot, error) { return d.snapshot, nil }
func (d *calmDB) RemoveEntriesTo(_, _ uint64, _ uint64) error  { d.calls++; return nil }

// tellingMachine is a machine with a durable index. It applies nothing.
type tellingMachine struct {
	statemachine.IOnDiskStateMachine
	durable       uint64
	synced, begun int
	await         func(index uint64) error
}

func (m *tellingMachine) DurableIndex() uint64 { return m.durable }
func (m *tellingMachine) Sync() error          { m.synced++; return nil }
func (m *tellingMachine) StartSync() error     { m.begun++; return nil }
func (m *tellingMachine) AwaitDurable(index uint64) error {
	if m.await == nil {
		return nil
	}
	return m.await(index)
}

func TestTheRaftLogIsNotLetGoAboveWhatTheMachineHasOnDisk(t *testing.T) {
	db := &calmDB{}
	fatal := 0
	s := &logStore{ILogDB: db, fatal: func(error) { fatal++ }, replicas: make(map[raftio.NodeInfo]*replicaLog)}
	s.host(1, 1, &tellingMachine{durable: 100}, nil)
	own := func(shard, index uint64) error {
		return s.SaveSnapshots([]pb.Update{{ShardID: shard, ReplicaID: 1, Snapshot: pb.Snapshot{Index: index + 2, OnDiskIndex: index, Dummy: true}}})
	}
	fromPeer := func(index, applied uint64) error {
		return s.SaveSnapshots([]pb.Update{{ShardID: 1, ReplicaID: 1, Snapshot: pb.Snapshot{Index: index, OnDiskIndex: applied}}})
	}
	for _, test := range []struct {
		name string
		do   func() error
		ok   bool
	}{
		{"entries up to the marker", func() error { return s.RemoveEntriesTo(1, 1, 100) }, true},
		{"an entry above it", func() error { return s.RemoveEntriesTo(1, 1, 101) }, false},
		{"a snapshot at the marker", func() error { return own(1, 100) }, true},
		{"a snapshot above it", func() error { return own(1, 101) }, false},
		{"a snapshot from a peer", func() error { return fromPeer(500, 500) }, true},
		{"the entries below it before the machine has it", func() error { return s.RemoveEntriesTo(1, 1, 500) }, false},
		{"a snapshot from a peer whose last entries were no commands", func() error { return fromPeer(102, 100) }, true},
		{"those entries", func() error { return s.RemoveEntriesTo(1, 1, 102) }, true},
		{"an entry above that", func() error { return s.RemoveEntriesTo(1, 1, 103) }, false},
		{"a machine that does not tell", func() error { return s.RemoveEntriesTo(2, 1, 500) }, true},
	} {
		calls, told := db.calls, fatal
		err := test.do()
		if (err == nil) != test.ok || (db.calls > calls) != test.ok || (fatal > told) == test.ok {
			t.Errorf("%s: %v, reached the store: %v, fatal: %v", test.name, err, db.calls > calls, fatal > told)
		}
	}
}

// dragonboat asks for a sync and then records that it was made. The sync is only begun,
// and the record waits for it.
func TestTheRecordOfASnapshotWaitsForTheSyncThatWasBegun(t *testing.T) {
	db := &calmDB{}
	var told error
	s := &logStore{ILogDB: db, fatal: func(err error) { told = err }, replicas: make(map[raftio.NodeInfo]*replicaLog)}
	m := &tellingMachine{durable: 10}
	hosted := s.host(1, 1, m, nil)
	if err := hosted.Sync(); err != nil || m.begun != 1 || m.synced != 0 {
		t.Fatalf("%d syncs begun, %d made, %v", m.begun, m.synced, err)
	}
	own := []pb.Update{{ShardID: 1, ReplicaID: 1, Snapshot: pb.Snapshot{Index: 21, OnDiskIndex: 20, Dummy: true}}}
	m.await = func(index uint64) error {
		if db.calls != 0 {
			t.Error("the record was written first")
		}
		// The replica goes on meanwhile.
		if err := s.SaveRaftState([]pb.Update{{ShardID: 1, ReplicaID: 1}}, 1); err != nil {
			t.Error(err)
		}
		m.durable = index
		return nil
	}
	if err := s.SaveSnapshots(own); err != nil || db.calls != 1 || db.snapshot.Index != 21 {
		t.Fatalf("%v, %d records, the last %+v", err, db.calls, db.snapshot)
	}
	failed := errors.New("the disk is broken")
	m.await = func(uint64) error { return failed }
	if err := s.SaveSnapshots(own); !errors.Is(err, failed) || !errors.Is(told, failed) || db.calls != 1 {
		t.Errorf("a sync that failed: %v, fatal %v, %d records", err, told, db.calls)
	}
}

// After a peer's snapshot dragonboat throws its data away when Sync returns. It does
// so also where the machine had applied all of it, and did not get it.
func TestASyncIsWaitedForWhereAPeersSnapshotReachesAboveTheMarker(t *testing.T) {
	for name, give := range map[string]func(*logStore, []pb.Update) error{
		"with entries": func(s *logStore, u []pb.Update) error { return s.SaveRaftState(u, 1) },
		"alone":        (*logStore).SaveSnapshots,
	} {
		s := &logStore{ILogDB: &calmDB{}, fatal: func(error) {}, replicas: make(map[raftio.NodeInfo]*replicaLog)}
		m := &tellingMachine{durable: 10}
		hosted := s.host(1, 1, m, nil)
		if err := give(s, []pb.Update{{ShardID: 1, ReplicaID: 1, Snapshot: pb.Snapshot{Index: 33, OnDiskIndex: 30}}}); err != nil {
			t.Fatal(err)
		}
		for durable, begun := range map[uint64]bool{10: false, 29: false, 30: true, 31: true} {
			m.durable, m.begun, m.synced = durable, 0, 0
			if err := hosted.Sync(); err != nil || (m.begun == 1) != begun || (m.synced == 1) == begun {
				t.Errorf("%s, the marker at %d: %d syncs begun, %d made, %v", name, durable, m.begun, m.synced, err)
			}
		}
	}
}
