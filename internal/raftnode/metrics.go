package raftnode

import (
	"io"
	"time"
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

// SyncStats returns the sync histogram.
func (n *Node) SyncStats() SyncStats { panic("skeleton") }

// LogBytes returns the bytes handed to the log store since Open: entries with
// their commands.
func (n *Node) LogBytes() uint64 { panic("skeleton") }

// WriteMetrics writes dragonboat's metrics of this process in Prometheus text.
func (n *Node) WriteMetrics(w io.Writer) { panic("skeleton") }
