package metadata

import (
	"encoding/json"

	"logbroker/internal/errcode"
)

// commandVersion is the version of the commands below. A command means the same
// on every node for ever: whoever changes what one does gives it a new version.
const commandVersion = 1

// Kinds of commands.
const (
	kindFound         = "found"
	kindRegister      = "register"
	kindCreateTopic   = "create_topic"
	kindDeleteTopic   = "delete_topic"
	kindAlterTopic    = "alter_topic"
	kindAddPartitions = "add_partitions"
	kindMarkStarted   = "mark_started"
	kindProducerIDs   = "producer_ids"

	kindReplaceReplica  = "replace_replica"
	kindReplicaLeft     = "replica_left"
	kindReplicaPromoted = "replica_promoted"
)

// command is an entry of the metadata shard's log, as JSON. TimeMs is the
// proposer's clock, because applying has none. RequestID, where given, makes a
// second copy of the command answer what the first did.
type command struct {
	Version   int             `json:"version"`
	Kind      string          `json:"kind"`
	TimeMs    int64           `json:"time_ms"`
	RequestID string          `json:"request_id,omitempty"`
	Body      json.RawMessage `json:"body"`
}

// Founding is what a cluster is founded with.
type Founding struct {
	ClusterID   string   `json:"cluster_id"`
	ClusterName string   `json:"cluster_name"`
	Defaults    Defaults `json:"defaults"`
	// GroupShards is the number of coordinator shards of consumer groups.
	GroupShards int `json:"group_shards,omitempty"`
}

// createTopic carries everything resolved but the placement. Nodes restricts
// the placement; empty means all nodes. Replicas 0 means min(3, nodes).
type createTopic struct {
	Name       string      `json:"name"`
	Partitions int32       `json:"partitions"`
	Replicas   int         `json:"replicas"`
	Config     TopicConfig `json:"config"`
	Nodes      []uint64    `json:"nodes,omitempty"`
}

// topicRef names one topic for good: the id keeps a command that is applied
// late from hitting a newer topic of the same name. TopicID 0 means that the
// proposer saw no such topic, so only a repeated request can succeed.
type topicRef struct {
	Name    string `json:"name"`
	TopicID uint64 `json:"topic_id"`
}

type deleteTopic struct {
	topicRef
}

type alterTopic struct {
	topicRef
	Changes configPatch `json:"changes"`
}

type addPartitions struct {
	topicRef
	Partitions int32    `json:"partitions"` // in all, afterwards
	Nodes      []uint64 `json:"nodes,omitempty"`
}

type markStarted struct {
	Node     uint64       `json:"node"`
	Replicas []ReplicaKey `json:"replicas"`
}

// replaceReplica asks for a replica under a new id in the place of Replica, on the
// same node.
type replaceReplica struct {
	ReplicaKey
	Node uint64 `json:"node"`
}

type producerIDs struct {
	Count int64 `json:"count"`
}

// result is what applying a command answers, as JSON in the Raft result's
// data. Index is the image that first held the command's effect.
type result struct {
	Code    errcode.Code `json:"code"`
	Message string       `json:"message,omitempty"`
	Index   uint64       `json:"index"`
	TopicID uint64       `json:"topic_id,omitempty"`
	FirstID int64        `json:"first_id,omitempty"`
}

// err returns the refusal in r, nil where there is none.
func (r result) err() error {
	if r.Code == errcode.None {
		return nil
	}
	return errcode.New(r.Code, "%s", r.Message)
}

// refused turns err into a result.
func refused(err error) result {
	e := errcode.From(err)
	return result{Code: e.Code, Message: e.Message}
}
