package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// Spaces between attempts of a control or offsets request.
const (
	retrySpaceMin = 20 * time.Millisecond
	retrySpaceMax = time.Second
)

// ControlCall is one control request.
type ControlCall struct {
	Subject string
	// Request is sent as JSON, the reply's body decoded into Reply (nil: dropped).
	Request, Reply any
	// Once is for what must not be carried out twice and carries no id by which
	// the brokers know a repeat. Everything else reads, asks for a state, or has
	// such an id.
	Once bool
}

// Control sends a control request and decodes the envelope of its reply. It
// repeats what nobody got, what was refused with a retriable code and, but for
// ControlCall.Once, also what may have been done, until ctx ends or
// Options.RequestTimeout where ctx has no deadline.
//
// Errors: *errcode.Error for a refusal; otherwise the client's own, wrapped
// with what to do.
func (c *Client) Control(ctx context.Context, q ControlCall) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.options.RequestTimeout)
		defer cancel()
	}
	payload, err := json.Marshal(q.Request)
	if err != nil {
		return fmt.Errorf("encoding the request to %s: %w", q.Subject, err)
	}
	a := &asking{
		client: c, request: Request{Subject: q.Subject, Payload: payload},
		within: c.attemptOf(q), answers: make(chan answer, answersMax), waiting: map[int]*Call{},
	}
	defer a.forget()
	var last error
	for n := 1; ; n++ {
		err := a.once(ctx, n, q.Reply)
		if err == nil || ctx.Err() != nil && last == nil {
			return err
		}
		if ctx.Err() == nil {
			last = err
		}
		if !repeatControl(err, !q.Once) || ctx.Err() != nil {
			return controlError(ctx, q.Subject, last)
		}
		sleep(ctx, max(Backoff(n, retrySpaceMin, retrySpaceMax), retryAfter(err)))
	}
}

// attemptOf returns how long one attempt at q waits, 0: all the time there is.
func (c *Client) attemptOf(q ControlCall) time.Duration {
	switch {
	case q.Once:
		return 0
	case strings.HasPrefix(q.Subject, protocol.PrefixMetadata):
		return metadataAttempt
	default:
		return c.options.AdminAttempt
	}
}

// repeatControl says whether another attempt follows err. again is for requests
// that may be repeated although they may have been carried out.
func repeatControl(err error, again bool) bool {
	unknown := errors.Is(err, ErrTimeout) || errors.Is(err, ErrDisconnected) || errcode.Of(err) == errcode.RequestTimedOut
	return retriable(err) && (again || !unknown)
}

func controlError(ctx context.Context, subject string, err error) error {
	switch {
	case errors.As(err, new(*errcode.Error)):
		return err
	case errors.Is(err, ErrTimeout), errors.Is(err, ErrDisconnected):
		next := "it may have been done, look before repeating it"
		if strings.HasPrefix(subject, protocol.PrefixMetadata) { // asking again does no harm
			next = "see `logbroker cluster health`, or try again"
		}
		return fmt.Errorf("%s: %w; %s", subject, err, next)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w (%w)", subject, err, context.Cause(ctx))
	default:
		return fmt.Errorf("%s: %w", subject, err)
	}
}

func retryAfter(err error) time.Duration {
	var e *errcode.Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

func decodeEnvelope(subject string, data []byte, reply any) error {
	var env protocol.Envelope[json.RawMessage]
	if err := json.Unmarshal(data, &env); err != nil {
		return errcode.New(errcode.UnknownServerError, "the reply to %s is not JSON: %v", subject, err)
	}
	if env.Version != protocol.ControlVersion {
		return errcode.New(errcode.UnsupportedVersion, "the reply to %s has version %d; this client speaks version %d", subject, env.Version, protocol.ControlVersion)
	}
	if e := env.Error; e != nil {
		out := errcode.New(e.Code, "%s", e.Message)
		out.RetryAfter = time.Duration(e.RetryAfterMs) * time.Millisecond
		return out
	}
	if reply == nil || len(env.Body) == 0 {
		return nil
	}
	if err := json.Unmarshal(env.Body, reply); err != nil {
		return errcode.New(errcode.UnknownServerError, "the body of the reply to %s: %v", subject, err)
	}
	return nil
}

// answer is what a call that waits for one reply ends with.
type answer struct {
	data    []byte
	err     error
	attempt int // of Control
}

// answersMax is more answers than attempts that wait at the same time can have
// between two looks.
const answersMax = 16

// asking is a control request under way: its last attempt, and the earlier ones
// that got no reply in time, whose replies are as good.
type asking struct {
	client  *Client
	request Request
	within  time.Duration // of an attempt; 0: until the context's end
	answers chan answer
	waiting map[int]*Call // by attempt: those that may still be answered
}

// once sends the request to any node and waits for a reply to it, or to an
// earlier attempt.
func (a *asking) once(ctx context.Context, attempt int, reply any) error {
	data, err := a.ask(ctx, attempt)
	if err != nil {
		return err
	}
	return decodeEnvelope(a.request.Subject, data, reply)
}

func (a *asking) ask(ctx context.Context, attempt int) ([]byte, error) {
	r := a.request
	r.Timeout = a.client.options.RequestTimeout
	if until, ok := ctx.Deadline(); ok {
		r.Timeout = max(time.Until(until), time.Millisecond)
	}
	if a.within > 0 {
		r.Timeout = min(r.Timeout, a.within)
	}
	call, err := a.client.Conn(0).Call(r, func(data []byte, err error) { offer(a.answers, answer{data, err, attempt}) })
	if err != nil {
		return nil, err
	}
	a.waiting[attempt] = call
	for {
		select {
		case got := <-a.answers:
			if a.waiting[got.attempt] == nil || got.err != nil && got.attempt != attempt {
				continue // a second reply, or an earlier attempt that is over
			}
			if !errors.Is(got.err, ErrTimeout) {
				a.waiting[got.attempt].Cancel()
				delete(a.waiting, got.attempt)
			}
			return got.data, got.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-a.client.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// forget ends the attempts that are still waiting.
func (a *asking) forget() {
	for _, call := range a.waiting {
		call.Cancel()
	}
}

// offer sends a unless one was sent before: handlers must not block.
func offer(to chan answer, a answer) {
	select {
	case to <- a:
	default:
	}
}
