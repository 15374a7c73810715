package placement

import "slices"

// assignment says which node leads each partition of one topic, and can even
// that out. Nodes and partitions are small numbers.
//
// Evening out is the optimal semi-matching problem: an assignment is as even as
// it can be exactly when no chain of moves leads from a node to another that
// has at least two partitions less. (Harvey, Ladner, Lovász, Tamir, "Semi-
// matchings for bipartite graphs and load balancing", 2006.)
type assignment struct {
	may    [][]int                 // partition → nodes that may lead it
	at     []int                   // partition → node that leads it, -1 for none
	load   []int                   // node → partitions of this topic it leads
	total  []int                   // node → partitions of all topics it leads
	prefer func(partition int) int // the preferred leader, -1 for none
}

// step moves one partition to another node.
type step struct{ partition, to int }

// apply makes the step and keeps load and total true.
func (a *assignment) apply(s step) {
	from := a.at[s.partition]
	a.load[from]--
	a.total[from]--
	a.at[s.partition] = s.to
	a.load[s.to]++
	a.total[s.to]++
}

// next returns the step to make next: one that evens out the topic, else one
// that evens out the totals and leaves the topic as even as it is.
func (a *assignment) next() (step, bool) {
	if s, ok := a.even(); ok {
		return s, true
	}
	c := a.sideways()
	return c.step, c.ok
}

// even returns a step that brings the topic closer to even, false when it is as
// even as it can be.
//
// Sum of load² falls with a direct step. Of a chain only the last step is
// returned: it leaves the sum alone and makes the rest of the chain shorter by
// one, so repeated calls come to an end.
func (a *assignment) even() (step, bool) {
	var best candidate
	a.each(func(c candidate) {
		if c.topicGap >= 2 && (!best.ok || c.betterThan(best)) {
			best = c
		}
	})
	if best.ok {
		return best.step, true
	}
	return a.chain()
}

// sideways returns the best step between nodes whose totals differ by two or
// more and whose loads just swap.
func (a *assignment) sideways() candidate {
	var best candidate
	a.each(func(c candidate) {
		if c.topicGap >= 1 && c.totalGap >= 2 && (!best.ok || c.betterThan(best)) {
			best = c
		}
	})
	return best
}

// candidate is a step and what speaks for it.
type candidate struct {
	step
	ok       bool
	topicGap int // load[from] - load[to]
	totalGap int // total[from] - total[to]
	liking   int // 2: to the preferred leader, 0: away from it, 1: neither
}

func (c candidate) betterThan(d candidate) bool {
	switch {
	case c.topicGap != d.topicGap:
		return c.topicGap > d.topicGap
	case c.liking != d.liking:
		return c.liking > d.liking
	}
	return c.totalGap > d.totalGap // equal: the earlier partition, which is d
}

// each calls f for every step there is, in a fixed order.
func (a *assignment) each(f func(candidate)) {
	for p, from := range a.at {
		if from < 0 {
			continue
		}
		for _, to := range a.may[p] {
			if to != from {
				f(candidate{step{p, to}, true, a.load[from] - a.load[to], a.total[from] - a.total[to], a.liking(p, from, to)})
			}
		}
	}
}

func (a *assignment) liking(p, from, to int) int {
	switch a.prefer(p) {
	case to:
		return 2
	case from:
		return 0
	}
	return 1
}

// chain looks for the shortest chain of steps from a node to one with at least
// two partitions less, most loaded nodes first, and returns its last step.
func (a *assignment) chain() (step, bool) {
	n := len(a.load)
	edge := a.edges()
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return a.load[y] - a.load[x] })
	for _, start := range order {
		if s, ok := a.chainFrom(start, edge); ok {
			return s, true
		}
	}
	return step{}, false
}

// edges returns, for each pair of nodes, the best step between them.
func (a *assignment) edges() [][]candidate {
	edge := make([][]candidate, len(a.load))
	for i := range edge {
		edge[i] = make([]candidate, len(a.load))
	}
	a.each(func(c candidate) {
		e := &edge[a.at[c.partition]][c.to]
		if !e.ok || c.betterThan(*e) {
			*e = c
		}
	})
	return edge
}

// chainFrom walks breadth first from start and returns the step into the first
// node found that has at least two partitions less.
func (a *assignment) chainFrom(start int, edge [][]candidate) (step, bool) {
	seen := make([]bool, len(a.load))
	seen[start] = true
	for queue := []int{start}; len(queue) > 0; queue = queue[1:] {
		for to, c := range edge[queue[0]] {
			if !c.ok || seen[to] {
				continue
			}
			if a.load[start]-a.load[to] >= 2 {
				return c.step, true
			}
			seen[to] = true
			queue = append(queue, to)
		}
	}
	return step{}, false
}
