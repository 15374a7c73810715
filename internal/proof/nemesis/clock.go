package nemesis

import (
	"context"
	"time"

	"logbroker/internal/proof/testbed"
)

const (
	// jumpBy is how far a clock goes wrong, retentionAge how old records may become.
	// No leg is as long as that, so nothing is ever old but by a wrong clock.
	jumpBy       = 24 * time.Hour
	retentionAge = time.Hour
	// retentionEvery makes every leader look what is old all the time.
	retentionEvery = 200 * time.Millisecond
	// clockHeard is how long the others may take a clock for wrong that is right
	// again, or for that of a node that is silent. Only one node's clock may be wrong
	// at a time: of three nodes two that agree are right.
	clockHeard = 8 * time.Second
)

// jump sets a node's wall clock a day ahead or behind while it runs, half of the
// times that of the node which leads most: what it writes and what it holds for old
// depends on it. The clock is right again in the end, or after the node was killed.
func (r *run) jump(ctx context.Context, s step, n *testbed.Node) error {
	if err := testbed.Wait(ctx, time.Until(r.clockRight.Add(clockHeard))); err != nil {
		return err
	}
	by := jumpBy
	if s.pick&1 != 0 {
		by = -jumpBy
	}
	if s.pick&2 != 0 {
		n = r.cluster.Busiest(ctx, topic, s.node)
	}
	r.cluster.Say("  the clock of node %d jumps by %s", n.ID, by)
	if err := n.SetClock(by); err != nil {
		return err
	}
	if err := testbed.Wait(ctx, 2*s.hold); err != nil {
		return err
	}
	if s.pick&4 != 0 {
		n.Kill()
	}
	err := r.cluster.Heal(ctx)
	r.clockRight = time.Now()
	return err
}
