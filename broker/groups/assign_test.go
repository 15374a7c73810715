package groups

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// world is a random assignment problem that changes step by step.
type world struct {
	random  *rand.Rand
	members map[string][]string // id → topics
	topics  []topicCount
	have    map[string][]Partition
	next    int
}

func (w *world) subscribers() []subscriber {
	var out []subscriber
	for id, topics := range w.members { // in random order, on purpose
		out = append(out, subscriber{id: id, topics: topics, has: w.have[id]})
	}
	return out
}

func (w *world) names() []string {
	var out []string
	for _, t := range w.topics {
		out = append(out, t.Name)
	}
	return out
}

func (w *world) join(topics []string) {
	w.next++
	w.members[fmt.Sprintf("m%03d", w.next)] = topics
}

func (w *world) leave() {
	ids := slices.Sorted(maps.Keys(w.members))
	if len(ids) == 0 {
		return
	}
	id := ids[w.random.IntN(len(ids))]
	delete(w.members, id)
	delete(w.have, id)
}

func newWorld(seed uint64, topics int) *world {
	w := &world{random: rand.New(rand.NewPCG(seed, 1)), members: map[string][]string{}, have: map[string][]Partition{}}
	for i := range topics {
		w.topics = append(w.topics, topicCount{ID: uint64(i + 1), Name: fmt.Sprint("t", i), Partitions: int32(1 + w.random.IntN(20))})
	}
	return w
}

// owners checks that each partition of a subscribed topic has exactly one
// member that subscribes to it, and nothing else is assigned.
func (w *world) owners(t *testing.T, got map[string][]Partition) map[Partition]string {
	t.Helper()
	if len(got) != len(w.members) {
		t.Fatalf("%d members, %d assignments", len(w.members), len(got))
	}
	owner := map[Partition]string{}
	for id, list := range got {
		if !slices.IsSortedFunc(list, comparePartitions) {
			t.Fatalf("%s: %v is not sorted", id, list)
		}
		for _, p := range list {
			if other, twice := owner[p]; twice {
				t.Fatalf("%v belongs to %s and %s", p, other, id)
			}
			owner[p] = id
			topic := w.topics[p.Topic-1]
			if p.Number < 0 || p.Number >= topic.Partitions || !slices.Contains(w.members[id], topic.Name) {
				t.Fatalf("%s, subscribed to %v, got %v", id, w.members[id], p)
			}
		}
	}
	for _, topic := range w.topics {
		wanted := slices.ContainsFunc(slices.Collect(maps.Values(w.members)), func(topics []string) bool { return slices.Contains(topics, topic.Name) })
		for n := range topic.Partitions {
			if _, ok := owner[Partition{topic.ID, n}]; ok != wanted {
				t.Fatalf("partition %d of %s: assigned %v, wanted %v", n, topic.Name, ok, wanted)
			}
		}
	}
	return owner
}

func (w *world) change(names func() []string) {
	switch w.random.IntN(5) {
	case 0:
		w.leave()
	case 1:
		i := w.random.IntN(len(w.topics))
		w.topics[i].Partitions += int32(w.random.IntN(4))
	default:
		w.join(names())
	}
}

func TestAssignmentOfEqualMembersIsBalancedAndMovesTheLeast(t *testing.T) {
	for seed := range uint64(200) {
		w := newWorld(seed, 1+int(seed%4))
		for range 25 {
			w.change(w.names)
			before := map[Partition]string{}
			for id, list := range w.have {
				for _, p := range list {
					before[p] = id
				}
			}
			got := assign(w.subscribers(), w.topics)
			owner := w.owners(t, got)
			if len(w.members) == 0 {
				w.have = got
				continue
			}
			checkBalance(t, got, len(owner))
			moved := 0
			for p, id := range before {
				if _, stays := w.members[id]; stays && owner[p] != id {
					moved++
				}
			}
			if least := leastMoves(w, len(owner)); moved != least {
				t.Fatalf("seed %d: %d partitions moved, %d had to", seed, moved, least)
			}
			w.have = got
		}
	}
}

func checkBalance(t *testing.T, got map[string][]Partition, partitions int) {
	t.Helper()
	for id, list := range got {
		if n := len(list); n != partitions/len(got) && n != (partitions+len(got)-1)/len(got) {
			t.Fatalf("%s has %d of %d partitions among %d members", id, n, partitions, len(got))
		}
	}
}

// leastMoves is how many partitions living members must lose: each keeps at
// most its quota, and the members with the most get the larger quotas.
func leastMoves(w *world, partitions int) int {
	var loads []int
	for id := range w.members {
		loads = append(loads, len(w.have[id]))
	}
	slices.Sort(loads)
	slices.Reverse(loads)
	quota, extra := partitions/len(loads), partitions%len(loads)
	moves := 0
	for i, load := range loads {
		q := quota
		if i < extra {
			q++
		}
		moves += max(load-q, 0)
	}
	return moves
}

func TestAssignmentOfUnequalMembersCannotBeImprovedByOneMove(t *testing.T) {
	for seed := range uint64(200) {
		w := newWorld(seed, 6)
		some := func() []string {
			names := w.names()
			w.random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			return names[:1+w.random.IntN(len(names))]
		}
		for range 15 {
			w.change(some)
			got := assign(w.subscribers(), w.topics)
			owner := w.owners(t, got)
			for p, id := range owner {
				for other, topics := range w.members {
					if slices.Contains(topics, w.topics[p.Topic-1].Name) && len(got[other])+2 <= len(got[id]) {
						t.Fatalf("seed %d: %v should move from %s (%d) to %s (%d)", seed, p, id, len(got[id]), other, len(got[other]))
					}
				}
			}
			w.have = got
		}
	}
}

func TestAssignmentDoesNotDependOnTheOrderOfItsInput(t *testing.T) {
	w := newWorld(7, 5)
	for range 12 {
		w.join(w.names())
	}
	first := assign(w.subscribers(), w.topics)
	for range 20 {
		topics := slices.Clone(w.topics)
		w.random.Shuffle(len(topics), func(i, j int) { topics[i], topics[j] = topics[j], topics[i] })
		if got := assign(w.subscribers(), topics); !maps.EqualFunc(first, got, func(a, b []Partition) bool { return slices.Equal(a, b) }) {
			t.Fatalf("%v, then %v", first, got)
		}
	}
}

func TestScalingOneToThreeToTwoMovesNoPartitionTwice(t *testing.T) {
	w := newWorld(1, 1)
	w.topics[0].Partitions = 12
	w.join(w.names())
	w.have = assign(w.subscribers(), w.topics)
	w.join(w.names())
	w.join(w.names())
	three := assign(w.subscribers(), w.topics)
	if len(three["m001"]) != 4 || len(three["m002"]) != 4 || len(three["m003"]) != 4 {
		t.Fatalf("%v", three)
	}
	w.have = three
	delete(w.members, "m002")
	two := assign(w.subscribers(), w.topics)
	for _, id := range []string{"m001", "m003"} {
		if len(two[id]) != 6 {
			t.Fatalf("%v", two)
		}
		for _, p := range three[id] {
			if !slices.Contains(two[id], p) {
				t.Fatalf("%v was taken from %s, which stayed", p, id)
			}
		}
	}
}

func BenchmarkAssign1000MembersOf10000Partitions(b *testing.B) {
	w := newWorld(1, 1)
	w.topics[0].Partitions = 10_000
	for range 1000 {
		w.join(w.names())
	}
	in := w.subscribers()
	for b.Loop() {
		assign(in, w.topics)
	}
}
