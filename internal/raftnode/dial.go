package raftnode

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"time"
)

// keepAlive finds a silent peer in about 15 s where TCP alone takes hours.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3}

const (
	// silenceFloor is the least tcpTransport.silenceMax: within it TCP sends again
	// twice, and a process that stands still for a moment reads on.
	silenceFloor = time.Second
	// redialEvery is the time between two attempts of one dial.
	redialEvery = 200 * time.Millisecond
)

// dial opens a connection of a kind to addr and sends the preamble.
func (e *Endpoint) dial(ctx context.Context, addr string, kind byte) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := firstOf(ctx, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	})
	if err != nil {
		return nil, err
	}
	tuneConnection(conn)
	if e.options.ClientTLS != nil {
		if conn, err = secure(ctx, conn, addr, e.options.ClientTLS); err != nil {
			return nil, err
		}
	}
	if err := writeFrame(conn, append([]byte(preamble), kind)); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// firstOf begins an attempt to connect every redialEvery until one of them stands
// or ctx ends. TCP itself asks again only after 1, 3 and 7 s, which is long where
// the network was cut for a moment. That the peer refuses, which it does where its
// process is gone, and whatever is no matter of the network ends it at once.
func firstOf(ctx context.Context, connect func(context.Context) (net.Conn, error)) (net.Conn, error) {
	attempts, cancel := context.WithCancel(ctx)
	outcomes, running := make(chan dialed), 0
	defer func() {
		cancel()
		for ; running > 0; running-- { // soon: they end with attempts
			(<-outcomes).drop()
		}
	}()
	begin := func() {
		running++
		go func() { // ended by cancel, awaited above
			conn, err := connect(attempts)
			outcomes <- dialed{conn, err}
		}()
	}
	again := time.NewTicker(redialEvery)
	defer again.Stop()
	var last error
	for begin(); ; {
		select {
		case o := <-outcomes:
			running--
			if o.err == nil || !passing(o.err) {
				return o.conn, o.err
			}
			last = o.err
		case <-again.C:
			begin()
		case <-ctx.Done():
			return nil, cmp.Or(last, ctx.Err())
		}
	}
}

// dialed is what came of one attempt.
type dialed struct {
	conn net.Conn
	err  error
}

func (d dialed) drop() {
	if d.conn != nil {
		_ = d.conn.Close()
	}
}

// passing reports whether the network may be there in a moment.
func passing(err error) bool {
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.ETIMEDOUT)
}

// secure runs the client side of TLS. The server's name is addr's host unless
// the configuration names one.
func secure(ctx context.Context, conn net.Conn, addr string, c *tls.Config) (net.Conn, error) {
	if c.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		c = c.Clone()
		c.ServerName = host
	}
	secured := tls.Client(conn, c)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secured, nil
}

// tuneConnection sets what finds a dead peer soon. Nothing here is worth failing
// a connection for. TCP_NODELAY is Go's default.
func tuneConnection(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	_ = tcp.SetKeepAliveConfig(keepAlive)
	limitUnacknowledged(tcp, writeTimeout)
}
