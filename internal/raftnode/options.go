package raftnode

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/vfs"
)

// TransportFactory makes the transport of a Node. Options.Transport takes one
// in place of the TCP transport; package chantransport has one for tests.
type TransportFactory = config.TransportFactory

// Defaults of Options.
const (
	DefaultRTT              = 100 * time.Millisecond
	DefaultElectionRTT      = 10
	DefaultHeartbeatRTT     = 1
	DefaultMaxInFlightBytes = 64 << 20
)

// Options configures a Node. Dir, NodeID, Incarnation and Resolve have no
// default.
type Options struct {
	// Dir is the Raft directory of this node, a path of FS. It must not be
	// shared with another node.
	Dir string
	// FS holds Dir. nil is the real file system.
	FS vfs.FS
	// NodeID is the cluster's number of this node. It appears in log lines only;
	// Raft addresses nodes by incarnation.
	NodeID uint64
	// Incarnation is the UUID of this node's data directory, which is
	// dragonboat's NodeHostID. Open fails when Dir carries another one.
	Incarnation string
	// DeploymentID keeps clusters apart: messages of another deployment are
	// dropped. 0 is dragonboat's "unmanaged" deployment, 1.
	DeploymentID uint64
	// Advertise is the address given to dragonboat when Open is called without
	// an Endpoint, that is with a Transport of the caller's. With an Endpoint
	// its own address is used.
	Advertise string
	// RTT is the length of dragonboat's logical tick; every time-out is rounded
	// to it. Default 100 ms.
	RTT time.Duration
	// ElectionRTT and HeartbeatRTT are election time-out (minimum; the actual
	// one is random up to twice that) and heartbeat interval in ticks. Defaults
	// 10 and 1.
	ElectionRTT, HeartbeatRTT uint64
	// MaxInFlightBytes bounds the log one replica keeps in memory because it is
	// not applied yet; past it proposals are refused. The send and receive
	// queues get the same bound each. Default 64 MiB.
	MaxInFlightBytes int64
	// Resolve answers the current Raft address of an incarnation. It is called
	// for every message that is sent and for every connection attempt, from many
	// goroutines, so it must be quick and must not block; a changed answer is
	// picked up at once.
	Resolve func(incarnation string) (raftAddr string, ok bool)
	// Transport replaces the TCP transport of the Endpoint. nil = TCP.
	Transport TransportFactory
	// Logger takes this package's and dragonboat's log lines. Default: discard.
	Logger *slog.Logger
	// RaftLevel is the least level of dragonboat's own lines. dragonboat's
	// loggers are global: the level and Logger of the Node opened last hold for
	// all Nodes of the process. Default (zero) is Info.
	RaftLevel slog.Level
	// OnLeader is told every change of a local replica's view of its shard's
	// leader: serially, from one goroutine, latest wins per shard. It may block
	// (dragonboat does not wait for it) but delays the news of other shards. It
	// must not call Close.
	OnLeader func(LeaderEvent)
	// OnSnapshot is told that a replica here is about to get a snapshot from a
	// peer, before dragonboat gets the snapshot; it may take long, and should end
	// with ctx. Meanwhile the sender counts the replica as behind and sends it no
	// entries, whereas a state machine that takes long to recover has entries pile
	// up in memory until the leader refuses proposals. After an error the snapshot
	// is refused, and the sender tries again. It is called from many goroutines.
	// nil = every snapshot is taken at once. Only the TCP transport asks.
	OnSnapshot func(ctx context.Context, o SnapshotOffer) error
	// Fatal is told an error of the log store right before that error is
	// returned to dragonboat, which panics: a Raft log that cannot be written is
	// never retried in place. A daemon logs and exits here. Default: log.
	Fatal func(error)
}

// SnapshotOffer says which replica a snapshot is for and which one sends it.
type SnapshotOffer struct {
	Shard, Replica, From uint64
	Index                uint64
}

// Shard says how to start the local replica of a shard.
type Shard struct {
	// ID and Replica are dragonboat's ShardID and ReplicaID; neither is 0 and
	// neither is ever reused.
	ID, Replica uint64
	// Members maps every first member's replica id to its incarnation. Only for
	// the very first start of a founding member; nil when joining or restarting.
	Members map[uint64]string
	// Join is set on the first start of a replica that was added to a running
	// shard, or is about to be, and in its Bootstrap… before; it may be set later
	// too.
	Join bool
	// NonVoting is set for a replica that was added by AddNonVoting, at every
	// start, also after it was made a voter.
	NonVoting bool
	// SnapshotEntries makes a snapshot after that many applied entries. 0 means
	// never: the caller of an on-disk machine calls Snapshot, driven by bytes.
	SnapshotEntries uint64
	// CompactionOverhead is the number of entries kept behind an automatic
	// snapshot for followers that lag a little.
	CompactionOverhead uint64
}

// withDefaults returns o with the defaults filled in.
func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.RTT == 0 {
		o.RTT = DefaultRTT
	}
	if o.ElectionRTT == 0 {
		o.ElectionRTT = DefaultElectionRTT
	}
	if o.HeartbeatRTT == 0 {
		o.HeartbeatRTT = DefaultHeartbeatRTT
	}
	if o.MaxInFlightBytes == 0 {
		o.MaxInFlightBytes = DefaultMaxInFlightBytes
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// validate returns all faults of o at once. o has its defaults.
func (o Options) validate() error {
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("raftnode: "+format, args...))
		}
	}
	fault(o.Dir == "", "no directory given for the Raft log")
	fault(!isUUID(o.Incarnation), "incarnation %q is not a UUID in lower case", o.Incarnation)
	fault(o.Resolve == nil, "no Resolve function given")
	fault(o.RTT < time.Millisecond, "rtt %v is below 1ms", o.RTT)
	fault(o.ElectionRTT <= 2*o.HeartbeatRTT,
		"election_rtt %d must be more than twice heartbeat_rtt %d; 10 times is usual", o.ElectionRTT, o.HeartbeatRTT)
	fault(o.MaxInFlightBytes < 1<<20, "max_in_flight_bytes %d is below 1 MiB", o.MaxInFlightBytes)
	return errors.Join(faults...)
}

// EndpointOptions configures Listen.
type EndpointOptions struct {
	// Listen is the host:port to listen on; port 0 takes a free one.
	Listen string
	// Advertise is the host:port peers are told; default the listening address.
	// Port 0 stands for the real port.
	Advertise string
	// ServerTLS and ClientTLS switch on TLS; both or neither. For mutual TLS
	// ServerTLS carries ClientAuth = RequireAndVerifyClientCert.
	ServerTLS, ClientTLS *tls.Config
	// Logger default: discard.
	Logger *slog.Logger
}

// isUUID reports whether s has the 8-4-4-4-12 form, which is what dragonboat
// asks of a NodeHostID and of every target of a membership change, in lower case:
// dragonboat writes its own that way, and incarnations are compared as strings.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		hex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f'
		if hyphen && c != '-' || !hyphen && !hex {
			return false
		}
	}
	return true
}
