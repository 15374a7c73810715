package commitlog

import (
	"fmt"
	"sync"

	"logbroker/internal/storage"
)

// writer is a segment with its file open for writing: the active one, or a
// sealed one until FinishSync has finished it.
type writer struct {
	segment *segment
	file    storage.File

	// durable is how many bytes a FinishSync made durable, -1 for a file that none has
	// synced. It belongs to the log's beside.
	durable int64

	// mu keeps the file open while the write-back goroutine works on it, and
	// orders that goroutine's error before the check in sync.
	mu     sync.Mutex
	closed bool // changes only under the log's beside as well
	// forgotten is up to where the page cache was given up.
	forgotten int64
}

// createSegment creates the empty .log of the segment at base, over whatever
// has the name. Neither bytes nor name are durable.
func createSegment(p *place, base int64) (*writer, error) {
	path := p.path(base, logSuffix)
	f, err := p.fs.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return &writer{segment: newSegment(p, newExtent(base)), file: f, durable: -1}, nil
}

// openForAppend opens the .log of the segment at base at its end.
func openForAppend(p *place, base int64) (storage.File, error) {
	path := p.path(base, logSuffix)
	f, err := p.fs.OpenForAppend(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return f, nil
}

// close closes the file once.
func (w *writer) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	if err := w.file.Close(); err != nil {
		return fmt.Errorf("close %s: %w", w.segment.logPath, err)
	}
	return nil
}

// writeBackBytes is how much is written to a segment before it is pushed to
// the disk.
const writeBackBytes = 1 << 20

// writeBack pushes written bytes to the disk behind the writer's back, so that
// a Sync finds little left to do. Of a log that nobody reads it then gives up the
// page cache, but for the last bytes pushed. Its goroutine is started by Open and stopped
// by Close, which waits for it; it blocks on the disk only.
type writeBack struct {
	unread func() bool
	kick   chan struct{} // one pending push at most
	quit   chan struct{}
	done   chan struct{}

	// mu guards the rest. It is never held during I/O.
	mu sync.Mutex
	// target's bytes [from, to) are written and not pushed.
	target   *writer
	from, to int64
	err      error // the first error; it stays
}

func newWriteBack(unread func() bool) *writeBack {
	if unread == nil {
		unread = func() bool { return false }
	}
	return &writeBack{unread: unread, kick: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
}

func (b *writeBack) start() {
	go func() {
		defer close(b.done)
		for {
			select {
			case <-b.quit:
				return
			case <-b.kick:
				b.push()
			}
		}
	}()
}

func (b *writeBack) stop() {
	close(b.quit)
	<-b.done
}

// wrote says that bytes [from, to) of w were written. What is left of another
// segment is forgotten: the Sync that seals it takes care of it.
func (b *writeBack) wrote(w *writer, from, to int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.target != w {
		b.target, b.from = w, from
	}
	b.to = to
	if b.to-b.from < writeBackBytes {
		return
	}
	select {
	case b.kick <- struct{}{}:
	default: // the goroutine will take these bytes too
	}
}

// push does one round of the goroutine's work.
func (b *writeBack) push() {
	b.mu.Lock()
	w, from, to := b.target, b.from, b.to
	b.from = to
	b.mu.Unlock()

	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || from == to {
		return
	}
	if err := storage.WriteBack(w.file, from, to-from); err != nil {
		b.fail(fmt.Errorf("write back %s: %w", w.segment.logPath, err))
		return
	}
	if from > w.forgotten && b.unread() {
		storage.ForgetCached(w.file, w.forgotten, from-w.forgotten)
		w.forgotten = from
	}
}

func (b *writeBack) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
}

func (b *writeBack) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// fail keeps the first error for good: after a failed write or sync nobody
// knows what is on disk, and a second sync that succeeds would prove nothing.
func (l *Log) fail(err error) error {
	if l.failed == nil {
		l.failed = fmt.Errorf("the log in %s cannot be written any more, end the process: %w", l.place.dir, err)
	}
	return l.failed
}

// failure returns the error that ended writing, if any.
func (l *Log) failure() error {
	if l.failed != nil {
		return l.failed
	}
	if err := l.back.failure(); err != nil {
		return l.fail(err)
	}
	return nil
}

// removeSegmentFiles unlinks all files of the segment at base; missing ones are
// no error. The .log goes last: while it is there its companions may be.
func removeSegmentFiles(p *place, base int64) error {
	for _, suffix := range []string{footerSuffix, checkpointSuffix, indexSuffix, timeIndexSuffix, logSuffix} {
		path := p.path(base, suffix)
		if err := p.fs.Remove(path); err != nil && !storage.NotExist(err) {
			return fmt.Errorf("remove %s: %w", path, err)
		}
	}
	return nil
}
