package partitions

import (
	"context"

	"logbroker/internal/raftnode"
)

// Host owns the partition replicas of this node.
type Host struct{}

// NewHost returns a Host without replicas.
func NewHost(o Options) *Host { panic("skeleton") }

// Start starts a replica.
func (h *Host) Start(s Spec) error { panic("skeleton") }

// Stop stops the replica of shard and returns when it is closed.
func (h *Host) Stop(shard uint64) error { panic("skeleton") }

// Remove stops the replica of shard and deletes its files.
func (h *Host) Remove(shard uint64) error { panic("skeleton") }

// Update gives the replica of shard a new configuration.
func (h *Host) Update(shard uint64, c TopicConfig) { panic("skeleton") }

// Get returns the replica of shard.
func (h *Host) Get(shard uint64) (*Partition, bool) { panic("skeleton") }

// All returns every replica, by shard.
func (h *Host) All() []*Partition { panic("skeleton") }

// Close stops every replica.
func (h *Host) Close() error { panic("skeleton") }

// LeaderEvent takes raftnode's news.
func (h *Host) LeaderEvent(e raftnode.LeaderEvent) { panic("skeleton") }

// Partition is one local replica.
type Partition struct{}

// Spec returns what the replica was started with.
func (p *Partition) Spec() Spec { panic("skeleton") }

// Config returns the topic's configuration as last given.
func (p *Partition) Config() TopicConfig { panic("skeleton") }

// Append queues a batch.
func (p *Partition) Append(r AppendRequest, done func(AppendResult)) error { panic("skeleton") }

// Read appends whole batches from offset on to dst.
func (p *Partition) Read(dst []byte, offset int64, maxBytes int) (ReadResult, error) {
	panic("skeleton")
}

// WaitFor calls wake once when the high watermark is above offset or the
// replica stops. It may call it before it returns.
func (p *Partition) WaitFor(offset int64, wake func()) (cancel func()) { panic("skeleton") }

// Earliest returns the log start offset.
func (p *Partition) Earliest() int64 { panic("skeleton") }

// Latest returns the high watermark after a ReadIndex.
func (p *Partition) Latest(ctx context.Context) (int64, error) { panic("skeleton") }

// OffsetForTimestamp returns the first offset with a timestamp >= tsMs and that
// timestamp; -1, -1 where there is none.
func (p *Partition) OffsetForTimestamp(ctx context.Context, tsMs int64) (offset, timestampMs int64, err error) {
	panic("skeleton")
}

// Leader returns where the leader is believed to be.
func (p *Partition) Leader() LeaderHint { panic("skeleton") }

// Status returns the replica's state.
func (p *Partition) Status() Status { panic("skeleton") }

// Trim moves the log start offset up to offset, on the leader.
func (p *Partition) Trim(ctx context.Context, offset int64) (logStart int64, err error) {
	panic("skeleton")
}

// TransferLeader hands leadership to toNode and waits for it.
func (p *Partition) TransferLeader(ctx context.Context, toNode uint64) error { panic("skeleton") }
