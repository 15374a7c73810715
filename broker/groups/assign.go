package groups

import (
	"cmp"
	"slices"
)

// Partition names a partition of a topic for good: a topic made anew has
// another id.
type Partition struct {
	Topic  uint64 `json:"t"` // topic id
	Number int32  `json:"p"`
}

func comparePartitions(a, b Partition) int {
	if c := cmp.Compare(a.Topic, b.Topic); c != 0 {
		return c
	}
	return cmp.Compare(a.Number, b.Number)
}

// topicCount is a topic that exists and how many partitions it has.
type topicCount struct {
	ID         uint64 `json:"id"`
	Name       string `json:"name"`
	Partitions int32  `json:"partitions"`
}

// subscriber is a member as the assignment sees it.
type subscriber struct {
	id     string
	topics []string    // names it subscribes to
	has    []Partition // what it was meant to have so far
}

// assign returns what each member should have: the uniform, sticky assignment.
//
// Every partition of a subscribed topic goes to exactly one member that
// subscribes to its topic. Where all members subscribe to the same topics, the
// numbers of partitions differ by at most one, and as few partitions as possible
// change hands. With different subscriptions no single move could make it more
// even. The same input gives the same output whatever the order of members and
// topics. Each list of the result is sorted.
func assign(members []subscriber, topics []topicCount) map[string][]Partition {
	a := newAssignment(members, topics)
	a.keep()
	a.fill()
	a.even()
	out := make(map[string][]Partition, len(a.members))
	for _, m := range a.members {
		list := []Partition{}
		for _, numbers := range m.byTopic {
			list = append(list, numbers...)
		}
		slices.SortFunc(list, comparePartitions)
		out[m.id] = list
	}
	return out
}

// assignee is a member with what it has been given. load == the sum of the
// lengths of byTopic; byTopic[i] is sorted and belongs to topics[i].
type assignee struct {
	subscriber
	byTopic [][]Partition
	may     []bool // per topic: subscribes to it
	load    int
}

// assignment is an assignment in work.
type assignment struct {
	topics   []topicCount  // by id
	members  []*assignee   // by id
	eligible [][]*assignee // per topic, by member id
	free     [][]Partition // per topic: without a member, ascending
}

func newAssignment(members []subscriber, topics []topicCount) *assignment {
	a := &assignment{topics: slices.Clone(topics)}
	slices.SortFunc(a.topics, func(x, y topicCount) int { return cmp.Compare(x.ID, y.ID) })
	position := make(map[string]int, len(topics))
	for i, t := range a.topics {
		position[t.Name] = i
	}
	for _, m := range members {
		a.members = append(a.members, &assignee{subscriber: m, byTopic: make([][]Partition, len(a.topics)), may: make([]bool, len(a.topics))})
	}
	slices.SortFunc(a.members, func(x, y *assignee) int { return cmp.Compare(x.id, y.id) })
	a.eligible = make([][]*assignee, len(a.topics))
	for _, m := range a.members {
		for _, name := range m.topics {
			if i, ok := position[name]; ok && !m.may[i] {
				m.may[i] = true
				a.eligible[i] = append(a.eligible[i], m)
			}
		}
	}
	return a
}

// keep leaves every partition where it was, if its member may still have it,
// and lists the others as free.
func (a *assignment) keep() {
	position := make(map[uint64]int, len(a.topics))
	for i, t := range a.topics {
		position[t.ID] = i
	}
	taken := map[Partition]bool{}
	for _, m := range a.members {
		for _, p := range m.has {
			i, exists := position[p.Topic]
			if exists && p.Number < a.topics[i].Partitions && !taken[p] && m.may[i] {
				taken[p] = true
				m.give(i, p)
			}
		}
	}
	a.free = make([][]Partition, len(a.topics))
	for i, t := range a.topics {
		for n := range t.Partitions {
			if p := (Partition{Topic: t.ID, Number: n}); !taken[p] {
				a.free[i] = append(a.free[i], p)
			}
		}
	}
}

// fill gives each free partition to the member with the least. Topics that few
// members subscribe to come first: they have the least choice.
func (a *assignment) fill() {
	order := make([]int, len(a.topics))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(len(a.eligible[x]), len(a.eligible[y])) })
	for _, i := range order {
		for _, p := range a.free[i] {
			if m := least(a.eligible[i]); m != nil {
				m.give(i, p)
			}
		}
	}
}

// even moves partitions from members with more to members with less until no
// move would help. Each move lowers the sum of the squared loads, so it ends. It
// goes from the highest load down, one partition a member: whoever has the most
// loses first, and so nobody loses more than needed.
func (a *assignment) even() {
	for moved := true; moved; {
		moved = false
		for load := a.most(); load >= 2; load-- {
			for _, m := range a.members {
				if m.load == load && a.relieve(m) {
					moved = true
				}
			}
		}
	}
}

func (a *assignment) most() int {
	load := 0
	for _, m := range a.members {
		load = max(load, m.load)
	}
	return load
}

// relieve moves one partition away from m, to the member with the least that
// may have it, if that one has at least two less. It reports whether it did.
func (a *assignment) relieve(m *assignee) bool {
	best, to := -1, (*assignee)(nil)
	for i := range a.topics {
		if len(m.byTopic[i]) == 0 {
			continue
		}
		if other := least(a.eligible[i]); other.load+2 <= m.load && (to == nil || other.load < to.load) {
			best, to = i, other
		}
	}
	if to == nil {
		return false
	}
	last := len(m.byTopic[best]) - 1
	p := m.byTopic[best][last]
	m.byTopic[best] = m.byTopic[best][:last]
	m.load--
	to.give(best, p)
	return true
}

// least returns the member with the smallest load, of several the first.
func least(members []*assignee) *assignee {
	if len(members) == 0 {
		return nil
	}
	return slices.MinFunc(members, func(x, y *assignee) int { return cmp.Compare(x.load, y.load) })
}

// give adds p, a partition of topic i.
func (m *assignee) give(i int, p Partition) {
	at, _ := slices.BinarySearchFunc(m.byTopic[i], p, comparePartitions)
	m.byTopic[i] = slices.Insert(m.byTopic[i], at, p)
	m.load++
}
