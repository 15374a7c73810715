package partitions

import (
	"testing"
)

// The mark in the metadata comes between Prepare and the first Start. A node that
// dies there has lost nothing, and its replica must not be quarantined.
func TestAReplicaThatNeverRanStartsAfterTheMark(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	s := c.spec(n, false)
	s.Shard++
	for range 2 { // Prepare may be repeated
		if err := n.host.Prepare(s); err != nil {
			t.Fatal(err)
		}
	}
	c.down(n)
	c.up(n)
	s.Restart = true
	if err := n.host.Start(s); err != nil {
		t.Fatal(err)
	}
	p, _ := n.host.Get(s.Shard)
	until(t, "the replica to serve", func() bool { return p.Leader().Serving })
	if a := appended(p, numbered(1, 0, 0, 1)); a.Err != nil {
		t.Fatal(a.Err)
	}
}
