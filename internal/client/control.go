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

// Control sends a control request and decodes the envelope of its reply into
// reply (nil: drop it). It repeats what nobody got and what was refused with a
// retriable code, and lb.m requests also after a time-out, until ctx ends or
// Options.RequestTimeout where ctx has no deadline.
//
// Errors: *errcode.Error for a refusal; otherwise the client's own, wrapped
// with what to do.
func (c *Client) Control(ctx context.Context, subject string, req, reply any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.options.RequestTimeout)
		defer cancel()
	}
	payload, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encoding the request to %s: %w", subject, err)
	}
	reads := strings.HasPrefix(subject, protocol.PrefixMetadata)
	var last error
	for n := 1; ; n++ {
		err := c.controlOnce(ctx, subject, payload, reply, reads)
		if err == nil || ctx.Err() != nil && last == nil {
			return err
		}
		if ctx.Err() == nil {
			last = err
		}
		if !repeatControl(err, reads) || ctx.Err() != nil {
			return controlError(ctx, subject, last)
		}
		sleep(ctx, max(Backoff(n, retrySpaceMin, retrySpaceMax), retryAfter(err)))
	}
}

func repeatControl(err error, reads bool) bool {
	unknown := errors.Is(err, ErrTimeout) || errors.Is(err, ErrDisconnected) || errcode.Of(err) == errcode.RequestTimedOut
	return retriable(err) && (reads || !unknown)
}

func controlError(ctx context.Context, subject string, err error) error {
	switch {
	case errors.As(err, new(*errcode.Error)):
		return err
	case errors.Is(err, ErrTimeout), errors.Is(err, ErrDisconnected):
		return fmt.Errorf("%s: %w; it may have been done, look before repeating it", subject, err)
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

func (c *Client) controlOnce(ctx context.Context, subject string, payload []byte, reply any, reads bool) error {
	timeout := c.options.RequestTimeout
	if until, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(until), time.Millisecond)
	}
	if reads {
		timeout = min(timeout, metadataAttempt)
	}
	data, err := c.ask(ctx, Request{Subject: subject, Payload: payload, Timeout: timeout})
	if err != nil {
		return err
	}
	return decodeEnvelope(subject, data, reply)
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
	data []byte
	err  error
}

// ask sends a request to any node and waits for the first reply.
func (c *Client) ask(ctx context.Context, r Request) ([]byte, error) {
	done := make(chan answer, 1)
	call, err := c.Conn(0).Call(r, func(data []byte, err error) { offer(done, answer{data, err}) })
	if err != nil {
		return nil, err
	}
	defer call.Cancel()
	select {
	case a := <-done:
		return a.data, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.ctx.Done():
		return nil, ErrClosed
	}
}

// offer sends a unless one was sent before: handlers must not block.
func offer(to chan answer, a answer) {
	select {
	case to <- a:
	default:
	}
}
