package history

import (
	"errors"
	"os"
	"sync"
	"time"
)

// bufferBytesMax bounds what a Recorder holds back.
const bufferBytesMax = 64 << 10

// ErrClosed is returned by a Recorder after Close.
var ErrClosed = errors.New("history: the recorder is closed")

// Recorder writes the events of one process to a file. It holds back up to
// 64 KiB; a process that is killed loses those. Its methods may be called from
// any number of goroutines.
type Recorder struct {
	process string

	mu     sync.Mutex // guards what follows; it is held while the file is written
	file   *os.File
	buffer []byte
	err    error // the first; nothing is written after it
}

// Create makes the file and returns a Recorder of the process that events are
// then said to be about unless they name another one.
func Create(file, process string) (*Recorder, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	return &Recorder{process: process, file: f}, nil
}

// Record adds events in their order. An event without a time happened now. It
// waits for the file only where the buffer is full; errors of the file come with
// Flush or Close.
func (r *Recorder) Record(events ...Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range events {
		e := events[i]
		if e.At == 0 {
			e.At = Now()
		}
		if e.Process == "" {
			e.Process = r.process
		}
		r.buffer = append(e.append(r.buffer), '\n')
		if len(r.buffer) >= bufferBytesMax {
			r.write()
		}
	}
}

// Flush writes what is held back: it is safe from the end of this process then,
// not from that of the machine.
func (r *Recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write()
	return r.err
}

// Close records End and closes the file.
func (r *Recorder) Close() error {
	r.Record(Event{Kind: End})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write()
	err := errors.Join(r.err, r.file.Close())
	r.err = ErrClosed
	return err
}

// write needs mu.
func (r *Recorder) write() {
	if r.err == nil && len(r.buffer) > 0 {
		_, r.err = r.file.Write(r.buffer)
	}
	r.buffer = r.buffer[:0]
}

// Now is the time as events carry it.
func Now() int64 { return time.Now().UnixNano() }
