package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"logbroker/bench/procs"
	"logbroker/internal/protocol"
)

// pollEvery is how often a condition is looked at.
const pollEvery = 10 * time.Millisecond

// ErrEnded says that a node's process ended by itself.
var ErrEnded = errors.New("the node's process has ended")

// Node is one logbrokerd process with its network and its disk.
type Node struct {
	ID int

	cluster *Cluster
	disk    *disk  // nil: it shares the disk of this process
	group   *group // what bounds its process
	dir     string
	config  string
	ready   string
	// client, routes, raft and admin are the ports' addresses.
	client, routes, raft, admin string
	log                         *os.File
	child                       *procs.Child  // nil: it does not run
	pid                         *atomic.Int64 // its last process
	stopped                     bool          // by SIGSTOP
	clock                       time.Duration // by which its wall clock is off
	tracer                      *exec.Cmd     // of its syncs, nil for none
	wrap                        []string      // command prefix
}

// DataDir is where the node's data lies.
func (n *Node) DataDir() string { return n.dir }

// URL is where clients find it.
func (n *Node) URL() string { return "nats://" + n.told(n.client) }

// told is one of its addresses as others are told it.
func (n *Node) told(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // of addresses that addresses made
	return net.JoinHostPort(n.cluster.network.told(n.ID), port)
}

func (n *Node) configure(founders []string, more string) error {
	text := fmt.Sprintf(`cluster: {name: proof, node_id: %d, founders: [%s], advertise_host: %q}
insecure: true
storage: {data_dir: %q%s}
client: {listen: %q}
nats_cluster: {listen: %q}
raft: {listen: %q}
http: {listen: %q}
`, n.ID, strings.Join(founders, ", "), n.cluster.network.told(n.ID), n.dir, more, n.client, n.routes, n.raft, n.admin)
	return os.WriteFile(n.config, []byte(text), 0o600)
}

// addresses gives the node its ports: fixed ones on a host of its own, else free
// ones.
func (n *Node) addresses(host string, apart bool) error {
	ports := []string{"4222", "6222", "63001", "9644"}
	for i := range ports {
		if apart {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return err
		}
		defer l.Close() //nolint:errcheck // it only held the port while the others were chosen
		_, ports[i], _ = net.SplitHostPort(l.Addr().String())
	}
	n.client, n.routes = net.JoinHostPort(host, ports[0]), net.JoinHostPort(host, ports[1])
	n.raft, n.admin = net.JoinHostPort(host, ports[2]), net.JoinHostPort(host, ports[3])
	return nil
}

// Start starts the process and does not wait for it to be ready.
func (n *Node) Start() error {
	if n.Running() {
		return nil
	}
	if err := os.Remove(n.ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	command := slices.Concat(n.cluster.network.enter(n.ID), n.group.enter(), n.wrap, []string{n.cluster.options.Binary, "start", "-c", n.config, "--ready-file", n.ready})
	child, err := procs.Start(procs.Command{Path: command[0], Args: command[1:], Env: cleanEnvironment(), Stderr: n.log, Stdout: n.log})
	if err != nil {
		return err
	}
	n.child, n.stopped, n.clock = child, false, 0
	n.pid.Store(int64(child.PID()))
	return nil
}

// cleanEnvironment is this process's without settings of logbroker.
func cleanEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "LOGBROKER_") })
}

// Running reports whether the process is there (stopped ones are).
func (n *Node) Running() bool {
	if n.child == nil {
		return false
	}
	select {
	case <-n.child.Done():
		return false
	default:
		return true
	}
}

// AwaitReady waits until the node says that it is ready. Errors: ErrEnded, with
// the last it said; ctx's.
func (n *Node) AwaitReady(ctx context.Context) error {
	err := await(ctx, fmt.Sprintf("node %d is ready", n.ID), func() (bool, string) {
		_, err := os.Stat(n.ready)
		return err == nil || !n.Running(), "it has not written its ready file"
	})
	if err == nil && !n.Running() {
		return fmt.Errorf("node %d: %w before it was ready: %w", n.ID, ErrEnded, n.child.Err())
	}
	return err
}

// Kill is kill -9, and waits for the end.
func (n *Node) Kill() {
	n.endTrace()
	if n.child == nil {
		return
	}
	n.signal(syscall.SIGKILL)
	<-n.child.Done()
	n.stopped = false
}

// Pause stops the process where it stands (SIGSTOP).
func (n *Node) Pause() { n.stopped = true; n.signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (n *Node) Resume() error {
	n.stopped = false
	return syscall.Kill(n.child.PID(), syscall.SIGCONT)
}

// Stop is SIGTERM. It waits for the end, which must come within grace, by exit
// code 0.
func (n *Node) Stop(grace time.Duration) error {
	if !n.Running() {
		return nil
	}
	if err := n.child.Stop(grace); err != nil {
		return err
	}
	if n.child.ExitCode() != 0 {
		return fmt.Errorf("node %d stopped by SIGTERM: %w", n.ID, n.child.Err())
	}
	return nil
}

// AwaitEnd waits for the process to end by itself.
func (n *Node) AwaitEnd(ctx context.Context) error {
	select {
	case <-n.child.Done():
		n.endTrace()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("node %d still runs: %w", n.ID, ctx.Err())
	}
}

// PowerLoss kills the process and makes its disk forget what was not synced.
func (n *Node) PowerLoss() error {
	n.Kill()
	if n.disk == nil {
		return nil
	}
	return n.disk.powerLoss()
}

// FillDisk leaves so many bytes of the node's disk free; FreeDisk gives them back.
func (n *Node) FillDisk(leave int64) error { return n.disk.fill(leave) }

// FreeDisk ends FillDisk.
func (n *Node) FreeDisk() error {
	if n.disk == nil {
		return nil
	}
	return n.disk.free()
}

// TraceSyncs lets strace do something to every sync of the process from now on:
// "error=EIO:when=1" or "delay_enter=20000" (microseconds).
func (n *Node) TraceSyncs(what string) error {
	n.endTrace()
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-p", strconv.Itoa(n.child.PID()),
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:"+what)
	if err := cmd.Start(); err != nil {
		return err
	}
	n.tracer = cmd
	return nil
}

// endTrace detaches strace; the process goes on as if it had never been there.
func (n *Node) endTrace() {
	if n.tracer == nil {
		return
	}
	_ = n.tracer.Process.Signal(syscall.SIGINT) // it may have ended with the node
	_ = n.tracer.Wait()                         // its exit code is that of the signal
	n.tracer = nil
}

func (n *Node) signal(s syscall.Signal) {
	_ = syscall.Kill(n.child.PID(), s) // it may have ended already
}

// heal undoes what can be undone without a restart.
func (n *Node) heal() error {
	n.endTrace()
	if n.stopped {
		if err := n.Resume(); err != nil {
			return err
		}
	}
	if n.clock != 0 && n.Running() {
		if err := n.SetClock(0); err != nil {
			return err
		}
	}
	return n.FreeDisk()
}

// logFile is where the node's output goes: not on its own disk, which may be
// full or lose what it was told.
func (n *Node) logFile(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("node-%d.log", n.ID))
}

// await polls until ok says true or ctx ends; ok may return what it saw last,
// for the error.
func await(ctx context.Context, what string, ok func() (bool, string)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		in, seen := ok()
		if in {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w; last seen: %s", what, ctx.Err(), seen)
		case <-tick.C:
		}
	}
}

// WithoutSync is a command prefix under which every sync of a process succeeds
// and does nothing: what a broker is that forgot to sync.
func WithoutSync() []string {
	return []string{"strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:retval=0"}
}

// LastError is the last line that says what was wrong, of all that the process
// wrote.
func (n *Node) LastError() string {
	raw, err := os.ReadFile(n.log.Name())
	if err != nil {
		return err.Error()
	}
	last := ""
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "error: ") || strings.HasPrefix(line, "panic: ") || strings.Contains(line, `"level":"ERROR"`) {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

// Refused counts the requests of an API that the node has refused with a code since
// it began, as it says itself (logbroker_request_duration_seconds_count).
func (n *Node) Refused(ctx context.Context, api, code string) (int, error) {
	page, err := n.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	series := fmt.Sprintf("logbroker_request_duration_seconds_count{api=%q,code=%q} ", api, code)
	for line := range strings.Lines(string(page)) {
		if count, ok := strings.CutPrefix(line, series); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(count), 64)
			return int(value), err
		}
	}
	return 0, nil
}

// get returns what the node answers over HTTP.
func (n *Node) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, ReadyMax)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+path, nil)
	if err != nil {
		return nil, err
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking node %d for %s: %w", n.ID, path, err)
	}
	defer reply.Body.Close() //nolint:errcheck // it was only read
	page, err := io.ReadAll(reply.Body)
	if err == nil && reply.StatusCode != http.StatusOK {
		err = errors.New(reply.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("asking node %d for %s: %w", n.ID, path, err)
	}
	return page, nil
}

// setting returns a topic's setting as the node's own copy of the metadata has it.
func (n *Node) setting(ctx context.Context, topic, key string) (string, error) {
	page, err := n.get(ctx, "/api/v1/topics/"+topic)
	if err != nil {
		return "", err
	}
	var d protocol.TopicDescription
	if err := json.Unmarshal(page, &d); err != nil {
		return "", fmt.Errorf("node %d answers %.100q: %w", n.ID, page, err)
	}
	return d.Config[key], nil
}

// CPUSeconds is the processor time that the nodes' processes, as they run now, have
// used.
func (c *Cluster) CPUSeconds() (sum float64) {
	for _, n := range c.Nodes {
		if use, err := procs.Usage(n.child.PID()); err == nil { // else it has ended, as others say
			sum += use.CPUSeconds
		}
	}
	return sum
}
