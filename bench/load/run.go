package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/bench/procs"
)

// turn is RunTurn's state.
type turn struct {
	sys      System
	spec     Spec
	clock    clock
	progress Progress
	payload  *payload
	keys     [][]byte
	senders  []Sender
	flights  sync.Pool

	tail   *beside // reads along from the first PhaseTailed or PhaseJoined on
	groups int     // that PhaseJoined has had

	acked   atomic.Int64 // records, over all phases
	fastest float64      // records/s that PhaseProduce has reached
}

// RunTurn starts sys, runs the phases of spec in order, and stops sys. progress
// may be nil. When ctx ends, the phase under way ends early, what was measured
// until then is returned, and Turn.Interrupted is set; that is no error.
//
// Errors: of the Spec; of the System, with what was measured before.
func RunTurn(ctx context.Context, sys System, spec Spec, progress Progress) (result Turn, err error) {
	result = Turn{System: sys.Name(), Spec: spec, Replicas: spec.Replicas, StartedAt: time.Now(), LoadAverage: procs.LoadAverage()}
	if err := spec.Validate(); err != nil {
		return result, err
	}
	t := &turn{sys: sys, spec: spec, clock: systemClock{}, progress: progress, payload: newPayload(&spec, poolBytes), keys: newKeys(spec.Keys)}
	defer func() {
		if t.tail != nil {
			_, failed := t.tail.close()
			err = errors.Join(err, failed)
		}
		for _, s := range t.senders {
			err = errors.Join(err, s.Close())
		}
		err = errors.Join(err, sys.Stop())
		if result.Interrupted = ctx.Err() != nil; result.Interrupted {
			err = nil // what was cut short complains
		}
	}()
	if err := sys.Start(ctx, spec); err != nil {
		return result, err
	}
	result.Settings = sys.Settings()
	if d, ok := sys.(Durable); ok {
		result.Durability = d.Durability()
	}
	if r, ok := sys.(Replicated); ok {
		result.Replicas = r.Replicas()
	}
	for _, phase := range spec.Phases {
		if ctx.Err() != nil {
			break
		}
		r, err := t.run(ctx, phase)
		if r.Seconds > 0 {
			result.Phases = append(result.Phases, r)
		}
		if err != nil {
			return result, fmt.Errorf("phase %s: %w", phase, err)
		}
	}
	return result, nil
}

func (t *turn) run(ctx context.Context, phase string) (Result, error) {
	switch phase {
	case PhaseConsume:
		return t.consume(ctx)
	case PhaseE2E:
		return t.endToEnd(ctx)
	case PhaseLatency:
		rate, err := t.shareOfFastest()
		if err != nil {
			return Result{}, err
		}
		return t.produce(ctx, phase, rate)
	case PhaseTailed, PhaseJoined:
		return t.besideReaders(ctx, phase)
	case PhaseAlone:
		return t.produce(ctx, phase, 0)
	default:
		r, err := t.produce(ctx, phase, t.spec.TargetRate)
		t.fastest = r.RecordsPerS
		return r, err
	}
}

// shareOfFastest is the rate of the phases that follow PhaseProduce.
func (t *turn) shareOfFastest() (float64, error) {
	rate := t.spec.TargetRate
	if rate == 0 {
		rate = t.fastest * t.spec.LatencyShare
	}
	if rate == 0 {
		return 0, errors.New("phase produce measured nothing, so its half is nothing")
	}
	return rate, nil
}

// connect makes the producers when they are needed first.
func (t *turn) connect(ctx context.Context) error {
	for n := len(t.senders); n < t.spec.Producers; n++ {
		s, err := t.sys.NewSender(ctx, n)
		if err != nil {
			return err
		}
		t.senders = append(t.senders, s)
	}
	return nil
}

// produce runs a phase that sends.
func (t *turn) produce(ctx context.Context, phase string, rate float64) (Result, error) {
	if err := t.connect(ctx); err != nil {
		return Result{}, err
	}
	parent := ctx
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	p := &producing{turn: t, rate: rate, senders: t.senders}
	send := p.run
	if phase == PhaseAlone {
		send = p.runAlone
	} else if p.limit = t.spec.Records; p.limit > 0 && t.spec.Warmup > 0 {
		if err := t.warmUp(ctx, rate, giveUp); err != nil {
			return Result{}, verdict(parent, ctx, err, nil)
		}
	}
	start := time.Now()
	p.meter = t.newMeter(phase, t.window(p.limit, start), giveUp)
	p.meter.open = rate > 0 || p.limit > 0
	go p.meter.run()
	err := send(ctx, start)
	r, failed := p.meter.finish(p.meter.window.span(ctx))
	r.TargetRate, r.Unsent = rate, p.unsent.Load()
	return r, verdict(parent, ctx, err, failed)
}

// warmUp sends for the time of the warm-up and waits for the acks, so that what
// follows is exactly as many records as were asked for.
func (t *turn) warmUp(ctx context.Context, rate float64, giveUp context.CancelCauseFunc) error {
	start := time.Now()
	end := start.Add(t.spec.Warmup.Duration())
	p := &producing{turn: t, rate: rate, senders: t.senders}
	p.meter = t.newMeter("warm-up", &window{start: end, end: end}, giveUp)
	p.meter.open = true
	go p.meter.run()
	err := p.run(ctx, start)
	_, failed := p.meter.finish(0)
	return errors.Join(err, failed)
}

// window is what is measured of a phase that begins at start and sends limit
// records (0: for Spec.Duration).
func (t *turn) window(limit int64, start time.Time) *window {
	if limit > 0 {
		return &window{start: start}
	}
	d := t.spec.Duration
	if d == 0 {
		d = aloneDefault
	}
	w := &window{start: start.Add(t.spec.Warmup.Duration())}
	w.end = w.start.Add(d.Duration())
	return w
}

// aloneDefault is how long PhaseAlone takes where the Spec says only how many
// records the other phases send.
const aloneDefault = Seconds(5)

// newMeter returns a meter of the turn's processes, with a tally for every
// producer or consumer.
func (t *turn) newMeter(phase string, w *window, giveUp context.CancelCauseFunc) *meter {
	m := newMeter(phase, w, max(t.spec.Producers, t.spec.Consumers))
	m.pids, m.progress, m.giveUp = t.sys.Processes(), t.progress, giveUp
	return m
}

// verdict is the error of a phase that ran under ctx, made from parent: why it
// was given up, else what the sampler or the load says. An interrupt is none.
func verdict(parent, ctx context.Context, load, sampler error) error {
	switch {
	case parent.Err() != nil:
		load = nil
	case ctx.Err() != nil:
		load = context.Cause(ctx)
	case sampler != nil:
		load = sampler
	}
	return load
}
