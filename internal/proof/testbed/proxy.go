package testbed

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// proxy stands between the nodes, and between them and the clients, where nodes have
// no networks of their own: every node tells the others addresses of the proxy. What
// a cut holds back stays where it is, as with a network that sends it again later.
type proxy struct {
	// owner returns the node whose process has made a connection, 0 for a client.
	owner func(c net.Conn) int

	mu        sync.Mutex // guards what follows
	cuts      map[passage]bool
	changed   chan struct{} // closed when cuts becomes empty
	listeners []net.Listener
	conns     map[net.Conn]bool
	closed    bool

	serving sync.WaitGroup
}

// passage is one direction between two nodes; 0 are the clients.
type passage struct{ from, to int }

func newProxy(owner func(c net.Conn) int) *proxy {
	return &proxy{owner: owner, cuts: map[passage]bool{}, changed: make(chan struct{}), conns: map[net.Conn]bool{}}
}

// front listens on addr for a node that listens on target itself, until close.
func (x *proxy) front(node int, addr, target string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.listeners = append(x.listeners, l)
	x.mu.Unlock()
	x.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			x.serving.Go(func() { x.serve(node, c, target) }) // ends with either side's end, or close
		}
	})
	return nil
}

// serve connects one connection through.
func (x *proxy) serve(node int, c net.Conn, target string) {
	from := x.owner(c)
	defer x.drop(c)
	if !x.keep(c) {
		return
	}
	d, err := net.Dial("tcp", target)
	if err != nil {
		return // the node does not run
	}
	defer x.drop(d)
	if !x.keep(d) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { x.pass(passage{from, node}, c, d) })
	both.Go(func() { x.pass(passage{node, from}, d, c) })
	both.Wait()
}

// keep notes a connection that close is to close; false where that was before.
func (x *proxy) keep(c net.Conn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conns[c] = true
	return !x.closed
}

func (x *proxy) drop(c net.Conn) {
	_ = c.Close() // what is not sent is lost, as in any network
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.conns, c)
}

// pass copies what comes from src to dst while nothing cuts that way, and ends both
// connections when one has ended.
func (x *proxy) pass(way passage, src, dst net.Conn) {
	defer dst.Close() //nolint:errcheck // it may have ended
	defer src.Close() //nolint:errcheck // it has ended, or nobody hears it
	buffer := make([]byte, 64<<10)
	for {
		n, err := src.Read(buffer)
		if n > 0 {
			x.await(way)
			if _, err := dst.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// await waits until nothing cuts that way.
func (x *proxy) await(way passage) {
	for {
		x.mu.Lock()
		cut, changed := x.cuts[way] && !x.closed, x.changed
		x.mu.Unlock()
		if !cut {
			return
		}
		<-changed
	}
}

// cut holds back what goes that way from now on.
func (x *proxy) cut(from, to int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cuts[passage{from, to}] = true
}

// heal lets everything pass.
func (x *proxy) heal() {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.cuts)
	close(x.changed)
	x.changed = make(chan struct{})
}

func (x *proxy) close() error {
	x.mu.Lock()
	var errs []error
	x.closed = true
	for _, l := range x.listeners {
		errs = append(errs, l.Close())
	}
	for c := range x.conns {
		_ = c.Close() // it may have ended
	}
	x.mu.Unlock()
	x.heal()
	x.serving.Wait()
	return errors.Join(errs...)
}

// ownerOf returns which of the processes has the other end of a connection to this
// one: its place among pids, -1 for none.
func ownerOf(c net.Conn, pids []int) int {
	socket, err := socketOf(c.RemoteAddr().(*net.TCPAddr).Port, c.LocalAddr().(*net.TCPAddr).Port)
	if err != nil {
		return -1
	}
	for i, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			return -1
		}
		for _, file := range files {
			if to, err := os.Readlink(file); err == nil && to == socket {
				return i
			}
		}
	}
	return -1
}

// socketOf returns how proc_pid_fd(5) names the socket of this machine that has
// these ports; see proc_pid_net(5).
func socketOf(local, remote int) (string, error) {
	f, err := os.Open("/proc/self/net/tcp")
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was only read
	table, err := io.ReadAll(f)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 9 && portOf(fields[1]) == local && portOf(fields[2]) == remote {
			return "socket:[" + fields[9] + "]", nil
		}
	}
	return "", fmt.Errorf("no connection from port %d to port %d", local, remote)
}

// portOf reads the port of an address in hexadecimal.
func portOf(addr string) int {
	_, text, _ := strings.Cut(addr, ":")
	port, err := strconv.ParseUint(text, 16, 16)
	if err != nil {
		return -1 // the headline
	}
	return int(port)
}
