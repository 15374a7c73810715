package main

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// blockedWriter waits with every write until it is let go.
type blockedWriter struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	gate chan struct{}
}

func (w *blockedWriter) Write(p []byte) (int, error) {
	<-w.gate
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func TestStreamWritesLittleOutputSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &blockedWriter{gate: make(chan struct{})}
		close(w.gate)
		s := newStream(w, nil)
		if err := s.write([]byte("one line\n")); err != nil {
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond) // of the bubble's clock: acks are out within 100 ms
		synctest.Wait()
		w.mu.Lock()
		got := w.buf.String()
		w.mu.Unlock()
		if got != "one line\n" {
			t.Fatalf("after 100 ms there is %q", got)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStreamBoundsWhatWaitsAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &blockedWriter{gate: make(chan struct{})}
		s := newStream(w, nil)
		line := []byte(strings.Repeat("x", 1023) + "\n")
		const lines = 5000
		written := make(chan struct{})
		go func() {
			defer close(written)
			for range lines {
				if err := s.write(line); err != nil {
					t.Error(err)
				}
			}
		}()
		synctest.Wait()
		s.mu.Lock()
		held := len(s.buf)
		s.mu.Unlock()
		if held > streamBytesMax+len(line) {
			t.Errorf("%d bytes wait for a writer that is blocked", held)
		}
		close(w.gate)
		<-written
		if err := s.close(); err != nil || w.buf.Len() != lines*len(line) {
			t.Fatalf("%d bytes written, %v", w.buf.Len(), err)
		}
	})
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestStreamReportsTheFirstFailureAndUnblocks(t *testing.T) {
	broken := errors.New("broken")
	failed := make(chan error, 1)
	s := newStream(failingWriter{broken}, func(err error) { failed <- err })
	for s.write(make([]byte, 100<<10)) == nil { // ends when the failure is seen
	}
	if err := <-failed; !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if err := s.close(); !errors.Is(err, broken) {
		t.Fatal(err)
	}
}
