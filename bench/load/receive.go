package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// stallTimeout is how long nothing may come while records are missing.
const stallTimeout = 30 * time.Second

// receiving is the receivers of one phase.
type receiving struct {
	turn *turn
	// delivery: the latency of every record is measured (PhaseE2E), otherwise
	// they are only counted.
	delivery  bool
	receivers []Receiver
	meter     atomic.Pointer[meter] // changes between priming and measuring

	surplus int64 // records received beyond those that are stored

	got  atomic.Int64
	want atomic.Int64  // got at which news is told; MaxInt64 while it is not known
	news chan struct{} // capacity 1: got has reached want
	errs chan error    // what receivers ended with
	stop context.CancelFunc
	all  sync.WaitGroup // one goroutine per receiver
}

// newReceiving makes the turn's consumers, and starts them counting for m.
func (t *turn) newReceiving(ctx context.Context, m *meter, delivery bool) (*receiving, error) {
	r := &receiving{turn: t, delivery: delivery, news: make(chan struct{}, 1), errs: make(chan error, t.spec.Consumers)}
	r.meter.Store(m)
	r.want.Store(math.MaxInt64)
	for n := range t.spec.Consumers {
		receiver, err := t.sys.NewReceiver(ctx, n, delivery)
		if err != nil {
			return nil, errors.Join(err, closeAll(r.receivers))
		}
		r.receivers = append(r.receivers, receiver)
	}
	ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	for n, receiver := range r.receivers {
		r.all.Go(func() {
			if err := receiver.Receive(ctx, func(values [][]byte) { r.visit(n, values) }); err != nil {
				r.errs <- fmt.Errorf("receiving: %w", err)
			}
		})
	}
	return r, nil
}

func closeAll(receivers []Receiver) error {
	var errs []error
	for _, r := range receivers {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}

// close ends the receivers.
func (r *receiving) close() error {
	r.stop()
	r.all.Wait()
	return closeAll(r.receivers)
}

// visit counts values that receiver n has got.
func (r *receiving) visit(n int, values [][]byte) {
	now, m := r.turn.clock.Now(), r.meter.Load()
	bytes := int64(0)
	for _, value := range values {
		bytes += int64(len(value))
		if !r.delivery {
			continue
		}
		intended, err := stamped(r.turn.spec.Payload, value)
		if err != nil {
			m.failed(err)
			continue
		}
		m.tallies[n].took(intended, now, int64(len(value)), now.Sub(intended))
	}
	if !r.delivery {
		m.tallies[n].count(now, now, int64(len(values)), bytes)
	}
	if r.got.Add(int64(len(values))) >= r.want.Load() {
		select {
		case r.news <- struct{}{}:
		default: // it was told already
		}
	}
}

// await returns when want records have come in all. It ends early, without an
// error, when ctx does.
func (r *receiving) await(ctx context.Context, want int64) error {
	r.want.Store(want)
	defer r.want.Store(math.MaxInt64)
	ticker := time.NewTicker(stallTimeout)
	defer ticker.Stop()
	for before := int64(-1); ; {
		got := r.got.Load()
		if got >= want {
			return nil
		}
		select {
		case <-r.news:
		case <-ctx.Done():
			return nil
		case err := <-r.errs:
			return err
		case <-ticker.C:
			if got == before {
				return fmt.Errorf("%d of %d records came, and then nothing for %s", got, want, stallTimeout)
			}
			before = got
		}
	}
}

// stored is how many records there are to be read. Fewer than were acked is a
// loss.
func (t *turn) stored(ctx context.Context) (int64, error) {
	acked := t.acked.Load()
	counter, ok := t.sys.(Counter)
	if !ok {
		return acked, nil
	}
	n, err := counter.Stored(ctx)
	if err == nil && n < acked {
		err = fmt.Errorf("%d records were acked, but only %d are stored", acked, n)
	}
	return n, err
}

// consume reads everything from the start. The clock runs from before the
// receivers connect to the last record.
func (t *turn) consume(ctx context.Context) (Result, error) {
	want, err := t.stored(ctx)
	if err != nil {
		return Result{}, err
	}
	if want == 0 {
		return Result{}, errors.New("there is nothing to read: produce before, or name a topic that holds records")
	}
	parent := ctx
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	m := t.newMeter(PhaseConsume, &window{start: time.Now()}, giveUp)
	m.open = true
	go m.run()
	r, err := t.newReceiving(ctx, m, false)
	if err == nil {
		err = r.await(ctx, want)
	}
	result, failed := m.finish(0)
	if r != nil {
		err = errors.Join(err, r.close())
	}
	return result, verdict(parent, ctx, err, failed)
}

// primingPerPartition is how many records a partition sees before PhaseE2E
// begins, so that the group has settled.
const primingPerPartition = 2

// endToEnd measures from the intended send time to the delivery at a group.
func (t *turn) endToEnd(ctx context.Context) (Result, error) {
	if err := t.connect(ctx); err != nil {
		return Result{}, err
	}
	parent := ctx
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	p := &producing{turn: t, receiving: true, senders: t.senders, limit: int64(t.spec.Topics * t.spec.Partitions * primingPerPartition)}
	p.meter = t.newMeter("priming", &window{start: time.Now().Add(time.Hour)}, giveUp)
	r, err := t.newReceiving(ctx, p.meter, true)
	if err != nil {
		return Result{}, err
	}
	if err = p.runAlone(ctx, time.Now()); err == nil {
		err = t.awaitStored(ctx, r)
	}
	var result Result
	var failed error
	if err == nil && ctx.Err() == nil {
		p = &producing{turn: t, receiving: true, senders: t.senders, rate: t.spec.TargetRate, limit: t.spec.Records}
		result, failed, err = t.deliver(ctx, p, r, giveUp)
	}
	return result, verdict(parent, ctx, errors.Join(err, r.close()), failed)
}

// deliver runs the measured part of endToEnd.
func (t *turn) deliver(ctx context.Context, p *producing, r *receiving, giveUp context.CancelCauseFunc) (result Result, failed, err error) {
	start := time.Now()
	w := t.window(p.limit, start)
	w.start = w.start.Truncate(time.Microsecond) // as the times in the values are
	p.meter = t.newMeter(PhaseE2E, w, giveUp)
	p.meter.open = true
	r.meter.Store(p.meter)
	go p.meter.run()
	if err = p.run(ctx, start); err == nil {
		err = t.awaitStored(ctx, r)
	}
	result, failed = p.meter.finish(p.meter.window.span(ctx))
	result.TargetRate, result.Unsent, result.Duplicates = p.rate, p.unsent.Load(), r.surplus
	return result, failed, err
}

// awaitStored returns when all that is stored has come, and notes what came
// beyond that.
func (t *turn) awaitStored(ctx context.Context, r *receiving) error {
	want, err := t.stored(ctx)
	if err != nil {
		return err
	}
	err = r.await(ctx, want)
	r.surplus = max(r.got.Load()-want, 0)
	return err
}
