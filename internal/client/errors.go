package client

import (
	"errors"
	"math/rand/v2"
	"time"
)

// What can become of a call besides a reply. Only ErrNoResponders and
// ErrNotSent are definite: nobody got the request.
var (
	// ErrTimeout: no reply in time; the outcome is unknown.
	ErrTimeout = errors.New("no reply in time")
	// ErrDisconnected: the connection broke with the request under way; the
	// outcome is unknown.
	ErrDisconnected = errors.New("the connection broke before the reply came")
	// ErrNoResponders: nobody answers the subject at the moment.
	ErrNoResponders = errors.New("no broker answers at the moment (no leader, or still starting)")
	// ErrNotSent: the request did not leave this process.
	ErrNotSent = errors.New("not sent: there is no connection to the cluster at the moment")
	// ErrClosed: the client is closed.
	ErrClosed = errors.New("the client is closed")
)

// Backoff returns how long to wait before attempt n+1 after n failures: from
// least, doubling, up to most, the upper half of it at random.
func Backoff(n int, least, most time.Duration) time.Duration {
	d := most
	if n < 20 {
		d = min(most, least<<max(n-1, 0))
	}
	return d/2 + rand.N(d/2+1)
}
