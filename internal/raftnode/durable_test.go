package raftnode

import (
	"testing"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// calmDB takes everything.
type calmDB struct {
	raftio.ILogDB
	calls int
}

func (d *calmDB) SaveSnapshots([]pb.Update) error             { d.calls++; return nil }
func (d *calmDB) RemoveEntriesTo(_, _ uint64, _ uint64) error { d.calls++; return nil }

func TestTheRaftLogIsNotLetGoAboveWhatTheMachineHasOnDisk(t *testing.T) {
	db := &calmDB{}
	fatal := 0
	s := &logStore{ILogDB: db, fatal: func(error) { fatal++ }, replicas: make(map[raftio.NodeInfo]*replicaLog)}
	s.holdTo(1, 1, func() uint64 { return 100 })
	own := func(shard, index uint64) error {
		return s.SaveSnapshots([]pb.Update{{ShardID: shard, ReplicaID: 1, Snapshot: pb.Snapshot{Index: index + 2, OnDiskIndex: index, Dummy: true}}})
	}
	fromPeer := func(index uint64) error {
		return s.SaveSnapshots([]pb.Update{{ShardID: 1, ReplicaID: 1, Snapshot: pb.Snapshot{Index: index, OnDiskIndex: index}}})
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
		{"a snapshot from a peer", func() error { return fromPeer(500) }, true},
		{"a machine that does not tell", func() error { return s.RemoveEntriesTo(2, 1, 500) }, true},
	} {
		calls, told := db.calls, fatal
		err := test.do()
		if (err == nil) != test.ok || (db.calls > calls) != test.ok || (fatal > told) == test.ok {
			t.Errorf("%s: %v, reached the store: %v, fatal: %v", test.name, err, db.calls > calls, fatal > told)
		}
	}
}
