package main

import (
	"io"
	"sync"
	"time"
)

// Bounds of a stream: what waits to be written, and how long at most.
const (
	streamBytesMax  = 1 << 20
	streamFlushSize = 64 << 10
	streamFlushWait = 2 * time.Millisecond
)

// stream buffers output that many goroutines produce. A goroutine of its own
// writes: at once when there is much, within streamFlushWait when there is
// little.
type stream struct {
	w io.Writer

	// mu guards what follows. It is held while bytes are copied, never while
	// they are written.
	mu     sync.Mutex
	room   sync.Cond // signalled when buf was taken, and when err is set
	buf    []byte
	err    error
	closed bool

	filled chan struct{} // buf is not empty
	much   chan struct{} // buf is large, or the stream is closed
	ended  chan struct{}
	// failed is called once, with the first error of a write. It must not block.
	failed func(error)
}

// newStream starts the writing goroutine, which ends with close. failed may be nil.
func newStream(w io.Writer, failed func(error)) *stream {
	s := &stream{w: w, filled: make(chan struct{}, 1), much: make(chan struct{}, 1), ended: make(chan struct{}), failed: failed}
	s.room.L = &s.mu
	go s.run()
	return s
}

// add lets put append to the buffer. It never waits, so a producer's callback
// may call it; whoever feeds the producer calls waitForRoom.
func (s *stream) add(put func(dst []byte) []byte) {
	s.mu.Lock()
	if s.err == nil && !s.closed {
		s.buf = put(s.buf)
	}
	n := len(s.buf)
	s.mu.Unlock()
	s.wake(n)
}

// write appends p, waiting for room. It returns the error that writing ended
// with.
func (s *stream) write(p []byte) error {
	if err := s.waitForRoom(); err != nil {
		return err
	}
	s.add(func(dst []byte) []byte { return append(dst, p...) })
	return nil
}

// waitForRoom waits while more than streamBytesMax is unwritten.
func (s *stream) waitForRoom() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) >= streamBytesMax && s.err == nil {
		s.room.Wait()
	}
	return s.err
}

func (s *stream) wake(n int) {
	if n > 0 {
		offer(s.filled)
	}
	if n >= streamFlushSize {
		offer(s.much)
	}
}

func offer(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// run is the writing goroutine. It blocks on the writer and on its channels.
func (s *stream) run() {
	defer close(s.ended)
	var spare []byte
	timer := time.NewTimer(streamFlushWait)
	for {
		<-s.filled
		timer.Reset(streamFlushWait)
		select {
		case <-timer.C:
		case <-s.much:
		}
		s.mu.Lock()
		data, closed := s.buf, s.closed
		s.buf = spare[:0]
		s.room.Broadcast()
		s.mu.Unlock()
		if len(data) > 0 {
			if _, err := s.w.Write(data); err != nil {
				s.fail(err)
			}
		}
		if closed {
			return
		}
		spare = data
	}
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
	}
	s.buf = nil
	s.room.Broadcast()
	s.mu.Unlock()
	if first && s.failed != nil {
		s.failed(err)
	}
}

// close writes what is left and ends the goroutine. It returns the first error
// of a write.
func (s *stream) close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	offer(s.filled)
	offer(s.much)
	<-s.ended
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
