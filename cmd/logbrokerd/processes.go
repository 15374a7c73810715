package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"logbroker/broker"
	"logbroker/config"
)

// readyPollInterval is how often the parent looks for its children's ready files.
const readyPollInterval = 20 * time.Millisecond

// child is one node's process.
type child struct {
	cmd       *exec.Cmd
	readyFile string
	// stderr keeps the last of what the child said, for the error of the parent.
	stderr *tailWriter
	done   chan struct{} // closed when the process has ended
	err    error         // why it ended; valid after done
}

// runProcesses runs every node as a child process of this binary. The children
// are asked to stop when this process ends; should it be killed, the kernel
// ends them too.
func (o *devOptions) runProcesses(cmd *cobra.Command, base config.Config) error {
	began := time.Now()
	configs, err := broker.LocalConfigs(broker.LocalOptions{Nodes: o.nodes, Dir: o.dataDir, AnyPort: o.anyPort, Base: base})
	if err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this binary to start nodes with: %w", err)
	}
	children, stop := startChildren(executable, configs, cmd.ErrOrStderr())
	defer stop()
	ready, err := awaitReady(cmd.Context(), children)
	if err != nil && !o.anyPort {
		return broker.AnyPortHint(err)
	}
	if err != nil {
		return err
	}
	for _, c := range children {
		c.stderr.passErrors()
	}
	if err := o.announce(cmd, ready, time.Since(began)); err != nil {
		return err
	}
	// A node that dies is news, not the end: this is how one watches a cluster
	// survive a kill.
	for _, c := range children {
		go func() { // ends with its child
			<-c.done
			fmt.Fprintf(cmd.ErrOrStderr(), "node process %d ended: %v\n", c.cmd.Process.Pid, c.err)
		}()
	}
	<-cmd.Context().Done()
	return nil
}

// awaitReady returns once every child has written its ready file.
func awaitReady(ctx context.Context, children []*child) (readyInfo, error) {
	var all readyInfo
	for _, c := range children {
		one, err := c.awaitReady(ctx)
		if err != nil {
			return all, err
		}
		all.Servers = append(all.Servers, one.Servers...)
		all.HTTP = append(all.HTTP, one.HTTP...)
		all.Raft = append(all.Raft, one.Raft...)
		all.Nodes = append(all.Nodes, one.Nodes...)
	}
	return all, nil
}

func (c *child) awaitReady(ctx context.Context) (readyInfo, error) {
	ticker := time.NewTicker(readyPollInterval)
	defer ticker.Stop()
	for {
		var one readyInfo
		raw, err := os.ReadFile(c.readyFile)
		if err == nil && json.Unmarshal(raw, &one) == nil {
			return one, nil
		}
		select {
		case <-ctx.Done():
			return one, errors.New("stopped before the cluster was ready")
		case <-c.done:
			return one, fmt.Errorf("a node did not start: %s", strings.TrimPrefix(c.stderr.last(), errorPrefix))
		case <-ticker.C:
		}
	}
}

// startChildren starts a process per configuration. stop asks them all to end
// and waits for it.
func startChildren(executable string, configs []config.Config, stderr io.Writer) (children []*child, stop func()) {
	starter := newThread()
	for _, c := range configs {
		children = append(children, startChild(starter, executable, c, stderr))
	}
	return children, func() {
		for _, c := range children {
			if c.cmd.Process != nil {
				_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
			}
		}
		for _, c := range children {
			<-c.done
		}
		starter.close()
	}
}

func startChild(starter *thread, executable string, c config.Config, stderr io.Writer) *child {
	p := &child{done: make(chan struct{}), stderr: &tailWriter{next: stderr}}
	if p.err = p.prepare(executable, c); p.err != nil {
		fmt.Fprintln(p.stderr, p.err)
		close(p.done)
		return p
	}
	started := make(chan error)
	starter.do(func() { started <- p.cmd.Start() })
	if p.err = <-started; p.err != nil {
		fmt.Fprintln(p.stderr, p.err)
		close(p.done)
		return p
	}
	go func() { // ends with the process
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p
}

// prepare writes the node's configuration file and the command that uses it.
func (c *child) prepare(executable string, conf config.Config) error {
	c.cmd = exec.Command(executable)
	if err := os.MkdirAll(conf.Storage.DataDir, 0o755); err != nil {
		return fmt.Errorf("cannot make %s: %w", conf.Storage.DataDir, err)
	}
	var text bytes.Buffer
	if err := config.Print(&text, conf); err != nil {
		return err
	}
	file := conf.Storage.DataDir + ".yaml" // beside the directory, which must start empty
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	c.readyFile = conf.Storage.DataDir + ".ready.json"
	if err := os.Remove(c.readyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the old ready file: %w", err)
	}
	c.cmd.Args = []string{executable, "start", "-c", file, "--ready-file", c.readyFile}
	// The file holds what the environment asked for; left in the child's
	// environment, one node's address would override every node's.
	c.cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, config.EnvPrefix+"_") })
	c.cmd.Stdout, c.cmd.Stderr = c.stderr, c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	return nil
}

// errorPrefix begins the line with which a process says why it ends.
const errorPrefix = "error: "

// tailWriter passes on what is written and keeps the last of it. Until
// passErrors it keeps back the lines with which a process ends: the parent ends
// with it and says the same.
type tailWriter struct {
	next io.Writer
	mu   sync.Mutex
	tail []byte // guarded by mu
	all  bool   // pass everything; guarded by mu
}

func (w *tailWriter) passErrors() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = true
}

func (w *tailWriter) Write(p []byte) (int, error) {
	const keep = 2048
	w.mu.Lock()
	w.tail = append(w.tail, p...)
	if len(w.tail) > keep {
		w.tail = append(w.tail[:0], w.tail[len(w.tail)-keep:]...)
	}
	all := w.all
	w.mu.Unlock()
	if all {
		return w.next.Write(p)
	}
	for line := range bytes.Lines(p) {
		if bytes.HasPrefix(line, []byte(errorPrefix)) {
			continue
		}
		if _, err := w.next.Write(line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// last returns the last line that was written.
func (w *tailWriter) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(w.tail), []byte("\n"))
	return string(lines[len(lines)-1])
}
