package raftnode

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4"

	"logbroker/internal/errcode"
)

// The two classes a failed proposal falls into. Every error of Propose,
// Proposal.Wait, WaitOr and ProposeWait wraps exactly one of them and an
// *errcode.Error.
var (
	// ErrRefused: the command was not applied and this attempt never will be.
	ErrRefused = errors.New("proposal refused")
	// ErrUnknown: the command may have been applied, or may yet be.
	ErrUnknown = errors.New("outcome of the proposal is unknown")
)

// ProposalError is a failed proposal: a class (ErrRefused or ErrUnknown) and
// the code for the client.
type ProposalError struct {
	class error
	coded *errcode.Error
}

// Error returns the coded error's text.
func (e *ProposalError) Error() string { return e.coded.Error() }

// Unwrap makes errors.Is find the class and errors.As the *errcode.Error.
func (e *ProposalError) Unwrap() []error { return []error{e.class, e.coded} }

func refused(c errcode.Code, message string) *ProposalError {
	return &ProposalError{class: ErrRefused, coded: errcode.New(c, "%s", message)}
}

func unknown(message string) *ProposalError {
	return &ProposalError{class: ErrUnknown, coded: errcode.New(errcode.RequestTimedOut, "%s", message)}
}

// Every way a proposal can fail, made once: a leader transfer drops thousands of
// proposals in a row.
var (
	errNotLeader  = refused(errcode.NotLeaderOrFollower, "this replica does not lead the shard: ask for the leader again")
	errNoReplica  = refused(errcode.NotLeaderOrFollower, "no replica of the shard runs on this node: refresh the metadata")
	errNotReady   = refused(errcode.LeaderNotAvailable, "the replica is still starting: try again")
	errBusy       = refused(errcode.Throttled, "the shard's proposal queue or in-flight bytes are full: try again later")
	errTooBig     = refused(errcode.MessageTooLarge, "the command is larger than max_in_flight_bytes")
	errClosedNode = refused(errcode.ShuttingDown, "this node is shutting down: ask another one")
	errDropped    = refused(errcode.LeaderNotAvailable, "the shard has no leader or is moving it: try again")
	errInternal   = refused(errcode.UnknownServerError, "dragonboat refused the proposal")

	errTimedOut   = unknown("the proposal was not applied in time: it may still be")
	errTerminated = unknown("the replica was stopped while the proposal was under way: it may still be applied")
	errAborted    = unknown("the proposal was aborted: it may still be applied")
)

// ErrGivenUp is the outcome of a proposal that was not waited for any longer; it
// wraps ErrUnknown.
var ErrGivenUp error = unknown("the proposal met a new leader: it may have been applied before")

// Result is what the state machine's Update answered for a command.
type Result struct {
	Value uint64
	Data  []byte
}

// Proposal is a command on its way. It comes from a pool: Wait or WaitOr ends its
// life.
type Proposal struct {
	request *dragonboat.RequestState
}

// proposals recycles Proposal values; dragonboat recycles the request states.
var proposals = sync.Pool{New: func() any { return new(Proposal) }}

// Propose puts cmd into the shard's proposal queue and does not wait. Calls from
// one goroutine are queued in call order. cmd may be reused on return. Only a
// replica that leads accepts: a follower would forward, lossily. The outcome is
// known after about timeout at the latest (rounded to ticks). An error is a
// definite refusal: nothing was proposed.
//
// What can still go wrong after nil: leadership lost between the check here and
// dragonboat's next step makes the deposed leader forward what it has queued, so
// state machines fence by an epoch of their own.
//
// Copies of cmd: dragonboat makes one into the entry here (a header byte goes in
// front). On the leader the log store makes two more (marshal, then tan's 32 KiB
// blocks), beside the kernel's. Each peer's connection writes a command from the
// entry, and a follower reads it into its entry; then the log store's two.
func (n *Node) Propose(shard uint64, cmd []byte, timeout time.Duration) (*Proposal, error) {
	request, err := n.propose(shard, cmd, timeout, false)
	if err != nil {
		return nil, err
	}
	p := proposals.Get().(*Proposal)
	p.request = request
	return p, nil
}

func (n *Node) propose(shard uint64, cmd []byte, timeout time.Duration, forward bool) (*dragonboat.RequestState, error) {
	if n.enter() != nil {
		return nil, errClosedNode
	}
	defer n.leave()
	local, ok := n.replicas.Load(shard)
	if !ok {
		return nil, errNoReplica
	}
	r := local.(*replica)
	if !forward {
		leader, _, known, err := n.host.GetLeaderID(shard)
		if err != nil {
			return nil, refusal(err)
		}
		if !known || leader != r.id {
			return nil, errNotLeader
		}
	}
	request, err := n.host.Propose(r.session, cmd, n.roundUp(timeout))
	if err != nil {
		return nil, refusal(err)
	}
	return request, nil
}

// Wait returns the result once the command is committed and applied by the
// local replica, or the reason why not. It must be called exactly once; p must
// not be used afterwards.
func (p *Proposal) Wait() (Result, error) { return p.WaitOr(nil, 0) }

// WaitOr is Wait until giveUp is closed and grace has gone by since: then it
// returns ErrGivenUp. It is for who learns in another way that a proposal can come
// to nothing any more: dragonboat keeps what a deposed leader had under way until
// its time is up, though a later leader's entries have taken its place.
func (p *Proposal) WaitOr(giveUp <-chan struct{}, grace time.Duration) (Result, error) {
	select {
	case outcome := <-p.request.ResultC():
		return p.end(outcome)
	case <-giveUp:
	}
	limit := time.NewTimer(grace)
	defer limit.Stop()
	select {
	case outcome := <-p.request.ResultC():
		return p.end(outcome)
	case <-limit.C:
	}
	select {
	case outcome := <-p.request.ResultC(): // it was there with a grace of 0
		return p.end(outcome)
	default:
	}
	// The request state is left to the garbage collector: it is not final.
	p.request = nil
	proposals.Put(p)
	return Result{}, ErrGivenUp
}

// end gives everything back and classifies the final outcome.
func (p *Proposal) end(outcome dragonboat.RequestResult) (Result, error) {
	// Release only after the final result: before, dragonboat still writes to it.
	p.request.Release()
	p.request = nil
	proposals.Put(p)
	return classify(outcome)
}

// ProposeWait proposes cmd and waits. A follower forwards to its leader, which
// is right for the rare commands of the control plane only: the forwarding is
// lossy and a lost command is reported as unknown at the deadline. The wait ends
// with ctx, as ErrUnknown; without a deadline in ctx 10 s hold.
func (n *Node) ProposeWait(ctx context.Context, shard uint64, cmd []byte) (Result, error) {
	request, err := n.propose(shard, cmd, n.timeout(ctx), true)
	if err != nil {
		return Result{}, err
	}
	select {
	case outcome := <-request.ResultC():
		request.Release()
		return classify(outcome)
	case <-ctx.Done():
		// The request state is left to the garbage collector: it is not final.
		return Result{}, errTimedOut
	}
}

// refusal maps an error of NodeHost.Propose. All of them come before the command
// enters the queue (dragonboat request.go: proposalShard.propose takes the
// pending entry back when the queue does not accept), so all are definite.
func refusal(err error) *ProposalError {
	switch {
	case errors.Is(err, dragonboat.ErrSystemBusy):
		return errBusy
	case errors.Is(err, dragonboat.ErrShardNotReady), errors.Is(err, dragonboat.ErrShardNotInitialized):
		return errNotReady
	case errors.Is(err, dragonboat.ErrShardNotFound), errors.Is(err, dragonboat.ErrShardClosed):
		return errNoReplica
	case errors.Is(err, dragonboat.ErrPayloadTooBig):
		return errTooBig
	case errors.Is(err, dragonboat.ErrClosed):
		return errClosedNode
	}
	return errInternal
}

// classify maps the outcome of a queued proposal.
//
// Dropped is definite, on a follower too: dragonboat reports it in three places
// only (raft.go: handleLeaderPropose while a leader transfer is under way,
// handleFollowerPropose without a leader, handleCandidatePropose), and in each
// the whole message is dropped before an entry is appended or a message is sent.
// A leader that drops what a follower forwarded reports to nobody: the follower's
// request keys are not known there, and its proposal times out as unknown.
func classify(r dragonboat.RequestResult) (Result, error) {
	switch {
	case r.Completed():
		result := r.GetResult()
		return Result{Value: result.Value, Data: result.Data}, nil
	case r.Dropped():
		return Result{}, errDropped
	case r.Timeout():
		return Result{}, errTimedOut
	case r.Terminated():
		return Result{}, errTerminated
	}
	// Aborted; Rejected is for client sessions, which are not used here.
	return Result{}, errAborted
}
