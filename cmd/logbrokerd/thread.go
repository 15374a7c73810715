package main

import "runtime"

// thread runs functions on one operating system thread that lives until close.
// Pdeathsig, which ends the node processes when dev is killed, is bound to the
// thread that started them: if the Go runtime ended that thread, they would die.
type thread struct{ work chan func() }

func newThread() *thread {
	t := &thread{work: make(chan func())}
	go func() { // ends with close
		runtime.LockOSThread()
		for f := range t.work {
			f()
		}
	}()
	return t
}

func (t *thread) do(f func()) { t.work <- f }

func (t *thread) close() { close(t.work) }
