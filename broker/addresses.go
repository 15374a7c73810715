package broker

import (
	"sync"

	"logbroker/broker/metadata"
)

// addresses knows the Raft address of every incarnation. News comes from the
// founding record, from the metadata image and from handshakes, and the latest
// wins: a node that moved says hello before it can register, because
// registering needs the metadata shard, which needs its address. What the image
// held when this node started is older than every hello: after a restart of all
// nodes on new addresses nobody could have registered yet.
type addresses struct {
	mu sync.RWMutex
	// byIncarnation is what is believed now; guarded by mu.
	byIncarnation map[string]string
	// fromImage is what the image last said, so that an old image entry does not
	// undo a newer hello; guarded by mu.
	fromImage map[string]string
	// greeted holds the incarnations whose address a handshake has named; guarded
	// by mu.
	greeted map[string]bool
}

func newAddresses(founders []member) *addresses {
	a := &addresses{byIncarnation: map[string]string{}, fromImage: map[string]string{}, greeted: map[string]bool{}}
	for _, m := range founders {
		a.byIncarnation[m.Incarnation] = m.RaftAddr
	}
	return a
}

// learn takes over what a node said of itself.
func (a *addresses) learn(m member) {
	if m.Incarnation == "" || m.RaftAddr == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.byIncarnation[m.Incarnation] = m.RaftAddr
	a.greeted[m.Incarnation] = true
}

// learnImage takes over the addresses that changed in the image, and at first
// those that nobody has named yet.
func (a *addresses) learnImage(image *metadata.Image) {
	nodes := map[string]string{}
	for _, n := range image.Nodes() {
		nodes[n.Incarnation] = n.RaftAddr
	}
	a.learnNodes(nodes)
}

// learnNodes is learnImage for incarnation → address.
func (a *addresses) learnNodes(nodes map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for incarnation, addr := range nodes {
		before, seen := a.fromImage[incarnation]
		if seen && before == addr {
			continue
		}
		a.fromImage[incarnation] = addr
		if seen || !a.greeted[incarnation] {
			a.byIncarnation[incarnation] = addr
		}
	}
}

// resolve is raftnode's Options.Resolve.
func (a *addresses) resolve(incarnation string) (string, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	addr, ok := a.byIncarnation[incarnation]
	return addr, ok
}
