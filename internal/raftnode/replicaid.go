package raftnode

import "fmt"

// A shard with at most one replica per node, whose replica is replaced now and
// then under a new id, can do without a table of which id is whose: the low half
// of an id is the node's, the upper half counts the replacements. So a node's
// first replica has the node's own id.
const (
	nodeBits = 32
	// NodeMax is the highest node id that such a shard can have.
	NodeMax = 1<<nodeBits - 1
)

// NodeOf returns the node of a replica whose id follows that rule.
func NodeOf(replica uint64) uint64 { return replica & NodeMax }

// NextReplica returns the id of node's next replica: above all of node's that
// used holds, and never given before as long as used has all that were.
func NextReplica(node uint64, used ...uint64) (uint64, error) {
	if node == 0 || node > NodeMax {
		return 0, fmt.Errorf("raftnode: node id %d: only nodes 1 to %d can have a replica replaced", node, NodeMax)
	}
	last := node
	for _, replica := range used {
		if NodeOf(replica) == node {
			last = max(last, replica)
		}
	}
	return last + 1<<nodeBits, nil
}
