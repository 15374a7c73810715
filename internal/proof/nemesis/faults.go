package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"logbroker/internal/proof/testbed"
)

const (
	// settleMax is how long a fault that is measured waits for the one before it
	// to be over.
	settleMax = testbed.ReadyMax
	// failMax is how long a node may live on after its disk failed a sync.
	failMax = 15 * time.Second
	// buildUp is how long acks build up before the minority is swapped.
	buildUp      = 10 * time.Second
	transferStep = 50 * time.Millisecond
	diskReserve  = 64 << 20 // storage.min_free_bytes of the nodes
)

// errLivesOn says that a process went on after a failed fsync: it may have acked
// what the disk lost.
var errLivesOn = errors.New("the process did not end after a failed fsync")

// do does the harm of one step and undoes it. It returns how many faults it was.
func (r *run) do(ctx context.Context, s step) (faults int, err error) {
	n := r.cluster.Nodes[s.node]
	r.cluster.Say("%s", s)
	switch s.kind {
	case killLeader:
		return 1, r.killLeader(ctx, s)
	case killAny, powerLoss:
		return 1, r.down(ctx, s, n)
	case stop:
		n.Pause()
		return 1, r.healAfter(ctx, s.hold)
	case cutHalf, cutLeader, oneWay, unplug:
		return 1, r.cut(ctx, s)
	case transfers:
		return 1, r.transfers(ctx, s)
	case rolling:
		return testbed.Nodes, r.rolling(ctx)
	case killAll, powerLosses:
		return testbed.Nodes, r.all(ctx, s)
	case swap:
		return 4, r.swap(ctx, s)
	case clockJump:
		return 1, r.jump(ctx, s, n)
	case loseReplica:
		return r.lose(ctx, s, n)
	}
	return 1, r.harmDisk(ctx, s, n)
}

// harmDisk does what is harm to one node's disk only.
func (r *run) harmDisk(ctx context.Context, s step, n *testbed.Node) error {
	switch s.kind {
	case slowDisk:
		if err := n.TraceSyncs("delay_enter=20000"); err != nil {
			return err
		}
		return r.healAfter(ctx, s.hold)
	case failedSync:
		return r.failedSync(ctx, s, n)
	case lowDisk:
		return r.fill(ctx, s, diskReserve/2)
	case fullDisk:
		return r.fill(ctx, s, 0)
	}
	return fmt.Errorf("no such fault: %s", s.kind)
}

func (r *run) healAfter(ctx context.Context, d time.Duration) error {
	if err := testbed.Wait(ctx, d); err != nil {
		return err
	}
	return r.cluster.Heal(ctx)
}

// killLeader measures for how long a partition goes without an ack. So it begins
// when the fault before is over.
func (r *run) killLeader(ctx context.Context, s step) error {
	if err := r.settled(ctx); err != nil {
		return err
	}
	n := r.cluster.Busiest(ctx, topic, s.node)
	r.load.Mark()
	n.Kill()
	waiting, cancel := context.WithTimeout(ctx, testbed.ReadyMax)
	defer cancel()
	err := r.load.AwaitAcks(waiting, 1)
	gap, partition := r.load.Gap()
	r.worst = max(r.worst, gap)
	r.cluster.Say("  node %d was killed; acks everywhere again after %s, the last in partition %d", n.ID, gap.Round(time.Millisecond), partition)
	if err != nil {
		return fmt.Errorf("after node %d was killed: %w", n.ID, err)
	}
	return r.cluster.Heal(ctx)
}

// settled waits until the cluster is healthy and every partition has acks.
func (r *run) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleMax)
	defer cancel()
	if err := r.cluster.AwaitHealthy(ctx); err != nil {
		return fmt.Errorf("the cluster does not get over the faults before: %w", err)
	}
	r.load.Mark()
	return r.load.AwaitAcks(ctx, 10)
}

// down takes a node down and brings it back.
func (r *run) down(ctx context.Context, s step, n *testbed.Node) error {
	if s.kind == powerLoss {
		if err := n.PowerLoss(); err != nil {
			return err
		}
	} else {
		n.Kill()
	}
	return r.healAfter(ctx, s.hold)
}

func (r *run) cut(ctx context.Context, s step) error {
	n, other := r.cluster.Nodes[s.node], r.cluster.Nodes[s.other]
	var err error
	switch s.kind {
	case cutHalf:
		err = r.cluster.Isolate(n)
	case cutLeader:
		err = r.cluster.Isolate(r.cluster.Busiest(ctx, topic, s.node))
	case oneWay:
		err = r.cluster.Cut(n, other)
	case unplug:
		err = r.cluster.Unplug(n)
	}
	if err != nil {
		return err
	}
	return r.healAfter(ctx, s.hold)
}

// transfers moves leaders about until the time is over.
func (r *run) transfers(ctx context.Context, s step) error {
	rng := rand.New(rand.NewPCG(s.pick, 0))
	for end := time.Now().Add(s.hold); time.Now().Before(end); {
		_ = r.cluster.Transfer(ctx, topic, rng.Int32N(partitions), 1+rng.IntN(testbed.Nodes)) // refused while another one goes on
		if err := testbed.Wait(ctx, transferStep); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) rolling(ctx context.Context) error {
	for _, n := range r.cluster.Nodes {
		if err := n.Stop(testbed.ReadyMax); err != nil {
			return err
		}
		if err := r.cluster.Heal(ctx); err != nil {
			return err
		}
	}
	return nil
}

// all takes every node down at the same moment.
func (r *run) all(ctx context.Context, s step) error {
	for _, n := range r.cluster.Nodes {
		n.Kill()
	}
	if s.kind == powerLosses {
		for _, n := range r.cluster.Nodes {
			if err := n.PowerLoss(); err != nil {
				return err
			}
		}
	}
	return r.cluster.Heal(ctx)
}

// failedSync lets one fsync fail: the process must end, and come back.
func (r *run) failedSync(ctx context.Context, s step, n *testbed.Node) error {
	if err := n.TraceSyncs("error=EIO:when=1"); err != nil {
		return err
	}
	ending, cancel := context.WithTimeout(ctx, failMax)
	defer cancel()
	if err := n.AwaitEnd(ending); err != nil {
		return fmt.Errorf("%w: %w", errLivesOn, err)
	}
	return r.healAfter(ctx, s.hold/2)
}

// fill leaves so many bytes of a node's disk. Whether the node lives on or ends
// is its affair; with free space it must come back.
func (r *run) fill(ctx context.Context, s step, leave int64) error {
	n := r.cluster.Nodes[s.node]
	if err := n.FillDisk(leave); err != nil {
		return err
	}
	if err := testbed.Wait(ctx, 2*s.hold); err != nil {
		return err
	}
	if !n.Running() {
		r.cluster.Say("  node %d has ended", n.ID)
	}
	return r.cluster.Heal(ctx)
}

// swap is the series that lost acked records in another system: a minority
// stands still while acks build up on the majority, one of the majority loses its
// power, and then the other one of it stands still while the first minority comes
// back: what these two know of must be all that was acked. In the end all restart.
func (r *run) swap(ctx context.Context, s step) error {
	still, victim := r.cluster.Nodes[s.node], r.cluster.Nodes[s.other]
	third := r.cluster.Nodes[testbed.Nodes-s.node-s.other]
	cutOff := r.powers.Cuts && s.pick%2 == 0
	if err := r.halt(still, cutOff); err != nil {
		return err
	}
	if err := testbed.Wait(ctx, buildUp); err != nil {
		return err
	}
	if err := victim.PowerLoss(); err != nil {
		return err
	}
	third.Pause()
	if err := errors.Join(r.cluster.HealNetwork(), still.Resume(), victim.Start()); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, testbed.ReadyMax)
	defer cancel()
	if err := victim.AwaitReady(ready); err != nil {
		return err
	}
	r.load.Mark()
	if err := r.load.AwaitAcks(ready, 10); err != nil {
		return fmt.Errorf("nodes %d and %d are a majority: %w", still.ID, victim.ID, err)
	}
	for _, n := range r.cluster.Nodes {
		n.Kill()
	}
	return r.cluster.Heal(ctx)
}

// halt lets a node stand still, or cuts it off.
func (r *run) halt(n *testbed.Node, cutOff bool) error {
	if cutOff {
		return r.cluster.Isolate(n)
	}
	n.Pause()
	return nil
}
