// Package placement decides which nodes hold the replicas of a topic's
// partitions, and which of them should lead.
//
// It is pure: no clock, no randomness, no map iteration that reaches its
// results, so the metadata state machine may call it while it applies a
// command. It knows neither topics by name nor Raft. Start at Place for new
// topics, Extend for more partitions of an old one, BalanceLeaders for who
// should lead what right now.
package placement

import (
	"cmp"
	"slices"

	"logbroker/internal/errcode"
)

// ReplicasDefault is the number of replicas of a topic that does not ask for a
// number, where there are that many nodes.
const ReplicasDefault = 3

// Node is a node that may be given replicas. Replicas and Preferred count what
// it already has over all topics; they only bias where the odd ones go.
type Node struct {
	ID        uint64
	Rack      string // "" means a rack of its own
	Replicas  int
	Preferred int
}

// Place spreads the replicas of a new topic. The result has one row for each
// partition: node ids, the preferred leader first.
//
// Per topic, replicas per node and preferred leaders per node differ by at most
// one. Within that, replicas of a partition lie in as many racks as can be, and
// what does not divide goes to the nodes that have least. replicas 0 means
// min(3, nodes).
//
// It returns INVALID_PARTITIONS for partitions < 1, INVALID_REPLICATION_FACTOR
// for replicas < 0 or more than there are nodes.
func Place(nodes []Node, partitions, replicas int) ([][]uint64, error) {
	return Extend(nodes, nil, partitions, replicas)
}

// Extend places add more partitions of a topic whose partitions are placed as
// existing says, so that the whole topic stays as even as it can be without
// moving what is there: replicas per node first, preferred leaders second, which
// may then differ by two. Errors as for Place.
func Extend(nodes []Node, existing [][]uint64, add, replicas int) ([][]uint64, error) {
	if add < 1 {
		return nil, errcode.New(errcode.InvalidPartitions, "%d partitions were asked for; ask for at least 1", add)
	}
	if len(nodes) == 0 {
		return nil, errcode.New(errcode.InvalidReplicationFactor, "there are 0 nodes to place replicas on; wait until nodes have registered")
	}
	if replicas == 0 {
		replicas = min(ReplicasDefault, len(nodes))
	}
	if replicas < 1 || replicas > len(nodes) {
		return nil, errcode.New(errcode.InvalidReplicationFactor,
			"%d replicas were asked for, and there are %d nodes; ask for 1 to %d replicas or add nodes",
			replicas, len(nodes), len(nodes))
	}
	s := newSpread(nodes, existing, add, replicas)
	s.fillQuotas()
	for left := add; left > 0; left-- {
		s.rows = append(s.rows, s.pickRow(left))
	}
	s.preferLeaders()
	return s.result(), nil
}

// spread is the work in progress of one Extend. Nodes are named by their place
// in nodes, which is sorted by id.
type spread struct {
	nodes    []Node
	replicas int
	add      int
	level    []int // replicas of the topic per node, planned ones included
	quota    []int // new replicas that a node still has to be given
	rack     []int // rack of a node, by number
	racks    int
	led      []int   // partitions of the topic that prefer the node
	paired   [][]int // how many new rows hold both nodes
	rows     [][]int // new partitions: nodes, the preferred leader first
}

func newSpread(nodes []Node, existing [][]uint64, add, replicas int) *spread {
	n := len(nodes)
	s := &spread{
		nodes: slices.Clone(nodes), replicas: replicas, add: add,
		level: make([]int, n), quota: make([]int, n), rack: make([]int, n), led: make([]int, n), paired: make([][]int, n),
	}
	slices.SortFunc(s.nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	number := make(map[string]int, n)
	place := make(map[uint64]int, n)
	for i, node := range s.nodes {
		place[node.ID] = i
		s.paired[i] = make([]int, n)
		rack, known := number[node.Rack]
		if !known || node.Rack == "" {
			rack = s.racks
			number[node.Rack] = rack
			s.racks++
		}
		s.rack[i] = rack
	}
	for _, row := range existing {
		s.countRow(row, place)
	}
	return s
}

// countRow counts one existing partition; nodes that are gone do not count.
func (s *spread) countRow(row []uint64, place map[uint64]int) {
	for k, id := range row {
		i, ok := place[id]
		if !ok {
			continue
		}
		s.level[i]++
		if k == 0 {
			s.led[i]++
		}
	}
}

// fillQuotas hands out add×replicas places one by one, each to the lowest node.
//
// Invariant that makes every later choice possible: sum(quota) = add×replicas
// and quota[i] ≤ add.
func (s *spread) fillQuotas() {
	for range s.add * s.replicas {
		i := s.lowest()
		s.level[i]++
		s.quota[i]++
	}
}

// lowest returns the node that gets the next place: fewest replicas of the
// topic, then the rack that is behind at this level, then the fewest preferred
// leaders of the topic, then the fewest replicas over all topics.
func (s *spread) lowest() int {
	floor := -1
	for i := range s.nodes {
		if s.quota[i] < s.add && (floor < 0 || s.level[i] < floor) {
			floor = s.level[i]
		}
	}
	ahead := make([]int, s.racks)
	for i := range s.nodes {
		if s.level[i] > floor {
			ahead[s.rack[i]]++
		}
	}
	best := -1
	for i, n := range s.nodes {
		if s.quota[i] == s.add || s.level[i] != floor {
			continue
		}
		if best < 0 || cmp.Or(cmp.Compare(ahead[s.rack[i]], ahead[s.rack[best]]), cmp.Compare(s.led[i], s.led[best]),
			cmp.Compare(n.Replicas, s.nodes[best].Replicas), cmp.Compare(n.Preferred, s.nodes[best].Preferred)) < 0 {
			best = i
		}
	}
	return best
}

// pickRow chooses the nodes of one partition when left partitions, this one
// included, are still to be placed.
//
// A node whose quota equals left must be in every remaining row, so those come
// first; there are at most replicas of them, because sum(quota) = left×replicas.
// Any choice of the others keeps quota[i] ≤ left-1, so the rest works out.
func (s *spread) pickRow(left int) []int {
	row := make([]int, 0, s.replicas)
	inRow := make([]int, s.racks)
	taken := make([]bool, len(s.nodes))
	take := func(i int) {
		for _, j := range row {
			s.paired[i][j]++
			s.paired[j][i]++
		}
		row = append(row, i)
		taken[i] = true
		inRow[s.rack[i]]++
		s.quota[i]--
	}
	rackQuota := s.rackQuotas()
	for i := range s.nodes {
		if s.quota[i] == left {
			take(i)
		}
	}
	for len(row) < s.replicas {
		best := -1
		for i := range s.nodes {
			if !taken[i] && s.quota[i] > 0 && (best < 0 || s.fits(i, best, row, inRow, rackQuota)) {
				best = i
			}
		}
		take(best)
	}
	return row
}

// rackQuotas sums the quotas that are left in each rack.
func (s *spread) rackQuotas() []int {
	sum := make([]int, s.racks)
	for i := range s.nodes {
		sum[s.rack[i]] += s.quota[i]
	}
	return sum
}

// fits says whether a suits the row better than b: a rack the row has least of,
// then the rack and the node with most left to give, then the node that met the
// row's nodes least often, so that a dead node's load falls on many.
func (s *spread) fits(a, b int, row, inRow, rackQuota []int) bool {
	ra, rb := s.rack[a], s.rack[b]
	if c := cmp.Or(cmp.Compare(inRow[ra], inRow[rb]), cmp.Compare(rackQuota[rb], rackQuota[ra]),
		cmp.Compare(s.quota[b], s.quota[a])); c != 0 {
		return c < 0
	}
	met := 0
	for _, j := range row {
		met += s.paired[a][j] - s.paired[b][j]
	}
	return met < 0 // equal: the lower id, which is b
}

// preferLeaders puts the preferred leader of each new row first. Nodes that
// hold more replicas of the topic go first where all else is equal: the others
// are next in line when the topic is extended.
func (s *spread) preferLeaders() {
	total := make([]int, len(s.nodes))
	for i, node := range s.nodes {
		total[i] = node.Preferred
	}
	a := assignment{load: s.led, total: total, at: make([]int, len(s.rows)), may: s.rows}
	a.prefer = func(int) int { return -1 }
	for p, row := range s.rows {
		best := row[0]
		for _, i := range row[1:] {
			if cmp.Or(cmp.Compare(a.load[i], a.load[best]), cmp.Compare(total[i], total[best]),
				cmp.Compare(s.level[best], s.level[i]), cmp.Compare(i, best)) < 0 {
				best = i
			}
		}
		a.at[p] = best
		a.load[best]++
		a.total[best]++
	}
	for step, more := a.next(); more; step, more = a.next() {
		a.apply(step)
	}
	for p, row := range s.rows {
		i := slices.Index(row, a.at[p])
		row[0], row[i] = row[i], row[0]
	}
}

func (s *spread) result() [][]uint64 {
	out := make([][]uint64, len(s.rows))
	for p, row := range s.rows {
		out[p] = make([]uint64, len(row))
		for k, i := range row {
			out[p][k] = s.nodes[i].ID
		}
	}
	return out
}
