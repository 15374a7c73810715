package metadata

import (
	"context"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// TopicSpec asks for a topic. Partitions 0, Replicas 0 and missing settings take
// the defaults: Defaults where given, else the cluster's. Nodes restricts the
// placement to some nodes; empty means all. RequestID lets a retry find the
// first attempt's answer; "" takes a fresh one.
type TopicSpec struct {
	Name       string
	Partitions int32
	Replicas   int
	Config     map[string]string
	Defaults   *Defaults
	Nodes      []uint64
	RequestID  string
}

// resolve turns spec into what a command carries.
func (spec TopicSpec) resolve(cluster Defaults) (createTopic, error) {
	if err := protocol.ValidateTopicName(spec.Name); err != nil {
		return createTopic{}, err
	}
	d := cluster
	if spec.Defaults != nil {
		d = *spec.Defaults
	}
	c := createTopic{Name: spec.Name, Partitions: spec.Partitions, Replicas: spec.Replicas, Nodes: spec.Nodes}
	if c.Partitions == 0 {
		c.Partitions = d.Partitions
	}
	if c.Replicas == 0 {
		c.Replicas = d.Replicas
	}
	var err error
	c.Config, err = ParseTopicConfig(d.Config, spec.Config)
	return c, err
}

// CreateTopic creates a topic and returns it with its placement. Its replicas
// are started by their nodes afterwards. Errors: INVALID_TOPIC_EXCEPTION,
// TOPIC_ALREADY_EXISTS, INVALID_PARTITIONS, INVALID_REPLICATION_FACTOR,
// INVALID_CONFIG, NODE_NOT_FOUND, NOT_IMPLEMENTED.
func (s *Store) CreateTopic(ctx context.Context, spec TopicSpec) (*Topic, error) {
	m, err := s.founded(ctx)
	if err != nil {
		return nil, err
	}
	body, err := spec.resolve(m.Defaults)
	if err != nil {
		return nil, err
	}
	r, err := s.propose(ctx, command{Kind: kindCreateTopic, RequestID: requestID(spec.RequestID)}, body)
	return s.topic(spec.Name, r, err)
}

// PlanTopic returns the topic that CreateTopic would create now, and creates
// nothing. Its ids and shards mean nothing. Errors as for CreateTopic.
func (s *Store) PlanTopic(ctx context.Context, spec TopicSpec) (*Topic, error) {
	m, err := s.founded(ctx)
	if err != nil {
		return nil, err
	}
	body, err := spec.resolve(m.Defaults)
	if err != nil {
		return nil, err
	}
	return planTopic(m, body, planIDs{})
}

// founded returns an image of a founded cluster; a node that has just started
// may have to catch up first.
func (s *Store) founded(ctx context.Context) (*Image, error) {
	if m := s.Image(); m.Founded() {
		return m, nil
	}
	if err := s.Barrier(ctx); err != nil {
		return nil, err
	}
	m := s.Image()
	return m, m.mustBeFounded()
}

// DeleteTopic removes a topic. UNKNOWN_TOPIC_OR_PARTITION where there is none.
func (s *Store) DeleteTopic(ctx context.Context, name, request string) error {
	ref, err := s.ref(ctx, name)
	if err != nil {
		return err
	}
	_, err = s.propose(ctx, command{Kind: kindDeleteTopic, RequestID: requestID(request)}, deleteTopic{ref})
	return err
}

// AlterTopic changes settings of a topic, those that changes names, and returns
// it. Errors: UNKNOWN_TOPIC_OR_PARTITION, INVALID_CONFIG, NOT_IMPLEMENTED.
func (s *Store) AlterTopic(ctx context.Context, name string, changes map[string]string, request string) (*Topic, error) {
	patch, err := parsePatch(changes)
	if err != nil {
		return nil, err
	}
	ref, err := s.ref(ctx, name)
	if err != nil {
		return nil, err
	}
	r, err := s.propose(ctx, command{Kind: kindAlterTopic, RequestID: requestID(request)}, alterTopic{ref, patch})
	return s.topic(name, r, err)
}

// AddPartitions raises a topic's partition count to total and returns it. Keys
// then map to other partitions than before. Errors:
// UNKNOWN_TOPIC_OR_PARTITION, INVALID_PARTITIONS (not more than there are, or
// too many).
func (s *Store) AddPartitions(ctx context.Context, name string, total int32, request string) (*Topic, error) {
	ref, err := s.ref(ctx, name)
	if err != nil {
		return nil, err
	}
	r, err := s.propose(ctx, command{Kind: kindAddPartitions, RequestID: requestID(request)},
		addPartitions{topicRef: ref, Partitions: total})
	return s.topic(name, r, err)
}

// ref looks up which topic has the name, after a barrier: an old image might
// show an older topic or none.
func (s *Store) ref(ctx context.Context, name string) (topicRef, error) {
	if err := protocol.ValidateTopicName(name); err != nil {
		return topicRef{}, err
	}
	if err := s.Barrier(ctx); err != nil {
		return topicRef{}, err
	}
	ref := topicRef{Name: name}
	if t, ok := s.Image().Topic(name); ok {
		ref.TopicID = t.ID
	}
	return ref, nil
}

// topic returns the topic that a command's result is about.
func (s *Store) topic(name string, r result, err error) (*Topic, error) {
	if err != nil {
		return nil, err
	}
	t, ok := s.Image().TopicByID(r.TopicID)
	if !ok {
		return nil, errcode.New(errcode.UnknownTopicOrPartition, "topic %q was deleted just now", name)
	}
	return t, nil
}
