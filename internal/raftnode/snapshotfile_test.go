package raftnode

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/lni/dragonboat/v4/statemachine"
)

// bulky counts its commands and makes snapshots of several blocks.
type bulky struct{ counter }

const bulkBytes = 2*snapshotBlockBytes + 1000

func (b *bulky) SaveSnapshot(w io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	_, err := w.Write(bytes.Repeat([]byte{byte(b.n)}, bulkBytes))
	return err
}

func (b *bulky) RecoverFromSnapshot(r io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	data := make([]byte, bulkBytes)
	_, err := io.ReadFull(r, data)
	b.n = uint64(data[bulkBytes-1])
	return err
}

// snapshotIn returns the one snapshot's file below dir.
func snapshotIn(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*", "*", "snapshot-part-*", "snapshot-*", "snapshot-*", "*.gbsnap"))
	if err != nil || len(found) != 1 {
		t.Fatalf("snapshots %q, %v", found, err)
	}
	return found[0]
}

// harm is what a test does to a file: do returns what is put in its place, nil to
// remove it.
type harm struct {
	name    string
	do      func(data []byte) []byte
	harmful bool
}

func flipAt(at int) func([]byte) []byte {
	return func(data []byte) []byte { data[(at+len(data))%len(data)] ^= 0x10; return data }
}

func TestADamagedSnapshotIsFoundBeforeDragonboatReadsIt(t *testing.T) {
	c := newCluster(t, 1, nil)
	node := c.nodes[0]
	start := func() {
		t.Helper()
		shard := Shard{ID: 2, Replica: 1, Members: map[uint64]string{1: node.incarnation}}
		if err := node.node.StartInMemory(shard, func(uint64, uint64) statemachine.IStateMachine { return &bulky{} }); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a leader", func() bool { _, _, ok := node.node.Leader(2); return ok })
	}
	start()
	if _, err := node.node.ProposeWait(background(t), 2, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := node.node.Snapshot(background(t), 2, 1); err != nil {
		t.Fatal(err)
	}
	node.node.Close()
	file := snapshotIn(t, node.options.Dir)
	cut := func(n int) func([]byte) []byte { return func(data []byte) []byte { return data[:len(data)-n] } }
	for _, h := range []harm{
		{"nothing", func(data []byte) []byte { return data }, false},
		{"a flipped bit in the header's length", flipAt(1), true},
		{"a flipped bit in the header", flipAt(12), true},
		{"a flipped bit in the first block", flipAt(2000), true},
		{"a flipped bit in the last block", flipAt(-500), true},
		{"a flipped bit in a checksum", flipAt(-20), true},
		{"a flipped bit in the length of it all", flipAt(-16), true},
		{"a tail that is cut", cut(3), true},
		{"a block that is cut", cut(700), true},
		{"cut to nothing", func([]byte) []byte { return []byte{} }, true},
		{"garbage behind it", func(data []byte) []byte { return append(data, "garbage"...) }, true},
		{"removed", func([]byte) []byte { return nil }, true},
	} {
		checkHarm(t, c, file, h)
	}
	flag := filepath.Join(filepath.Dir(file), snapshotFlagFile)
	body := []byte("a snapshot's record")
	if err := os.WriteFile(flag, append(flagChecksum(body), body...), 0o600); err != nil {
		t.Fatal(err)
	}
	checkHarm(t, c, flag, harm{"a whole flag file", func(data []byte) []byte { return data }, false})
	checkHarm(t, c, flag, harm{"a damaged flag file", flipAt(10), true})
	if err := os.Remove(flag); err != nil {
		t.Fatal(err)
	}
	c.open(node)
	start()
	if n, err := node.node.ProposeWait(background(t), 2, []byte("x")); err != nil || n.Value != 2 {
		t.Fatalf("after it all: %v, %v", n, err)
	}
}

// checkHarm harms a file of the closed node's shard 2, lets the node look at its
// Raft log, and puts the file back.
func checkHarm(t *testing.T, c *testCluster, file string, h harm) {
	t.Helper()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if harmed := h.do(bytes.Clone(whole)); harmed == nil {
		err = os.Remove(file)
	} else {
		err = os.WriteFile(file, harmed, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.open(c.nodes[0])
	_, err = c.nodes[0].node.CheckLog(2, 1)
	if errors.Is(err, ErrLogDamaged) != h.harmful || !h.harmful && err != nil {
		t.Errorf("%s: %v", h.name, err)
	}
	c.nodes[0].node.Close()
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
}
