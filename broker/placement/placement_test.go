package placement

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"logbroker/internal/errcode"
)

// cluster makes n nodes in racks racks (0: no racks), ids 10, 20, ….
func cluster(n, racks int) []Node {
	nodes := make([]Node, n)
	for i := range nodes {
		nodes[i] = Node{ID: uint64(10 * (i + 1))}
		if racks > 0 {
			nodes[i].Rack = fmt.Sprint("rack", i%racks)
		}
	}
	return nodes
}

// counts returns replicas and preferred leaders of each node.
func counts(rows [][]uint64) (replicas, preferred map[uint64]int) {
	replicas, preferred = map[uint64]int{}, map[uint64]int{}
	for _, row := range rows {
		preferred[row[0]]++
		for _, id := range row {
			replicas[id]++
		}
	}
	return replicas, preferred
}

// gap is max−min of count over nodes.
func gap(nodes []Node, count map[uint64]int) int {
	var all []int
	for _, n := range nodes {
		all = append(all, count[n.ID])
	}
	return slices.Max(all) - slices.Min(all)
}

func mustPlace(t *testing.T, nodes []Node, partitions, replicas int) [][]uint64 {
	t.Helper()
	rows, err := Place(nodes, partitions, replicas)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func checkRows(t *testing.T, nodes []Node, rows [][]uint64, replicas int) {
	t.Helper()
	for p, row := range rows {
		seen := map[uint64]bool{}
		for _, id := range row {
			if seen[id] || !slices.ContainsFunc(nodes, func(n Node) bool { return n.ID == id }) {
				t.Fatalf("partition %d: %v has a node twice or one that does not exist", p, row)
			}
			seen[id] = true
		}
		if len(row) != replicas {
			t.Fatalf("partition %d: %v, want %d replicas", p, row, replicas)
		}
	}
}

func TestPlaceSpreadsReplicasAndPreferredLeaders(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for n := 1; n <= 12; n++ {
		for range 60 {
			nodes := cluster(n, rnd.IntN(n+1))
			for i := range nodes {
				nodes[i].Replicas, nodes[i].Preferred = rnd.IntN(9), rnd.IntN(4)
			}
			partitions, replicas := 1+rnd.IntN(40), 1+rnd.IntN(n)
			rows := mustPlace(t, nodes, partitions, replicas)
			checkRows(t, nodes, rows, replicas)
			r, p := counts(rows)
			if len(rows) != partitions || gap(nodes, r) > 1 || gap(nodes, p) > 1 {
				t.Fatalf("%d nodes, %d partitions, %d replicas: replicas %v, preferred %v", n, partitions, replicas, r, p)
			}
		}
	}
}

func TestPlaceUsesAllRacksWhereRacksAreEqual(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 2))
	for racks := 1; racks <= 5; racks++ {
		for range 100 {
			nodes := cluster(racks*(1+rnd.IntN(4)), racks)
			replicas := 1 + rnd.IntN(len(nodes))
			rows := mustPlace(t, nodes, 1+rnd.IntN(50), replicas)
			for p, row := range rows {
				inRack := map[string]int{}
				for _, id := range row {
					inRack[nodes[id/10-1].Rack]++
				}
				for _, c := range inRack {
					if len(inRack) != min(replicas, racks) || c > (replicas+racks-1)/racks {
						t.Fatalf("%d racks, %d nodes, partition %d: %v lies in racks %v", racks, len(nodes), p, row, inRack)
					}
				}
			}
		}
	}
}

func TestPlaceKeepsTheWholeClusterEven(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	for _, n := range []int{1, 3, 5, 6} {
		nodes := cluster(n, 0)
		worst := 1
		for topic := range 2000 {
			rows := mustPlace(t, nodes, 1+rnd.IntN(7), 1+rnd.IntN(min(n, 3)))
			r, p := counts(rows)
			replicas, preferred := map[uint64]int{}, map[uint64]int{}
			for i := range nodes {
				nodes[i].Replicas += r[nodes[i].ID]
				nodes[i].Preferred += p[nodes[i].ID]
				replicas[nodes[i].ID], preferred[nodes[i].ID] = nodes[i].Replicas, nodes[i].Preferred
			}
			if gap(nodes, replicas) > 1 || gap(nodes, preferred) > worst {
				worst = gap(nodes, preferred)
				println("W", n, topic, worst)
			}
			if gap(nodes, replicas) > 1 {
				t.Fatalf("%d nodes, after %d topics: replicas %v, preferred %v", n, topic+1, replicas, preferred)
			}
		}
	}
}

func TestExtendContinuesTheSpread(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 4))
	bad := 0
	defer func() { println("BAD", bad) }()
	for range 300 {
		nodes := cluster(1+rnd.IntN(8), 0)
		replicas := 1 + rnd.IntN(len(nodes))
		var rows [][]uint64
		for range 4 {
			more, err := Extend(nodes, rows, 1+rnd.IntN(9), replicas)
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, more...)
			checkRows(t, nodes, rows, replicas)
			r, p := counts(rows)
			if gap(nodes, p) > 1 {
				bad++
			}
			if gap(nodes, r) > 1 || gap(nodes, p) > 2 {
				t.Fatalf("%d nodes, %d partitions, %d replicas: replicas %v, preferred %v", len(nodes), len(rows), replicas, r, p)
			}
		}
	}
}

func TestExtendFillsANewNode(t *testing.T) {
	old := mustPlace(t, cluster(3, 0), 6, 2)
	more, err := Extend(cluster(4, 0), old, 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	r, p := counts(more)
	if r[40] != 3 || p[40] < 2 {
		t.Fatalf("the new node got %d of 3 replicas and %d preferred leaders: %v", r[40], p[40], more)
	}
}

func TestPlaceDoesNotDependOnTheOrderOfNodes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	nodes := cluster(7, 3)
	want := mustPlace(t, nodes, 20, 3)
	for range 20 {
		rnd.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		if got := mustPlace(t, nodes, 20, 3); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

func TestPlaceSpreadsADeadNodesPartitionsOverManyNodes(t *testing.T) {
	rows := mustPlace(t, cluster(6, 0), 60, 2)
	met := map[uint64]bool{}
	for _, row := range rows {
		if slices.Contains(row, 10) {
			met[row[0]], met[row[1]] = true, true
		}
	}
	if len(met) != 6 {
		t.Fatalf("node 10 shares partitions with %d of 5 other nodes", len(met)-1)
	}
}

func TestPlaceDefaultsToThreeReplicas(t *testing.T) {
	for nodes, want := range map[int]int{1: 1, 2: 2, 3: 3, 5: 3} {
		if rows := mustPlace(t, cluster(nodes, 0), 1, 0); len(rows[0]) != want {
			t.Errorf("%d nodes: %d replicas, want %d", nodes, len(rows[0]), want)
		}
	}
}

func TestPlaceRefuses(t *testing.T) {
	for _, c := range []struct {
		nodes, partitions, replicas int
		code                        errcode.Code
		says                        string
	}{
		{3, 0, 1, errcode.InvalidPartitions, "at least 1"},
		{3, -1, 1, errcode.InvalidPartitions, "at least 1"},
		{3, 1, 4, errcode.InvalidReplicationFactor, "there are 3 nodes"},
		{3, 1, -1, errcode.InvalidReplicationFactor, "there are 3 nodes"},
		{0, 1, 0, errcode.InvalidReplicationFactor, "there are 0 nodes"},
	} {
		_, err := Place(cluster(c.nodes, 0), c.partitions, c.replicas)
		if errcode.Of(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestPlaceTakesTenThousandPartitions(t *testing.T) {
	nodes := cluster(9, 3)
	rows := mustPlace(t, nodes, 10_000, 3)
	r, p := counts(rows)
	if gap(nodes, r) > 1 || gap(nodes, p) > 1 {
		t.Fatalf("replicas %v, preferred %v", r, p)
	}
}
