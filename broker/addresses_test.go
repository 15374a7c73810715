package broker

import (
	"testing"
)

// After a restart of all nodes on new addresses the image still has the old
// ones, and none can be registered before the metadata shard has a leader.
func TestAnOldAddressInTheImageDoesNotUndoAHello(t *testing.T) {
	a := newAddresses([]member{{NodeID: 1, Incarnation: "x", RaftAddr: "old:1"}, {NodeID: 2, Incarnation: "y", RaftAddr: "old:2"}})
	a.learn(member{NodeID: 1, Incarnation: "x", RaftAddr: "new:1"})
	want := func(incarnation, addr string) {
		t.Helper()
		if got, _ := a.resolve(incarnation); got != addr {
			t.Errorf("%s is believed at %s, want %s", incarnation, got, addr)
		}
	}
	a.learnNodes(map[string]string{"x": "old:1", "y": "image:2"})
	want("x", "new:1")   // the hello is newer
	want("y", "image:2") // nothing is newer than the image
	a.learnNodes(map[string]string{"x": "old:1", "y": "image:2"})
	want("x", "new:1")
	a.learnNodes(map[string]string{"x": "newest:1", "y": "image:2"})
	want("x", "newest:1") // it registered elsewhere
}
