package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// flushTimeout bounds the wait for the last acks: longer than the delivery
// time-out of the clients that are measured, which is 2 minutes.
const flushTimeout = 150 * time.Second

// interruptedTimeout is flushTimeout after an interrupt.
const interruptedTimeout = 10 * time.Second

// producing is one phase that sends.
type producing struct {
	turn  *turn
	meter *meter
	rate  float64 // records/s over all producers; 0: as fast as it goes
	// receiving: what is measured is the delivery (PhaseE2E), an ack only counts.
	receiving bool
	limit     int64 // records over all producers; 0: the window's end
	senders   []Sender
	unsent    atomic.Int64
}

// flight is one record on its way. It is used again when done was called, with
// the buffer of its value.
type flight struct {
	p        *producing
	tally    *tally
	value    []byte
	bytes    int64
	intended time.Time
	done     func(error) // f.finished, bound once
	ended    chan struct{}
}

// finished is told the verdict, from any goroutine.
func (f *flight) finished(err error) {
	p := f.p
	switch {
	case err == nil:
		p.turn.acked.Add(1)
		if !p.receiving {
			now := p.turn.clock.Now()
			f.tally.took(p.counted(f.intended, now), now, f.bytes, now.Sub(f.intended))
		}
	case !errors.Is(err, context.Canceled): // that is our own interrupt
		p.meter.failed(err)
	}
	if f.ended != nil {
		close(f.ended)
		return
	}
	p.turn.flights.Put(f)
}

// counted is the time that decides whether a record belongs to the window.
func (p *producing) counted(intended, now time.Time) time.Time {
	if p.rate > 0 || p.receiving {
		return intended
	}
	return now
}

// source is one producer's records.
type source struct {
	p      *producing
	cursor *cursor
	random *rand.Rand
	tally  *tally
	topic  int
}

func (p *producing) source(n int) *source {
	t := p.turn
	return &source{p: p, cursor: t.payload.cursor(n, len(p.senders)), random: rand.New(rand.NewPCG(t.spec.Seed, uint64(n)+2)), tally: p.meter.tallies[n], topic: n - 1}
}

// next returns the next record, with its send time inside.
func (s *source) next(intended time.Time) (Record, *flight) {
	t := s.p.turn
	f, _ := t.flights.Get().(*flight)
	if f == nil {
		f = &flight{value: make([]byte, t.payload.largest)}
		f.done = f.finished
	}
	value := s.cursor.next()
	f.p, f.tally, f.intended, f.ended = s.p, s.tally, intended, nil
	s.topic = (s.topic + 1) % t.spec.Topics
	r := Record{Topic: s.topic, Value: f.value[:copy(f.value[:cap(f.value)], value)]}
	if len(t.keys) > 0 {
		r.Key = t.keys[s.random.IntN(len(t.keys))]
	}
	stamp(t.spec.Payload, r.Value, intended)
	f.bytes = int64(len(r.Key) + len(r.Value))
	return r, f
}

// run sends until the window ends, the limit is reached or ctx ends, and then
// waits for the acks. Its error is that they do not come.
func (p *producing) run(ctx context.Context, start time.Time) error {
	var group sync.WaitGroup
	for n, sender := range p.senders {
		pace := newPacer(p.turn.clock, start, p.rate, n, len(p.senders))
		pace.end, pace.limit = p.meter.window.end, share(p.limit, n, len(p.senders))
		if p.limit > 0 && pace.limit == 0 {
			continue
		}
		group.Go(func() { p.send(ctx, sender, pace, p.source(n)) })
	}
	group.Wait()
	timeout := flushTimeout
	if ctx.Err() != nil {
		timeout = interruptedTimeout
	}
	flushing, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	errs := make([]error, len(p.senders))
	for n, sender := range p.senders {
		group.Go(func() {
			if err := sender.Flush(flushing); err != nil {
				errs[n] = fmt.Errorf("records sent but not acked: %w", err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (p *producing) send(ctx context.Context, sender Sender, pace *pacer, s *source) {
	for {
		intended, ok := pace.next(ctx)
		if !ok {
			break
		}
		r, f := s.next(intended)
		sender.Send(ctx, r, f.done)
	}
	if !pace.end.IsZero() && ctx.Err() == nil {
		p.unsent.Add(pace.unsent(pace.end))
	}
}

// share is what producer n of so many has of a total.
func share(total int64, n, of int) int64 {
	s := total / int64(of)
	if int64(n) < total%int64(of) {
		s++
	}
	return s
}

// runAlone sends one record after the other, until the limit is reached, the
// window ends or ctx does.
func (p *producing) runAlone(ctx context.Context, start time.Time) error {
	pace := newPacer(p.turn.clock, start, 0, 0, 1)
	pace.end, pace.limit = p.meter.window.end, p.limit
	s := p.source(0)
	for {
		intended, ok := pace.next(ctx)
		if !ok {
			return nil
		}
		r, f := s.next(intended)
		ended := make(chan struct{})
		f.ended = ended
		p.senders[0].Send(ctx, r, f.done)
		timer := time.NewTimer(flushTimeout)
		select {
		case <-ended:
			timer.Stop()
		case <-timer.C:
			return fmt.Errorf("a record sent alone was not acked within %s", flushTimeout)
		}
	}
}
