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
// Proposal.Wait and ProposeWait wraps exactly one of them and an
// *errcode.Error.
var (
	// ErrRefused: the command was not applied and this attempt never will be.
	ErrRefused = errors.New("proposal refused")
	// ErrUnknown: the command may have been applied, or may yet be.
	ErrUnknown = errors.New("outcome of the proposal is unknown")
)

// Result is what the state machine's Update answered for a command.
type Result struct {
	Value uint64
	Data  []byte
}

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

// Proposal is a command on its way. It comes from a pool: Wait ends its life.
type Proposal struct {
	request *dragonboat.RequestState
}

var proposals = sync.Pool{New: func() any { return new(Proposal) }}

// Propose puts cmd into the shard's proposal queue and does not wait. Calls from
// one goroutine are queued in call order. cmd may be reused on return. The
// outcome is known after about timeout at the latest (rounded to ticks). An
// error is a definite refusal: nothing was proposed.
func (n *Node) Propose(shard uint64, cmd []byte, timeout time.Duration) (*Proposal, error) {
	request, err := n.host.Propose(n.session(shard), cmd, timeout)
	if err != nil {
		return nil, refusal(err)
	}
	p := proposals.Get().(*Proposal)
	p.request = request
	return p, nil
}

// Wait returns the result once the command is committed and applied by the
// local replica, or the reason why not. It must be called exactly once; p must
// not be used afterwards.
func (p *Proposal) Wait() (Result, error) {
	outcome := <-p.request.ResultC()
	p.request.Release()
	p.request = nil
	proposals.Put(p)
	return classify(outcome)
}

// ProposeWait proposes cmd and waits. A follower forwards to its leader, which
// is right for the rare commands of the control plane only: the forwarding is
// lossy and a lost command is reported as unknown at the deadline. The wait ends
// with ctx, as ErrUnknown.
func (n *Node) ProposeWait(ctx context.Context, shard uint64, cmd []byte) (Result, error) {
	panic("skeleton")
}

func refusal(err error) error { panic("skeleton") }

func classify(r dragonboat.RequestResult) (Result, error) { panic("skeleton") }
