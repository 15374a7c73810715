package partitions

import (
	"context"
	"errors"
	"time"

	"logbroker/partitions/commitlog"
)

// A scrub finds damage while the other replicas can still repair it, also in what
// no consumer reads: it reads every segment of the node again, slowly.

const (
	// scrubDelay is how long after the start the first scrub begins: a node that
	// has just started has other things to do.
	scrubDelay = time.Minute
	// scrubBurst is for how long a scrub may be ahead of its rate.
	scrubBurst = 20 * time.Millisecond
)

// scrub is the scrub goroutine. It blocks on the disk and on its rate.
func (a *attendants) scrub(all func() []*Partition) {
	defer a.background.Done()
	if a.options.ScrubInterval <= 0 {
		return
	}
	next := time.NewTimer(min(scrubDelay, a.options.ScrubInterval))
	defer next.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-next.C:
		}
		next.Reset(a.options.ScrubInterval)
		s := scrubber{options: a.options}
		began := time.Now()
		for _, p := range all() {
			p.scrub(a.ctx, &s)
		}
		if a.ctx.Err() == nil && s.bytes > 0 {
			a.options.Logger.Info("scrub ended", "bytes", s.bytes, "damaged", s.damaged, "took", time.Since(began).Round(time.Millisecond))
		}
	}
}

// scrubber is one scrub over all replicas.
type scrubber struct {
	options *Options
	// free is when all that was read would have been read at the rate.
	free    time.Time
	bytes   int64
	damaged int
}

// pace counts bytes that are about to be read and waits until they may be.
func (s *scrubber) pace(ctx context.Context, bytes int) error {
	s.bytes += int64(bytes)
	s.options.OnScrubbed(bytes)
	rate := s.options.ScrubBytesPerSecond
	if rate <= 0 {
		return ctx.Err()
	}
	now := time.Now()
	if s.free.Before(now) {
		s.free = now
	}
	ahead := s.free.Sub(now)
	s.free = s.free.Add(time.Duration(bytes) * time.Second / time.Duration(rate))
	if ahead <= scrubBurst {
		return ctx.Err()
	}
	wait := time.NewTimer(ahead)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
		return nil
	}
}

// scrub reads everything that the replica holds now.
func (p *Partition) scrub(ctx context.Context, s *scrubber) {
	if p.readable() != nil {
		return // damaged, quarantined or not there: nothing is served of it
	}
	end := p.machine.HighWatermark()
	for offset := p.machine.LogStart(); offset < end && p.readable() == nil; {
		next := offset
		err := p.withLog(func(log *commitlog.Log, _ int64) (err error) {
			next, err = log.Scrub(offset, func(bytes int) error { return s.pace(ctx, bytes) })
			return err
		})
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, commitlog.ErrDamaged):
			s.damaged++
			p.damaged("scrub", err)
			return
		case err != nil:
			p.logger.Warn("a segment could not be scrubbed; the next scrub tries again", "offset", offset, "err", err)
			return
		case next <= offset:
			return
		}
		offset = next
	}
}

// timed returns what runs a function and tells how long it took.
func timed(tell func(took time.Duration)) func(do func() error) error {
	return func(do func() error) error {
		began := time.Now()
		err := do()
		tell(time.Since(began))
		return err
	}
}
