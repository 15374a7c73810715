package raftnode

import (
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4"
)

// SyncStats is the log store's sync histogram since Open, for
// raft_log_sync_duration_seconds.
type SyncStats struct {
	Count uint64
	Sum   time.Duration
	// Bounds are the buckets' upper bounds, ascending; Buckets[i] counts syncs
	// ≤ Bounds[i], cumulatively. Count is the bucket +Inf.
	Bounds  []time.Duration
	Buckets []uint64
}

// syncBounds covers an NVMe write cache (tens of µs) to a disk in trouble.
var syncBounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 5 * time.Second,
}

// syncStats counts syncs of the log's files. Lock-free; a reader may see a count
// without its duration.
type syncStats struct {
	count, nanos atomic.Uint64
	buckets      [len(syncBounds)]atomic.Uint64 // not cumulative
}

func newSyncStats() *syncStats { return new(syncStats) }

func (s *syncStats) observe(d time.Duration) {
	s.count.Add(1)
	s.nanos.Add(uint64(d))
	if i, _ := slices.BinarySearch(syncBounds[:], d); i < len(syncBounds) {
		s.buckets[i].Add(1)
	}
}

func (s *syncStats) snapshot() SyncStats {
	out := SyncStats{
		Count:   s.count.Load(),
		Sum:     time.Duration(s.nanos.Load()),
		Bounds:  slices.Clone(syncBounds[:]),
		Buckets: make([]uint64, len(syncBounds)),
	}
	total := uint64(0)
	for i := range s.buckets {
		total += s.buckets[i].Load()
		out.Buckets[i] = total
	}
	return out
}

// SyncStats returns the histogram of the log store's syncs since Open.
func (n *Node) SyncStats() SyncStats { return n.syncs.snapshot() }

// LogBytes returns the bytes of entries (their commands) handed to the log store
// since Open.
func (n *Node) LogBytes() uint64 { return n.store.entryBytes.Load() }

// WriteMetrics writes dragonboat's metrics in Prometheus text. They are the
// process's: several Nodes in one process share them.
func (n *Node) WriteMetrics(w io.Writer) { dragonboat.WriteHealthMetrics(w) }
