package load

import (
	"context"
	"math"
	"syscall"
	"time"
)

// clock is the time; a test brings its own.
type clock interface {
	Now() time.Time
	// SleepUntil returns at t, or when ctx ends.
	SleepUntil(ctx context.Context, t time.Time)
}

// systemClock sleeps more precisely than the Go runtime, which rounds up to a
// millisecond when nothing else runs: that would be added to every latency.
type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

// preciseBelow is what is slept in a system call, which ctx does not end.
const preciseBelow = 2 * time.Millisecond

func (systemClock) SleepUntil(ctx context.Context, t time.Time) {
	if wait := time.Until(t) - preciseBelow; wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
	if wait := time.Until(t); wait > 0 {
		span := syscall.NsecToTimespec(wait.Nanoseconds())
		_ = syscall.Nanosleep(&span, nil) // a signal may end it early: then the record is early by that much, and its time is right
	}
}

// overrunMax is how long after the end records are still sent that were due
// before it. A few milliseconds are the sender's own; more is back-pressure.
const overrunMax = time.Second

// pacer says when one producer's records are to be sent.
type pacer struct {
	clock clock
	start time.Time
	every float64 // nanoseconds between two records; 0: as fast as it goes
	end   time.Time
	limit int64 // records; 0: none
	given int64 // records so far
}

// newPacer returns the pacer of producer n of so many, which share rate
// (records/s, 0: as fast as it goes) and take turns.
func newPacer(c clock, start time.Time, rate float64, n, of int) *pacer {
	p := &pacer{clock: c, start: start}
	if rate > 0 {
		p.every = float64(of) / rate * 1e9
		p.start = start.Add(time.Duration(p.every * float64(n) / float64(of)))
	}
	return p
}

// next returns the time at which the next record is to be sent, having waited
// for it. A time that has passed already is returned at once: the record is late
// because the one before was held up, and its latency shows it. ok is false at
// the end.
func (p *pacer) next(ctx context.Context) (intended time.Time, ok bool) {
	if p.limit > 0 && p.given == p.limit || ctx.Err() != nil {
		return intended, false
	}
	now := p.clock.Now()
	intended = now
	if p.every > 0 {
		intended = p.intended(p.given)
	}
	if !p.end.IsZero() && (!intended.Before(p.end) || !now.Before(p.end.Add(overrunMax))) {
		return intended, false
	}
	if intended.After(now) {
		p.clock.SleepUntil(ctx, intended)
		if ctx.Err() != nil {
			return intended, false
		}
	}
	p.given++
	return intended, true
}

func (p *pacer) intended(n int64) time.Time {
	return p.start.Add(time.Duration(p.every * float64(n)))
}

// unsent is how many records should have been sent before stop beyond those
// that next has given.
func (p *pacer) unsent(stop time.Time) int64 {
	if p.every == 0 || p.limit > 0 {
		return 0
	}
	due := int64(math.Ceil(float64(stop.Sub(p.start)) / p.every))
	return max(due-p.given, 0)
}
