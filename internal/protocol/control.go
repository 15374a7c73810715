package protocol

import (
	"strconv"
	"strings"

	"logbroker/internal/errcode"
)

// ControlVersion is the version of the control-plane JSON.
const ControlVersion = 1

// Verbs of lb.m.<verb>: metadata, answered by any node from its own image.
const (
	VerbMetadata   = "metadata"    // MetadataRequest → MetadataReply
	VerbProducerID = "producer_id" // Empty → ProducerIDReply
)

// Verbs of lb.a.<verb>: admin, answered by any node.
const (
	VerbTopicCreate     = "topic_create"     // TopicCreateRequest → TopicDescription
	VerbTopicList       = "topic_list"       // Empty → TopicListReply
	VerbTopicDescribe   = "topic_describe"   // TopicRequest → TopicDescription
	VerbTopicDelete     = "topic_delete"     // TopicRequest → Empty
	VerbTopicAlter      = "topic_alter"      // TopicAlterRequest → TopicDescription
	VerbTopicPartitions = "topic_partitions" // TopicPartitionsRequest → TopicDescription
	VerbTopicTrim       = "topic_trim"       // TopicTrimRequest → TopicTrimReply
	VerbClusterInfo     = "cluster_info"     // Empty → ClusterInfo
	VerbClusterHealth   = "cluster_health"   // Empty → ClusterHealth
	VerbPartitions      = "partitions"       // Empty → PartitionListReply
	VerbTransferLeader  = "transfer_leader"  // TransferLeaderRequest → Empty
	VerbBalanceLeaders  = "balance_leaders"  // Empty → BalanceReply
	VerbRaftShow        = "raft_show"        // RaftShowRequest → RaftShowReply
)

// Verbs of lb.n.<node>.<verb>: from node to node.
const (
	VerbNodeReplicas = "replicas" // ReplicasRequest → ReplicasReply
	VerbNodeTransfer = "transfer" // NodeTransferRequest → Empty
	VerbNodeTrim     = "trim"     // NodeTrimRequest → TopicTrimPartition
	VerbNodeBalance  = "balance"  // NodeBalanceRequest → BalanceReply
	VerbNodeEnds     = "ends"     // NodeEnds → NodeEnds
)

// Empty is a request or reply without fields.
type Empty struct{}

// Envelope is every control-plane reply: a body of the verb's type, or an error.
type Envelope[T any] struct {
	Version int           `json:"version"`
	Error   *ControlError `json:"error,omitempty"`
	Body    T             `json:"body,omitempty"`
}

// ControlError is an error as control-plane JSON carries it.
type ControlError struct {
	Code         errcode.Code `json:"code"`
	Name         string       `json:"name"`
	Message      string       `json:"message"`
	Retriable    bool         `json:"retriable"`
	RetryAfterMs int64        `json:"retry_after_ms,omitempty"`
}

// NewControlError turns err into its wire form; nil stays nil.
func NewControlError(err error) *ControlError {
	e := errcode.From(err)
	if e == nil {
		return nil
	}
	return &ControlError{
		Code: e.Code, Name: e.Code.String(), Message: e.Message,
		Retriable: e.Code.Retriable(), RetryAfterMs: e.RetryAfter.Milliseconds(),
	}
}

// Err returns e as an *errcode.Error, nil for nil.
func (e *ControlError) Err() error {
	if e == nil {
		return nil
	}
	return errcode.New(e.Code, "%s", e.Message)
}

// MetadataRequest asks for the named topics, or for all of them when Topics is
// empty.
type MetadataRequest struct {
	Version int      `json:"version"`
	Topics  []string `json:"topics,omitempty"`
}

// MetadataReply is the cluster as the answering node sees it. A topic that was
// asked for and does not exist is simply not there.
type MetadataReply struct {
	ClusterID   string          `json:"cluster_id"`
	ClusterName string          `json:"cluster_name"`
	Index       uint64          `json:"index"` // metadata log index the image stands for
	Nodes       []NodeMetadata  `json:"nodes"`
	Topics      []TopicMetadata `json:"topics"`
}

// NodeMetadata says where a node is. ClientURLs are NATS URLs, best first.
type NodeMetadata struct {
	ID         uint64   `json:"id"`
	ClientURLs []string `json:"client_urls"`
	HTTP       string   `json:"http"`
	Raft       string   `json:"raft"`
	Rack       string   `json:"rack,omitempty"`
}

// TopicMetadata is what a client needs to reach a topic's partitions.
type TopicMetadata struct {
	Name          string              `json:"name"`
	ID            uint64              `json:"id"`
	MaxBatchBytes int64               `json:"max_batch_bytes"`
	Partitions    []PartitionMetadata `json:"partitions"`
}

// PartitionMetadata is a hint at who leads a partition. Leader 0 means unknown.
type PartitionMetadata struct {
	Partition int32    `json:"partition"`
	Leader    uint64   `json:"leader"`
	Epoch     int32    `json:"epoch"`
	Replicas  []uint64 `json:"replicas"`
}

// ProducerIDReply hands out a fresh producer id, and what the cluster expects
// of its holder.
type ProducerIDReply struct {
	ProducerID int64 `json:"producer_id"`
	Epoch      int16 `json:"epoch"`
	Window     int   `json:"window"`    // batches in flight per partition, at most
	ExpiryMs   int64 `json:"expiry_ms"` // silence after which the state is dropped
}

// TopicCreateRequest creates a topic. Partitions and Replicas 0 mean the
// cluster's defaults. RequestID makes a retry recognisable; Config holds
// topic settings by their names (retention_age, retention_bytes,
// max_batch_bytes, segment_bytes, segment_age, cleanup) as text.
type TopicCreateRequest struct {
	Version    int               `json:"version"`
	Name       string            `json:"name"`
	Partitions int32             `json:"partitions,omitempty"`
	Replicas   int               `json:"replicas,omitempty"`
	Config     map[string]string `json:"config,omitempty"`
	DryRun     bool              `json:"dry_run,omitempty"`
	RequestID  string            `json:"request_id,omitempty"`
}

// TopicRequest names a topic. RequestID makes the retry of a delete
// recognisable: it is answered as the first was.
type TopicRequest struct {
	Version   int    `json:"version"`
	Name      string `json:"name"`
	RequestID string `json:"request_id,omitempty"`
}

// TopicAlterRequest changes settings of a topic. RequestID as in TopicRequest.
type TopicAlterRequest struct {
	Version   int               `json:"version"`
	Name      string            `json:"name"`
	Config    map[string]string `json:"config"`
	RequestID string            `json:"request_id,omitempty"`
}

// TopicPartitionsRequest raises a topic's partition count to Partitions.
// RequestID as in TopicRequest.
type TopicPartitionsRequest struct {
	Version    int    `json:"version"`
	Name       string `json:"name"`
	Partitions int32  `json:"partitions"`
	RequestID  string `json:"request_id,omitempty"`
}

// TopicTrimRequest moves the log start of one partition (or of all, -1) up to
// Offset; -1 means the high watermark.
type TopicTrimRequest struct {
	Version   int    `json:"version"`
	Name      string `json:"name"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

// TopicTrimReply lists the log starts after the trim.
type TopicTrimReply struct {
	Partitions []TopicTrimPartition `json:"partitions"`
}

// TopicTrimPartition is one partition of a TopicTrimReply.
type TopicTrimPartition struct {
	Partition int32 `json:"partition"`
	LogStart  int64 `json:"log_start"`
}

// TopicListReply lists topics by name.
type TopicListReply struct {
	Topics []TopicSummary `json:"topics"`
}

// TopicSummary is one row of a topic list.
type TopicSummary struct {
	Name       string `json:"name"`
	Partitions int    `json:"partitions"`
	Replicas   int    `json:"replicas"`
}

// TopicDescription is one topic with the state of its partitions.
type TopicDescription struct {
	Name       string                 `json:"name"`
	ID         uint64                 `json:"id"`
	Replicas   int                    `json:"replicas"`
	Config     map[string]string      `json:"config"`
	Partitions []PartitionDescription `json:"partitions"`
}

// PartitionDescription is one partition as its leader sees it; Leader is nil
// where there is none, and then the offsets are those of the best replica
// that answered.
type PartitionDescription struct {
	Partition       int32    `json:"partition"`
	Leader          *uint64  `json:"leader"`
	PreferredLeader uint64   `json:"preferred_leader"`
	Epoch           int32    `json:"epoch"`
	Replicas        []uint64 `json:"replicas"`
	LogStart        int64    `json:"log_start"`
	HighWatermark   int64    `json:"high_watermark"`
	SizeBytes       int64    `json:"size_bytes"`
}

// ClusterInfo is `cluster info` and `cluster nodes`.
type ClusterInfo struct {
	ClusterID      string     `json:"cluster_id"`
	ClusterName    string     `json:"cluster_name"`
	Version        string     `json:"version"`
	MetadataLeader *uint64    `json:"metadata_leader"`
	Topics         int        `json:"topics"`
	Partitions     int        `json:"partitions"`
	Nodes          []NodeInfo `json:"nodes"`
}

// NodeInfo is one node of a ClusterInfo. Alive means it answered just now.
type NodeInfo struct {
	ID       uint64   `json:"id"`
	Alive    bool     `json:"alive"`
	Version  string   `json:"version"`
	Rack     string   `json:"rack,omitempty"`
	Client   []string `json:"client"`
	HTTP     string   `json:"http"`
	Raft     string   `json:"raft"`
	Leaders  int      `json:"leaders"`
	Replicas int      `json:"replicas"`
}

// ClusterHealth says whether every partition has a leader and all replicas.
type ClusterHealth struct {
	Healthy         bool     `json:"healthy"`
	Reasons         []string `json:"reasons"`
	Leaderless      []string `json:"leaderless"`
	UnderReplicated []string `json:"under_replicated"`
}

// PartitionListReply is `cluster partitions`.
type PartitionListReply struct {
	Partitions []PartitionRow `json:"partitions"`
}

// PartitionRow is one partition of the cluster.
type PartitionRow struct {
	Topic string `json:"topic"`
	PartitionDescription
	UnderReplicated bool `json:"under_replicated"`
	// Fetching are the replicas that are getting from peers what they lack.
	Fetching []FetchProgress `json:"fetching,omitempty"`
	// Joining are the nodes whose replica is being replaced by one under a new id,
	// which does not vote yet.
	Joining []uint64 `json:"joining,omitempty"`
}

// FetchProgress says how much of what a replica lacks has come from its peers.
type FetchProgress struct {
	Node         uint64 `json:"node"`
	FetchedBytes int64  `json:"fetched_bytes"`
	FetchBytes   int64  `json:"fetch_bytes"` // in all
}

// TransferLeaderRequest moves a partition's leadership to node To.
type TransferLeaderRequest struct {
	Version   int    `json:"version"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	To        uint64 `json:"to"`
}

// BalanceReply says how many leaderships have to move until they are even; they
// move a few at a time, and the reply does not wait for them.
type BalanceReply struct {
	Moves int `json:"moves"`
}

// RaftShowRequest names a partition; with Topic "" a coordinator shard of consumer
// groups, counted from 0, or, where that is nil, the metadata shard.
type RaftShowRequest struct {
	Version    int    `json:"version"`
	Topic      string `json:"topic"`
	Partition  int32  `json:"partition"`
	GroupShard *int32 `json:"group_shard,omitempty"`
}

// What people call the Raft groups that are no partitions.
const (
	raftMetadata = "metadata"
	raftGroups   = "groups"
)

// GroupShardName is what people call coordinator shard n, counted from 0.
func GroupShardName(n int) string { return raftGroups + "/" + strconv.Itoa(n) }

// RaftShowOf returns the request for metadata, groups/N or TOPIC/PARTITION; ok is
// false where name is none of them. A topic that is called groups must be asked
// for by its fields.
func RaftShowOf(name string) (r RaftShowRequest, ok bool) {
	r.Version = ControlVersion
	if name == raftMetadata {
		return r, true
	}
	topic, number, _ := strings.Cut(name, "/")
	n, err := strconv.ParseInt(number, 10, 32)
	if topic == "" || err != nil || n < 0 {
		return r, false
	}
	if topic == raftGroups {
		r.GroupShard = new(int32(n))
	} else {
		r.Topic, r.Partition = topic, int32(n)
	}
	return r, true
}

// RaftShowReply has one row per replica.
type RaftShowReply struct {
	Shard    uint64        `json:"shard"`
	Replicas []RaftReplica `json:"replicas"`
}

// RaftReplica is the Raft state of one replica. Every pointer is nil where the
// node could not be reached: never zero for unknown.
type RaftReplica struct {
	Node    uint64  `json:"node"`
	Role    *string `json:"role"` // leader, follower, candidate, non-voting
	Term    *uint64 `json:"term"`
	Leader  *uint64 `json:"leader"` // node id, nil when none is known
	Last    *uint64 `json:"last"`
	Commit  *uint64 `json:"commit"`
	Applied *uint64 `json:"applied"`
}

// ReplicasRequest asks a node for its replicas of the shards; empty means all.
type ReplicasRequest struct {
	Version int      `json:"version"`
	Shards  []uint64 `json:"shards,omitempty"`
}

// ReplicasReply is a node's own view of its replicas.
type ReplicasReply struct {
	Node     uint64          `json:"node"`
	Version  string          `json:"version"`
	Replicas []ReplicaStatus `json:"replicas"`
	// Replacing names the metadata and the group shards whose log the node has lost
	// and whose new replica there does not vote yet.
	Replacing []string `json:"replacing,omitempty"`
}

// ReplicaStatus is one replica as its node sees it. State is running, starting
// or quarantined.
type ReplicaStatus struct {
	Shard         uint64 `json:"shard"`
	Replica       uint64 `json:"replica"`
	State         string `json:"state"`
	Role          string `json:"role"`
	Term          uint64 `json:"term"`
	Leader        uint64 `json:"leader"` // node id, 0 when none is known
	Last          uint64 `json:"last"`
	Commit        uint64 `json:"commit"`
	Applied       uint64 `json:"applied"`
	Epoch         int32  `json:"epoch"`
	Serving       bool   `json:"serving"` // leads and its epoch entry is applied
	LogStart      int64  `json:"log_start"`
	HighWatermark int64  `json:"high_watermark"`
	SizeBytes     int64  `json:"size_bytes"`
	// Error says why a replica is damaged or quarantined.
	Error string `json:"error,omitempty"`
	// FetchedBytes of FetchBytes have come from peers; 0 while nothing is fetched.
	FetchedBytes int64 `json:"fetched_bytes,omitempty"`
	FetchBytes   int64 `json:"fetch_bytes,omitempty"`
}

// NodeTransferRequest asks the node that leads Shard to hand leadership to node To.
type NodeTransferRequest struct {
	Version int    `json:"version"`
	Shard   uint64 `json:"shard"`
	To      uint64 `json:"to"`
}

// NodeBalanceRequest asks the node that leads the metadata to spread the
// leaderships.
type NodeBalanceRequest struct {
	Version int `json:"version"`
}

// NodeTrimRequest asks the leader's node to trim a partition.
type NodeTrimRequest struct {
	Version   int    `json:"version"`
	Shard     uint64 `json:"shard"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

// NodeEnds asks a node whether the logs that it leads reach the offsets named,
// and is the answer too: for each shard a high watermark. One that lies below
// the offset asked for has been confirmed by a majority. A shard that the node
// cannot speak for is left out.
type NodeEnds struct {
	Version int        `json:"version"`
	Ends    []ShardEnd `json:"ends"`
}

// ShardEnd is an offset of a shard's log.
type ShardEnd struct {
	Shard  uint64 `json:"shard"`
	Offset int64  `json:"offset"`
}

// LeadersBroadcast tells every node what the sender leads: all of it when Full
// is set, else just what changed.
type LeadersBroadcast struct {
	Version int    `json:"version"`
	Node    uint64 `json:"node"`
	Full    bool   `json:"full"`
	// Leaving: the sender is stopping and no place to move leadership to.
	Leaving bool `json:"leaving,omitempty"`
	// DiskLow: the sender is below its disk reserve. The leaders of partitions
	// that it holds a replica of refuse to produce.
	DiskLow bool `json:"disk_low,omitempty"`
	// ClockMs is the sender's wall clock, Unix milliseconds, so that a node whose
	// clock is wrong can notice.
	ClockMs int64         `json:"clock_ms"`
	Leaders []ShardLeader `json:"leaders"`
}

// ShardLeader is one leadership. A higher epoch always wins.
type ShardLeader struct {
	Shard uint64 `json:"shard"`
	Epoch int32  `json:"epoch"`
}

// PubAck answers a plain publish in JetStream's shape, so that JetStream
// clients can publish unchanged. Sequence is offset + 1.
// Source: NATS JetStream wire API, io.nats.jetstream.api.v1.pub_ack_response.
type PubAck struct {
	Stream    string       `json:"stream"`
	Sequence  uint64       `json:"seq"`
	Partition int32        `json:"partition"`
	Offset    int64        `json:"offset"`
	Duplicate bool         `json:"duplicate,omitempty"`
	Error     *PubAckError `json:"error,omitempty"`
}

// PubAckError is the refusal inside a PubAck. Code is HTTP-like, ErrCode is
// ours (errcode.Code).
type PubAckError struct {
	Code        int    `json:"code"`
	ErrCode     uint16 `json:"err_code,omitempty"`
	Description string `json:"description,omitempty"`
}
