package e2e

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A faultKind is one thing that the run does to members or nodes. The second
// group of kinds ends what one of the first began and is no fault of its own.
type faultKind string

const (
	faultJoin        faultKind = "join"
	faultLeave       faultKind = "leave"
	faultKillMember  faultKind = "kill member"
	faultStopMember  faultKind = "stop member"
	faultKillNode    faultKind = "kill coordinator"
	faultStopNode    faultKind = "stop coordinator"
	faultHandOver    faultKind = "coordinator moves"
	faultMorePartits faultKind = "more partitions"

	healMember  faultKind = "resume member"
	healRestart faultKind = "restart node"
	healResume  faultKind = "resume node"
)

// fault is one step of a run.
type fault struct {
	at     time.Duration // after the begin of the run
	kind   faultKind
	group  int
	member int // its number within the group, from 1 on
}

func (f fault) String() string {
	text := fmt.Sprintf("%6.2fs %s", f.at.Seconds(), f.kind)
	if f.member > 0 {
		text += fmt.Sprintf(" %d/%d", f.group, f.member)
	}
	return text
}

// historyGroups are the least and the most members that run at a time.
var historyGroups = []struct {
	name        string
	first       int // members at the beginning
	least, most int
}{{"many", 3, 2, 5}, {"few", 2, 1, 2}}

const (
	// memberFaultEvery and nodeFaultEvery are the mean times between faults.
	memberFaultEvery = 1200 * time.Millisecond
	nodeFaultEvery   = 6 * time.Second
)

// planner makes a schedule.
type planner struct {
	rng    *rand.Rand
	length time.Duration
	plan   []fault
	// running are the members of each group that run, born how many there were.
	running [][]int
	born    []int
	back    []fault // members that will be resumed
}

// schedule is a function of seed and length. Members are those of historyGroups;
// the first ones, numbers 1 to first, are there at the beginning. Which node
// coordinates is known at the time only.
func schedule(seed uint64, length time.Duration) []fault {
	p := &planner{rng: rand.New(rand.NewPCG(seed, 0)), length: length}
	for _, g := range historyGroups {
		numbers := []int{}
		for n := 1; n <= g.first; n++ {
			numbers = append(numbers, n)
		}
		p.running, p.born = append(p.running, numbers), append(p.born, g.first)
	}
	p.nodes()
	for at := p.about(memberFaultEvery); at < length; at += p.about(memberFaultEvery) {
		p.members(at)
	}
	p.plan = append(p.plan, p.back...)
	p.add(fault{at: length / 2, kind: faultMorePartits})
	slices.SortStableFunc(p.plan, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
	return p.plan
}

// about is d, give or take a half.
func (p *planner) about(d time.Duration) time.Duration {
	return d/2 + time.Duration(p.rng.Int64N(int64(d)))
}

func (p *planner) add(f fault) { p.plan = append(p.plan, f) }

// nodes plans what happens to the coordinator's node, one thing at a time, each
// kind as often as the others.
func (p *planner) nodes() {
	kinds := []faultKind{faultKillNode, faultStopNode, faultHandOver}
	at := p.about(2 * time.Second)
	for i := 0; ; i++ {
		if i%len(kinds) == 0 {
			p.rng.Shuffle(len(kinds), func(a, b int) { kinds[a], kinds[b] = kinds[b], kinds[a] })
		}
		down := groupSession + 500*time.Millisecond + time.Duration(p.rng.Int64N(int64(time.Second)))
		heal := healRestart
		switch kinds[i%len(kinds)] {
		case faultStopNode:
			heal = healResume
		case faultHandOver:
			down = 500 * time.Millisecond
		}
		if at+down > p.length {
			return
		}
		p.add(fault{at: at, kind: kinds[i%len(kinds)]})
		p.add(fault{at: at + down, kind: heal})
		at += down + p.about(nodeFaultEvery-2*time.Second)
	}
}

// members plans what happens to a member at a time.
func (p *planner) members(at time.Duration) {
	p.resumeBefore(at)
	group := 0
	if p.rng.IntN(5) == 0 {
		group = 1
	}
	f := fault{at: at, group: group, kind: []faultKind{faultJoin, faultJoin, faultLeave, faultKillMember, faultStopMember}[p.rng.IntN(5)]}
	pick := p.rng.IntN(1 << 20)
	stays := groupSession + 500*time.Millisecond + time.Duration(p.rng.Int64N(int64(2*time.Second)))
	bounds, running := historyGroups[group], &p.running[group]
	switch n := len(*running); {
	case n <= bounds.least:
		f.kind = faultJoin
	case n >= bounds.most && f.kind == faultJoin:
		f.kind = faultLeave
	}
	if f.kind == faultJoin {
		p.born[group]++
		f.member = p.born[group]
		*running = append(*running, f.member)
		p.add(f)
		return
	}
	i := pick % len(*running)
	f.member = (*running)[i]
	*running = slices.Delete(*running, i, i+1)
	p.add(f)
	if f.kind == faultStopMember {
		p.back = append(p.back, fault{at: at + stays, kind: healMember, group: group, member: f.member})
	}
}

// resumeBefore lets the members run again whose stop is over.
func (p *planner) resumeBefore(at time.Duration) {
	p.back = slices.DeleteFunc(p.back, func(f fault) bool {
		if f.at >= at {
			return false
		}
		p.running[f.group] = append(p.running[f.group], f.member)
		p.add(f)
		return true
	})
}

func TestTheSameSeedGivesTheSameSchedule(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		plan := schedule(seed, time.Minute)
		if !slices.Equal(plan, schedule(seed, time.Minute)) {
			t.Fatalf("seed %d gives two schedules", seed)
		}
		if slices.Equal(plan, schedule(seed+1, time.Minute)) {
			t.Fatalf("seeds %d and %d give the same schedule", seed, seed+1)
		}
		kinds := map[faultKind]int{}
		for i, f := range plan {
			kinds[f.kind]++
			if i > 0 && f.at < plan[i-1].at {
				t.Fatalf("seed %d: %v after %v", seed, f, plan[i-1])
			}
		}
		if kinds[faultMorePartits] != 1 || min(kinds[faultKillNode], kinds[faultStopNode], kinds[faultHandOver]) < 2 ||
			min(kinds[faultJoin], kinds[faultLeave], kinds[faultKillMember], kinds[faultStopMember]) < 1 || len(kinds) != 11 {
			t.Errorf("seed %d: %v", seed, kinds)
		}
	}
}
