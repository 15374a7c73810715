package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// Grouped is implemented by a System that can have several consumer groups; only
// on one can PhaseTailed and PhaseJoined run.
type Grouped interface {
	// NewMember returns the one member of a group of that name, which no other
	// Receiver is in. It reads all partitions from the start. The context is not
	// kept.
	NewMember(ctx context.Context, group string) (Receiver, error)
}

// besidePoll is how often it is looked whether a group has read all there is.
const besidePoll = 20 * time.Millisecond

// beside is a consumer group that reads while something else is measured.
type beside struct {
	receiver Receiver
	got      atomic.Int64
	stop     context.CancelFunc
	done     chan struct{} // Receive has ended, with err
	err      error
}

// newBeside starts a group that reads all there is from the start.
func (t *turn) newBeside(ctx context.Context, group string) (*beside, error) {
	grouped, ok := t.sys.(Grouped)
	if !ok {
		return nil, fmt.Errorf("%s has no second consumer group to read beside the producers", t.sys.Name())
	}
	receiver, err := grouped.NewMember(ctx, group)
	if err != nil {
		return nil, err
	}
	b := &beside{receiver: receiver, done: make(chan struct{})}
	ctx, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(b.done)
		b.err = receiver.Receive(ctx, func(values [][]byte) { b.got.Add(int64(len(values))) })
	}()
	return b, nil
}

// reach returns once the group has read want records, or ctx has ended.
func (b *beside) reach(ctx context.Context, want int64) error {
	ticker := time.NewTicker(besidePoll)
	defer ticker.Stop()
	for b.got.Load() < want {
		select {
		case <-ctx.Done():
			return nil
		case <-b.done:
			return errors.Join(b.err, errors.New("a group that reads beside the producers has ended"))
		case <-ticker.C:
		}
	}
	return nil
}

// close ends the group and returns how many records it has read.
func (b *beside) close() (int64, error) {
	b.stop()
	<-b.done
	return b.got.Load(), errors.Join(b.err, b.receiver.Close())
}

// besideReaders runs PhaseTailed and PhaseJoined: it sends at a rate while one
// group, the same in all these phases, reads along at the end of the log; and in
// PhaseJoined another one reads everything from the start.
func (t *turn) besideReaders(ctx context.Context, phase string) (Result, error) {
	rate, err := t.shareOfFastest()
	if err != nil {
		return Result{}, err
	}
	if t.spec.TargetRate == 0 && t.spec.LatencyShare == 1 {
		rate = 0 // as fast as it goes
	}
	if err := t.tailLog(ctx); err != nil {
		return Result{}, err
	}
	if phase == PhaseTailed {
		return t.produce(ctx, phase, rate)
	}
	reading, stop := context.WithCancel(ctx)
	read, failed := int64(0), make(chan error, 1)
	start := time.Now()
	go func() {
		n, err := t.readAgainAndAgain(reading)
		read = n
		failed <- err
	}()
	r, err := t.produce(ctx, phase, rate)
	took := time.Since(start)
	stop()
	err = errors.Join(err, <-failed)
	r.ReadPerS = float64(read) / took.Seconds()
	return r, err
}

// tailLog makes sure that there is a group which has read all that is stored, and
// goes on reading until the turn ends.
func (t *turn) tailLog(ctx context.Context) error {
	want, err := t.stored(ctx)
	if err != nil {
		return err
	}
	if t.tail == nil {
		if t.tail, err = t.newBeside(ctx, "tail"); err != nil {
			return err
		}
	}
	return t.tail.reach(ctx, want)
}

// readAgainAndAgain reads all there is from the start until ctx ends: with a group
// that nobody has heard of, and when that is through, with the next one. It
// returns how many records came.
func (t *turn) readAgainAndAgain(ctx context.Context) (read int64, err error) {
	for ctx.Err() == nil && err == nil {
		var want int64
		if want, err = t.stored(ctx); err != nil {
			break
		}
		t.groups++
		var b *beside
		if b, err = t.newBeside(ctx, fmt.Sprintf("joined-%d", t.groups)); err != nil {
			break
		}
		err = b.reach(ctx, want)
		n, closing := b.close()
		read, err = read+n, errors.Join(err, closing)
	}
	if ctx.Err() != nil {
		err = nil // what was cut short complains
	}
	return read, err
}

// BesideCost is what a second group that reads from the start costs producers:
// PhaseJoined by the PhaseTailed before it, one ratio per pair of phases.
type BesideCost struct {
	RecordsPerS []float64
	P99         []float64
}

// Beside pairs the turn's phases.
func (t *Turn) Beside() BesideCost {
	var c BesideCost
	var tailed *Result
	for i := range t.Phases {
		r := &t.Phases[i]
		switch {
		case r.Phase == PhaseTailed:
			tailed = r
		case r.Phase == PhaseJoined && tailed != nil && tailed.RecordsPerS > 0 && tailed.P99Ms > 0:
			c.RecordsPerS = append(c.RecordsPerS, r.RecordsPerS/tailed.RecordsPerS)
			c.P99 = append(c.P99, r.P99Ms/tailed.P99Ms)
			tailed = nil
		}
	}
	return c
}

// String is one line for people; empty where there is no pair.
func (c BesideCost) String() string {
	if len(c.RecordsPerS) == 0 {
		return ""
	}
	return fmt.Sprintf("A second group that reads everything from the start leaves the producers %s of their records/s and makes their p99 %s of what it is with one group at the end of the log (%d pairs).",
		spread(c.RecordsPerS), spread(c.P99), len(c.RecordsPerS))
}

// spread is the median of v with its least and greatest value.
func spread(v []float64) string {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	median := (v[(n-1)/2] + v[n/2]) / 2
	return fmt.Sprintf("%.3g (%.3g … %.3g)", math.Round(median*1000)/1000, v[0], v[n-1])
}
