package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// Bounds of a group request.
const (
	groupAttempt = 2 * time.Second
	// groupRefusalWait is how long a NOT_COORDINATOR is held back for the reply
	// of the node that coordinates now: both may be asked while it moves.
	groupRefusalWait = 50 * time.Millisecond
)

// Group sends a request to a group's coordinator, which is found by the
// subject, and decodes its reply into reply (nil: drop it). It repeats what
// nobody got, what no coordinator answered and, for verbs that may be repeated,
// also what may have been done, until ctx ends or Options.RequestTimeout where
// ctx has no deadline.
//
// Errors: as Control.
func (c *Client) Group(ctx context.Context, verb, group string, req, reply any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.options.RequestTimeout)
		defer cancel()
	}
	// A second delete would be told that there is no such group.
	again := verb != protocol.VerbGroupDelete
	var last error
	for n := 1; ; n++ {
		err := c.GroupOnce(ctx, GroupCall{Verb: verb, Group: group, Request: req, Reply: reply})
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if !repeatControl(err, again) || ctx.Err() != nil {
			return controlError(ctx, protocol.GroupSubject(verb, group), last)
		}
		sleep(ctx, max(Backoff(n, retrySpaceMin, retrySpaceMax), retryAfter(err)))
	}
}

// GroupCall is one attempt at a group request.
type GroupCall struct {
	// Node is the one to ask: the coordinator as far as the caller knows. 0, or one
	// that is not connected: whoever passes the request on. A node that does not
	// coordinate any more passes it on too, or refuses it.
	Node        uint64
	Verb, Group string
	// Request is sent as JSON, the reply decoded into Reply (nil: dropped).
	Request, Reply any
	// Within is how long the attempt may take, 0: 2 s. A coordinator that dies
	// answers nothing, so this is what its death costs the caller.
	Within time.Duration
	// Hold is how long the coordinator may hold the answer, beyond Within.
	Hold time.Duration
}

// GroupOnce is one attempt of Group, for callers that repeat by themselves.
func (c *Client) GroupOnce(ctx context.Context, g GroupCall) error {
	if err := protocol.ValidateGroupName(g.Group); err != nil {
		return err
	}
	subject := protocol.GroupSubject(g.Verb, g.Group)
	payload, err := json.Marshal(g.Request)
	if err != nil {
		return fmt.Errorf("encoding the request to %s: %w", subject, err)
	}
	answers := make(chan answer, 8) // more coordinators there never were
	timeout := cmp.Or(g.Within, groupAttempt) + g.Hold
	call, err := c.Conn(g.Node).Call(Request{Subject: subject, Payload: payload, Timeout: timeout},
		func(data []byte, err error) { offer(answers, answer{data: data, err: err}) })
	if err != nil {
		return err
	}
	defer call.Cancel()
	return c.awaitCoordinator(ctx, subject, answers, g.Reply)
}

// awaitCoordinator takes the first answer that is not NOT_COORDINATOR, or that
// one when no other follows.
func (c *Client) awaitCoordinator(ctx context.Context, subject string, answers <-chan answer, reply any) error {
	var refused error
	var enough <-chan time.Time
	for {
		select {
		case a := <-answers:
			err := a.err
			if err == nil {
				err = decodeEnvelope(subject, a.data, reply)
			}
			if errcode.Of(err) != errcode.NotCoordinator {
				return err
			}
			if refused == nil {
				t := time.NewTimer(groupRefusalWait)
				defer t.Stop()
				enough = t.C
			}
			refused = err
		case <-enough:
			return refused
		case <-ctx.Done():
			return errors.Join(refused, context.Cause(ctx))
		case <-c.ctx.Done():
			return ErrClosed
		}
	}
}

// Retriable reports whether err, from GroupOnce, is worth another attempt with
// the same request: nobody answered, or who answered was not ready.
func Retriable(err error) bool { return retriable(err) }

// ListGroups lists every consumer group by name.
func (a Admin) ListGroups(ctx context.Context) (*protocol.GroupListReply, error) {
	return control[protocol.GroupListReply](ctx, a.c, protocol.VerbGroupList, protocol.Empty{})
}

// DescribeGroup describes one group: members, offsets, lag.
func (a Admin) DescribeGroup(ctx context.Context, group string) (*protocol.GroupDescription, error) {
	r := protocol.GroupRequest{Version: protocol.ControlVersion, Group: group}
	var reply protocol.GroupDescription
	if err := a.c.Group(ctx, protocol.VerbGroupDescribe, group, r, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

// DeleteGroup deletes a group without members, and its offsets.
func (a Admin) DeleteGroup(ctx context.Context, group string) error {
	r := protocol.GroupRequest{Version: protocol.ControlVersion, Group: group}
	return a.c.Group(ctx, protocol.VerbGroupDelete, group, r, nil)
}

// SeekGroup stores offsets of a group without members, all or none.
func (a Admin) SeekGroup(ctx context.Context, r protocol.GroupSeekRequest) (*protocol.CommitReply, error) {
	r.Version = protocol.ControlVersion
	var reply protocol.CommitReply
	if err := a.c.Group(ctx, protocol.VerbGroupSeek, r.Group, r, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

// GroupOffsets returns what a group has committed: of the named partitions, or
// of everything.
func (a Admin) GroupOffsets(ctx context.Context, group string, topics ...protocol.TopicPartitions) ([]protocol.CommittedOffset, error) {
	r := protocol.FetchOffsetsRequest{Version: protocol.ControlVersion, Group: group, Topics: topics}
	var reply protocol.FetchOffsetsReply
	if err := a.c.Group(ctx, protocol.VerbGroupFetchOffsets, group, r, &reply); err != nil {
		return nil, err
	}
	return reply.Offsets, nil
}
