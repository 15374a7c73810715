package main

import (
	"fmt"
	"os"
	"time"

	"logbroker/bench/procs"
)

// stopGrace is how long a broker process may take to stop.
const stopGrace = 10 * time.Second

// processGroup is the broker processes of a system, all of them this binary.
type processGroup struct {
	children []*procs.Child
}

// start starts this binary with args. The process ends with this one.
func (g *processGroup) start(args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this binary to start it again: %w", err)
	}
	child, err := procs.Start(procs.Command{Path: self, Args: args, Stderr: os.Stderr})
	if err != nil {
		return err
	}
	g.children = append(g.children, child)
	return nil
}

func (g *processGroup) pids() []int {
	pids := make([]int, len(g.children))
	for i, child := range g.children {
		pids[i] = child.PID()
	}
	return pids
}

// failed returns why a process has ended, nil while all run.
func (g *processGroup) failed() error {
	for _, child := range g.children {
		select {
		case <-child.Done():
			if err := child.Err(); err != nil {
				return err
			}
			return fmt.Errorf("broker process %d ended", child.PID())
		default:
		}
	}
	return nil
}

func (g *processGroup) stop() error {
	err := procs.StopAll(g.children, stopGrace)
	g.children = nil
	return err
}
