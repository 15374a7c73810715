package load

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"logbroker/bench/procs"
)

// sampleEvery is the length of an interval of Result.Series.
const sampleEvery = time.Second

// errorsMax ends a phase: so many failed records are no load any more.
const errorsMax = 10_000

// window is the time that is measured. It is fixed before the load begins, but
// for its end, which is zero where the last record decides it.
type window struct {
	start, end time.Time
}

func (w *window) holds(t time.Time) bool {
	return !t.Before(w.start) && (w.end.IsZero() || t.Before(w.end))
}

// span is how long the window was meant to be; 0 where the last record decides,
// or an interrupt.
func (w *window) span(ctx context.Context) time.Duration {
	if w.end.IsZero() || ctx.Err() != nil {
		return 0
	}
	return w.end.Sub(w.start)
}

// tally is what one goroutine, or the callbacks of one client, count.
type tally struct {
	window *window
	// mu guards all below. Nobody but the sampler ever waits for it long.
	mu      sync.Mutex
	hist    *hdr.Histogram // of the interval
	records int64          // of the interval, inside the window
	bytes   int64          // of the interval, inside the window
	early   int64          // of the interval, in the warm-up
	last    time.Time      // when the last one inside the window came
}

// count counts records that came at now, if at lies inside the window.
func (t *tally) count(at, now time.Time, records, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(at, now, records, bytes)
}

// took is count for one record with its latency.
func (t *tally) took(at, now time.Time, bytes int64, latency time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.add(at, now, 1, bytes) {
		record(t.hist, latency)
	}
}

// add is called with mu held. It reports whether at lies inside the window.
func (t *tally) add(at, now time.Time, records, bytes int64) bool {
	if !t.window.holds(at) {
		if at.Before(t.window.start) {
			t.early += records
		}
		return false
	}
	t.records += records
	t.bytes += bytes
	t.last = now
	return true
}

// meter measures one phase: once a second it empties the tallies, reads what the
// processes use, and tells the progress.
type meter struct {
	phase    string
	window   *window
	tallies  []*tally
	pids     []int
	progress Progress // may be nil
	// open: the window's end says which records count, but they may come later;
	// so the sampler goes on until finish.
	open bool
	// giveUp ends the load: a process is gone, or too many records failed.
	giveUp context.CancelCauseFunc

	errors     atomic.Int64
	firstError atomic.Pointer[error]

	stop    chan struct{} // closed by finish
	stopped chan struct{} // closed by the sampler

	// Owned by the sampler; everybody else's once stopped is closed.
	began    time.Time
	total    *hdr.Histogram
	interval *hdr.Histogram
	spare    *hdr.Histogram // empty, to be given to a tally for its full one
	drained  time.Time      // when last
	last     time.Time      // when the last record came
	result   Result
	before   []procs.Use // of the processes at the start of the window
	client   float64     // CPU seconds of this process at the start of the window
	inside   bool        // the window has begun
	err      error
}

// newMeter returns a meter with n tallies. run starts it.
func newMeter(phase string, w *window, n int) *meter {
	m := &meter{
		phase: phase, window: w, began: time.Now(), giveUp: func(error) {},
		total: newHistogram(), interval: newHistogram(), spare: newHistogram(),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	m.result.Phase = phase
	for range n {
		m.tallies = append(m.tallies, &tally{window: w, hist: newHistogram()})
	}
	return m
}

// failed counts a record that was not stored, or perhaps not.
func (m *meter) failed(err error) {
	m.firstError.CompareAndSwap(nil, &err)
	if m.errors.Add(1) == errorsMax {
		m.giveUp(fmt.Errorf("%d records failed, the first one: %w", errorsMax, *m.firstError.Load()))
	}
}

// run is the sampler's goroutine. It ends with the window or, where that is
// open, with finish.
func (m *meter) run() {
	defer close(m.stopped)
	if m.err = m.sample(); m.err != nil {
		m.giveUp(m.err)
	}
}

func (m *meter) sample() error {
	m.drained = m.began
	for next := m.began.Add(sampleEvery); next.Before(m.window.start); next = next.Add(sampleEvery) {
		if m.wait(next) {
			return nil
		}
		m.drain()
	}
	if m.wait(m.window.start) {
		return nil
	}
	if err := m.begin(); err != nil {
		return err
	}
	for next := m.window.start.Add(sampleEvery); ; next = next.Add(sampleEvery) {
		at, ends := next, false
		if end := m.window.end; !m.open && !at.Before(end) {
			at, ends = end, true
		}
		ends = m.wait(at) || ends
		m.drain()
		if err := m.readProcesses(); err != nil {
			return err
		}
		if ends {
			return nil
		}
	}
}

// wait returns at t, or with true when finish was called.
func (m *meter) wait(t time.Time) (finished bool) {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-m.stop:
		return true
	}
}

// begin notes what the processes used before the window.
func (m *meter) begin() error {
	m.inside, m.drained, m.client = true, m.window.start, procs.Self()
	for _, pid := range m.pids {
		use, err := procs.Usage(pid)
		if err != nil {
			return gone(err)
		}
		m.before = append(m.before, use)
		m.result.PerProcess = append(m.result.PerProcess, ProcessUse{PID: pid, RSSBytesMax: use.RSSBytes})
	}
	return nil
}

func gone(err error) error { return fmt.Errorf("a broker has ended: %w", err) }

// readProcesses notes what the processes used since the start of the window.
func (m *meter) readProcesses() error {
	r, rss := &m.result, int64(0)
	r.ClientCPUSeconds = procs.Self() - m.client
	r.CPUSeconds, r.DiskBytes = 0, 0
	for i, pid := range m.pids {
		use, err := procs.Usage(pid)
		if err != nil {
			return gone(err)
		}
		p := &r.PerProcess[i]
		p.CPUSeconds, p.DiskBytes = use.CPUSeconds-m.before[i].CPUSeconds, use.WriteBytes-m.before[i].WriteBytes
		p.RSSBytesMax = max(p.RSSBytesMax, use.RSSBytes)
		r.CPUSeconds += p.CPUSeconds
		r.DiskBytes += p.DiskBytes
		rss += use.RSSBytes
	}
	r.RSSBytesMax = max(r.RSSBytesMax, rss)
	return nil
}

// counts is what collect found.
type counts struct{ records, bytes, early int64 }

// collect takes what the tallies hold.
func (m *meter) collect() (c counts) {
	m.interval.Reset()
	for _, t := range m.tallies {
		t.mu.Lock()
		t.hist, m.spare = m.spare, t.hist
		c.records, c.bytes, c.early = c.records+t.records, c.bytes+t.bytes, c.early+t.early
		t.records, t.bytes, t.early = 0, 0, 0
		if t.last.After(m.last) {
			m.last = t.last
		}
		t.mu.Unlock()
		m.interval.Merge(m.spare)
		m.spare.Reset()
	}
	m.total.Merge(m.interval)
	m.result.Records += c.records
	m.result.Bytes += c.bytes
	return c
}

// drain makes a sample of what has come since the last one.
func (m *meter) drain() {
	c, now := m.collect(), time.Now()
	seconds := now.Sub(m.drained).Seconds()
	m.drained = now
	if m.inside && seconds > 0 {
		m.result.Series = append(m.result.Series, Sample{
			AtS: now.Sub(m.window.start).Seconds(), Seconds: seconds, Records: c.records, MB: float64(c.bytes) / 1e6,
			P99Ms: percentileMs(m.interval, 99),
		})
	}
	if !m.inside {
		c.records = c.early
	}
	m.tell(now, seconds, c.records, c.bytes)
}

func (m *meter) tell(now time.Time, seconds float64, records, bytes int64) {
	if m.progress == nil || seconds <= 0 {
		return
	}
	t := Tick{
		Phase: m.phase, Warmup: !m.inside, At: now.Sub(m.window.start), Records: m.result.Records,
		RecordsPerS: float64(records) / seconds, MBPerS: float64(bytes) / 1e6 / seconds, P99Ms: percentileMs(m.total, 99),
	}
	if t.Warmup {
		t.At = now.Sub(m.began)
	}
	m.progress(t)
}

// finish ends the sampler and returns what was measured. span is how long the
// window was at least. The load must have ended.
func (m *meter) finish(span time.Duration) (Result, error) {
	close(m.stop)
	<-m.stopped
	// A record may have come in time and been counted after the last sample.
	if c, series := m.collect(), m.result.Series; len(series) > 0 {
		series[len(series)-1].Records += c.records
		series[len(series)-1].MB += float64(c.bytes) / 1e6
	}
	r := m.result
	if first := m.firstError.Load(); first != nil {
		r.Errors, r.FirstError = m.errors.Load(), (*first).Error()
	}
	if m.err != nil || !m.inside {
		return r, m.err
	}
	if !m.last.IsZero() {
		span = max(span, m.last.Sub(m.window.start))
	}
	r.rate(span)
	return r, r.setLatencies(m.total)
}

// rate fills in what follows from the counts and the length of the window.
func (r *Result) rate(span time.Duration) {
	r.Seconds = span.Seconds()
	if r.Seconds > 0 {
		r.RecordsPerS, r.MBPerS = float64(r.Records)/r.Seconds, float64(r.Bytes)/1e6/r.Seconds
	}
	if r.Records > 0 {
		r.CPUSPerMillion = r.CPUSeconds / float64(r.Records) * 1e6
	}
	if r.Bytes > 0 {
		r.DiskBytesPerByte = float64(r.DiskBytes) / float64(r.Bytes)
	}
}
