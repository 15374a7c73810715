package natsapi

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/protocol"
)

const (
	// leadersPerMessage keeps a broadcast well below the largest message.
	leadersPerMessage = 16_000
	// silentBroadcasts is how many full broadcasts a node may miss before it
	// counts as gone.
	silentBroadcasts = 3
	// routeCheck is how often the number of routes is looked at, and routeTellings
	// how often everything is told after a new one: what is sent before the other
	// side's subscriptions have come over a new route does not arrive.
	routeCheck    = 100 * time.Millisecond
	routeTellings = 3
)

// leaders tells the other nodes what this one leads, and takes what they tell.
// News go out at once, as many as have gathered; everything goes out now and
// then, after a loss, and when a node appears.
type leaders struct {
	s    *Server
	born time.Time     // with the monotonic clock
	kick chan struct{} // capacity 1: there is something to send
	quit chan struct{}
	wg   sync.WaitGroup
	once sync.Once

	// mu guards what follows.
	mu     sync.Mutex
	led    map[uint64]int32 // shard → epoch
	gained map[uint64]int32 // part of led that was not told yet
	full   bool             // tell everything next
	heard  map[uint64]time.Time
	clocks clocks
	gone   map[uint64]bool // node said that it leaves, and nothing since
	leaves bool            // this node is stopping
	// low holds the nodes below their disk reserve, this one among them.
	low map[uint64]bool
	// lowNodes is low as DiskLow gives it out: sorted, never changed in place,
	// nil where nobody is low.
	lowNodes atomic.Pointer[[]uint64]
}

func newLeaders(s *Server) *leaders {
	return &leaders{
		s: s, born: time.Now(), kick: make(chan struct{}, 1), quit: make(chan struct{}),
		led: make(map[uint64]int32), gained: make(map[uint64]int32), full: true,
		heard: make(map[uint64]time.Time), clocks: make(clocks), gone: make(map[uint64]bool),
		low: make(map[uint64]bool),
	}
}

// set takes a leadership of this node.
func (l *leaders) set(n Leadership) {
	l.mu.Lock()
	if n.Leading {
		l.led[n.Shard], l.gained[n.Shard] = n.Epoch, n.Epoch
	} else if _, ok := l.led[n.Shard]; ok {
		delete(l.led, n.Shard)
		delete(l.gained, n.Shard)
		l.full = true // only a full broadcast can say that something is gone
	}
	l.mu.Unlock()
	l.stir()
}

func (l *leaders) stir() {
	select {
	case l.kick <- struct{}{}:
	default: // it is awake already and will look again
	}
}

func (l *leaders) subscribe() error {
	_, err := l.s.listen(l.s.control, protocol.SubjectLeaders, smallPending(), l.onBroadcast)
	return err
}

// start runs the goroutine that sends; stop ends it. It blocks on nothing but
// the embedded server's reading.
func (l *leaders) start() {
	l.wg.Go(func() {
		ticker := time.NewTicker(l.s.options.FullBroadcastInterval)
		defer ticker.Stop()
		check := time.NewTicker(routeCheck)
		defer check.Stop()
		var seen routeWatch
		for {
			l.send()
			select {
			case <-l.kick:
			case <-check.C:
				if seen.tell(l.s.Routes()) {
					l.mu.Lock()
					l.full = true
					l.mu.Unlock()
				}
			case <-ticker.C:
				l.mu.Lock()
				l.full = true
				l.mu.Unlock()
				l.forgetSilent()
			case <-l.quit:
				return
			}
		}
	})
}

// routeWatch notices new routes.
type routeWatch struct{ routes, tellings int }

// tell reports whether everything is to be told again, given how many routes
// there are now.
func (w *routeWatch) tell(routes int) bool {
	if routes > w.routes {
		w.tellings = routeTellings
	}
	w.routes = routes
	if w.tellings == 0 {
		return false
	}
	w.tellings--
	return true
}

func (l *leaders) stop() {
	l.once.Do(func() { close(l.quit) })
	l.wg.Wait()
}

// send tells this node's own table and the others what has not been told yet.
func (l *leaders) send() {
	for _, b := range l.take() {
		l.s.core.PeerLeaders(b)
		data, err := json.Marshal(b)
		if err != nil {
			panic(err) // a struct of numbers
		}
		l.s.respond(l.s.control, protocol.SubjectLeaders, data)
	}
}

// take returns the broadcasts to send now.
func (l *leaders) take() []protocol.LeadersBroadcast {
	l.mu.Lock()
	defer l.mu.Unlock()
	tell, full := l.gained, l.full
	if full {
		tell = l.led
	}
	if len(tell) == 0 && !full {
		return nil
	}
	all := make([]protocol.ShardLeader, 0, len(tell))
	for shard, epoch := range tell {
		all = append(all, protocol.ShardLeader{Shard: shard, Epoch: epoch})
	}
	clear(l.gained)
	l.full = false
	out := []protocol.LeadersBroadcast{}
	for part := range slices.Chunk(all, leadersPerMessage) {
		out = append(out, l.broadcast(part, full && len(out) == 0))
	}
	if len(out) == 0 {
		out = append(out, l.broadcast([]protocol.ShardLeader{}, true))
	}
	return out
}

// broadcast needs mu.
func (l *leaders) broadcast(part []protocol.ShardLeader, full bool) protocol.LeadersBroadcast {
	return protocol.LeadersBroadcast{
		Version: protocol.ControlVersion, Node: l.s.options.NodeID, Full: full, Leaving: l.leaves,
		DiskLow: l.low[l.s.options.NodeID], ClockMs: time.Now().UnixMilli(), Leaders: part,
	}
}

// onBroadcast takes what a node tells. A node that was not there before is told
// everything.
func (l *leaders) onBroadcast(m *nats.Msg) {
	var b protocol.LeadersBroadcast
	if err := json.Unmarshal(m.Data, &b); err != nil || b.Version != protocol.ControlVersion {
		l.s.logger.Warn("broadcast of leaders not understood", "err", err, "version", b.Version)
		return
	}
	if b.Node == l.s.options.NodeID {
		return // this node's own table knows
	}
	now := time.Now()
	l.mu.Lock()
	appeared := !b.Leaving && (l.gone[b.Node] || now.Sub(l.heard[b.Node]) > l.silence())
	l.heard[b.Node], l.gone[b.Node] = now, b.Leaving
	l.clocks[b.Node] = time.UnixMilli(b.ClockMs).Add(-now.Sub(l.born))
	l.full = l.full || appeared
	l.setLow(b.Node, b.DiskLow && !b.Leaving)
	l.mu.Unlock()
	l.s.core.PeerLeaders(b)
	if appeared {
		l.stir()
	}
}

func (l *leaders) silence() time.Duration {
	return silentBroadcasts * l.s.options.FullBroadcastInterval
}

// forgetSilent tells the table that nodes which fell silent lead nothing.
func (l *leaders) forgetSilent() {
	var gone []uint64
	l.mu.Lock()
	for node, at := range l.heard {
		if time.Since(at) > l.silence() {
			delete(l.heard, node)
			delete(l.clocks, node)
			delete(l.gone, node)
			l.setLow(node, false) // what it could not take it does not get
			gone = append(gone, node)
		}
	}
	l.mu.Unlock()
	for _, node := range gone {
		l.s.core.PeerLeaders(protocol.LeadersBroadcast{Version: protocol.ControlVersion, Node: node, Full: true})
	}
}

// Leave tells the other nodes that this one is stopping, so that none hands it
// a leadership. It may be called once, after Start.
func (s *Server) Leave() {
	l := s.leaders
	l.mu.Lock()
	l.leaves, l.full = true, true
	l.mu.Unlock()
	l.stir()
}

// setLow notes whether node is below its disk reserve. mu is held.
func (l *leaders) setLow(node uint64, low bool) {
	if l.low[node] == low {
		return
	}
	delete(l.low, node)
	if low {
		l.low[node] = true
	}
	if nodes := slices.Sorted(maps.Keys(l.low)); len(nodes) > 0 {
		l.lowNodes.Store(&nodes)
	} else {
		l.lowNodes.Store(nil)
	}
}

// SetDiskLow tells every node whether this one is below its disk reserve. It may
// be called at any time, also before Start.
func (s *Server) SetDiskLow(low bool) {
	l := s.leaders
	l.mu.Lock()
	l.setLow(s.options.NodeID, low)
	l.full = true
	l.mu.Unlock()
	l.stir()
}

// DiskLow returns the nodes that are below their disk reserve as far as this
// one knows, sorted; nil for none. The caller must not change it.
func (s *Server) DiskLow() []uint64 {
	if nodes := s.leaders.lowNodes.Load(); nodes != nil {
		return *nodes
	}
	return nil
}

// Alive reports whether a node's broadcasts were heard lately and it did not
// say that it leaves; this node is.
func (s *Server) Alive(node uint64) bool {
	l := s.leaders
	l.mu.Lock()
	defer l.mu.Unlock()
	return node == s.options.NodeID || !l.gone[node] && time.Since(l.heard[node]) <= l.silence()
}
