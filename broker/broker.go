package broker

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"logbroker/broker/groups"
	"logbroker/broker/handler"
	"logbroker/broker/httpadmin"
	"logbroker/broker/metadata"
	"logbroker/broker/natsapi"
	"logbroker/config"
	"logbroker/internal/metrics"
	"logbroker/internal/raftnode"
	"logbroker/internal/storage"
	"logbroker/partitions"
)

// startLogPeriod is how often a node that is not ready says why.
const startLogPeriod = 5 * time.Second

// Options configures a Broker.
type Options struct {
	Config config.Config
	Logger *slog.Logger
	// FreeBytes says how many bytes are free on dir's disk; nil asks the
	// operating system. It is for tests.
	FreeBytes func(dir string) (uint64, error)
	// Under is what the node stands on where that is not the machine's.
	Under Under
}

// Info says where a running node is.
type Info struct {
	NodeID    uint64
	ClientURL string
	HTTPURL   string
	RaftAddr  string
	RouteAddr string
	DataDir   string
}

// Broker is one node. The order of use: New, Start, Stop.
type Broker struct {
	config  config.Config
	logger  *slog.Logger
	under   Under
	certs   certificates
	dirs    directories
	metrics *metrics.Broker
	disk    *diskReserve

	endpoint  *raftnode.Endpoint
	founding  *founding
	addresses *addresses
	raft      *raftnode.Node
	store     *metadata.Store
	leaders   *metadata.Leaders
	host      *partitions.Host
	// hostUp is host once it exists: leader events come earlier.
	hostUp atomic.Pointer[partitions.Host]
	// groups are the coordinators of consumer groups; groupsUp is groups once it
	// exists.
	groups   *groups.Host
	groupsUp atomic.Pointer[groups.Host]
	// routes is what the NATS server was last given, by node; Start sets it,
	// then followImage's goroutine.
	routes   map[uint64]string
	handler  *handler.Handler
	handlers atomic.Pointer[handler.Handler] // handler once it serves
	nats     *natsapi.Server
	http     *httpadmin.Server
	balancer *metadata.Balancer
	// replacing are the shards in memory that this node gets a new replica of.
	replacing replacing
	// quarantined, of capacity 1, says that a replica here was quarantined.
	quarantined chan struct{}

	// unready is why the node is not ready; nil once it is.
	unready atomic.Pointer[string]

	// running owns the goroutines of the node itself; stopRunning ends them.
	running     sync.WaitGroup
	stopRunning context.CancelFunc
}

// New takes the node's directories and its Raft port. It starts nothing. An
// error is one line that says what is wrong with the configuration, a directory
// or a port.
func New(o Options) (*Broker, error) {
	b := &Broker{config: o.Config, logger: o.Logger, under: o.Under, metrics: metrics.New(), leaders: metadata.NewLeaders(), quarantined: make(chan struct{}, 1)}
	b.notReady("starting")
	var err error
	if b.certs, err = loadCertificates(o.Config.TLS); err != nil {
		return nil, err
	}
	if err := b.probePorts(); err != nil {
		return nil, err
	}
	fs := storage.OS()
	if o.Under.FS != nil {
		fs = o.Under.FS
	}
	if b.dirs, err = openDirectories(o.Config, fs); err != nil {
		return nil, err
	}
	ids, err := openIdentity(b.dirs, o.Config.Cluster.Name, o.Config.Cluster.NodeID)
	if err != nil {
		return nil, errors.Join(err, b.dirs.close())
	}
	b.endpoint, err = raftnode.Listen(raftnode.EndpointOptions{
		Listen: o.Config.Raft.Listen, Advertise: advertised(o.Config.Cluster.AdvertiseHost, o.Config.Raft.Listen),
		ServerTLS: b.certs.peerServer, ClientTLS: b.certs.peerClient, Logger: o.Logger,
	})
	if err != nil {
		return nil, errors.Join(err, b.dirs.close())
	}
	b.addresses = newAddresses(ids.id.Founders)
	b.founding = &founding{transport: b.endpoint, logger: o.Logger, ids: ids, addresses: b.addresses}
	b.SetFounders(o.Config.Cluster.Founders)
	b.disk = newDiskReserve(b.dirs.onDisk(), uint64(o.Config.Storage.MinFreeBytes), o.Logger)
	if o.FreeBytes != nil {
		b.disk.free = o.FreeBytes
	}
	return b, nil
}

// SetFounders replaces cluster.founders, before Start: a cluster on free ports
// knows them only after every node has taken its own.
func (b *Broker) SetFounders(addrs []string) {
	b.founding.addrs = slices.Sorted(slices.Values(addrs))
}

// RaftAddr returns the address of the Raft port, with the real port.
func (b *Broker) RaftAddr() string { return b.endpoint.Addr() }

// Info says where the node is. It is complete after Start.
func (b *Broker) Info() Info {
	scheme := "http://"
	if b.certs.client != nil {
		scheme = "https://"
	}
	return Info{NodeID: b.config.Cluster.NodeID, ClientURL: b.clientURLs()[0], HTTPURL: scheme + b.http.Addr(), RaftAddr: b.RaftAddr(), RouteAddr: b.nats.RouteAddr(), DataDir: b.dirs.data}
}

// Start starts the parts in order and returns when the node is ready: it
// belongs to a cluster, the metadata shard has a leader, and clients are served.
// After an error call Stop.
func (b *Broker) Start(ctx context.Context) error {
	background, stop := context.WithCancel(context.Background())
	b.stopRunning = stop
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	b.running.Go(func() { b.sayWhatIsMissing(background) })
	for _, step := range []struct {
		name  string
		start func(context.Context) error
	}{
		{"opening the HTTP port", func(context.Context) error { return b.startHTTP() }},
		{"waiting for the cluster to be founded", func(ctx context.Context) error { return b.startFounding(ctx, background, giveUp) }},
		{"opening the Raft log", func(context.Context) error { return b.startRaft() }},
		{"waiting for the metadata", func(ctx context.Context) error { return b.startMetadata(ctx, background) }},
		{"opening the client port", func(context.Context) error { return b.startServing() }},
		{"starting the group coordinators", func(context.Context) error { return b.startGroups(background) }},
		{"registering the node", b.register},
	} {
		b.notReady(step.name)
		if err := step.start(ctx); err != nil {
			if cause := context.Cause(ctx); errors.Is(cause, errRefused) {
				return cause
			}
			return err
		}
	}
	b.goFollow(background)
	b.unready.Store(nil)
	return nil
}

// sayWhatIsMissing logs now and then what a start still waits for. It ends once
// the node is ready, or with ctx.
func (b *Broker) sayWhatIsMissing(ctx context.Context) {
	ticker := time.NewTicker(startLogPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		reason := b.unready.Load()
		if reason == nil {
			return
		}
		b.logger.Info("still starting", "step", *reason)
	}
}

// startHTTP comes first, so that probes can tell what a starting node waits for.
func (b *Broker) startHTTP() (err error) {
	b.metrics.Observe(b.nodeMetrics)
	b.metrics.ObserveGroups(b.groupMetrics)
	b.http, err = httpadmin.Start(httpadmin.Options{
		Listen: b.config.HTTP.Listen, TLS: b.certs.client, Pprof: b.config.HTTP.Pprof, TokenFile: b.config.HTTP.TokenFile,
		Ready: b.reasons, Control: b.control, Metrics: b.metrics.Registry, Detailed: b.metrics.DetailedWith(b.writeRaftMetrics), Logger: b.logger,
	})
	return err
}

// startFounding returns once the node belongs to a cluster. From then on until
// background ends it tells the others where it is: the metadata shard may need
// these very addresses to find a leader. It gives the start up when the others
// turn out to be another cluster.
func (b *Broker) startFounding(ctx, background context.Context, giveUp context.CancelCauseFunc) error {
	b.endpoint.HandleHandshake(b.founding.serve)
	if err := b.founding.run(ctx, b.config.Cluster.Seeds); err != nil {
		return err
	}
	for _, m := range b.founding.identity().Founders {
		if _, known := b.addresses.resolve(m.Incarnation); !known {
			b.addresses.learn(m)
		}
	}
	b.addresses.learn(b.founding.self())
	b.running.Go(func() {
		if err := b.founding.announce(background, b.config.Cluster.Seeds); err != nil {
			b.logger.Error("this node is in the wrong cluster", "err", err)
			giveUp(err)
		}
	})
	return nil
}

func (b *Broker) startRaft() (err error) {
	id := b.founding.identity()
	b.store = metadata.NewStore(metadata.Options{Logger: b.logger})
	if err := raftnode.SetAside(b.dirs.fs, b.dirs.raft, id.retired()); err != nil {
		return err
	}
	b.raft, err = raftnode.Open(b.endpoint, raftnode.Options{
		Dir: b.dirs.raft, FS: b.dirs.fs, Transport: b.under.Raft, Advertise: b.RaftAddr(), NodeID: id.NodeID, Incarnation: id.Incarnation, DeploymentID: deploymentID(id.ClusterID),
		RTT: b.config.Raft.RTT, ElectionRTT: b.config.Raft.ElectionRTT, HeartbeatRTT: b.config.Raft.HeartbeatRTT,
		MaxInFlightBytes: int64(b.config.Raft.MaxInFlightBytes), Resolve: b.addresses.resolve,
		Logger: b.logger, RaftLevel: level(b.config.Log.RaftLevel), OnLeader: b.onLeader,
		OnSnapshot: b.onSnapshot,
	})
	return err
}

// deploymentID keeps the Raft messages of different clusters apart. 0 and 1
// mean "none" to the Raft library.
func deploymentID(clusterID string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(clusterID)) // a hash's Write never fails
	return h.Sum64() | 2
}

// startServing makes the core and opens the client and route ports. No replica
// runs yet.
func (b *Broker) startServing() error {
	b.nats = natsapi.New(natsapi.Options{
		NodeID: b.config.Cluster.NodeID, ClusterName: b.config.Cluster.Name,
		ClientListen: b.config.Client.Listen, RouteListen: b.config.NATSCluster.Listen, AdvertiseHost: b.config.Cluster.AdvertiseHost,
		ClientTLS: b.certs.client, RouteTLS: b.certs.route, MaxBatchBytes: int(b.config.Client.MaxBatchBytes),
		Logger: b.logger, NATSLevel: level(b.config.Log.NATSLevel),
		Leaderless: b.leaderless, RouteAdvertise: b.under.Route,
	})
	b.host = partitions.NewHost(partitions.Options{
		Node: b.raft, FS: b.dirs.fs, Dir: filepath.Join(b.dirs.data, "partitions"), NodeID: b.config.Cluster.NodeID,
		IndexIntervalBytes: int(b.config.Storage.IndexIntervalBytes), Window: b.config.ProducerState.Window,
		ProducerExpiry: b.config.ProducerState.Expiry, RetentionInterval: b.config.Storage.RetentionCheckInterval,
		ClockTrusted: b.nats.ClockTrusted, Logger: b.logger, OnLeadership: b.onLeadership,
		Stream: b.stream, CatchUpBytesPerSecond: int64(b.config.Storage.CatchUpBytesPerSecond),
		OnFetched: b.metrics.SegmentsFetched, OnGiven: b.metrics.SegmentsGiven, OnRepaired: b.metrics.SegmentRepaired, OnQuarantined: b.onQuarantined,
		ScrubInterval: b.config.Storage.ScrubInterval, ScrubBytesPerSecond: int64(b.config.Storage.ScrubBytesPerSecond),
		OnScrubbed: b.metrics.Scrubbed, OnSync: b.metrics.PartitionSynced, OnSave: b.metrics.PartitionSaved,
		OnDamage:        func(partitions.Damage) { b.metrics.DamageFound() },
		NoDeduplication: b.under.NoDeduplication, SnapshotBytes: b.under.SnapshotBytes,
	})
	b.hostUp.Store(b.host)
	b.endpoint.HandleStream(b.host.ServeStream)
	b.disk.start(b.nats.SetDiskLow)
	b.groups = b.newGroups()
	b.groupsUp.Store(b.groups)
	b.balancer = metadata.NewBalancer(metadata.BalancerOptions{
		Interval: b.config.Leaders.Interval, MaxMoves: b.config.Leaders.MaxMoves, Manual: !b.config.Leaders.Balance,
		Image: b.store.Image, Leaders: b.leaders, IsLeader: b.store.IsLeader, Alive: b.alive, Transfer: b.transfer, Logger: b.logger,
		Coordinators: coordinators{b}.preferred,
	})
	b.handler = handler.New(handler.Options{
		NodeID: b.config.Cluster.NodeID, Version: version(), Replicas: handler.HostReplicas{Host: b.host},
		Metadata: b.store, Leaders: b.leaders, Peers: b.nats, Producer: b.nats, Groups: b.groups, Coordinators: coordinators{b}, Alive: b.alive,
		MetadataRaft: b.metadataRaft, BalanceNow: b.balancer.BalanceNow, DiskLow: b.nats.DiskLow, Replacing: b.replacing.names,
		ProducerWindow: b.config.ProducerState.Window, ProducerExpiry: b.config.ProducerState.Expiry,
		InFlightBytesMax: int64(b.config.Raft.MaxInFlightBytes), Logger: b.logger, Metrics: b.metrics,
	})
	if err := b.nats.Start(b.handler); err != nil {
		return err
	}
	b.handlers.Store(b.handler)
	return nil
}

// register tells the cluster where this node is, and learns where the others
// are. Of any two nodes the one that registers later sees the other in the
// image and opens the route to it, so no pair is missed.
func (b *Broker) register(ctx context.Context) error {
	id := b.founding.identity()
	err := b.store.RegisterNode(ctx, metadata.Node{
		ID: id.NodeID, Incarnation: id.Incarnation, RaftAddr: b.RaftAddr(), RouteAddr: b.routeAddr(), HTTPAddr: b.httpAddr(),
		ClientURLs: b.clientURLs(), Rack: b.config.Cluster.Rack, Version: version(),
	})
	if err != nil {
		return fmt.Errorf("registering node %d: %w", id.NodeID, err)
	}
	b.followNodes(b.store.Image(), false)
	return nil
}

// goFollow starts the node's own goroutines. They end with background.
func (b *Broker) goFollow(background context.Context) {
	b.running.Go(func() { b.disk.run(background) })
	own := newReplicas(b.host, b.store, b.config.Cluster.NodeID, b.logger)
	own.replaced = b.metrics.ReplicaReplaced
	b.running.Go(func() { own.run(background) })
	lost := &replacements{
		host: b.host, store: b.store, raft: b.raft, statuses: b.handler.ReplicaStatuses,
		nodeID: b.config.Cluster.NodeID, logger: b.logger, wake: b.quarantined,
	}
	b.running.Go(func() { lost.run(background) })
	b.running.Go(func() { b.followImage(background) })
	b.running.Go(func() { b.keepWatermark(background) })
	b.balancer.Start(background)
}

// followImage keeps routes, addresses and the leaders table in step with the
// metadata.
func (b *Broker) followImage(ctx context.Context) {
	var grace <-chan time.Time // runs while some node is left to dial us
	for {
		image := b.store.Image()
		b.leaders.Prune(image)
		if left := b.followNodes(image, false); left && grace == nil {
			grace = time.After(routeGrace)
		}
		select {
		case <-ctx.Done():
			return
		case <-grace:
			grace = nil
			b.followNodes(image, true)
		case <-b.store.Changed(image.Index):
		}
	}
}

// onLeader takes Raft's news of a shard's leader.
func (b *Broker) onLeader(e raftnode.LeaderEvent) {
	if e.Shard == metadata.ShardID {
		return // asked for when needed
	}
	if coordinators := b.groupsUp.Load(); coordinators != nil && e.Shard < metadata.FirstPartitionShard {
		coordinators.LeaderEvent(e)
		return
	}
	if host := b.hostUp.Load(); host != nil {
		host.LeaderEvent(e)
	}
}

// onLeadership takes the news that this node began or ceased to serve a
// partition.
func (b *Broker) onLeadership(l partitions.Leadership) {
	b.metrics.LeadershipChanged()
	b.nats.Leadership(natsapi.Leadership{Shard: l.Shard, Topic: l.Topic, Partition: l.Partition, Epoch: l.Epoch, Leading: l.Leading})
	b.balancer.Nudge()
}

// onQuarantined takes the news that a replica here was quarantined.
func (b *Broker) onQuarantined() {
	select {
	case b.quarantined <- struct{}{}:
	default: // it is known, and looked for
	}
}

// onSnapshot takes Raft's news that a replica here is about to get a snapshot. A
// partition's lists segments, which are fetched before.
func (b *Broker) onSnapshot(ctx context.Context, o raftnode.SnapshotOffer) error {
	if host := b.hostUp.Load(); host != nil && o.Shard >= metadata.FirstPartitionShard {
		return host.Prefetch(ctx, o.Shard, o.Replica)
	}
	return nil
}

// stream asks the host of another node for segments.
func (b *Broker) stream(ctx context.Context, node uint64, request []byte) (io.ReadCloser, error) {
	n, ok := b.store.Image().Node(node)
	if !ok {
		return nil, fmt.Errorf("node %d is not registered", node)
	}
	addr, ok := b.addresses.resolve(n.Incarnation)
	if !ok {
		return nil, fmt.Errorf("the Raft address of node %d is not known", node)
	}
	return b.endpoint.Stream(ctx, addr, request)
}

// leaderless reports whether a replica of shard runs here and neither it nor
// the leaders table knows a leader.
func (b *Broker) leaderless(shard uint64) bool {
	p, ok := b.host.Get(shard)
	if !ok || p.Leader().Node != 0 {
		return false
	}
	_, _, led := b.leaders.Leader(shard)
	return !led
}

func (b *Broker) alive(node uint64) bool {
	return node == b.config.Cluster.NodeID || b.nats.Alive(node)
}

func (b *Broker) notReady(reason string) { b.unready.Store(&reason) }

// reasons says why the node is not ready.
func (b *Broker) reasons() []string {
	if reason := b.unready.Load(); reason != nil {
		return []string{*reason}
	}
	if _, ok := b.store.LeaderReplica(); !ok {
		return []string{"the metadata shard has no leader"}
	}
	return nil
}

// probePorts says at once that a port is taken, long before it is opened.
func (b *Broker) probePorts() error {
	c := b.config
	for _, p := range []struct{ key, addr string }{
		{"client.listen", c.Client.Listen}, {"nats_cluster.listen", c.NATSCluster.Listen}, {"http.listen", c.HTTP.Listen},
	} {
		l, err := net.Listen("tcp", p.addr)
		if err != nil {
			return fmt.Errorf("cannot listen on %s %s: %w", p.key, p.addr, err)
		}
		if err := l.Close(); err != nil {
			return fmt.Errorf("cannot close the probe of %s: %w", p.addr, err)
		}
	}
	return nil
}
