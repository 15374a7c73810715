package placement

import (
	"cmp"
	"slices"
)

// Partition is a partition as the balancer of leaders sees it.
type Partition struct {
	Topic    uint64
	Shard    uint64
	Replicas []uint64 // node ids, the preferred leader first
	Leader   uint64   // node that leads now, 0 when none is known
	Fixed    bool     // its leader counts, but must not be moved now
}

// Move asks for the leadership of a partition to go from one node to another.
type Move struct {
	Shard uint64
	From  uint64
	To    uint64
}

// Leadership is what BalanceLeaders looks at. Alive says whether a node may
// lead at all. CaughtUp says whether a node's replica of a shard is complete
// enough to lead; nil means that all are.
type Leadership struct {
	Partitions []Partition
	Alive      func(node uint64) bool
	CaughtUp   func(shard, node uint64) bool
}

// BalanceLeaders returns at most n moves, best first, which bring the leaders
// of each topic to max−min ≤ 1 over the nodes that are alive and hold replicas
// of it, or as near as the replicas allow. Topics that are even stay as they
// are, except where a move evens out the nodes' totals over all topics and
// leaves the topic even. Where several moves do the same good, the one to a
// preferred leader is taken. A partition without a leader is left alone, and so
// is one whose leader is not alive: an election is on its way there.
//
// Applying the moves and calling again comes to an end: each call's moves make
// the spread smaller or leave nothing to do.
func BalanceLeaders(in Leadership, n int) []Move {
	b := newBalance(in)
	for _, t := range b.topics {
		b.run(t, n, t.even)
	}
	for len(b.moved) < n {
		t, s, ok := b.sideways()
		if !ok {
			break
		}
		b.apply(t, s)
	}
	return b.moves(n)
}

// balance is the work in progress of one BalanceLeaders.
type balance struct {
	nodes  []uint64
	topics []*topicLeaders
	moved  []placed // partitions that some step moved, in the order of their first step
}

// topicLeaders is the assignment of one topic, with what its numbers stand for.
type topicLeaders struct {
	assignment
	partitions []Partition
	moved      []bool
}

type placed struct {
	topic     *topicLeaders
	partition int
}

func newBalance(in Leadership) *balance {
	b := &balance{}
	number := map[uint64]int{}
	for _, p := range in.Partitions {
		for _, node := range p.Replicas {
			if _, seen := number[node]; !seen && in.Alive(node) {
				number[node] = 0
				b.nodes = append(b.nodes, node)
			}
		}
	}
	slices.Sort(b.nodes)
	for i, node := range b.nodes {
		number[node] = i
	}
	total := make([]int, len(b.nodes))
	sorted := slices.Clone(in.Partitions)
	slices.SortFunc(sorted, func(x, y Partition) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Shard, y.Shard))
	})
	for len(sorted) > 0 {
		end := slices.IndexFunc(sorted, func(p Partition) bool { return p.Topic != sorted[0].Topic })
		if end < 0 {
			end = len(sorted)
		}
		b.topics = append(b.topics, newTopicLeaders(sorted[:end], in, number, total))
		sorted = sorted[end:]
	}
	return b
}

func newTopicLeaders(partitions []Partition, in Leadership, number map[uint64]int, total []int) *topicLeaders {
	t := &topicLeaders{partitions: partitions, moved: make([]bool, len(partitions))}
	t.load, t.total = make([]int, len(total)), total
	preferred := make([]int, len(partitions))
	for i, p := range partitions {
		at, known := number[p.Leader]
		if !known || !slices.Contains(p.Replicas, p.Leader) {
			at = -1
		}
		t.at = append(t.at, at)
		t.may = append(t.may, candidates(p, in, number))
		preferred[i] = -1
		if first, ok := number[p.Replicas[0]]; ok {
			preferred[i] = first
		}
		if at >= 0 {
			t.load[at]++
			total[at]++
		}
	}
	t.prefer = func(p int) int { return preferred[p] }
	return t
}

// candidates returns the nodes that could take over p now.
func candidates(p Partition, in Leadership, number map[uint64]int) []int {
	if p.Fixed {
		return nil
	}
	out := make([]int, 0, len(p.Replicas))
	for _, node := range p.Replicas {
		if i, ok := number[node]; ok && (in.CaughtUp == nil || in.CaughtUp(p.Shard, node)) {
			out = append(out, i)
		}
	}
	return out
}

// run makes the steps that next gives for one topic until n partitions moved.
func (b *balance) run(t *topicLeaders, n int, next func() (step, bool)) {
	for len(b.moved) < n {
		s, ok := next()
		if !ok {
			return
		}
		b.apply(t, s)
	}
}

func (b *balance) apply(t *topicLeaders, s step) {
	t.apply(s)
	if !t.moved[s.partition] {
		t.moved[s.partition] = true
		b.moved = append(b.moved, placed{t, s.partition})
	}
}

// sideways returns the step that does most for the totals over all topics.
func (b *balance) sideways() (*topicLeaders, step, bool) {
	var in *topicLeaders
	var best candidate
	for _, t := range b.topics {
		c := t.sideways()
		if c.ok && (!best.ok || c.totalGap > best.totalGap || c.totalGap == best.totalGap && c.liking > best.liking) {
			in, best = t, c
		}
	}
	return in, best.step, best.ok
}

// moves turns what was moved into at most n moves; a partition that came back
// to where it was is none.
func (b *balance) moves(n int) []Move {
	var out []Move
	for _, m := range b.moved {
		p := m.topic.partitions[m.partition]
		to := b.nodes[m.topic.at[m.partition]]
		if to != p.Leader && len(out) < n {
			out = append(out, Move{Shard: p.Shard, From: p.Leader, To: to})
		}
	}
	return out
}
