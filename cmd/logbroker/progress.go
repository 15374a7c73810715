package main

import (
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"
)

// progressEvery is the time between two updates of the progress line.
const progressEvery = 250 * time.Millisecond

// progress shows count and rate on a terminal's stderr, on one line that is
// written over.
type progress struct {
	w     io.Writer
	what  string // records acked, records read
	count *atomic.Int64
	start time.Time
	now   func() time.Time
	stop  chan struct{}
	ended chan struct{}
}

// startProgress starts the goroutine that shows the line; close ends it. nil,
// which close accepts, where the line is not wanted.
func (a *app) startProgress(wanted bool, what string, count *atomic.Int64) *progress {
	if !wanted || !a.stderrTerminal {
		return nil
	}
	p := &progress{w: a.stderr, what: what, count: count, start: a.now(), now: a.now, stop: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	return p
}

func (p *progress) run() {
	defer close(p.ended)
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	lastCount, lastTime := int64(0), p.start
	for {
		select {
		case <-ticker.C:
			n, now := p.count.Load(), p.now()
			fmt.Fprint(p.w, "\r", progressLine(p.what, n, n-lastCount, now.Sub(lastTime)), "  ")
			lastCount, lastTime = n, now
		case <-p.stop:
			n := p.count.Load()
			fmt.Fprint(p.w, "\r", progressLine(p.what, n, n, p.now().Sub(p.start)), " on average\n")
			return
		}
	}
}

func (p *progress) close() {
	if p != nil {
		close(p.stop)
		<-p.ended
	}
}

// progressLine is "1,234 records acked, 567/s": the rate is that of the last n
// records, which took d.
func progressLine(what string, count, n int64, d time.Duration) string {
	rate := int64(0)
	if d > 0 {
		rate = int64(float64(n) / d.Seconds())
	}
	return fmt.Sprintf("%s records %s, %s/s", thousands(count), what, thousands(rate))
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for at := len(s) - 3; at > 0; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}
