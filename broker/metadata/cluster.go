package metadata

import (
	"context"
	"slices"

	"logbroker/internal/errcode"
)

// markStartedMax is the most replicas one mark_started command carries.
const markStartedMax = 1000

// Found gives the cluster its id, name and defaults. Founding it again with the
// same id changes nothing, so every founder may do it; another id is
// INVALID_REQUEST. INVALID_CONFIG where the defaults are out of bounds.
func (s *Store) Found(ctx context.Context, f Founding) error {
	if err := f.Defaults.validate(); err != nil {
		return err
	}
	_, err := s.propose(ctx, command{Kind: kindFound}, f)
	return err
}

// RegisterNode enters a node, or new addresses of a node that is known with the
// same incarnation. DUPLICATE_BROKER_REGISTRATION where its id belongs to
// another incarnation, or its incarnation to another id.
func (s *Store) RegisterNode(ctx context.Context, n Node) error {
	_, err := s.propose(ctx, command{Kind: kindRegister}, n)
	return err
}

// MarkStarted records that a node is about to start replicas for the first
// time; when it returns nil the image shows it. Replicas that no longer exist,
// or are not that node's, are skipped: look them up again before starting.
func (s *Store) MarkStarted(ctx context.Context, node uint64, replicas []ReplicaKey) error {
	for chunk := range slices.Chunk(replicas, markStartedMax) {
		if _, err := s.propose(ctx, command{Kind: kindMarkStarted}, markStarted{Node: node, Replicas: chunk}); err != nil {
			return err
		}
	}
	return nil
}

// AllocateProducerIDs reserves n producer ids and returns the first. A retry
// may leave a gap: ids are plenty, and never given twice.
func (s *Store) AllocateProducerIDs(ctx context.Context, n int64) (first int64, err error) {
	r, err := s.propose(ctx, command{Kind: kindProducerIDs}, producerIDs{Count: n})
	return r.FirstID, err
}

// producerIDBlock is how many producer ids a node reserves at a time.
const producerIDBlock = 1000

// producerBlock is the reserved producer ids that are not given out yet.
type producerBlock struct {
	// turn holds a token while no one holds the block; it guards the fields
	// below across the refill, which waits for Raft, and can be waited for with
	// a context, unlike a mutex.
	turn        chan struct{}
	next, limit int64
}

func newProducerBlock() producerBlock {
	b := producerBlock{turn: make(chan struct{}, 1)}
	b.turn <- struct{}{}
	return b
}

// NextProducerID returns a producer id that no one else in the cluster ever
// gets. Mostly from memory; once per 1,000 it waits for Raft.
func (s *Store) NextProducerID(ctx context.Context) (int64, error) {
	b := &s.ids
	select {
	case <-b.turn:
	case <-ctx.Done():
		return 0, errcode.New(errcode.LeaderNotAvailable, "no producer id could be reserved in time; try again")
	}
	defer func() { b.turn <- struct{}{} }()
	if b.next == b.limit {
		first, err := s.AllocateProducerIDs(ctx, producerIDBlock)
		if err != nil {
			return 0, err
		}
		b.next, b.limit = first, first+producerIDBlock
	}
	b.next++
	return b.next - 1, nil
}

// validate returns what is wrong with d.
func (d Defaults) validate() error {
	if d.Partitions < 1 || d.Partitions > PartitionsMax {
		return errcode.New(errcode.InvalidConfig, "topic_defaults.partitions is %d; use 1 to %d", d.Partitions, PartitionsMax)
	}
	if d.Replicas < 0 {
		return errcode.New(errcode.InvalidConfig, "topic_defaults.replicas is %d; use 0 (min(3, nodes)) or more", d.Replicas)
	}
	return d.Config.validate()
}
