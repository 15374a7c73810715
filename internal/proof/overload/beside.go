package overload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"logbroker/bench/procs"
	"logbroker/internal/proof/testbed"
)

const (
	// turnMax is how long it is measured what is acked, alone and beside the crowd.
	turnMax = 15 * time.Second
	// gapMax is the longest that a partition may have no ack beside the crowd.
	gapMax = 10 * time.Second
	// settleMax is how long the records of the overload may take for their verdicts:
	// more than the producers' delivery time-out.
	settleMax = 150 * time.Second
)

// beside measures what is acked without the crowd, beside idle connections, beside
// stalled consumers too, and when all have gone again.
func (r *run) beside(ctx context.Context) error {
	if err := r.settle(ctx); err != nil {
		return err
	}
	r.load.SetRate(1)
	before, err := r.turn(ctx, "alone")
	if err != nil {
		return err
	}
	idle, stalled, err := r.turnsBeside(ctx)
	if err != nil {
		return err
	}
	after, err := r.turn(ctx, "alone")
	if err != nil {
		return err
	}
	f := r.leg.Figures
	f[ackedAlone], f[ackedIdle], f[ackedCrowd] = (before.acked+after.acked)/2, idle.acked, stalled.acked
	f[gapAlone], f[gapCrowd] = max(before.gap, after.gap).Seconds(), max(idle.gap, stalled.gap).Seconds()
	return nil
}

// settle waits until nothing of the overload is on its way any more.
func (r *run) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleMax)
	defer cancel()
	return r.load.AwaitQuiet(ctx)
}

// turnsBeside lets the crowd come, stay for two turns, and go.
func (r *run) turnsBeside(ctx context.Context) (idle, stalled turn, err error) {
	if err := r.gather(ctx); err != nil {
		return turn{}, turn{}, err
	}
	defer r.crowd.disperse()
	if idle, err = r.turn(ctx, "beside idle connections"); err != nil {
		return turn{}, turn{}, err
	}
	r.crowd.stallAll(r.options.Stalled)
	stalled, err = r.turn(ctx, "beside all")
	r.leg.Figures[idleStood] = float64(r.crowd.idle.Load())
	return idle, stalled, err
}

// gather lets the idle connections come.
func (r *run) gather(ctx context.Context) error {
	o := r.options
	id, err := r.cluster.TopicID(ctx, topic)
	if err != nil {
		return err
	}
	room, err := filesFor(o.Idle + o.Stalled)
	if err != nil {
		return err
	}
	idle := max(room-o.Stalled, 0)
	if idle < o.Idle {
		r.cluster.Say("skipped: %d of %d idle connections (this process may not open more files: ulimit -n)", o.Idle-idle, o.Idle)
	}
	r.crowd = &crowd{urls: hosts(r.cluster.URLs()), topic: topic, id: id, parts: o.Partitions}
	if err := r.crowd.gather(ctx, idle); err != nil {
		return errors.Join(err, r.cluster.Ended())
	}
	return nil
}

// turn is what was acked for a while.
type turn struct {
	acked float64       // bytes a second
	gap   time.Duration // the longest that a partition had no ack
}

// turn measures one. The processor time that it says is the nodes', and this
// process's, which is the crowd and the producers.
func (r *run) turn(ctx context.Context, what string) (turn, error) {
	r.load.Mark()
	from, nodes, own := r.sample(), r.cluster.CPUSeconds(), procs.Self()
	if err := testbed.Wait(ctx, min(turnMax, time.Duration(r.leg.Amount/2*float64(time.Second)))); err != nil {
		return turn{}, err
	}
	now := r.sample()
	gap, partition := r.load.Gap()
	in, out := from.to(now)
	seconds := now.at.Sub(from.at).Seconds()
	text := ""
	if r.crowd != nil {
		text = fmt.Sprintf(" (%s)", r.crowd)
	}
	r.cluster.Say("%s%s: offered %.1f MB/s, acked %.1f MB/s, partition %d had no ack for %.1f s; processors: nodes %.2f, load and crowd %.2f; most memory of the nodes %s",
		what, text, in/1e6, out/1e6, partition, gap.Seconds(), (r.cluster.CPUSeconds()-nodes)/seconds, (procs.Self()-own)/seconds, r.memory())
	return turn{acked: out, gap: gap}, r.cluster.Ended()
}
