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
)

const balanceInterval = 400 * time.Millisecond

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
	began := time.Now()
	c.WaitFor("leaders are spread after the creation", evenly)
	t.Logf("spread %v after the topics were there", time.Since(began).Round(time.Millisecond))

	c.Stop(2)
	c.WaitFor("the two others lead all", evenly)
	c.Restart(2)
	began = time.Now()
	c.WaitFor("the node that returned leads its share", evenly)
	took := time.Since(began)
	led, _ := c.spread("even")
	t.Logf("spread again %v after the restart: %v", took.Round(time.Millisecond), led)
	// Two intervals, and as many more as seven moves take two at a time when each
	// round of them has to wait for a busy machine.
	if bound := 2*balanceInterval + 3*time.Second; took > bound {
		t.Errorf("the spread took %v, want at most %v", took, bound)
	}
	c.WaitHealthy()
	if under.most > moves || under.all == 0 {
		t.Errorf("%d moves at once, want at most %d (%d moves in all)", under.most, moves, under.all)
	}
}

// moveCount counts the moves that balancers say are under way.
type moveCount struct {
	mu             sync.Mutex // guards what follows
	now, most, all int
}

func (m *moveCount) see(r slog.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch r.Message {
	case "moving a leadership":
		m.now++
		m.all++
		m.most = max(m.most, m.now)
	case "leadership moved", "leadership did not move":
		m.now--
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
	if under.all != 0 {
		t.Fatalf("%d moves that nobody asked for", under.all)
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
	if under.most > moves || under.all == 0 {
		t.Errorf("%d moves at once, want at most %d (%d moves in all)", under.most, moves, under.all)
	}
}
