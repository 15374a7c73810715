// Package stall measures for how long the machine under a test stood still, so
// that a bound on time can be one on what the program does: a busy machine that
// gives it no processor, or a disk that takes long to sync, is not its doing.
//
// It is for tests and proofs only. It is no way to wait for something: it only says
// what to take off a time that was measured. Start at Start.
package stall

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

const (
	// tickEvery is how often a timer is looked at, tickLate from when on it was late.
	tickEvery = time.Millisecond
	tickLate  = 3 * tickEvery
	// syncEvery is the pause between two syncs of a small file; what one takes
	// beyond syncUsual is a stall.
	syncEvery = 50 * time.Millisecond
	syncUsual = 20 * time.Millisecond
)

// Meter adds up how late a timer fires and how long a sync takes. Its methods
// may be called from any goroutine.
type Meter struct {
	mu      sync.Mutex // guards what follows
	late    time.Duration
	disk    time.Duration
	lastOf  time.Time // the timer's last tick
	syncing time.Time // since when the current sync runs, zero between two

	stop func() // ends the measuring and waits for it
}

// Mark is a moment, as a Meter saw it.
type Mark struct {
	at         time.Time
	late, disk time.Duration
}

// Start measures until the test ends.
func Start(tb testing.TB) *Meter {
	tb.Helper()
	m, err := Measure(filepath.Join(tb.TempDir(), "stall"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(m.stop)
	return m
}

// Measure measures until Stop. It makes the file, which it syncs now and then.
func Measure(path string) (*Meter, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	m := &Meter{lastOf: time.Now()}
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { m.tick(done) })
	running.Go(func() { m.sync(done, file) })
	m.stop = sync.OnceFunc(func() {
		close(done)
		running.Wait()
		_ = file.Close() // nothing is read from it
	})
	return m, nil
}

// Stop ends the measuring before the test ends.
func (m *Meter) Stop() { m.stop() }

// tick runs until done.
func (m *Meter) tick(done <-chan struct{}) {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
		}
		m.mu.Lock()
		now := time.Now()
		m.late += lateness(now.Sub(m.lastOf))
		m.lastOf = now
		m.mu.Unlock()
	}
}

func lateness(gap time.Duration) time.Duration {
	if gap <= tickLate {
		return 0
	}
	return gap - tickEvery
}

// sync runs until done. It may block on the disk for as long as that takes.
func (m *Meter) sync(done <-chan struct{}, file *os.File) {
	ticker := time.NewTicker(syncEvery)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
		}
		m.mu.Lock()
		m.syncing = time.Now()
		m.mu.Unlock()
		_, err := file.WriteAt([]byte{1}, 0)
		if err == nil {
			err = file.Sync()
		}
		m.mu.Lock()
		if err == nil {
			m.disk += slowness(time.Since(m.syncing))
		}
		m.syncing = time.Time{}
		m.mu.Unlock()
	}
}

func slowness(took time.Duration) time.Duration { return max(took-syncUsual, 0) }

// Mark returns the present moment.
func (m *Meter) Mark() Mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := Mark{at: time.Now(), late: m.late, disk: m.disk}
	k.late += lateness(k.at.Sub(m.lastOf)) // what goes on just now
	if !m.syncing.IsZero() {
		k.disk += slowness(k.at.Sub(m.syncing))
	}
	return k
}

// Since returns the time since k, less what the machine stood still.
func (m *Meter) Since(k Mark) time.Duration { return m.Mark().Sub(k) }

// Stood returns how long the machine stood still since k.
func (m *Meter) Stood(k Mark) time.Duration { return m.Mark().stood(k) }

// Sub returns the time from earlier to k, less what the machine stood still.
func (k Mark) Sub(earlier Mark) time.Duration { return k.at.Sub(earlier.at) - k.stood(earlier) }

// stood is the processor's time or the disk's, whichever is longer.
func (k Mark) stood(earlier Mark) time.Duration { return max(k.late-earlier.late, k.disk-earlier.disk) }

// Elapsed returns the whole time from earlier to k.
func (k Mark) Elapsed(earlier Mark) time.Duration { return k.at.Sub(earlier.at) }

// Before reports whether k is before other.
func (k Mark) Before(other Mark) bool { return k.at.Before(other.at) }

// IsZero reports whether k is no moment at all.
func (k Mark) IsZero() bool { return k.at.IsZero() }
