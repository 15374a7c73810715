package raftnode

import (
	"context"
	"errors"

	"github.com/lni/dragonboat/v4"

	"logbroker/internal/errcode"
)

// Roles in ReplicaState.
const (
	RoleLeader   = "leader"
	RoleFollower = "follower"
	RoleUnknown  = "unknown"
)

// ReplicaState is what the log store last made durable for a local replica,
// and its view of the leader.
type ReplicaState struct {
	Replica uint64
	// Term, Vote and Commit are the hard state, Last the index of the last
	// entry, as last written. Commit may lag by what was not yet worth writing.
	Term, Vote, Commit, Last uint64
	// Applied is the index of the last command that a state machine in memory has
	// applied; 0 for one on disk, which knows it itself.
	Applied uint64
	// Leader is the leader's replica id in LeaderTerm, 0 = none known.
	Leader, LeaderTerm uint64
	// Role is RoleLeader, RoleFollower, or RoleUnknown when no leader is known.
	Role string
}

// ReadIndex is a linearizable barrier: after it returns nil the local replica
// has applied every command that was acknowledged before the call. It costs a
// round to a majority. Without a deadline in ctx 10 s hold. Errors are coded.
func (n *Node) ReadIndex(ctx context.Context, shard uint64) error {
	ctx, cancel := n.bound(ctx)
	defer cancel()
	request, err := n.request(func() (*dragonboat.RequestState, error) {
		return n.host.ReadIndex(shard, n.timeout(ctx))
	})
	if err != nil {
		return controlError("read index", shard, err)
	}
	if err := await(ctx, request); err != nil {
		return controlError("read index", shard, err)
	}
	return nil
}

// Query passes q to the local state machine's Lookup without any barrier: the
// answer may be behind what was acknowledged elsewhere.
func (n *Node) Query(shard uint64, q any) (any, error) {
	if err := n.enter(); err != nil {
		return nil, controlError("query", shard, err)
	}
	defer n.leave()
	answer, err := n.host.StaleRead(shard, q)
	if err != nil {
		return nil, controlError("query", shard, err)
	}
	return answer, nil
}

// Leader returns the leader's replica id and its term as the local replica sees
// them. ok is false where no leader is known or no replica runs here.
func (n *Node) Leader(shard uint64) (replica, term uint64, ok bool) {
	if n.enter() != nil {
		return 0, 0, false
	}
	defer n.leave()
	replica, term, ok, err := n.host.GetLeaderID(shard)
	return replica, term, ok && err == nil
}

// Status returns the state of the local replica of shard; ok is false when none
// runs here.
func (n *Node) Status(shard uint64) (s ReplicaState, ok bool) {
	local, ok := n.replicas.Load(shard)
	if !ok {
		return ReplicaState{}, false
	}
	s = n.store.status(shard, local.(*replica).id)
	s.Applied = local.(*replica).applied.Load()
	leader, term, known := n.Leader(shard)
	s.Role = RoleUnknown
	if known {
		s.Leader, s.LeaderTerm, s.Role = leader, term, RoleFollower
		if leader == s.Replica {
			s.Role = RoleLeader
		}
	}
	return s, true
}

// request runs one of the host's asynchronous calls.
func (n *Node) request(call func() (*dragonboat.RequestState, error)) (*dragonboat.RequestState, error) {
	if err := n.enter(); err != nil {
		return nil, err
	}
	defer n.leave()
	return call()
}

// await waits for the outcome of a control request.
func await(ctx context.Context, request *dragonboat.RequestState) error {
	select {
	case r := <-request.ResultC():
		request.Release()
		switch {
		case r.Completed():
			return nil
		case r.Rejected():
			return dragonboat.ErrRejected
		case r.Dropped():
			return dragonboat.ErrShardNotReady
		case r.Terminated():
			return dragonboat.ErrShardClosed
		case r.Aborted():
			return dragonboat.ErrAborted
		}
		return dragonboat.ErrTimeout
	case <-ctx.Done():
		return ctx.Err()
	}
}

// controlError gives an error of a read or of a membership change its code.
func controlError(what string, shard uint64, err error) error {
	code := errcode.UnknownServerError
	switch {
	case errors.Is(err, dragonboat.ErrShardNotFound), errors.Is(err, dragonboat.ErrShardClosed):
		code = errcode.NotLeaderOrFollower
	case errors.Is(err, dragonboat.ErrShardNotReady), errors.Is(err, dragonboat.ErrShardNotInitialized):
		code = errcode.LeaderNotAvailable
	case errors.Is(err, dragonboat.ErrTimeout), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, context.Canceled), errors.Is(err, dragonboat.ErrCanceled),
		errors.Is(err, dragonboat.ErrAborted), errors.Is(err, dragonboat.ErrTimeoutTooSmall),
		errors.Is(err, dragonboat.ErrInvalidDeadline):
		code = errcode.RequestTimedOut
	case errors.Is(err, dragonboat.ErrSystemBusy):
		code = errcode.Throttled
	case errors.Is(err, dragonboat.ErrClosed):
		code = errcode.ShuttingDown
	case errors.Is(err, dragonboat.ErrInvalidTarget):
		code = errcode.InvalidRequest
	}
	return &readError{coded: errcode.New(code, "%s of shard %d: %v", what, shard, err), cause: err}
}

// readError carries both the code and dragonboat's error.
type readError struct {
	coded *errcode.Error
	cause error
}

// Error returns the coded error's text.
func (e *readError) Error() string { return e.coded.Error() }

// Unwrap makes both findable by errors.Is and errors.As.
func (e *readError) Unwrap() []error { return []error{e.coded, e.cause} }
