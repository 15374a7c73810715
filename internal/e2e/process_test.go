package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"logbroker/internal/stall"
)

const (
	// pollInterval is how often a condition is looked at.
	pollInterval = 10 * time.Millisecond
	// patience says where a test hangs. On a machine that stands still for seconds
	// nothing less tells a failure from a wait; how soon something has to be is
	// demanded of the time it took.
	patience = time.Minute
)

// await polls until ok says true, and fails the test when it has not within
// timeout, or patience if that is longer. ok may return what it saw last, for
// the failure.
func await(t testing.TB, timeout time.Duration, what string, ok func() (bool, string)) {
	t.Helper()
	timeout = max(timeout, patience)
	if seen, in := poll(timeout, ok); !in {
		t.Fatalf("not within %s: %s; last seen: %s", timeout, what, seen)
	}
}

func poll(timeout time.Duration, ok func() (bool, string)) (seen string, in bool) {
	deadline := time.After(timeout)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if in, seen = ok(); in {
			return seen, true
		}
		select {
		case <-deadline:
			return seen, false
		case <-tick.C:
		}
	}
}

// transcript keeps all that a process wrote to one of its outputs.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// tail returns the last n lines.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > n {
		lines = append([]string{fmt.Sprintf("… %d lines before", len(lines)-n)}, lines[len(lines)-n:]...)
	}
	return strings.Join(lines, "\n")
}

// process is a process that this test started. It is killed at the test's end
// if it still runs, and what it said is printed if the test failed.
type process struct {
	name           string
	cmd            *exec.Cmd
	stdout, stderr *transcript
	done           chan struct{} // closed when it has ended
}

// launchProcess starts binary with args. in may be nil.
func launchProcess(t testing.TB, name string, in io.Reader, binary string, args ...string) *process {
	t.Helper()
	return launchHeard(t, name, in, io.Discard, binary, args...)
}

// launchHeard is launchProcess where heard also gets what the process writes to
// its standard output, as it comes.
func launchHeard(t testing.TB, name string, in io.Reader, heard io.Writer, binary string, args ...string) *process {
	t.Helper()
	p := &process{name: name, cmd: exec.Command(binary, args...), stdout: &transcript{}, stderr: &transcript{}, done: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = in, io.MultiWriter(heard, p.stdout), p.stderr
	p.cmd.Env = cleanEnvironment()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := launcher.run(p.cmd); err != nil {
		t.Fatalf("cannot start %s: %v", name, err)
	}
	go func() { // ends with the process
		_ = p.cmd.Wait() // its exit code is read from ProcessState
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("---- %s (pid %d, %v) stdout:\n%s\n---- %s stderr:\n%s", name, p.pid(), p.cmd.ProcessState,
				tail(p.stdout.String(), 20), name, tail(p.stderr.String(), 60))
		}
	})
	return p
}

// cleanEnvironment is this process' without settings of logbroker.
func cleanEnvironment(more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "LOGBROKER_") })
	return append(env, more...)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill is kill -9, and waits for the end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("signal %v to %s: %v", s, p.name, err)
	}
}

// ended waits for the end, for timeout or patience if that is longer, and
// returns the exit code.
func (p *process) ended(t testing.TB, timeout time.Duration) int {
	t.Helper()
	timeout = max(timeout, patience)
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(timeout):
		t.Fatalf("%s (pid %d) still runs after %s", p.name, p.pid(), timeout)
		return -1
	}
}

// stop ends the process as an operator does and demands exit code 0.
func (p *process) stop(t testing.TB, s os.Signal, timeout time.Duration) {
	t.Helper()
	p.signal(t, s)
	if code := p.ended(t, timeout); code != 0 {
		t.Errorf("%s exited with %d after %v, want 0", p.name, code, s)
	}
}

// ran is a command that has ended.
type ran struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

// run runs a command to its end, which must come within timeout, not counting
// what the machine stood still; ran.took does not count it either.
func run(t testing.TB, timeout time.Duration, in io.Reader, binary string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout+patience)
	defer cancel()
	stalls := stall.Start(t)
	defer stalls.Stop()
	cmd := exec.CommandContext(ctx, binary, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = in, &stdout, &stderr, cleanEnvironment()
	began := stalls.Mark()
	err := cmd.Run()
	took := stalls.Since(began)
	if ctx.Err() != nil || took > timeout {
		t.Fatalf("%s %v took %s, want at most %s; stderr:\n%s", binary, args, took, timeout, tail(stderr.String(), 40))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("cannot run %s %v: %v", binary, args, err)
	}
	return ran{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode(), took: took}
}

// readyFile is what --ready-file writes.
type readyFile struct {
	Servers []string `json:"servers"`
	HTTP    []string `json:"http"`
	Raft    []string `json:"raft"`
	Nodes   []struct {
		ID      uint64 `json:"id"`
		PID     int    `json:"pid"`
		DataDir string `json:"data_dir"`
	} `json:"nodes"`
}

// awaitReady waits for p's ready file.
func awaitReady(t testing.TB, p *process, file string, timeout time.Duration) readyFile {
	t.Helper()
	var ready readyFile
	await(t, timeout, p.name+" is ready", func() (bool, string) {
		select {
		case <-p.done:
			t.Fatalf("%s ended with %d before it was ready: %s", p.name, p.cmd.ProcessState.ExitCode(), tail(p.stderr.String(), 1))
		default:
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return false, err.Error()
		}
		if err := json.Unmarshal(raw, &ready); err != nil {
			t.Fatalf("the ready file of %s was written by halves: %v\n%s", p.name, err, raw)
		}
		return true, ""
	})
	return ready
}

// Ports below the range from which the kernel takes those of outgoing
// connections (32768…), so that nobody gets one between choosing and listening.
const portMin, portMax = 10000, 15000 // dev itself takes its free ports above

var (
	portsMu   sync.Mutex
	portsUsed = map[int]bool{} // guarded by portsMu
)

// freePorts returns the first of n consecutive ports nobody listens on. No two
// calls return the same one.
func freePorts(t testing.TB, n int) int {
	t.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	for range 1000 {
		first := portMin + rand.IntN(portMax-portMin-n)
		if free(first, n) {
			for i := range n {
				portsUsed[first+i] = true
			}
			return first
		}
	}
	t.Fatal("no free ports")
	return 0
}

// free needs portsMu.
func free(first, n int) bool {
	for port := first; port < first+n; port++ {
		if portsUsed[port] {
			return false
		}
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
