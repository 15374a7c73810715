package placement

import (
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

func everyone(uint64) bool { return true }

// topicOf makes the partitions of one topic from their replicas, led as leaders
// says.
func topicOf(topic uint64, rows [][]uint64, leaders []uint64) []Partition {
	out := make([]Partition, len(rows))
	for i, row := range rows {
		out[i] = Partition{Topic: topic, Shard: topic*1000 + uint64(i), Replicas: row, Leader: leaders[i]}
	}
	return out
}

// perform applies moves and fails where one is not possible.
func perform(t *testing.T, in Leadership, moves []Move) {
	t.Helper()
	byShard := map[uint64]int{}
	for i, p := range in.Partitions {
		byShard[p.Shard] = i
	}
	seen := map[uint64]bool{}
	for _, m := range moves {
		p := &in.Partitions[byShard[m.Shard]]
		holds := false
		for _, r := range p.Replicas {
			holds = holds || r == m.To
		}
		if seen[m.Shard] || p.Leader != m.From || m.From == m.To || !holds || !in.Alive(m.To) || p.Fixed {
			t.Fatalf("move %+v of %+v is not possible", m, p)
		}
		seen[m.Shard] = true
		p.Leader = m.To
	}
}

// led counts the leaders of a topic (0: of all) on its alive replica nodes.
func led(in Leadership, topic uint64) map[uint64]int {
	out := map[uint64]int{}
	for _, p := range in.Partitions {
		if topic != 0 && p.Topic != topic {
			continue
		}
		for _, r := range p.Replicas {
			if in.Alive(r) {
				out[r] += 0
			}
		}
		if in.Alive(p.Leader) {
			out[p.Leader]++
		}
	}
	return out
}

func gapOf(count map[uint64]int) int {
	lo, hi := math.MaxInt, 0
	for _, c := range count {
		lo, hi = min(lo, c), max(hi, c)
	}
	return hi - lo
}

func TestBalanceAfterANodeComesBackNeedsTheFewestMoves(t *testing.T) {
	nodes := cluster(3, 0)
	rows := mustPlace(t, nodes, 9, 3)
	leaders := make([]uint64, 9)
	for i, row := range rows { // node 10 was down: the next replica led
		leaders[i] = row[0]
		if row[0] == 10 {
			leaders[i] = row[1]
		}
	}
	in := Leadership{Partitions: topicOf(1, rows, leaders), Alive: everyone}
	moves := BalanceLeaders(in, 100)
	if len(moves) != 3 {
		t.Fatalf("%d moves, want 3: %+v", len(moves), moves)
	}
	perform(t, in, moves)
	for i, p := range in.Partitions {
		if p.Leader != rows[i][0] {
			t.Errorf("partition %d is led by %d, its preferred leader is %d", i, p.Leader, rows[i][0])
		}
	}
}

func TestBalanceLeavesAnEvenTopicAlone(t *testing.T) {
	rows := [][]uint64{{1, 2, 3}, {2, 3, 1}, {3, 1, 2}}
	in := Leadership{Partitions: topicOf(1, rows, []uint64{2, 3, 1}), Alive: everyone}
	if moves := BalanceLeaders(in, 100); len(moves) != 0 {
		t.Fatalf("no preferred leader leads, but all is even: %+v", moves)
	}
}

func TestBalanceFollowsAChainOfReplicas(t *testing.T) {
	// 1 leads three, 3 leads none, and no partition lies on both.
	rows := [][]uint64{{1, 2}, {1, 2}, {1, 2}, {2, 3}, {2, 3}}
	in := Leadership{Partitions: topicOf(1, rows, []uint64{1, 1, 1, 2, 2}), Alive: everyone}
	for range 10 { // one move at a time gets there too
		perform(t, in, BalanceLeaders(in, 1))
	}
	if count := led(in, 1); gapOf(count) > 1 {
		t.Fatalf("leaders %v", count)
	}
}

func TestBalanceLooksAtTheWholeCluster(t *testing.T) {
	var in Leadership
	in.Alive = everyone
	for topic := uint64(1); topic <= 9; topic++ { // one partition each: every topic is even by itself
		preferred := 1 + topic%3
		in.Partitions = append(in.Partitions, topicOf(topic, [][]uint64{{preferred, preferred%3 + 1, (preferred+1)%3 + 1}}, []uint64{1 + topic%2})...)
	}
	perform(t, in, BalanceLeaders(in, 100))
	if count := led(in, 0); gapOf(count) > 1 {
		t.Fatalf("leaders %v", count)
	}
}

func TestBalanceMovesOnlyToWhoMayLead(t *testing.T) {
	rows := [][]uint64{{1, 2, 3}, {1, 2, 3}, {1, 2, 3}, {1, 2, 3}}
	in := Leadership{
		Partitions: topicOf(1, rows, []uint64{1, 1, 1, 1}),
		Alive:      func(n uint64) bool { return n != 2 },
		CaughtUp:   func(shard, node uint64) bool { return node != 3 || shard == 1003 },
	}
	moves := BalanceLeaders(in, 100)
	if want := []Move{{1003, 1, 3}}; !reflect.DeepEqual(moves, want) {
		t.Fatalf("got %+v, want %+v", moves, want)
	}
	in.Partitions[3].Fixed = true
	if moves := BalanceLeaders(in, 100); len(moves) != 0 {
		t.Fatalf("a fixed partition moves: %+v", moves)
	}
}

func TestBalanceLeavesLeaderlessPartitionsAlone(t *testing.T) {
	rows := [][]uint64{{1, 2}, {1, 2}, {1, 2}, {1, 2}}
	in := Leadership{Partitions: topicOf(1, rows, []uint64{0, 7, 1, 1}), Alive: everyone}
	moves := BalanceLeaders(in, 100)
	if len(moves) != 1 || moves[0].From != 1 || moves[0].To != 2 {
		t.Fatalf("%+v", moves)
	}
}

func TestBalanceGetsEvenInRandomClusters(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 6))
	for range 300 {
		nodes := cluster(2+rnd.IntN(6), 0)
		dead := nodes[rnd.IntN(len(nodes))].ID
		if rnd.IntN(2) == 0 {
			dead = 0
		}
		in := Leadership{Alive: func(n uint64) bool { return n != dead && n != 0 }}
		topics := uint64(1 + rnd.IntN(4))
		replicas := 1 + rnd.IntN(len(nodes))
		for topic := uint64(1); topic <= topics; topic++ {
			rows := mustPlace(t, nodes, 1+rnd.IntN(20), replicas)
			leaders := make([]uint64, len(rows))
			for i, row := range rows {
				for leaders[i] == 0 || leaders[i] == dead {
					leaders[i] = row[rnd.IntN(len(row))]
					if len(row) == 1 {
						break
					}
				}
			}
			in.Partitions = append(in.Partitions, topicOf(topic, rows, leaders)...)
		}
		bound := 1 + rnd.IntN(5)
		for rounds := 0; ; rounds++ {
			moves := BalanceLeaders(in, bound)
			if len(moves) > bound {
				t.Fatalf("%d moves, bound %d", len(moves), bound)
			}
			if len(moves) == 0 {
				break
			}
			perform(t, in, moves)
			if rounds > 1000 {
				t.Fatal("it does not come to an end")
			}
		}
		if replicas != len(nodes) {
			continue // what is reachable depends on where the replicas lie; it only has to end
		}
		for topic := uint64(1); topic <= topics; topic++ {
			if count := led(in, topic); gapOf(count) > 1 {
				t.Fatalf("topic %d: leaders %v", topic, count)
			}
		}
		if count := led(in, 0); gapOf(count) > 1 {
			t.Fatalf("whole cluster: leaders %v", count)
		}
	}
}

func TestBalanceTakesTenThousandPartitions(t *testing.T) {
	rows := mustPlace(t, cluster(5, 0), 10_000, 3)
	leaders := make([]uint64, len(rows))
	for i, row := range rows {
		leaders[i] = row[0]
		if row[0] == 10 {
			leaders[i] = row[1]
		}
	}
	in := Leadership{Partitions: topicOf(1, rows, leaders), Alive: everyone}
	if moves := BalanceLeaders(in, 4); len(moves) != 4 {
		t.Fatalf("%d moves", len(moves))
	}
}
