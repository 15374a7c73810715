package raftnode

import (
	"testing"

	"logbroker/internal/raftnode/chantransport"
)

// What a leader could not replicate stands in its own log, and goes when a
// successor's entries take its place.
func TestTailShowsWhatIsInTheLogAndNotCommitted(t *testing.T) {
	const shard = 7
	network := chantransport.New()
	c := newCluster(t, 3, func(n *testNode, _ *EndpointOptions) {
		n.options.Transport, n.options.Advertise = network.Factory(), n.incarnation
	})
	old := c.found(shard)
	c.must(shard, "first")
	network.Intercept(func(m chantransport.Message) chantransport.Verdict {
		if m.Shard == shard && (m.FromAddress == old.incarnation || m.ToAddress == old.incarnation) {
			return chantransport.Drop
		}
		return chantransport.Deliver
	})
	tail := func() []string {
		entries, err := old.node.Tail(shard, 100)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for i, e := range entries {
			if i > 0 && e.Index != entries[i-1].Index+1 {
				t.Fatalf("entry %d after %d", e.Index, entries[i-1].Index)
			}
			if e.Command != nil {
				out = append(out, string(e.Command))
			}
		}
		return out
	}
	last := func() string {
		all := tail()
		return all[len(all)-1]
	}
	p, err := old.node.Propose(shard, []byte("alone"), testRTT)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the entry in the leader's own log", func() bool { return last() == "alone" })
	if _, err := p.Wait(); err == nil {
		t.Fatal("a leader that is cut off acknowledged a proposal")
	}
	eventually(t, "an acknowledged proposal elsewhere", func() bool {
		for _, n := range c.followers(old) {
			if id, _, ok := n.node.Leader(shard); ok && id == n.id {
				_, err := n.node.ProposeWait(background(t), shard, []byte("second"))
				return err == nil
			}
		}
		return false
	})
	network.Intercept(nil)
	eventually(t, "the successor's entry in place of the old one", func() bool { return last() == "second" })
	if one, err := old.node.Tail(shard, 1); err != nil || len(one) != 1 || string(one[0].Command) != "second" {
		t.Errorf("the last entry alone: %v, %v", one, err)
	}
	if none, err := old.node.Tail(shard+1, 10); none != nil || err != nil {
		t.Errorf("of a shard that is not here: %v, %v", none, err)
	}
}
