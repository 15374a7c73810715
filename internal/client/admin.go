package client

import (
	"context"

	"github.com/nats-io/nuid"

	"logbroker/internal/protocol"
)

// Admin has one method per verb of the control plane. A verb whose outcome is
// not known is asked for again, see Client.Control, unless its method says that
// it is not.
type Admin struct{ c *Client }

// Admin returns the control-plane verbs of c.
func (c *Client) Admin() Admin { return Admin{c} }

// CreateTopic creates a topic and returns it once every partition has a leader.
// A request without id gets one, so that a repeat is recognised.
func (a Admin) CreateTopic(ctx context.Context, r protocol.TopicCreateRequest) (*protocol.TopicDescription, error) {
	r.Version = protocol.ControlVersion
	if r.RequestID == "" {
		r.RequestID = nuid.Next()
	}
	return control[protocol.TopicDescription](ctx, a.c, protocol.VerbTopicCreate, r)
}

// ListTopics lists every topic by name.
func (a Admin) ListTopics(ctx context.Context) (*protocol.TopicListReply, error) {
	return control[protocol.TopicListReply](ctx, a.c, protocol.VerbTopicList, protocol.Empty{})
}

// DescribeTopic describes one topic and the state of its partitions.
func (a Admin) DescribeTopic(ctx context.Context, name string) (*protocol.TopicDescription, error) {
	r := protocol.TopicRequest{Version: protocol.ControlVersion, Name: name}
	return control[protocol.TopicDescription](ctx, a.c, protocol.VerbTopicDescribe, r)
}

// DeleteTopic deletes a topic and its data.
func (a Admin) DeleteTopic(ctx context.Context, name string) error {
	r := protocol.TopicRequest{Version: protocol.ControlVersion, Name: name, RequestID: nuid.Next()}
	_, err := control[protocol.Empty](ctx, a.c, protocol.VerbTopicDelete, r)
	return err
}

// AlterTopic changes settings of a topic.
func (a Admin) AlterTopic(ctx context.Context, name string, config map[string]string) (*protocol.TopicDescription, error) {
	r := protocol.TopicAlterRequest{Version: protocol.ControlVersion, Name: name, Config: config, RequestID: nuid.Next()}
	return control[protocol.TopicDescription](ctx, a.c, protocol.VerbTopicAlter, r)
}

// AddPartitions raises a topic's partition count to partitions.
func (a Admin) AddPartitions(ctx context.Context, name string, partitions int32) (*protocol.TopicDescription, error) {
	r := protocol.TopicPartitionsRequest{Version: protocol.ControlVersion, Name: name, Partitions: partitions, RequestID: nuid.Next()}
	return control[protocol.TopicDescription](ctx, a.c, protocol.VerbTopicPartitions, r)
}

// TrimTopic moves the log start of one partition (-1: of all) up to offset
// (-1: the high watermark). A trim to the high watermark is not repeated: by then
// that may be above records which were not there when the caller asked.
func (a Admin) TrimTopic(ctx context.Context, name string, partition int32, offset int64) (*protocol.TopicTrimReply, error) {
	r := protocol.TopicTrimRequest{Version: protocol.ControlVersion, Name: name, Partition: partition, Offset: offset}
	if offset < 0 {
		return controlOnce[protocol.TopicTrimReply](ctx, a.c, protocol.VerbTopicTrim, r)
	}
	return control[protocol.TopicTrimReply](ctx, a.c, protocol.VerbTopicTrim, r)
}

// ClusterInfo describes the cluster and its nodes.
func (a Admin) ClusterInfo(ctx context.Context) (*protocol.ClusterInfo, error) {
	return control[protocol.ClusterInfo](ctx, a.c, protocol.VerbClusterInfo, protocol.Empty{})
}

// ClusterHealth says whether every partition has a leader and all replicas.
func (a Admin) ClusterHealth(ctx context.Context) (*protocol.ClusterHealth, error) {
	return control[protocol.ClusterHealth](ctx, a.c, protocol.VerbClusterHealth, protocol.Empty{})
}

// Partitions lists every partition of the cluster.
func (a Admin) Partitions(ctx context.Context) (*protocol.PartitionListReply, error) {
	return control[protocol.PartitionListReply](ctx, a.c, protocol.VerbPartitions, protocol.Empty{})
}

// TransferLeader moves a partition's leadership to node to, 0 = any other. To
// any other it is not repeated: that could move it back.
func (a Admin) TransferLeader(ctx context.Context, topic string, partition int32, to uint64) error {
	r := protocol.TransferLeaderRequest{Version: protocol.ControlVersion, Topic: topic, Partition: partition, To: to}
	ask := control[protocol.Empty]
	if to == 0 {
		ask = controlOnce[protocol.Empty]
	}
	_, err := ask(ctx, a.c, protocol.VerbTransferLeader, r)
	return err
}

// BalanceLeaders asks for the leaderships to be spread evenly. It returns how
// many moves that takes and does not wait for them; 0 means that they are even.
func (a Admin) BalanceLeaders(ctx context.Context) (*protocol.BalanceReply, error) {
	return control[protocol.BalanceReply](ctx, a.c, protocol.VerbBalanceLeaders, protocol.Empty{})
}

// ShowRaft returns one row per replica of a partition, of a coordinator shard or
// of the metadata.
func (a Admin) ShowRaft(ctx context.Context, r protocol.RaftShowRequest) (*protocol.RaftShowReply, error) {
	r.Version = protocol.ControlVersion
	return control[protocol.RaftShowReply](ctx, a.c, protocol.VerbRaftShow, r)
}

// NewProducerID asks for a fresh producer id.
func (c *Client) NewProducerID(ctx context.Context) (*protocol.ProducerIDReply, error) {
	var reply protocol.ProducerIDReply
	q := ControlCall{Subject: protocol.PrefixMetadata + protocol.VerbProducerID, Request: protocol.Empty{}, Reply: &reply}
	if err := c.Control(ctx, q); err != nil {
		return nil, err
	}
	return &reply, nil
}

// control asks for what may be repeated.
func control[T any](ctx context.Context, c *Client, verb string, req any) (*T, error) {
	var reply T
	if err := c.Control(ctx, ControlCall{Subject: protocol.PrefixAdmin + verb, Request: req, Reply: &reply}); err != nil {
		return nil, err
	}
	return &reply, nil
}

// controlOnce asks for what must not be carried out twice; see ControlCall.Once.
func controlOnce[T any](ctx context.Context, c *Client, verb string, req any) (*T, error) {
	var reply T
	if err := c.Control(ctx, ControlCall{Subject: protocol.PrefixAdmin + verb, Request: req, Reply: &reply, Once: true}); err != nil {
		return nil, err
	}
	return &reply, nil
}
