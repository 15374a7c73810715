package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"logbroker/broker/metadata"
	"logbroker/partitions"
)

const (
	// handoverTimeout bounds the moving away of all leaderships.
	handoverTimeout = 5 * time.Second
	// handOverShardsTimeout bounds the search for who takes the metadata and the
	// groups over.
	handOverShardsTimeout = time.Second
	// handoverParallel is how many leaderships are moved at once.
	handoverParallel = 16
	// successorCheck is how often a hand-over looks if its target is still alive.
	successorCheck = 20 * time.Millisecond
)

// Stop stops the node: leaderships move to other nodes, requests in work are
// answered, everything is synced and closed. It works after a Start that failed
// as well. It ends what is left abruptly when ctx ends, which loses nothing.
func (b *Broker) Stop(ctx context.Context) error { return b.stop(ctx, true) }

// Kill stops the node without doing anything for the others or for its clients:
// what is in work is dropped. It is as near to a crash as one comes within a
// process, for Under, where the caller cuts the node's connections first and
// makes its file system forget what was not synced afterwards.
func (b *Broker) Kill() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return b.stop(ctx, false)
}

// stop is Start's list backwards.
func (b *Broker) stop(ctx context.Context, handOver bool) error {
	b.notReady("stopping")
	var errs []error
	if b.stopRunning != nil {
		b.stopRunning()
	}
	if b.balancer != nil {
		b.balancer.Stop()
	}
	b.running.Wait()
	if handOver && b.handlers.Load() != nil {
		b.nats.Leave()
		b.handOver(ctx)
	}
	if b.handlers.Load() != nil {
		if err := b.nats.Drain(ctx); err != nil {
			b.logger.Warn("not every request was answered in time", "err", err)
		}
	}
	if b.handler != nil {
		b.handler.Close()
	}
	if b.nats != nil {
		b.nats.Close()
	}
	if b.groups != nil {
		b.groups.Close()
	}
	if b.host != nil {
		errs = append(errs, b.host.Close())
	}
	if b.raft != nil {
		b.raft.Close()
	}
	if b.http != nil {
		errs = append(errs, b.http.Close(ctx))
	}
	errs = append(errs, b.endpoint.Close(), b.dirs.close())
	return errors.Join(errs...)
}

// handOver moves every leadership of this node to another node that is alive,
// as far as there is one and time allows.
func (b *Broker) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handoverTimeout)
	defer cancel()
	began, moved := time.Now(), 0
	var wg sync.WaitGroup
	slots := make(chan struct{}, handoverParallel)
	for _, p := range b.host.All() {
		if _, ok := b.successor(p); !ok {
			continue
		}
		moved++
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			b.handOverOne(ctx, p)
		})
	}
	b.handOverShards(ctx)
	wg.Wait()
	if moved > 0 {
		b.logger.Info("leaderships moved away", "count", moved, "took", time.Since(began).Round(time.Millisecond).String())
	}
}

// handOverOne moves one leadership. Where the target leaves meanwhile (a whole
// cluster is being stopped) it tries the next, and gives up after the last.
func (b *Broker) handOverOne(ctx context.Context, p *partitions.Partition) {
	for {
		to, ok := b.successor(p)
		if !ok {
			return
		}
		bounded, cancel := b.whileAlive(ctx, to)
		err := p.TransferLeader(bounded, to)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil || b.alive(to) {
			b.logger.Warn("leadership did not move before the stop", "topic", p.Spec().Topic, "partition", p.Spec().Partition, "to", to, "err", err)
			return
		}
	}
}

// whileAlive returns a context that ends with ctx or when node is not alive any
// more. cancel ends the goroutine that looks.
func (b *Broker) whileAlive(ctx context.Context, node uint64) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		tick := time.NewTicker(successorCheck)
		defer tick.Stop()
		for b.alive(node) {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		cancel()
	}()
	return ctx, cancel
}

// successor returns a living node that holds a replica of a partition that this
// node leads.
func (b *Broker) successor(p *partitions.Partition) (uint64, bool) {
	if !p.Leader().Serving {
		return 0, false
	}
	spec := p.Spec()
	_, part, ok := b.store.Image().PartitionByShard(spec.Shard)
	if !ok {
		return 0, false
	}
	// Starting behind the own place spreads the leaderships over the others.
	nodes := part.Voters()
	for i := range nodes {
		to := nodes[(int(spec.Partition)+i)%len(nodes)]
		if to != b.config.Cluster.NodeID && b.alive(to) {
			return to, true
		}
	}
	return 0, false
}

// handOverShards moves what is no partition. Who else votes there is known soon
// or not at all.
func (b *Broker) handOverShards(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handOverShardsTimeout)
	defer cancel()
	b.handOverMetadata(ctx)
	b.handOverGroups(ctx)
}

// handOverMetadata asks a living founder to lead the metadata shard. Nobody
// waits for it: an election is the fall-back.
func (b *Broker) handOverMetadata(ctx context.Context) {
	if !b.store.IsLeader() {
		return
	}
	for _, m := range b.founding.identity().Founders {
		if m.NodeID != b.config.Cluster.NodeID && b.alive(m.NodeID) {
			if err := b.transferTo(ctx, metadata.ShardID, m.NodeID); err != nil {
				b.logger.Debug("metadata leadership did not move", "err", err)
			}
			return
		}
	}
}

// transferTo asks for a shard that this node leads to be led by another node.
func (b *Broker) transferTo(ctx context.Context, shard, node uint64) error {
	replica, err := b.voterOn(ctx, shard, node)
	if err != nil {
		return err
	}
	return b.raft.Transfer(shard, replica)
}
