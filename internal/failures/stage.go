package failures

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/vfs"

	"logbroker/broker"
	"logbroker/config"
	"logbroker/internal/client"
	"logbroker/internal/protocol"
	"logbroker/internal/raftnode/chantransport"
	"logbroker/internal/storage"
)

const (
	nodes = 3
	// patience is how long a step waits for its event: it says where a play hangs,
	// and nothing that works takes it.
	patience = 2 * time.Minute
	poll     = 2 * time.Millisecond

	// The Raft clock, in ticks: an election time-out is 20 to 40 of them.
	tickDefault   = 10 * time.Millisecond
	electionTicks = 20
	beatTicks     = 2
)

// Options of a Stage.
type Options struct {
	// Logger gets the brokers' lines. Default: discard.
	Logger *slog.Logger
	// Tick is the Raft clock's; an election time-out is 20 to 40 of them. Default 10
	// ms. Where the machine is slow a longer one keeps the cluster together.
	Tick time.Duration
	// NoDeduplication breaks the brokers: see broker.Under.
	NoDeduplication bool

	// configure and under change what the nodes are configured with and stand on;
	// nil: nothing. For the tests of this package.
	configure func(*config.Config)
	under     func(node uint64, u *broker.Under)
}

// stage is a cluster of three whole brokers in this process. What they stand on
// is the stage's: a file system in memory for each node, which forgets what was
// not synced when the node crashes, and a network that obeys.
type stage struct {
	options Options
	network *chantransport.Network
	wires   *wires
	nodes   [nodes]*node
	// plays counts what was played here. topic and shard are that of the current
	// play, a new one each: one partition on all nodes.
	plays uint64
	topic string
	shard atomic.Uint64

	// rules decide about every Raft message.
	rules rules
}

// node is one broker with what it stands on.
type node struct {
	id     uint64
	fs     *vfs.MemFS
	route  *route
	config config.Config
	broker atomic.Pointer[broker.Broker] // nil while it does not run
	info   broker.Info                   // of its last start
}

// newStage founds a cluster. close ends it, also after an error.
func newStage(ctx context.Context, o Options) (*stage, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Tick == 0 {
		o.Tick = tickDefault
	}
	s := &stage{options: o, network: chantransport.New(), wires: newWires()}
	s.rules.init()
	s.network.Intercept(s.judge)
	founders, host := []string{}, ownHost()
	for i := range s.nodes {
		n := &node{id: uint64(i + 1), fs: storage.NewStrictMem()}
		n.config = nodeConfig(n.id, o.Tick, host)
		if o.configure != nil {
			o.configure(&n.config)
		}
		var err error
		if n.route, err = s.wires.listenRoute(n.id); err != nil {
			return s, err
		}
		s.nodes[i] = n
		if err := s.make(n); err != nil {
			return s, err
		}
		founders = append(founders, n.broker.Load().RaftAddr())
	}
	for _, n := range s.nodes {
		n.config.Cluster.Founders = founders
		n.broker.Load().SetFounders(founders)
	}
	return s, s.startAll(ctx, s.nodes[:]...)
}

// ownHost returns an address of loopback that nobody else uses, so that a node
// which starts again finds its ports free. Where there is only 127.0.0.1 it is that.
func ownHost() string {
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "127.0.0.1"
	}
	_ = l.Close() // nothing was written to it
	return host
}

func nodeConfig(id uint64, tick time.Duration, host string) config.Config {
	c := config.Default()
	anyPort := net.JoinHostPort(host, "0")
	c.Client.Listen, c.NATSCluster.Listen, c.Raft.Listen, c.HTTP.Listen = anyPort, anyPort, anyPort, anyPort
	c.Cluster.NodeID = id
	c.Storage.DataDir = fmt.Sprint("/node-", id)
	c.Raft.RTT, c.Raft.ElectionRTT, c.Raft.HeartbeatRTT = tick, electionTicks, beatTicks
	c.Leaders.Balance = false // who leads is the play's affair
	c.Groups.CoordinatorShards = 1
	c.Log.RaftLevel, c.Log.NATSLevel = "error", "error"
	return c
}

// make makes a node's broker, which keeps its ports over restarts.
func (s *stage) make(n *node) error {
	under := broker.Under{FS: n.fs, Raft: s.network.Factory(), Route: n.route.addr(), NoDeduplication: s.options.NoDeduplication}
	if s.options.under != nil {
		s.options.under(n.id, &under)
	}
	b, err := broker.New(broker.Options{Config: n.config, Logger: s.options.Logger.With("node", n.id), Under: under})
	if err != nil {
		return fmt.Errorf("node %d: %w", n.id, err)
	}
	n.config.Raft.Listen = b.RaftAddr()
	n.broker.Store(b)
	return nil
}

// startAll starts nodes that are made, at the same time.
func (s *stage) startAll(ctx context.Context, which ...*node) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(which))
	var wg sync.WaitGroup
	for i, n := range which {
		wg.Go(func() {
			if errs[i] = s.start(ctx, n); errs[i] != nil {
				cancel() // the others would wait for this one
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// start returns when the node is ready.
func (s *stage) start(ctx context.Context, n *node) error {
	b := n.broker.Load()
	if err := b.Start(ctx); err != nil {
		return fmt.Errorf("start of node %d: %w", n.id, err)
	}
	n.info = b.Info()
	at, err := url.Parse(n.info.ClientURL)
	if err != nil {
		return err
	}
	// All ports stay the node's own: one that is free for a moment may be given to
	// another node's start.
	n.config.Client.Listen, n.config.NATSCluster.Listen = at.Host, n.info.RouteAddr
	_, n.config.HTTP.Listen, _ = strings.Cut(n.info.HTTPURL, "://")
	s.wires.set(func() {
		s.wires.nodes[at.Host] = n.id
		n.route.target = n.info.RouteAddr
	})
	return nil
}

// set sets the stage for the next play: a topic of its own. It returns once all
// replicas run.
func (s *stage) set(ctx context.Context) error {
	s.plays++
	s.topic = fmt.Sprint("orders-", s.plays)
	s.shard.Store(0)
	s.rules.set((*rules).init)
	c, err := client.Dial(ctx, []string{s.nodes[0].info.ClientURL}, client.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := c.Admin().CreateTopic(ctx, protocol.TopicCreateRequest{Name: s.topic, Partitions: 1, Replicas: nodes}); err != nil {
		return err
	}
	return s.await(ctx, "all replicas run", func() bool {
		for _, n := range s.nodes {
			p := s.replica(n)
			if p == nil {
				return false
			}
			s.shard.Store(p.Spec().Shard)
		}
		return true
	})
}

// await returns once ok says yes. What it looks at changes by events of the
// cluster; nothing is concluded from time that passes.
func (s *stage) await(ctx context.Context, what string, ok func() bool) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	again := time.NewTicker(poll)
	defer again.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, context.Cause(ctx))
		case <-late.C:
			return fmt.Errorf("waited %v in vain until %s", patience, what)
		case <-again.C:
		}
	}
	return nil
}

// crash ends nodes as a power cut would: nobody hears from them any more, and
// what they had not synced is gone.
func (s *stage) crash(which ...*node) error {
	s.cutPower(which...)
	return s.fall(which...)
}

// cutPower is the moment of a crash. Any goroutine may call it, also one that is
// about to write or sync a file. First nothing goes out any more, then nothing gets
// to the disk: the other way round a node could say that it has what it has not.
func (s *stage) cutPower(which ...*node) {
	for _, n := range which {
		s.rules.set(func(r *rules) { r.silent[n.info.RaftAddr] = true })
		s.wires.set(func() {
			s.wires.dead[n.id] = true
			n.route.target = ""
		})
		s.wires.closeAll(func(p pair) bool { return p.a == n.id || p.b == n.id })
	}
	for _, n := range which {
		n.fs.SetIgnoreSyncs(true)
	}
}

// fall ends the brokers of nodes without power.
func (s *stage) fall(which ...*node) error {
	errs := make([]error, len(which))
	var wg sync.WaitGroup
	for i, n := range which {
		wg.Go(func() {
			errs[i] = n.broker.Swap(nil).Kill()
			n.fs.ResetToSyncedState()
			n.fs.SetIgnoreSyncs(false)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// restart starts nodes that crashed from what their disks have.
func (s *stage) restart(ctx context.Context, which ...*node) error {
	for _, n := range which {
		s.rules.set(func(r *rules) { delete(r.silent, n.info.RaftAddr) })
		s.wires.set(func() {
			delete(s.wires.dead, n.id)
			s.eachOther(n, func(p pair) { delete(s.wires.apart, p) })
		})
		if err := s.make(n); err != nil {
			return err
		}
	}
	return s.startAll(ctx, which...)
}

// stop makes a node stand still: nothing goes in or out. resume lets it go on,
// and gives it what was sent meanwhile.
func (s *stage) stop(n *node) {
	s.rules.set(func(r *rules) { r.still[n.info.RaftAddr] = true })
	s.wires.set(func() { s.wires.held[n.id] = true })
}

func (s *stage) resume(n *node) {
	s.rules.set(func(r *rules) { delete(r.still, n.info.RaftAddr) })
	s.network.Release()
	s.wires.set(func() { delete(s.wires.held, n.id) })
}

// apart cuts a node off from the other nodes, together heals that.
func (s *stage) apart(n *node) {
	s.rules.set(func(r *rules) { r.silent[n.info.RaftAddr] = true })
	s.wires.set(func() { s.eachOther(n, func(p pair) { s.wires.apart[p] = true }) })
}

func (s *stage) together(n *node) {
	s.rules.set(func(r *rules) { delete(r.silent, n.info.RaftAddr) })
	s.wires.set(func() { s.eachOther(n, func(p pair) { delete(s.wires.apart, p) }) })
}

func (s *stage) eachOther(n *node, do func(pair)) {
	for _, other := range s.nodes {
		if other != n {
			do(pairOf(n.id, other.id))
		}
	}
}

// close ends the cluster.
func (s *stage) close() error {
	s.network.Intercept(nil)
	for _, n := range s.nodes {
		if n != nil {
			s.wires.set(func() { s.wires.dead[n.id] = true })
		}
	}
	s.wires.closeAll(func(pair) bool { return true })
	errs := make([]error, nodes)
	var wg sync.WaitGroup
	for i, n := range s.nodes {
		if n == nil {
			continue
		}
		if b := n.broker.Swap(nil); b != nil {
			wg.Go(func() { errs[i] = b.Kill() })
		}
	}
	wg.Wait()
	for _, n := range s.nodes {
		if n != nil {
			n.route.close()
		}
	}
	return errors.Join(errs...)
}
