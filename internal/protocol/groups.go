package protocol

import (
	"strings"

	"logbroker/internal/errcode"
	"logbroker/internal/murmur2"
)

// Verbs of lb.g.<verb>.<group…>: consumer groups, answered by the node that
// leads the group's coordinator shard and by nobody else. A node that led it a
// moment ago answers NOT_COORDINATOR, one whose shard has no leader just now
// COORDINATOR_NOT_AVAILABLE; every other node is silent. So the first reply may
// be a refusal while the coordinator moves: ask again after a short wait.
const (
	VerbGroupHeartbeat     = "heartbeat"      // HeartbeatRequest → HeartbeatReply
	VerbGroupCommit        = "commit"         // CommitRequest → CommitReply
	VerbGroupFetchOffsets  = "fetch_offsets"  // FetchOffsetsRequest → FetchOffsetsReply
	VerbGroupDeleteOffsets = "delete_offsets" // DeleteOffsetsRequest → CommitReply
	VerbGroupDescribe      = "describe"       // GroupRequest → GroupDescription
	VerbGroupDelete        = "delete"         // GroupRequest → Empty
	VerbGroupSeek          = "seek"           // GroupSeekRequest → CommitReply
)

// Verbs of lb.a for groups: any node asks the coordinators.
const (
	VerbGroupList      = "group_list"     // Empty → GroupListReply
	VerbGroupDescribed = "group_describe" // GroupRequest → GroupDescription
)

// Verbs of lb.n for groups: what one node coordinates.
const (
	VerbNodeGroups = "groups"         // Empty → GroupListReply
	VerbNodeGroup  = "group_describe" // GroupRequest → GroupDescription
)

// Member epochs with a meaning of their own in HeartbeatRequest.MemberEpoch.
// Source: Apache Kafka KIP-848, ConsumerGroupHeartbeat.
const (
	MemberEpochJoin        int32 = 0  // joins, or joins again after it was fenced
	MemberEpochLeave       int32 = -1 // leaves for good, its partitions are free at once
	MemberEpochLeaveStatic int32 = -2 // a static member leaves and will be back: its partitions wait for it
)

// MemberEpochNone is the member epoch of a commit without membership.
const MemberEpochNone int32 = -1

// NoOffset stands for "nothing committed".
const NoOffset int64 = -1

// Bounds of what a group request may carry. Beyond them the request is refused
// by name; nothing of it is done.
const (
	GroupMembersMax            = 1000      // GROUP_MAX_SIZE_REACHED
	GroupTopicsMax             = 1000      // topics of one subscription: INVALID_REQUEST
	GroupOffsetMetadataMax     = 4096      // bytes with one committed offset: OFFSET_METADATA_TOO_LARGE
	GroupMemberMetadataMax     = 64 << 10  // opaque bytes of one member: INVALID_REQUEST
	GroupMemberNameMax         = 249       // bytes of a member id, instance id, client id or host, without control characters: INVALID_REQUEST
	GroupCommitOffsetsMax      = 10_000    // offsets of one commit: INVALID_REQUEST
	GroupNamedMax              = 20_000    // topics and partitions named by any other request: INVALID_REQUEST
	GroupOffsetsMax            = 100_000   // partitions with a committed offset, per group: GROUP_STATE_TOO_LARGE
	GroupSessionTimeoutMinMs   = 1_000     // shorter is raised to it
	GroupSessionTimeoutMaxMs   = 1_800_000 // longer is lowered to it
	GroupRebalanceTimeoutMaxMs = 3_600_000 // longer is lowered to it
)

// TopicPartitions is some partitions of one topic. TopicID 0 in a request means
// the topic that has this name now.
type TopicPartitions struct {
	Topic      string  `json:"topic"`
	TopicID    uint64  `json:"topic_id"`
	Partitions []int32 `json:"partitions"`
	// PolicyBelow (in an assignment): the partitions with a lower number were
	// there when the group first subscribed to the topic; without a committed
	// offset they start where the consumer's start policy says. The others came
	// later and start at their log start, so that no record written before they
	// were discovered is skipped.
	PolicyBelow int32 `json:"policy_below,omitempty"`
}

// HeartbeatRequest is the one request of membership: it joins, stays, reports
// and leaves. A member sends it every heartbeat interval, and at once when it
// has given up partitions.
type HeartbeatRequest struct {
	Version int    `json:"version"`
	Group   string `json:"group"`
	// MemberID is chosen by the member, once per process and best a random UUID,
	// so that a join whose reply was lost can be sent again. Empty: the
	// coordinator chooses one, the reply has it.
	MemberID string `json:"member_id"`
	// InstanceID makes the member static: another process with the same one
	// takes over its partitions after a static leave.
	InstanceID  string `json:"instance_id,omitempty"`
	MemberEpoch int32  `json:"member_epoch"` // of the last reply, or a MemberEpoch… constant
	ClientID    string `json:"client_id,omitempty"`
	Host        string `json:"host,omitempty"`
	// Topics is the subscription. It is always the full list; a leaving member
	// may leave it out.
	Topics []string `json:"topics,omitempty"`
	// Owned is what the member holds right now: what it fetches, handles, or has
	// not yet committed. Always the full list. A partition that is not in the
	// last assignment and no longer in Owned has been given up.
	Owned []TopicPartitions `json:"owned,omitempty"`
	// RebalanceTimeoutMs is how long the member may take to give a partition up
	// before it is fenced. 0: the coordinator's default (the session time-out).
	RebalanceTimeoutMs int64 `json:"rebalance_timeout_ms,omitempty"`
	// SessionTimeoutMs is the silence after which the member is fenced. 0: the
	// coordinator's default, groups.session_timeout.
	SessionTimeoutMs int64 `json:"session_timeout_ms,omitempty"`
	// WaitMs lets the coordinator hold the answer for up to so long while it has
	// nothing new for the member, so that a change reaches it at once; it holds
	// for at most the heartbeat interval and a third of the session time-out. A
	// member then sends its next heartbeat as soon as it has the answer, with a
	// time-out of WaitMs and some more. A further heartbeat of the same member
	// (a report) makes the held one be answered at once. 0: never hold.
	WaitMs int64 `json:"wait_ms,omitempty"`
	// Metadata is opaque to the coordinator and shown by describe.
	Metadata []byte `json:"metadata,omitempty"`
}

// HeartbeatReply tells a member what it may own. It holds for SessionTimeoutMs
// from the moment the member *sent* the heartbeat: a member that has had no
// answer for longer must take itself for fenced.
//
// Refusals: UNKNOWN_MEMBER_ID and FENCED_MEMBER_EPOCH: it owns nothing any more
// and joins again with epoch 0. UNRELEASED_INSTANCE_ID: a living member has this
// instance id; try again. FENCED_INSTANCE_ID: another process took over this
// instance id for good. GROUP_MAX_SIZE_REACHED, INVALID_GROUP_ID,
// INVALID_REQUEST: change the request.
type HeartbeatReply struct {
	MemberID            string `json:"member_id"`
	MemberEpoch         int32  `json:"member_epoch"`
	GroupEpoch          int32  `json:"group_epoch"`
	HeartbeatIntervalMs int64  `json:"heartbeat_interval_ms"`
	SessionTimeoutMs    int64  `json:"session_timeout_ms"` // the one in force
	// Assignment is the full list of what the member may own now. What it owns
	// beyond it, it must give up and report as given up.
	Assignment []TopicPartitions `json:"assignment"`
	// Coordinator is the node that answered.
	Coordinator uint64 `json:"coordinator"`
}

// CommittedOffset is one partition's committed offset, in requests and replies.
// Offset is the next one to be read.
type CommittedOffset struct {
	Topic     string `json:"topic"`
	TopicID   uint64 `json:"topic_id"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Metadata  string `json:"metadata,omitempty"`
	// CommitTimeMs is when it was committed (replies only), in Unix milliseconds.
	CommitTimeMs int64 `json:"commit_time_ms,omitempty"`
}

// CommitRequest commits offsets of a member, or, with MemberID "" and
// MemberEpoch MemberEpochNone, of a group that has no members.
type CommitRequest struct {
	Version     int    `json:"version"`
	Group       string `json:"group"`
	MemberID    string `json:"member_id"`
	MemberEpoch int32  `json:"member_epoch"`
	// Sequence rises with every new commit of this member process; a commit that
	// is sent again keeps its number. A lower one than a partition has seen from
	// its present owner changes nothing there and is answered as done.
	Sequence int64             `json:"sequence"`
	Offsets  []CommittedOffset `json:"offsets"`
}

// CommitReply has one entry per offset of the request, in its order.
//
// A refusal of the whole request comes in the envelope. Per partition:
// UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID (the topic was made anew),
// STALE_MEMBER_EPOCH (the member epoch is older than the ownership),
// FENCED_MEMBER_EPOCH, PARTITION_NOT_OWNED, OFFSET_METADATA_TOO_LARGE,
// OFFSET_OUT_OF_RANGE: below 0, or beyond the high watermark. An offset below
// the log start is stored: retention may have passed a slow member. While the
// partition's leader does not answer, one beyond what the coordinator's node
// knows is stored unseen: a group can commit although a partition is leaderless.
type CommitReply struct {
	Results []OffsetResult `json:"results"`
}

// OffsetResult is the fate of one offset; Error nil means done.
type OffsetResult struct {
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Error     *ControlError `json:"error,omitempty"`
}

// FetchOffsetsRequest asks for committed offsets: of the named partitions, of
// whole topics (Partitions empty), or of everything (Topics empty). With a
// MemberID the membership is checked as for a commit.
type FetchOffsetsRequest struct {
	Version     int               `json:"version"`
	Group       string            `json:"group"`
	MemberID    string            `json:"member_id,omitempty"`
	MemberEpoch int32             `json:"member_epoch,omitempty"`
	Topics      []TopicPartitions `json:"topics,omitempty"`
}

// FetchOffsetsReply has an entry for each partition named, NoOffset where
// nothing is committed; for whole topics and for everything only what is
// committed. An offset committed for another topic of the same name is none.
type FetchOffsetsReply struct {
	Offsets []CommittedOffset `json:"offsets"`
}

// DeleteOffsetsRequest forgets committed offsets: of the named partitions or of
// whole topics (Partitions empty). Refused per topic with
// GROUP_SUBSCRIBED_TO_TOPIC where a member subscribes to it.
type DeleteOffsetsRequest struct {
	Version int               `json:"version"`
	Group   string            `json:"group"`
	Topics  []TopicPartitions `json:"topics"`
}

// GroupRequest names a group.
type GroupRequest struct {
	Version int    `json:"version"`
	Group   string `json:"group"`
}

// GroupSeekRequest stores offsets that the caller has computed, all or none.
// The group must be empty (NON_EMPTY_GROUP), each offset within its partition's
// log (OFFSET_OUT_OF_RANGE). DryRun checks only.
type GroupSeekRequest struct {
	Version int               `json:"version"`
	Group   string            `json:"group"`
	Offsets []CommittedOffset `json:"offsets"`
	DryRun  bool              `json:"dry_run,omitempty"`
}

// Group states.
const (
	GroupEmpty       = "empty"       // no members, only offsets
	GroupStable      = "stable"      // every member owns what it should
	GroupReconciling = "reconciling" // partitions are on their way from one member to another
)

// GroupDescription is one group with members, offsets and lag.
type GroupDescription struct {
	Group       string           `json:"group"`
	State       string           `json:"state"`
	GroupEpoch  int32            `json:"group_epoch"`
	Assignor    string           `json:"assignor"`
	Coordinator uint64           `json:"coordinator"`
	Shard       string           `json:"shard"`      // the coordinator shard, as raft show takes it
	Members     []GroupMember    `json:"members"`    // by member id
	Partitions  []GroupPartition `json:"partitions"` // of subscribed topics and of committed offsets, by topic and number
	Topics      []GroupTopicLag  `json:"topics"`     // by name
	TotalLag    int64            `json:"total_lag"`  // over the partitions whose lag is known
	Incomplete  bool             `json:"incomplete"` // the lag of some partition is not known
	Problems    []GroupProblem   `json:"problems,omitempty"`
}

// GroupMember is one member of a GroupDescription.
type GroupMember struct {
	MemberID   string            `json:"member_id"`
	InstanceID string            `json:"instance_id,omitempty"`
	ClientID   string            `json:"client_id"`
	Host       string            `json:"host"`
	Epoch      int32             `json:"epoch"`
	Topics     []string          `json:"topics"`
	Assignment []TopicPartitions `json:"assignment"`
	// Revoking is what the member is still to give up.
	Revoking []TopicPartitions `json:"revoking,omitempty"`
	// Away: a static member that left and whose partitions wait for it.
	Away     bool   `json:"away,omitempty"`
	Metadata []byte `json:"metadata,omitempty"`
}

// GroupPartition is one partition of a GroupDescription. A pointer is nil where
// the value is not known: never zero for unknown.
type GroupPartition struct {
	Topic     string `json:"topic"`
	TopicID   uint64 `json:"topic_id"`
	Partition int32  `json:"partition"`
	Committed *int64 `json:"committed"` // nil: nothing committed
	LogStart  *int64 `json:"log_start"` // nil: no replica answered
	LogEnd    *int64 `json:"log_end"`   // the high watermark
	// Lag is LogEnd − Committed, or LogEnd − LogStart where nothing is
	// committed; never below 0.
	Lag          *int64 `json:"lag"`
	Metadata     string `json:"metadata,omitempty"`
	CommitTimeMs int64  `json:"commit_time_ms,omitempty"`
	MemberID     string `json:"member_id,omitempty"`
	ClientID     string `json:"client_id,omitempty"`
	Host         string `json:"host,omitempty"`
}

// GroupTopicLag is the lag of one topic.
type GroupTopicLag struct {
	Topic      string `json:"topic"`
	Lag        int64  `json:"lag"`
	Incomplete bool   `json:"incomplete,omitempty"`
}

// GroupProblem is something a person should know about a group.
type GroupProblem struct {
	Topic   string `json:"topic,omitempty"`
	Message string `json:"message"`
}

// GroupListReply lists groups by name. Unreachable names the coordinator
// shards that nobody answered for: the list lacks their groups.
type GroupListReply struct {
	Groups      []GroupSummary `json:"groups"`
	Unreachable []uint64       `json:"unreachable,omitempty"`
	// Shards are those the answering node coordinates (VerbNodeGroups only).
	Shards []uint64 `json:"shards,omitempty"`
}

// GroupSummary is one row of a group list.
type GroupSummary struct {
	Group       string `json:"group"`
	State       string `json:"state"`
	Members     int    `json:"members"`
	Topics      int    `json:"topics"`
	Coordinator uint64 `json:"coordinator"`
}

// GroupSubject returns the subject of a group verb. The group must be valid.
func GroupSubject(verb, group string) string { return PrefixGroup + verb + "." + group }

// SplitGroupSubject returns verb and group of what follows PrefixGroup.
func SplitGroupSubject(rest string) (verb, group string, ok bool) {
	verb, group, ok = strings.Cut(rest, ".")
	return verb, group, ok && verb != "" && group != ""
}

// GroupShard returns which of shards coordinator shards, counted from 0, holds
// group. The rule must never change: the shards' state depends on it.
func GroupShard(group string, shards int) int {
	return int(murmur2.Partition([]byte(group), shards))
}

// ValidateGroupName returns an INVALID_GROUP_ID that says what is wrong with
// name, or nil. The rule is that of topic names: it becomes NATS subject tokens.
func ValidateGroupName(name string) error {
	if err := ValidateTopicName(name); err != nil {
		reason := strings.NewReplacer("the topic name", "the group name", "topic name ", "group name ").Replace(errcode.From(err).Message)
		return errcode.New(errcode.InvalidGroupID, "%s", reason)
	}
	return nil
}
