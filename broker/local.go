package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"logbroker/config"
)

// LocalOptions describes a cluster on this machine.
type LocalOptions struct {
	Nodes int
	// Dir holds one data directory per node: node-1, node-2, …
	Dir string
	// AnyPort takes free ports; otherwise node 1 gets the ports of Base and each
	// further node the next ones.
	AnyPort bool
	// Base is the configuration that all nodes share.
	Base   config.Config
	Logger *slog.Logger
}

// Local is a cluster of several nodes in this process.
type Local struct {
	nodes []*Broker
}

// StartLocal starts a cluster and returns when every node is ready.
func StartLocal(ctx context.Context, o LocalOptions) (*Local, error) {
	configs, err := localConfigs(o, zeroPort)
	if err != nil {
		return nil, err
	}
	l := &Local{}
	founders := []string{}
	for _, c := range configs {
		node, err := New(Options{Config: c, Logger: o.Logger.With("node", c.Cluster.NodeID)})
		if err != nil {
			return nil, errors.Join(AnyPortHint(err), l.Stop(ctx))
		}
		l.nodes = append(l.nodes, node)
		founders = append(founders, node.RaftAddr())
	}
	if err := l.startAll(ctx, founders); err != nil {
		return nil, errors.Join(AnyPortHint(err), l.Stop(ctx))
	}
	return l, nil
}

func (l *Local) startAll(ctx context.Context, founders []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(l.nodes))
	var wg sync.WaitGroup
	for i, node := range l.nodes {
		node.SetFounders(founders)
		wg.Go(func() {
			if errs[i] = node.Start(ctx); errs[i] != nil {
				cancel() // the others would wait for this one
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

// Infos says where the nodes are.
func (l *Local) Infos() []Info {
	infos := make([]Info, len(l.nodes))
	for i, node := range l.nodes {
		infos[i] = node.Info()
	}
	return infos
}

// Node returns node i, counted from 0.
func (l *Local) Node(i int) *Broker { return l.nodes[i] }

// Stop stops all nodes at once.
func (l *Local) Stop(ctx context.Context) error {
	errs := make([]error, len(l.nodes))
	var wg sync.WaitGroup
	for i, node := range l.nodes {
		wg.Go(func() { errs[i] = node.stop(ctx, false) }) // all go: nobody is left to lead
	}
	wg.Wait()
	return errors.Join(errs...)
}

// LocalConfigs returns the configurations of a cluster on this machine whose
// nodes are processes of their own, so their ports are fixed beforehand.
func LocalConfigs(o LocalOptions) ([]config.Config, error) {
	var ports freePorts
	configs, err := localConfigs(o, ports.take)
	if err := errors.Join(err, ports.release()); err != nil {
		return nil, err
	}
	founders := []string{}
	for _, c := range configs {
		founders = append(founders, c.Raft.Listen)
	}
	for i := range configs {
		configs[i].Cluster.Founders = founders
	}
	return configs, nil
}

func localConfigs(o LocalOptions, anyPort func(addr string) (string, error)) ([]config.Config, error) {
	if err := sameNodes(o.Dir, o.Nodes); err != nil {
		return nil, err
	}
	configs := make([]config.Config, o.Nodes)
	for i := range configs {
		c := o.Base
		c.Cluster.NodeID = uint64(i + 1)
		c.Cluster.Founders, c.Cluster.Seeds = nil, nil
		c.Storage.DataDir, c.Storage.RaftDir = filepath.Join(o.Dir, "node-"+strconv.Itoa(i+1)), ""
		for _, addr := range []*string{&c.Client.Listen, &c.NATSCluster.Listen, &c.Raft.Listen, &c.HTTP.Listen} {
			var err error
			if o.AnyPort {
				*addr, err = anyPort(*addr)
			} else {
				*addr, err = addPort(*addr, i)
			}
			if err != nil {
				return nil, err
			}
		}
		configs[i] = c
	}
	return configs, nil
}

// sameNodes refuses a directory of a cluster with another number of nodes.
func sameNodes(dir string, nodes int) error {
	found, err := filepath.Glob(filepath.Join(dir, "node-*", identityFile))
	if err != nil {
		return fmt.Errorf("looking into %s: %w", dir, err)
	}
	if len(found) != 0 && len(found) != nodes {
		return fmt.Errorf("%s holds a cluster of %d nodes: run it with --nodes %d, or name another --data-dir", dir, len(found), len(found))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make the data directory: %w", err)
	}
	return nil
}

func zeroPort(addr string) (string, error) {
	host, _, err := net.SplitHostPort(addr)
	return net.JoinHostPort(host, "0"), err
}

// Ports for processes are taken below the range from which Linux gives ports to
// outgoing connections (32768 on, net.ipv4.ip_local_port_range): between the
// choice and the child's listen, no connection can come by and take one.
const (
	freePortMin   = 15000
	freePortMax   = 32000
	freePortTries = 200
)

// freePorts finds free ports and holds all of them until release, so that no
// two choices are the same.
type freePorts struct{ held []net.Listener }

func (f *freePorts) take(addr string) (string, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	for range freePortTries {
		port := freePortMin + rand.IntN(freePortMax-freePortMin)
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			f.held = append(f.held, l)
			return l.Addr().String(), nil
		}
	}
	return "", fmt.Errorf("found no free port on %s between %d and %d", host, freePortMin, freePortMax)
}

func (f *freePorts) release() error {
	var errs []error
	for _, l := range f.held {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

func addPort(addr string, n int) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	p, err := strconv.Atoi(port)
	if err != nil {
		return "", fmt.Errorf("port of %s: %w", addr, err)
	}
	return net.JoinHostPort(host, strconv.Itoa(p+n)), nil
}

// AnyPortHint adds the way out to the error of a busy port.
func AnyPortHint(err error) error {
	if err == nil || !slices.ContainsFunc([]string{"in use", "busy"}, func(s string) bool { return strings.Contains(err.Error(), s) }) {
		return err
	}
	return fmt.Errorf("%w; use --any-port to take free ports", err)
}
