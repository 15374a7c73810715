package partitions

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/vfs"
)

// The newest snapshot of a replica that caught up is a peer's. What it held is in
// the replica's files, and nowhere else on the node: where they are lost, or put back
// from a copy, Raft would end the process.
func TestFilesOlderThanAPeersSnapshotQuarantineTheReplica(t *testing.T) {
	for name, lose := range map[string]func(n *node, copied *vfs.MemFS){
		"lost":          func(n *node, _ *vfs.MemFS) { n.fs = vfs.NewMem() },
		"put back from": func(n *node, copied *vfs.MemFS) { n.fs = copied },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var rarely atomic.Bool
			c := newCluster(t, 3, func(o *Options) {
				o.SnapshotBytes = 20_000
				if rarely.Load() {
					o.SnapshotBytes = 1 << 40 // no newer one of its own
				}
			})
			retry := time.NewTicker(2 * time.Millisecond)
			defer retry.Stop()
			m := &ackedProducer{id: 1, window: 8}
			m.send(50, c.serving, retry.C)
			c.settled()
			n := c.anotherNode(c.leader())
			c.down(n)
			copied := vfs.NewMem()
			if _, err := vfs.Clone(n.fs, copied, "/partitions", "/partitions"); err != nil {
				t.Fatal(err)
			}
			m.send(1500, c.serving, retry.C)
			rarely.Store(true)
			c.restart(n)
			c.identical()
			if n.host.transfers.taken.Load() == 0 {
				t.Fatal("nothing was fetched: there was no snapshot")
			}
			c.down(n)
			lose(n, copied)
			c.up(n)
			if err := n.host.Start(c.spec(n, true)); !errors.Is(err, ErrQuarantined) || !errors.Is(err, errBehind) {
				t.Fatalf("start: %v", err)
			}
			m.send(1501, c.serving, retry.C) // the others go on
		})
	}
}
