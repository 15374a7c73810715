package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Founding and joining, over the Raft port, before any shard runs.
//
// A cluster is founded once, by all nodes of cluster.founders together. Every
// empty node says hello to every founder address again and again. Nothing is
// decided until all of them answer and none is founded; then the one with the
// lowest node id makes up the cluster id and sends the founding record (cluster
// id and every founder's incarnation) to the others, who write it down before
// they answer; last it writes it down itself. A node that is still empty and
// hears from a founded one adopts that one's record if it names its own
// incarnation, so a crash anywhere in between heals: whoever got the record
// spreads it. If a founded node knows the caller's id under another
// incarnation, the caller's directory was lost and it must not vote again.
//
// A later node sends join to a seed instead, which adds it as a non-voting
// replica of the metadata shard. A node whose log of a shard in memory is lost
// sends replace; see renew.go.

const (
	handshakeVersion  = 1
	handshakeTimeout  = 2 * time.Second
	foundingRetryMin  = 20 * time.Millisecond
	foundingRetryMax  = time.Second
	foundingLogPeriod = 5 * time.Second
)

// Kinds of handshake.
const (
	kindHello = "hello" // who are you, and do you know me?
	kindFound = "found" // here is the founding record: write it down
	kindJoin  = "join"  // add me as a later node
	// kindReplace: my log of a shard is lost, give me a new replica.
	kindReplace = "replace"
)

// How a founded node knows the caller.
const (
	knownNot   = "unknown"
	knownSame  = "same"  // same node id, same incarnation
	knownOther = "other" // same node id, another incarnation
)

type handshake struct {
	Version int    `json:"version"`
	Kind    string `json:"kind"`
	// Addrs is the sender's cluster.founders, sorted; hello only.
	Addrs       []string `json:"addrs,omitempty"`
	ClusterName string   `json:"cluster_name"`
	From        member   `json:"from"`
	ClusterID   string   `json:"cluster_id,omitempty"`
	Founders    []member `json:"founders,omitempty"`
	// Replace is given with kindReplace.
	Replace *replaceRequest `json:"replace,omitempty"`
}

type handshakeReply struct {
	Version     int      `json:"version"`
	Error       string   `json:"error,omitempty"`
	ClusterName string   `json:"cluster_name"`
	Node        member   `json:"node"`
	ClusterID   string   `json:"cluster_id,omitempty"`
	Founders    []member `json:"founders,omitempty"`
	Known       string   `json:"known,omitempty"`
	// Replica and Later answer kindReplace: the id of the new replica, or why to
	// ask again.
	Replica uint64 `json:"replica,omitempty"`
	Later   string `json:"later,omitempty"`
}

// errRefused is a handshake that failed for a reason that waiting does not cure.
var errRefused = errors.New("refused")

// transport is the part of raftnode.Endpoint that founding needs.
type transport interface {
	Addr() string
	Handshake(ctx context.Context, addr string, request []byte) ([]byte, error)
}

// founding is one node's side of founding and joining.
type founding struct {
	transport transport
	logger    *slog.Logger
	// addrs is cluster.founders, sorted; it must be the same on each founder.
	addrs []string
	// addresses is told every address that a handshake names.
	addresses *addresses
	// mu guards ids against a found request that arrives while this node asks.
	mu  sync.Mutex
	ids *identityStore
	// admit adds a later node; nil until this node's metadata replica runs.
	admit func(ctx context.Context, m member) error
	// known tells how the metadata image knows a node; nil until it is loaded.
	known func(nodeID uint64) (incarnation string, ok bool)
	// renew gives a node a new replica; nil until this node's metadata is loaded.
	renew func(ctx context.Context, m member, r replaceRequest) (replica uint64, err error)
}

func (f *founding) identity() identity {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ids.id
}

func (f *founding) self() member {
	id := f.identity()
	return member{NodeID: id.NodeID, Incarnation: id.Incarnation, RaftAddr: f.transport.Addr()}
}

// run returns once this node belongs to a cluster. Neither founders nor seeds
// makes a cluster of one.
func (f *founding) run(ctx context.Context, seeds []string) error {
	if f.identity().ClusterID != "" {
		return nil
	}
	if len(f.addrs) == 0 && len(seeds) == 0 {
		return f.record(uuid.NewString(), []member{f.self()}, false)
	}
	step := func(ctx context.Context) (string, error) { return f.tryFound(ctx) }
	if len(seeds) > 0 {
		step = func(ctx context.Context) (string, error) { return f.tryJoin(ctx, seeds) }
	}
	wait, lastLog := foundingRetryMin, time.Now()
	for {
		reason, err := step(ctx)
		if err != nil || reason == "" {
			return err
		}
		if time.Since(lastLog) >= foundingLogPeriod {
			lastLog = time.Now()
			f.logger.Info("waiting for the cluster", "reason", reason)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stopped while waiting for the cluster: %s", reason)
		case <-time.After(wait):
		}
		wait = min(2*wait, foundingRetryMax)
	}
}

// tryFound does one round of hellos. It returns why to wait, or "" when this
// node belongs to the cluster.
func (f *founding) tryFound(ctx context.Context) (string, error) {
	self := f.self()
	peers := []member{}
	for _, addr := range f.addrs {
		reply, err := f.ask(ctx, addr, handshake{Kind: kindHello, From: self, Addrs: f.addrs})
		if errors.Is(err, errRefused) {
			return "", err
		}
		if err != nil {
			return fmt.Sprintf("founder %s is not reachable: %v", addr, err), nil
		}
		if reply.Node.Incarnation == self.Incarnation {
			continue // our own address
		}
		if reply.Node.NodeID == self.NodeID {
			return "", fmt.Errorf("%w: node %d is also at %s: give every node its own cluster.node_id", errRefused, self.NodeID, addr)
		}
		if reply.ClusterID != "" {
			return "", f.adopt(reply, addr)
		}
		peers = append(peers, member{NodeID: reply.Node.NodeID, Incarnation: reply.Node.Incarnation, RaftAddr: addr})
	}
	if f.identity().ClusterID != "" {
		return "", nil // a found request came in meanwhile
	}
	return f.tryDecide(ctx, self, peers)
}

// tryDecide founds the cluster if it is this node's part to do so.
func (f *founding) tryDecide(ctx context.Context, self member, peers []member) (string, error) {
	if len(peers) != len(f.addrs)-1 {
		return "", fmt.Errorf("%w: %s is not among cluster.founders %v: list every founder's raft.listen, this node's too", errRefused, self.RaftAddr, f.addrs)
	}
	members := append([]member{self}, peers...)
	slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.NodeID, b.NodeID) })
	for i := 1; i < len(members); i++ {
		if members[i].NodeID == members[i-1].NodeID {
			return "", fmt.Errorf("%w: %s and %s both say they are node %d: give every node its own cluster.node_id",
				errRefused, members[i-1].RaftAddr, members[i].RaftAddr, members[i].NodeID)
		}
	}
	if members[0].NodeID != self.NodeID {
		return fmt.Sprintf("node %d founds the cluster", members[0].NodeID), nil
	}
	clusterID := uuid.NewString()
	for _, peer := range peers {
		request := handshake{Kind: kindFound, From: self, ClusterID: clusterID, Founders: members}
		if _, err := f.ask(ctx, peer.RaftAddr, request); err != nil {
			return fmt.Sprintf("node %d did not take the founding record: %v", peer.NodeID, err), nil
		}
	}
	return "", f.record(clusterID, members, false)
}

// adopt takes over a founded peer's record, if it names this node.
func (f *founding) adopt(reply handshakeReply, addr string) error {
	switch reply.Known {
	case knownSame:
		return f.record(reply.ClusterID, reply.Founders, false)
	case knownOther:
		return fmt.Errorf("%w: the cluster knows node %d under another data directory: this node's directory was lost or replaced, and without its log it must not vote again; "+
			"use a node_id that was never used and join through cluster.seeds", errRefused, f.identity().NodeID)
	default:
		return fmt.Errorf("%w: %s belongs to a cluster that was founded without node %d: join it through cluster.seeds", errRefused, addr, f.identity().NodeID)
	}
}

// tryJoin asks the seeds one after the other to be taken in.
func (f *founding) tryJoin(ctx context.Context, seeds []string) (string, error) {
	reason := ""
	for _, addr := range seeds {
		reply, err := f.ask(ctx, addr, handshake{Kind: kindJoin, From: f.self()})
		switch {
		case errors.Is(err, errRefused):
			return "", err
		case err != nil:
			reason = fmt.Sprintf("seed %s: %v", addr, err)
		case reply.ClusterID == "":
			reason = fmt.Sprintf("seed %s belongs to no cluster yet", addr)
		default:
			return "", f.record(reply.ClusterID, reply.Founders, true)
		}
	}
	return reason, nil
}

// introduce repeats the wish to join to every founder until each has heard it
// once or ctx ends. The seed has admitted this node, but the founder that leads
// the metadata must know its address too, and the metadata does not have it
// before the node can register.
func (f *founding) introduce(ctx context.Context) {
	missing := slices.Clone(f.identity().Founders)
	for wait := foundingRetryMin; ; wait = min(2*wait, foundingRetryMax) {
		missing = slices.DeleteFunc(missing, func(m member) bool {
			addr, ok := f.addresses.resolve(m.Incarnation)
			if !ok {
				addr = m.RaftAddr
			}
			_, err := f.ask(ctx, addr, handshake{Kind: kindJoin, From: f.self()})
			return err == nil
		})
		if len(missing) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// record writes the founding record down.
func (f *founding) record(clusterID string, founders []member, joined bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ids.id.ClusterID != "" {
		if f.ids.id.ClusterID == clusterID {
			return nil
		}
		return fmt.Errorf("%w: this node belongs to cluster %s already, not to %s", errRefused, f.ids.id.ClusterID, clusterID)
	}
	return f.ids.update(func(id *identity) {
		id.ClusterID, id.Founders, id.Joined = clusterID, founders, joined
	})
}

// ask does one handshake. Its error wraps errRefused where the peer said no.
func (f *founding) ask(ctx context.Context, addr string, request handshake) (handshakeReply, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	request.Version, request.ClusterName = handshakeVersion, f.identity().ClusterName
	raw, err := json.Marshal(request)
	if err != nil {
		return handshakeReply{}, fmt.Errorf("encoding a handshake: %w", err)
	}
	raw, err = f.transport.Handshake(ctx, addr, raw)
	if err != nil {
		return handshakeReply{}, err
	}
	var reply handshakeReply
	if err := json.Unmarshal(raw, &reply); err != nil {
		return handshakeReply{}, fmt.Errorf("%w: %s does not speak logbroker's handshake: %w", errRefused, addr, err)
	}
	if reply.Error != "" {
		return reply, fmt.Errorf("%w by %s: %s", errRefused, addr, reply.Error)
	}
	f.addresses.learn(reply.Node)
	return reply, nil
}

// serve answers a peer's handshake.
func (f *founding) serve(ctx context.Context, raw []byte) ([]byte, error) {
	reply := handshakeReply{Version: handshakeVersion}
	var request handshake
	if err := json.Unmarshal(raw, &request); err != nil {
		reply.Error = "not a logbroker handshake"
	} else if err := f.answer(ctx, request, &reply); err != nil {
		reply.Error = err.Error()
	}
	id := f.identity()
	reply.ClusterName, reply.ClusterID, reply.Founders = id.ClusterName, id.ClusterID, slices.Clone(id.Founders)
	reply.Node = f.self()
	for i, m := range reply.Founders { // a joining node needs today's addresses
		if addr, ok := f.addresses.resolve(m.Incarnation); ok {
			reply.Founders[i].RaftAddr = addr
		}
	}
	if id.ClusterID != "" {
		if reply.Known = f.knows(id, request.From); reply.Known == knownSame {
			f.addresses.learn(request.From)
		}
	}
	return json.Marshal(reply)
}

func (f *founding) answer(ctx context.Context, request handshake, reply *handshakeReply) error {
	id := f.identity()
	if request.Version != handshakeVersion {
		return fmt.Errorf("handshake version %d; this node speaks %d", request.Version, handshakeVersion)
	}
	if request.ClusterName != id.ClusterName {
		return fmt.Errorf("this is cluster %q, not %q: check cluster.name", id.ClusterName, request.ClusterName)
	}
	switch request.Kind {
	case kindHello:
		if id.ClusterID == "" && !slices.Equal(request.Addrs, f.addrs) {
			return fmt.Errorf("node %d lists the founders %v, node %d lists %v: cluster.founders must be the same set on each",
				id.NodeID, f.addrs, request.From.NodeID, request.Addrs)
		}
		return nil
	case kindFound:
		return f.takeRecord(request)
	case kindJoin:
		return f.takeIn(ctx, id, request.From)
	case kindReplace:
		return f.giveReplica(ctx, id, request, reply)
	default:
		return fmt.Errorf("unknown handshake %q", request.Kind)
	}
}

// takeRecord accepts a founding record that names this very node.
func (f *founding) takeRecord(request handshake) error {
	self := f.self()
	for _, m := range request.Founders {
		if m.NodeID == self.NodeID && m.Incarnation == self.Incarnation {
			return f.record(request.ClusterID, request.Founders, false)
		}
	}
	return fmt.Errorf("the founding record does not name node %d", self.NodeID)
}

// takeIn adds a later node to the metadata shard. It is safe to repeat.
func (f *founding) takeIn(ctx context.Context, id identity, from member) error {
	if id.ClusterID == "" {
		return nil // the reply's empty cluster id says: not yet
	}
	if f.knows(id, from) == knownOther {
		return fmt.Errorf("node %d is known under another data directory: use a cluster.node_id that was never used", from.NodeID)
	}
	f.mu.Lock()
	admit := f.admit
	f.mu.Unlock()
	if admit == nil {
		return errors.New("this node is still starting; the seed can admit nodes once it is ready")
	}
	return admit(ctx, from)
}

func (f *founding) knows(id identity, who member) string {
	f.mu.Lock()
	known := f.known
	f.mu.Unlock()
	if known != nil {
		if incarnation, ok := known(who.NodeID); ok {
			return sameOrOther(incarnation, who.Incarnation)
		}
	}
	for _, m := range id.Founders {
		if m.NodeID == who.NodeID {
			return sameOrOther(m.Incarnation, who.Incarnation)
		}
	}
	return knownNot
}

func sameOrOther(a, b string) string {
	if a == b {
		return knownSame
	}
	return knownOther
}

// serveImage lets handshakes be answered from the metadata once it is loaded.
func (f *founding) serveImage(known func(uint64) (string, bool), admit func(context.Context, member) error,
	renew func(context.Context, member, replaceRequest) (uint64, error),
) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known, f.admit, f.renew = known, admit, renew
}

// started records that the metadata replica's log is about to be written.
func (f *founding) started() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ids.update(func(id *identity) { id.MetadataStarted = true })
}

// groupsStarted notes that the Raft log knows the replicas of the coordinator
// shards.
func (f *founding) groupsStarted() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ids.update(func(id *identity) { id.GroupsStarted = true })
}

// reached records how far the logs are known to reach, by shard, if that is
// further than is recorded.
func (f *founding) reached(indexes map[uint64]uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ids.reached(indexes)
}

// announce says hello to every configured address until it answered once, so
// that the others learn this node's address and it learns theirs, also when
// the addresses changed since the cluster was founded. It returns an error when
// most of the others belong to another cluster: then this node was given the
// wrong directory. One such neighbour is that one's mistake.
func (f *founding) announce(ctx context.Context, seeds []string) error {
	missing := slices.Concat(f.addrs, seeds)
	self, others, foreign := f.self(), len(missing), []string{}
	for wait := foundingRetryMin; len(missing) > 0; wait = min(2*wait, foundingRetryMax) {
		missing = slices.DeleteFunc(missing, func(addr string) bool {
			reply, err := f.ask(ctx, addr, handshake{Kind: kindHello, From: self, Addrs: f.addrs})
			switch {
			case err != nil:
				return errors.Is(err, errRefused)
			case reply.Node.Incarnation == self.Incarnation:
				others--
			case reply.ClusterID != "" && reply.ClusterID != f.identity().ClusterID:
				foreign = append(foreign, addr)
			}
			return true
		})
		if 2*len(foreign) > others {
			return fmt.Errorf("%w: directory %s belongs to another cluster than %v: give this node its own storage.data_dir, or correct its configuration",
				errRefused, f.ids.dataDir, foreign)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
	return nil
}
