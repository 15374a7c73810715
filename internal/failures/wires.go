package failures

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// errUnreachable is what dialling a node yields that is dead or cut off.
var errUnreachable = errors.New("no way to this node")

// wires are the connections that are not Raft's: from clients to nodes, and the
// routes between the nodes' NATS servers. They can be held (what is sent arrives
// later), cut for good, or made to lose what is sent one way.
type wires struct {
	// mu guards everything below, and the fields of every wire. It is never held
	// while a socket is used. changed is signalled when any of it changes.
	mu      sync.Mutex
	changed sync.Cond
	conns   map[*wire]struct{}
	// held are the nodes that stand still: nothing goes in or out.
	held map[uint64]bool
	// apart are pairs that do not reach each other: two nodes, or a client and a
	// node.
	apart map[pair]bool
	// dead are the nodes that do not run.
	dead map[uint64]bool
	// lost says what is lost between a client and a node.
	lost map[pair]direction
	// nodes are the nodes by the address that clients dial.
	nodes map[string]uint64
	// seen is what was lost, by client and node.
	seen map[pair][]byte
}

// pair is two ends of a wire. A client is a number above all nodes.
type pair struct{ a, b uint64 }

func pairOf(a, b uint64) pair { return pair{min(a, b), max(a, b)} }

// direction is a way along a wire.
type direction int

const (
	neither direction = iota
	toNode
	toClient
)

func newWires() *wires {
	w := &wires{
		conns: map[*wire]struct{}{}, held: map[uint64]bool{}, apart: map[pair]bool{}, dead: map[uint64]bool{},
		lost: map[pair]direction{}, nodes: map[string]uint64{}, seen: map[pair][]byte{},
	}
	w.changed.L = &w.mu
	return w
}

// set changes the rules under the lock and wakes who waits for them.
func (w *wires) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	w.changed.Broadcast()
}

// reaches reports whether p is open at all. mu is held.
func (w *wires) reaches(p pair) bool { return !w.apart[p] && !w.dead[p.a] && !w.dead[p.b] }

// waits reports whether p is held. mu is held.
func (w *wires) waits(p pair) bool { return w.held[p.a] || w.held[p.b] }

// closeAll closes the connections that match: their ends see it.
func (w *wires) closeAll(match func(pair) bool) {
	w.mu.Lock()
	var doomed []*wire
	for c := range w.conns {
		if match(c.pair) {
			doomed = append(doomed, c)
		}
	}
	w.mu.Unlock()
	for _, c := range doomed {
		_ = c.Close() // it is to be gone; how does not matter
	}
}

// lostBytes reports whether text was lost between a client and a node.
func (w *wires) lostBytes(p pair, text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Contains(w.seen[p], []byte(text))
}

// dial connects a client to the node at an address.
func (w *wires) dial(client uint64) func(network, address string) (net.Conn, error) {
	return func(network, address string) (net.Conn, error) {
		w.mu.Lock()
		node, known := w.nodes[address]
		p := pairOf(client, node)
		open := known && w.reaches(p) && !w.waits(p)
		w.mu.Unlock()
		if !open {
			return nil, fmt.Errorf("%s: %w", address, errUnreachable)
		}
		c, err := net.DialTimeout(network, address, 5*time.Second)
		if err != nil {
			return nil, err
		}
		out := w.add(c, p)
		w.mu.Lock()
		open = w.reaches(p)
		w.mu.Unlock()
		if !open { // since it was looked at
			_ = out.Close() // nothing was written to it
			return nil, fmt.Errorf("%s: %w", address, errUnreachable)
		}
		return out, nil
	}
}

func (w *wires) add(c net.Conn, p pair) *wire {
	out := &wire{Conn: c, wires: w, pair: p}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[out] = struct{}{}
	return out
}

// wire is one connection. For a client it stands in the place of its socket.
type wire struct {
	net.Conn
	wires *wires
	pair  pair
	// What follows is guarded by wires.mu. pending was written while the wire was
	// held; passed is the client's bytes that went through, as far as they matter.
	pending  []byte
	flushing bool
	closed   bool
	passed   []byte
}

// passedMax bounds what is kept of what went through.
const passedMax = 1 << 20

// Write implements net.Conn. It never blocks for a rule: a socket's buffer would
// take the bytes too.
func (c *wire) Write(b []byte) (int, error) {
	w := c.wires
	w.mu.Lock()
	switch {
	case w.lost[c.pair] == toNode:
		w.seen[c.pair] = append(w.seen[c.pair], b...)
		w.mu.Unlock()
		return len(b), nil
	case w.waits(c.pair) || w.apart[c.pair] || c.flushing:
		c.pending = append(c.pending, b...)
		if !c.flushing {
			c.flushing = true
			go c.flush()
		}
		w.mu.Unlock()
		return len(b), nil
	}
	if len(c.passed) < passedMax {
		c.passed = append(c.passed, b...)
	}
	w.mu.Unlock()
	return c.Conn.Write(b)
}

// flush sends what is pending once it may. Write starts it; it ends when nothing
// is left, or with the connection.
func (c *wire) flush() {
	w := c.wires
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { c.flushing = false }()
	for len(c.pending) > 0 {
		for (w.waits(c.pair) || w.apart[c.pair]) && !c.closed {
			w.changed.Wait()
		}
		if c.closed {
			return
		}
		out := c.pending
		c.pending = nil
		c.passed = append(c.passed, out...)
		w.mu.Unlock()
		_, err := c.Conn.Write(out)
		w.mu.Lock()
		if err != nil {
			return
		}
	}
}

// Read implements net.Conn.
func (c *wire) Read(b []byte) (int, error) {
	w := c.wires
	for {
		n, err := c.Conn.Read(b)
		w.mu.Lock()
		for n > 0 && (w.waits(c.pair) || w.apart[c.pair]) && !c.closed {
			w.changed.Wait()
		}
		closed, lost := c.closed, w.lost[c.pair] == toClient
		if lost {
			w.seen[c.pair] = append(w.seen[c.pair], b[:n]...)
		}
		w.mu.Unlock()
		switch {
		case closed:
			return 0, net.ErrClosed
		case lost && err == nil:
			continue
		}
		return n, err
	}
}

// Close implements net.Conn.
func (c *wire) Close() error {
	c.wires.set(func() {
		c.closed = true
		delete(c.wires.conns, c)
	})
	return c.Conn.Close()
}

// passedTo reports whether a client's bytes with text went to a node.
func (w *wires) passedTo(p pair, text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		if c.pair == p && bytes.Contains(c.passed, []byte(text)) {
			return true
		}
	}
	return false
}

// route is the way to one node's route port: the others dial it in its place.
type route struct {
	wires    *wires
	node     uint64
	listener net.Listener
	// goroutines are serve and those that carry.
	goroutines sync.WaitGroup
	// target is the node's real address, "" until it listens. wires.mu guards it.
	target string
}

// listenRoute opens the way to a node. It ends with close.
func (w *wires) listenRoute(node uint64) (*route, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("opening a route port: %w", err)
	}
	r := &route{wires: w, node: node, listener: l}
	r.goroutines.Go(r.serve)
	return r, nil
}

func (r *route) addr() string { return r.listener.Addr().String() }

// close ends all. The connections must be closed, or end by themselves.
func (r *route) close() {
	_ = r.listener.Close() // nothing was written to it
	r.goroutines.Wait()
}

// serve takes connections until close.
func (r *route) serve() {
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.goroutines.Go(func() { r.carry(c) })
	}
}

// carry passes bytes between a node and the one that dialled it until either
// ends. Who dialled is known once it has introduced itself.
func (r *route) carry(c net.Conn) {
	from := r.wires.add(c, pairOf(0, r.node))
	defer from.Close() //nolint:errcheck // it is over in any case
	r.wires.mu.Lock()
	for r.target == "" && !from.closed && !r.wires.dead[r.node] {
		r.wires.changed.Wait()
	}
	target, open := r.target, r.wires.reaches(from.pair) && !from.closed
	r.wires.mu.Unlock()
	if !open {
		return
	}
	to, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(from, to) // an end is an end
		_ = from.Close()
	})
	r.forth(to, from)
	_ = to.Close() // an end is an end
	back.Wait()
}

// forth passes on what the one that dialled says, and learns who it is.
func (r *route) forth(to io.Writer, from *wire) {
	in := bufio.NewReader(from)
	for {
		line, err := in.ReadBytes('\n')
		if node, ok := dialler(line); ok {
			r.wires.set(func() { from.pair = pairOf(node, r.node) })
			from.wait()
			if _, err := to.Write(line); err == nil {
				_, _ = io.Copy(to, in) // an end is an end
			}
			return
		}
		if err != nil {
			return
		}
		if _, err := to.Write(line); err != nil {
			return
		}
	}
}

// wait returns once the wire is open, or closed for good.
func (c *wire) wait() {
	w := c.wires
	w.mu.Lock()
	defer w.mu.Unlock()
	for (w.waits(c.pair) || w.apart[c.pair]) && !c.closed {
		w.changed.Wait()
	}
}

// dialler returns the node that a NATS server's INFO line names. (Its CONNECT line,
// which comes before, has only an id that it makes up at every start.)
func dialler(line []byte) (uint64, bool) {
	rest, ok := bytes.CutPrefix(line, []byte("INFO "))
	if !ok {
		return 0, false
	}
	var hello struct {
		Name string `json:"server_name"`
	}
	if json.Unmarshal(rest, &hello) != nil {
		return 0, false
	}
	number := hello.Name[strings.LastIndexByte(hello.Name, '-')+1:]
	node, err := strconv.ParseUint(number, 10, 64)
	return node, err == nil
}
