package testbed

import (
	"errors"
	"fmt"
	"os"
	"strconv"
)

// network gives every node a host. Where it has namespaces, a node's only way to
// the others and to the clients leads over a link of its own to this process's
// namespace, which routes, so that packets of one direction between two nodes
// can be dropped there, silently as a dead switch does. Else a proxy may stand
// between them.
type network struct {
	apart bool
	proxy *proxy       // nil for none
	rules map[int]bool // priorities of the rules that drop
	down  map[int]bool // nodes whose link is down
}

func newNetwork(nodes int, p Powers) (*network, error) {
	w := &network{apart: p.Cuts && !p.Proxy, rules: map[int]bool{}, down: map[int]bool{}}
	if !w.apart {
		return w, nil
	}
	for id := 1; id <= nodes; id++ {
		if err := w.add(id); err != nil {
			return nil, err
		}
	}
	return w, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1\n"), 0o644)
}

func (w *network) add(id int) error {
	n, link := w.namespace(id), w.link(id)
	if _, err := os.Stat("/run/netns/" + n); err == nil {
		return nil // of a cluster before in the same process
	}
	for _, args := range [][]string{
		{"netns", "add", n},
		{"link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", n},
		{"addr", "add", w.router(id) + "/30", "dev", link},
		{"link", "set", link, "up"},
		{"-n", n, "addr", "add", w.host(id) + "/30", "dev", "eth0"},
		{"-n", n, "link", "set", "eth0", "up"},
		{"-n", n, "link", "set", "lo", "up"},
		{"-n", n, "route", "add", "default", "via", w.router(id)},
	} {
		if err := run("ip", args...); err != nil {
			return err
		}
	}
	return nil
}

func (w *network) namespace(id int) string { return "node" + strconv.Itoa(id) }
func (w *network) link(id int) string      { return "link" + strconv.Itoa(id) }
func (w *network) router(id int) string    { return fmt.Sprintf("10.98.%d.1", id) }

// host is what a node listens on.
func (w *network) host(id int) string {
	switch {
	case w.proxy != nil:
		return fmt.Sprintf("127.0.98.%d", id)
	case !w.apart:
		return "127.0.0.1"
	}
	return fmt.Sprintf("10.98.%d.2", id)
}

// told is the host that others are told of a node.
func (w *network) told(id int) string {
	if w.proxy != nil {
		return fmt.Sprintf("127.0.99.%d", id)
	}
	return w.host(id)
}

// enter is the command prefix that runs a program on a node's side.
func (w *network) enter(id int) []string {
	if !w.apart {
		return nil
	}
	return []string{"nsenter", "--net=/run/netns/" + w.namespace(id)}
}

// cut drops what one node sends to another one from now on.
func (w *network) cut(from, to int) error {
	if w.proxy != nil {
		w.proxy.cut(from, to)
	}
	priority := 100 + 10*from + to
	if !w.apart || w.rules[priority] {
		return nil
	}
	w.rules[priority] = true
	return run("ip", "rule", "add", "priority", strconv.Itoa(priority), "from", w.host(from), "to", w.host(to), "blackhole")
}

// unplug takes a node's link down: neither nodes nor clients reach it.
func (w *network) unplug(id int) error {
	if w.proxy != nil {
		for other := range Nodes + 1 {
			w.proxy.cut(id, other)
			w.proxy.cut(other, id)
		}
	}
	if !w.apart {
		return nil
	}
	w.down[id] = true
	return run("ip", "link", "set", w.link(id), "down")
}

// heal ends all cuts.
func (w *network) heal() error {
	var errs []error
	if w.proxy != nil {
		w.proxy.heal()
	}
	for priority := range w.rules {
		errs = append(errs, run("ip", "rule", "del", "priority", strconv.Itoa(priority)))
	}
	for id := range w.down {
		errs = append(errs, run("ip", "link", "set", w.link(id), "up"))
	}
	clear(w.rules)
	clear(w.down)
	return errors.Join(errs...)
}

// close ends the proxy.
func (w *network) close() error {
	if w.proxy == nil {
		return nil
	}
	return w.proxy.close()
}
