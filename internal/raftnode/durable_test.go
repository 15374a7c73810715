package raftnode

import (
	"testing"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// calmDB takes everything.
type calmDB struct {
	raftio.ILogDB
	calls    int
	snapshot pb.Snapshot
}

func (d *calmDB) SaveSnapshots(u []pb.Update) error {
	d.calls++
	d.snapshot = u[0].Snapshot
	return nil
}
func (d *calmDB) GetSnapshot(_, _ uint64) (pb.Snapshot, error) { return d.snapshot, nil }
func (d *calmDB) RemoveEntriesTo(_, _ uint64, _ uint64) error  { d.calls++; return nil }

func TestTheRaftLogIsNotLetGoAboveWhatTheMachineHasOnDisk(t *testing.T) {
	db := &calmDB{}
	fatal := 0
	s := &logStore{ILogDB: db, fatal: func(error) { fatal++ }, replicas: make(map[raftio.NodeInfo]*replicaLog)}
	s.holdTo(1, 1, func() uint64 { return 100 })
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
