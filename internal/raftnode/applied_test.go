package raftnode

import (
	"io"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"
)

// counter counts its commands, in memory.
type counter struct{ n uint64 }

func (c *counter) Update(statemachine.Entry) (statemachine.Result, error) {
	c.n++
	return statemachine.Result{Value: c.n}, nil
}
func (c *counter) Lookup(any) (any, error) { return c.n, nil }
func (c *counter) SaveSnapshot(w io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	_, err := w.Write([]byte{byte(c.n)})
	return err
}

func (c *counter) RecoverFromSnapshot(r io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	var b [1]byte
	_, err := io.ReadFull(r, b[:])
	c.n = uint64(b[0])
	return err
}
func (c *counter) Close() error { return nil }

func TestAppliedIndexOfAMachineInMemoryIsKnownAlsoAfterASnapshot(t *testing.T) {
	c := newCluster(t, 1, nil)
	node := c.nodes[0]
	start := func() {
		t.Helper()
		shard := Shard{ID: 2, Replica: 1, Members: map[uint64]string{1: node.incarnation}}
		if err := node.node.StartInMemory(shard, func(uint64, uint64) statemachine.IStateMachine { return &counter{} }); err != nil {
			t.Fatal(err)
		}
		for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
			if leader, _, ok := node.node.Leader(2); ok && leader == 1 {
				tick.Stop()
				return
			}
		}
	}
	applied := func() uint64 {
		t.Helper()
		if err := node.node.ReadIndex(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		s, ok := node.node.Status(2)
		if !ok || s.Applied > s.Last {
			t.Fatalf("%+v, %t", s, ok)
		}
		return s.Applied
	}
	start()
	for range 5 {
		p, err := node.node.Propose(2, []byte("x"), defaultTimeout)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	before := applied()
	if before < 5 {
		t.Errorf("applied index %d after five commands", before)
	}
	if err := node.node.Snapshot(t.Context(), 2, 1); err != nil {
		t.Fatal(err)
	}
	node.node.Close()
	c.open(node)
	start()
	if got := applied(); got < before {
		t.Errorf("applied index %d after a restart from a snapshot, it was %d", got, before)
	}
}
