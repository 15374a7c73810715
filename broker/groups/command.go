package groups

import (
	"encoding/json"

	"logbroker/internal/errcode"
)

// commandVersion is the version of the entries below. An entry means the same on
// every node for ever: whoever changes what one does gives it a new version.
const commandVersion = 1

// entry is one entry of a coordinator shard's log, as JSON: either an epoch, or
// operations of the coordinator of that epoch. Operations of many groups and
// members travel in one entry. TimeMs is the coordinator's clock, because
// applying has none.
type entry struct {
	Version int   `json:"v"`
	Epoch   int32 `json:"e"`
	// Replica opens Epoch for that replica; the entry then has no operations.
	Replica uint64      `json:"r,omitempty"`
	TimeMs  int64       `json:"t,omitempty"`
	Ops     []operation `json:"ops,omitempty"`
}

// Kinds of operations.
const (
	opJoin    = "join"    // a member joins, or changes its subscription
	opReport  = "report"  // a member tells what it still owns
	opAway    = "away"    // a static member leaves for a while
	opRemove  = "remove"  // a member leaves, or is fenced
	opTarget  = "target"  // the coordinator's new assignment
	opCommit  = "commit"  // a member commits offsets
	opStore   = "store"   // offsets without membership: seek and plain commits
	opForget  = "forget"  // offsets are deleted
	opPurge   = "purge"   // offsets of deleted topics go
	opDelete  = "delete"  // the group is deleted
	opExpired = "expired" // the group was empty for too long
)

// operation is one change of one group. Which fields count depends on Kind.
type operation struct {
	Kind  string `json:"k"`
	Group string `json:"g"`
	// Member speaks or is spoken of. Epoch is its member epoch as the coordinator
	// was told (report, commit) or saw it (remove; -1: whatever it is).
	Member string `json:"m,omitempty"`
	Epoch  int32  `json:"me,omitempty"`

	Joining  *joining     `json:"join,omitempty"`   // join
	Owned    []Partition  `json:"owned,omitempty"`  // report
	Revision int32        `json:"rev,omitempty"`    // target: the membership it was made for
	Topics   []topicCount `json:"topics,omitempty"` // target: the topics it was made for
	Targets  []target     `json:"to,omitempty"`     // target
	Sequence int64        `json:"seq,omitempty"`    // commit
	Offsets  []commit     `json:"offs,omitempty"`   // commit, store
	Forget   []forgotten  `json:"forget,omitempty"` // forget
	Gone     []uint64     `json:"gone,omitempty"`   // purge: ids of topics that are no more
	SinceMs  int64        `json:"since,omitempty"`  // expired: the mark the coordinator saw
}

// joining is what a member says of itself.
type joining struct {
	InstanceID  string   `json:"instance,omitempty"`
	ClientID    string   `json:"client,omitempty"`
	Host        string   `json:"host,omitempty"`
	Topics      []string `json:"topics"` // sorted, each once
	SessionMs   int64    `json:"session"`
	RebalanceMs int64    `json:"rebalance"`
	Metadata    []byte   `json:"meta,omitempty"`
}

// target is what a member should have, sorted.
type target struct {
	Member     string      `json:"m"`
	Partitions []Partition `json:"p"`
	// Assignment is opaque: what a leader of Kafka's classic protocol made for the
	// member. Nothing here reads it.
	Assignment []byte `json:"a,omitempty"`
}

// commit is one offset to be stored.
type commit struct {
	Partition
	Offset   int64  `json:"o"`
	Metadata string `json:"md,omitempty"`
}

// forgotten names offsets to delete: all of the topic's where Numbers is empty.
type forgotten struct {
	Topic   uint64  `json:"topic"`
	Name    string  `json:"name"`
	Numbers []int32 `json:"numbers,omitempty"`
}

// Verdicts on an entry, in the Raft result's value.
const (
	verdictApplied = iota // the operations have outcomes in the result's data
	verdictFenced         // the entry's epoch is not the current one: nothing was done
	verdictOpened         // the epoch is the entry's now
	verdictStale          // the epoch was overtaken: nothing was done
	verdictUnknown        // the entry cannot be read or is of a newer version
)

// outcome is what an operation came to. Codes has one code per offset of a
// commit, or is nil where all were stored.
type outcome struct {
	Code    errcode.Code   `json:"c,omitempty"`
	Message string         `json:"m,omitempty"`
	Codes   []errcode.Code `json:"cs,omitempty"`
}

// err returns the refusal in o, nil where there is none.
func (o outcome) err() error {
	if o.Code == errcode.None {
		return nil
	}
	return errcode.New(o.Code, "%s", o.Message)
}

func refused(c errcode.Code, format string, args ...any) outcome {
	return outcome{Code: c, Message: errcode.New(c, format, args...).Message}
}

// encode returns an entry's bytes. The types of this package always encode.
func encode(e entry) []byte {
	e.Version = commandVersion
	data, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return data
}
