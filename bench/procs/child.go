package procs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Command says what to start.
type Command struct {
	Path string
	Args []string
	Env  []string // nil: this process's
	Dir  string   // working directory; "": this process's

	Stdin  io.Reader // nil: empty
	Stdout io.Writer // nil: dropped
	// Stderr gets what the child says beside what LastLine keeps; nil: nothing.
	Stderr io.Writer
}

// Child is a process that was started by Start.
type Child struct {
	cmd    *exec.Cmd
	stderr *lastWords
	done   chan struct{} // closed when it has ended
	err    error         // how it ended; valid after done
}

// Start starts a process in a process group of its own, so that Ctrl-C in the
// terminal reaches only this one. It gets SIGTERM when this process dies,
// however it dies.
func Start(c Command) (*Child, error) {
	p := &Child{cmd: exec.Command(c.Path, c.Args...), stderr: &lastWords{next: c.Stderr}, done: make(chan struct{})}
	p.cmd.Env, p.cmd.Dir = c.Env, c.Dir
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = c.Stdin, c.Stdout, p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	started := make(chan error)
	go p.run(started) // ends with the process
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", c.Path, err)
	}
	return p, nil
}

// run starts the process and waits for it. The kernel's promise to end the
// child holds for the thread that started it, so the thread has to live as long
// as the child: it is this goroutine's alone, and ends with it.
func (p *Child) run(started chan<- error) {
	runtime.LockOSThread()
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.err = p.cmd.Wait()
	}
	close(p.done)
}

// PID is the process's id.
func (p *Child) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Child) Done() <-chan struct{} { return p.done }

// Err says how the process ended, with the last it said on stderr; nil for exit
// code 0. It must be called after Done.
func (p *Child) Err() error {
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %s", p.cmd.Path, p.err, p.LastLine())
}

// ExitCode is the exit code, -1 where a signal ended it. It must be called after
// Done.
func (p *Child) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// LastLine is the last line that the process wrote to stderr.
func (p *Child) LastLine() string { return p.stderr.last() }

// Stop sends SIGTERM, after grace SIGKILL, and returns when the process has
// ended. The only error is that SIGKILL was needed.
func (p *Child) Stop(grace time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	}
	_ = p.cmd.Process.Kill() // it may have ended just now
	<-p.done
	return fmt.Errorf("%s (process %d) did not stop within %s and was killed", p.cmd.Path, p.PID(), grace)
}

// StopAll stops children at the same time; see Child.Stop.
func StopAll(children []*Child, grace time.Duration) error {
	errs := make([]error, len(children))
	var all sync.WaitGroup
	for i, p := range children {
		all.Go(func() { errs[i] = p.Stop(grace) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// lastWords keeps the end of what is written, and passes all of it on.
type lastWords struct {
	next io.Writer // may be nil
	mu   sync.Mutex
	tail []byte // guarded by mu
}

// lastWordsBytes is how much is kept: an error message of the Go runtime begins
// long before its end, but its first line is what counts.
const lastWordsBytes = 4096

func (w *lastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.tail = append(w.tail, p...)
	if len(w.tail) > lastWordsBytes {
		w.tail = append(w.tail[:0], w.tail[len(w.tail)-lastWordsBytes:]...)
	}
	w.mu.Unlock()
	if w.next == nil {
		return len(p), nil
	}
	return w.next.Write(p)
}

func (w *lastWords) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(w.tail), []byte("\n"))
	return string(lines[len(lines)-1])
}
