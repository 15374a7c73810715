package raftnode

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"logbroker/internal/errcode"
)

const (
	connectionsMax   = 4096
	handshakesMax    = 64
	handshakeTimeout = 10 * time.Second
)

// HandshakeHandler answers one handshake. Its error reaches the peer as an
// *errcode.Error.
type HandshakeHandler func(ctx context.Context, request []byte) ([]byte, error)

// Endpoint is the Raft port of a node. It listens before a NodeHost exists,
// because founding and joining a cluster are settled by handshakes on the same
// port; Raft traffic is served while a Node opened on it runs.
type Endpoint struct {
	options  EndpointOptions
	logger   *slog.Logger
	listener net.Listener
	address  string
	slots    chan struct{} // one per running handshake
	streams  chan struct{} // one per running stream

	closing context.Context // cancelled by Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup // the accept loop and one goroutine per connection

	// mu guards the fields below.
	mu        sync.Mutex
	conns     map[net.Conn]struct{} // accepted and open
	handshake HandshakeHandler
	stream    StreamHandler
	raft      *tcpTransport // nil while no Node runs
	closed    bool
}

// Listen opens the port. Its error is one line that names the address.
func Listen(o EndpointOptions) (*Endpoint, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if (o.ServerTLS == nil) != (o.ClientTLS == nil) {
		return nil, errors.New("raftnode: TLS needs both a server and a client configuration")
	}
	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, listenError(o.Listen, err)
	}
	address, err := advertised(o.Advertise, listener.Addr())
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	e := &Endpoint{
		options:  o,
		logger:   o.Logger,
		listener: listener,
		address:  address,
		slots:    make(chan struct{}, handshakesMax),
		streams:  make(chan struct{}, streamsMax),
		conns:    make(map[net.Conn]struct{}),
	}
	e.closing, e.cancel = context.WithCancel(context.Background())
	e.wg.Add(1)
	go e.accept()
	return e, nil
}

func listenError(address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("raft port %s is in use: stop the process that has it or change raft.listen: %w", address, syscall.EADDRINUSE)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("raft port %s is not permitted for this user: take a port above 1023: %w", address, syscall.EACCES)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("raft address %s is not an address of this machine: change raft.listen: %w", address, syscall.EADDRNOTAVAIL)
	}
	return fmt.Errorf("raft port %s cannot be opened, check raft.listen: %w", address, err)
}

// advertised returns the address for peers: advertise with its port 0 replaced,
// or the listener's own.
func advertised(advertise string, actual net.Addr) (string, error) {
	tcp := actual.(*net.TCPAddr)
	if advertise == "" {
		if tcp.IP.IsUnspecified() {
			return "", fmt.Errorf("raft port %s listens on every address: say which one peers shall use (cluster.advertise_host)", tcp)
		}
		return tcp.String(), nil
	}
	host, port, err := net.SplitHostPort(advertise)
	if err != nil {
		return "", fmt.Errorf("raft advertise address %q is not host:port: %w", advertise, err)
	}
	if port == "0" {
		port = fmt.Sprint(tcp.Port)
	}
	return net.JoinHostPort(host, port), nil
}

// Addr returns the address peers are told, with the real port.
func (e *Endpoint) Addr() string { return e.address }

// HandleHandshake sets the function that answers handshakes, at most
// HandshakeBytesMax each way and 10 s each. It may be called at any time; while
// there is none handshakes are refused as LEADER_NOT_AVAILABLE (retriable).
func (e *Endpoint) HandleHandshake(h func(ctx context.Context, request []byte) ([]byte, error)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handshake = h
}

// Handshake sends request to the endpoint at addr and returns its reply. A
// refusal by the peer's handler is an *errcode.Error with the handler's code. Ends with
// ctx, at the latest after 10 s.
func (e *Endpoint) Handshake(ctx context.Context, addr string, request []byte) ([]byte, error) {
	if len(request) > HandshakeBytesMax {
		return nil, fmt.Errorf("raftnode: handshake of %d bytes is above %d", len(request), HandshakeBytesMax)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, err := e.dial(ctx, addr, kindHandshake)
	if err != nil {
		return nil, fmt.Errorf("raftnode: handshake with %s: %w", addr, err)
	}
	defer conn.Close() //nolint:errcheck // the exchange is over or has failed already
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	frame := append(make([]byte, frameHeaderBytes, frameHeaderBytes+len(request)), request...)
	sealFrame(frame)
	if err := writeFrame(conn, frame); err != nil {
		return nil, handshakeError(ctx, addr, err)
	}
	reply, err := newFrameReader(conn, handshakeFrameBytesMax).next()
	if err != nil {
		return nil, handshakeError(ctx, addr, err)
	}
	return openReply(addr, reply)
}

func handshakeError(ctx context.Context, addr string, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("raftnode: handshake with %s: %w", addr, err)
}

// A reply's body is a code (int16, little endian, 0 = success) and the handler's
// reply, or the refusal's text.
func sealReply(reply []byte, err error) []byte {
	code := errcode.Of(err)
	if err != nil {
		reply = []byte(errcode.From(err).Message)
	}
	if len(reply) > HandshakeBytesMax {
		code, reply = errcode.UnknownServerError, []byte("the handshake's reply is too large")
	}
	frame := make([]byte, frameHeaderBytes, frameHeaderBytes+2+len(reply))
	frame = binary.LittleEndian.AppendUint16(frame, uint16(code))
	frame = append(frame, reply...)
	sealFrame(frame)
	return frame
}

func openReply(addr string, body []byte) ([]byte, error) {
	if len(body) < 2 {
		return nil, fmt.Errorf("raftnode: handshake with %s: %w: reply of %d bytes", addr, errFrame, len(body))
	}
	code := errcode.Code(int16(binary.LittleEndian.Uint16(body)))
	if code != errcode.None {
		return nil, errcode.New(code, "%s", body[2:])
	}
	return body[2:], nil
}

// Close closes the port and every connection, and waits for their goroutines.
// A Node on it must be closed first. A second call does nothing.
func (e *Endpoint) Close() error {
	e.cancel()
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	for conn := range e.conns {
		_ = conn.Close()
	}
	e.mu.Unlock()
	err := e.listener.Close()
	e.wg.Wait()
	return err
}

// accept runs until Close; it blocks in Accept only.
func (e *Endpoint) accept() {
	defer e.wg.Done()
	for {
		conn, err := e.listener.Accept()
		if err == nil {
			e.admit(conn)
			continue
		}
		if e.closing.Err() != nil {
			return
		}
		// Out of file descriptors, most likely: wait for some to come back.
		e.logger.Warn("raft port cannot accept", slog.Any("err", err))
		select {
		case <-e.closing.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// admit starts the goroutine of an accepted connection, which ends when the
// connection does.
func (e *Endpoint) admit(conn net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || len(e.conns) >= connectionsMax {
		_ = conn.Close()
		return
	}
	e.conns[conn] = struct{}{}
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		err := e.serve(conn)
		_ = conn.Close()
		e.mu.Lock()
		delete(e.conns, conn)
		e.mu.Unlock()
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			e.logger.Debug("raft connection closed", slog.String("peer", conn.RemoteAddr().String()), slog.Any("err", err))
		}
	}()
}

// serve tells the connection's kind and serves it to its end.
func (e *Endpoint) serve(conn net.Conn) error {
	tuneConnection(conn)
	if err := conn.SetDeadline(time.Now().Add(preambleTimeout)); err != nil {
		return err
	}
	if e.options.ServerTLS != nil {
		secured := tls.Server(conn, e.options.ServerTLS)
		if err := secured.HandshakeContext(e.closing); err != nil {
			return err
		}
		conn = secured
	}
	var first [preambleBytes]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		return err
	}
	if string(first[:len(preamble)]) != preamble {
		return fmt.Errorf("%w: not a preamble of this protocol", errFrame)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	switch kind := first[len(preamble)]; kind {
	case kindHandshake:
		return e.serveHandshake(conn)
	case kindStream:
		return e.serveStream(conn)
	case kindMessages, kindSnapshot:
		return e.serveRaft(conn, kind)
	default:
		return fmt.Errorf("%w: kind %d", errFrame, kind)
	}
}

// serveRaft hands the connection to the running Node. Without one it is closed;
// the peer tries again within a second.
func (e *Endpoint) serveRaft(conn net.Conn, kind byte) error {
	e.mu.Lock()
	t := e.raft
	e.mu.Unlock()
	if t == nil || !t.adopt(conn) {
		return nil
	}
	defer t.release(conn)
	if kind == kindMessages {
		return t.receiveMessages(conn)
	}
	return t.receiveSnapshot(conn)
}

// serveHandshake answers the one request of a handshake connection.
func (e *Endpoint) serveHandshake(conn net.Conn) error {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	default:
		return errors.New("raftnode: too many handshakes at once")
	}
	if err := conn.SetReadDeadline(time.Now().Add(preambleTimeout)); err != nil {
		return err
	}
	request, err := newFrameReader(conn, handshakeFrameBytesMax).next()
	if err != nil {
		return err
	}
	e.mu.Lock()
	handler := e.handshake
	e.mu.Unlock()
	var reply []byte
	err = errcode.New(errcode.LeaderNotAvailable, "node %s does not answer handshakes yet: try again", e.address)
	if handler != nil {
		ctx, cancel := context.WithTimeout(e.closing, handshakeTimeout)
		reply, err = handler(ctx, request)
		cancel()
	}
	return writeFrame(conn, sealReply(reply, err))
}
