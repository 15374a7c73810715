package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"logbroker/config"
	"logbroker/internal/protocol"
	"logbroker/internal/stall"
)

const balanceInterval = time.Second

// spread returns how many partitions of a topic each node leads, and whether
// all are led and the running nodes' shares differ by one at most.
func (c *Cluster) spread(topic string) (led map[uint64]int, even bool) {
	c.tb.Helper()
	led = map[uint64]int{}
	for _, id := range c.Running() {
		led[id] = 0
	}
	for _, p := range c.Describe(topic).Partitions {
		if p.Leader == nil {
			return led, false
		}
		led[*p.Leader]++
	}
	least, most := 1<<30, 0
	for _, n := range led {
		least, most = min(least, n), max(most, n)
	}
	return led, most-least <= 1
}

func TestEachNodeLeadsItsShareAgainAfterARestart(t *testing.T) {
	t.Parallel()
	const moves = 2
	var under moveCount
	c := Start(t, Options{Log: under.see, Configure: func(f *config.Config) {
		f.Leaders.Interval, f.Leaders.MaxMoves = balanceInterval, moves
	}})
	c.CreateTopic("even", 9, 3, nil)
	c.CreateTopic("odd", 5, 3, nil)
	evenly := func() bool {
		_, even := c.spread("even")
		_, odd := c.spread("odd")
		return even && odd
	}
	stalls := stall.Start(t)
	began := stalls.Mark()
	c.WaitFor("leaders are spread after the creation", evenly)
	t.Logf("spread %v after the topics were there", stalls.Since(began).Round(time.Millisecond))

	c.Stop(2)
	under.forget(2)
	c.WaitFor("the two others lead all", evenly)
	c.Restart(2)
	began = stalls.Mark()
	failed := under.failures()
	c.WaitFor("the node that returned leads its share", evenly)
	took := stalls.Since(began)
	led, _ := c.spread("even")
	t.Logf("spread again %v after the restart: %v", took.Round(time.Millisecond), led)
	// Two intervals, and as many more as seven moves take two at a time when each
	// round of them has to wait for a busy machine.
	// A move that fails, because an election came in between, is left for a while.
	if bound := 2*balanceInterval + 3*time.Second; took > bound && under.failures() == failed {
		t.Errorf("the spread took %v, want at most %v", took, bound)
	}
	c.WaitHealthy()
	under.check(t, moves)
}

// moveCount counts the moves that balancers say are under way, by node: the
// bound is a balancer's own, and where an election of the metadata comes in
// between, the moves of two of them may meet.
type moveCount struct {
	mu                sync.Mutex // guards what follows
	now               map[uint64]int
	most, all, failed int
}

func (m *moveCount) see(node uint64, r slog.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now == nil {
		m.now = map[uint64]int{}
	}
	switch r.Message {
	case "moving a leadership":
		m.now[node]++
		m.all++
		m.most = max(m.most, m.now[node])
	case "leadership did not move":
		m.failed++
		m.now[node]--
	case "leadership moved":
		m.now[node]--
	}
}

// forget drops what a stopped node had under way.
func (m *moveCount) forget(node uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.now, node)
}

func (m *moveCount) failures() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

// check fails the test if nothing was moved, or more than most at once.
func (m *moveCount) check(t *testing.T, most int) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.most > most || m.all == 0 {
		t.Errorf("%d moves at once, want at most %d (%d moves in all, %d failed)", m.most, most, m.all, m.failed)
	}
}

func TestBalanceLeadersSpreadsAFewAtATimeWhicheverNodeIsAsked(t *testing.T) {
	t.Parallel()
	const moves = 2
	var under moveCount
	c := Start(t, Options{Log: under.see, Configure: func(f *config.Config) {
		quietLeaders(f)
		f.Leaders.Interval, f.Leaders.MaxMoves = balanceInterval, moves
	}})
	c.CreateTopic("byhand", 9, 3, nil)
	for partition := range int32(9) {
		if c.WaitLeader("byhand", partition) != 1 {
			c.Transfer("byhand", partition, 1)
		}
	}
	if _, even := c.spread("byhand"); even {
		t.Fatal("nine partitions on one leader count as even")
	}
	under.mu.Lock()
	unasked := under.all
	under.mu.Unlock()
	if unasked != 0 {
		t.Fatalf("%d moves that nobody asked for", unasked)
	}
	// A node takes the admin requests of its own clients.
	asked := map[uint64]func(context.Context) (*protocol.BalanceReply, error){}
	for _, id := range c.IDs() {
		asked[id] = c.ClientOf(id).Admin().BalanceLeaders
	}
	c.WaitFor("the leaders are even, and every node says so", func() bool {
		done := true
		for id, balance := range asked {
			reply := call(c, fmt.Sprint("balance by node ", id), balance)
			done = done && reply.Moves == 0
		}
		_, even := c.spread("byhand")
		return done && even
	})
	under.check(t, moves)
}
