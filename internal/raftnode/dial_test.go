package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// attempts is a network: what comes of each attempt to connect, in order; the
// last one holds for those after it, too.
type attempts struct {
	outcomes []func(context.Context) (net.Conn, error)
	n        atomic.Int32
}

func (a *attempts) connect(ctx context.Context) (net.Conn, error) {
	return a.outcomes[min(int(a.n.Add(1)), len(a.outcomes))-1](ctx)
}

func inTurn(o ...func(context.Context) (net.Conn, error)) []func(context.Context) (net.Conn, error) {
	return o
}

func swallowed(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }

func fails(err error) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) { return nil, fmt.Errorf("dial: %w", err) }
}

func TestADialDoesNotWaitForARequestThatACutSwallowed(t *testing.T) {
	for name, c := range map[string]struct {
		outcomes []func(context.Context) (net.Conn, error)
		after    time.Duration
		want     error
	}{
		"the third gets through":       {inTurn(swallowed, swallowed, nil), 2 * redialEvery, nil},
		"no way there, and then one":   {inTurn(fails(syscall.EHOSTUNREACH), fails(syscall.ENETUNREACH), nil), 2 * redialEvery, nil},
		"nobody listens":               {inTurn(fails(syscall.ECONNREFUSED)), 0, syscall.ECONNREFUSED},
		"nobody listens after a while": {inTurn(swallowed, fails(syscall.ECONNREFUSED)), redialEvery, syscall.ECONNREFUSED},
		"nothing gets through":         {inTurn(swallowed), dialTimeout, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				defer theirs.Close()
				for i := range c.outcomes {
					if c.outcomes[i] == nil {
						c.outcomes[i] = func(context.Context) (net.Conn, error) { return ours, nil }
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), dialTimeout)
				defer cancel()
				began := time.Now()
				conn, err := firstOf(ctx, (&attempts{outcomes: c.outcomes}).connect)
				if !errors.Is(err, c.want) || (err == nil) != (conn == ours) || time.Since(began) != c.after {
					t.Errorf("%v, %v after %v, want %v after %v", conn, err, time.Since(began), c.want, c.after)
				}
			})
		})
	}
}
