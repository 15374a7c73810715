package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"logbroker/internal/errcode"
)

const (
	// streamsMax bounds the streams that an endpoint serves at once.
	streamsMax = 32
	// streamFrameBytes is the size of a stream's frames.
	streamFrameBytes = 256 << 10
	// streamSilenceMax is after how long without a byte a reader gives up: the
	// sender's own pace is far above a frame in that time.
	streamSilenceMax = 15 * time.Second
)

// StreamHandler answers one request with the bytes that it writes to w. An error
// that it returns before the first Write reaches the peer as an *errcode.Error;
// one that it returns later breaks the stream off. ctx ends with the connection
// that cannot be written to, and when the endpoint closes.
type StreamHandler func(ctx context.Context, request []byte, w io.Writer) error

// HandleStream sets the function that answers streams, at most 32 at once. While
// there is none they are refused as LEADER_NOT_AVAILABLE (retriable).
func (e *Endpoint) HandleStream(h StreamHandler) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stream = h
}

// serveStream answers the one request of a stream connection.
func (e *Endpoint) serveStream(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(preambleTimeout)); err != nil {
		return err
	}
	request, err := newFrameReader(conn, handshakeFrameBytesMax).next()
	if err != nil {
		return err
	}
	select {
	case e.streams <- struct{}{}:
		defer func() { <-e.streams }()
	default:
		refusal := errcode.New(errcode.Throttled, "node %s serves %d streams already: try again", e.address, streamsMax)
		return writeFrame(conn, sealReply(nil, refusal))
	}
	e.mu.Lock()
	handler := e.stream
	e.mu.Unlock()
	w := &streamWriter{conn: conn}
	err = errcode.New(errcode.LeaderNotAvailable, "node %s serves no streams yet: try again", e.address)
	if handler != nil {
		err = handler(e.closing, request, w)
	}
	switch {
	case err != nil && w.opened:
		return err // the missing end tells the peer
	case err != nil:
		return writeFrame(conn, sealReply(nil, err))
	}
	return w.end()
}

// streamWriter makes frames of what a handler writes.
type streamWriter struct {
	conn   net.Conn
	opened bool
	buf    []byte // the frame that is being filled, behind room for its header
}

func (w *streamWriter) open() error {
	if w.opened {
		return nil
	}
	w.opened = true
	w.buf = make([]byte, frameHeaderBytes, frameHeaderBytes+streamFrameBytes)
	return writeFrame(w.conn, sealReply(nil, nil))
}

// Write implements io.Writer.
func (w *streamWriter) Write(b []byte) (int, error) {
	if err := w.open(); err != nil {
		return 0, err
	}
	for rest := b; len(rest) > 0; {
		n := min(len(rest), cap(w.buf)-len(w.buf))
		w.buf, rest = append(w.buf, rest[:n]...), rest[n:]
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(b), nil
}

func (w *streamWriter) flush() error {
	sealFrame(w.buf)
	err := writeFrame(w.conn, w.buf)
	w.buf = w.buf[:frameHeaderBytes]
	return err
}

// end sends what is left and the empty frame.
func (w *streamWriter) end() error {
	if err := w.open(); err != nil {
		return err
	}
	if len(w.buf) > frameHeaderBytes {
		if err := w.flush(); err != nil {
			return err
		}
	}
	return w.flush()
}

// Stream sends request to the endpoint at addr and returns the bytes that its
// handler answers. A refusal is an *errcode.Error with the handler's code. Read
// returns io.EOF only behind the handler's last byte, and fails where none comes
// for 15 s. The caller must Close it; it ends with ctx too.
func (e *Endpoint) Stream(ctx context.Context, addr string, request []byte) (io.ReadCloser, error) {
	if len(request) > HandshakeBytesMax {
		return nil, fmt.Errorf("raftnode: a stream's request of %d bytes is above %d", len(request), HandshakeBytesMax)
	}
	conn, err := e.dial(ctx, addr, kindStream)
	if err != nil {
		return nil, fmt.Errorf("raftnode: stream from %s: %w", addr, err)
	}
	s := &stream{ctx: ctx, addr: addr, conn: conn, frames: newFrameReader(conn, streamFrameBytes+frameHeaderBytes)}
	s.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	frame := append(make([]byte, frameHeaderBytes, frameHeaderBytes+len(request)), request...)
	sealFrame(frame)
	if err := writeFrame(conn, frame); err != nil {
		return nil, errors.Join(s.failed(err), s.Close())
	}
	reply, err := s.next()
	if err == nil {
		_, err = openReply(addr, reply)
	}
	if err != nil {
		_ = s.Close()
		return nil, s.failed(err)
	}
	return s, nil
}

// stream is the reading end. Not for concurrent use.
type stream struct {
	ctx    context.Context // of the caller of Stream; only asked why the connection broke
	addr   string
	conn   net.Conn
	stop   func() bool
	frames *frameReader
	rest   []byte // of the present frame
	ended  bool
}

func (s *stream) next() ([]byte, error) {
	// The deadline for the frame's first byte; frameReader sets those of the rest.
	if err := s.conn.SetReadDeadline(time.Now().Add(streamSilenceMax)); err != nil {
		return nil, err
	}
	return s.frames.next()
}

// Read implements io.Reader.
func (s *stream) Read(b []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.ended {
			return 0, io.EOF
		}
		body, err := s.next()
		if err != nil {
			return 0, s.failed(err)
		}
		s.rest, s.ended = body, len(body) == 0
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *stream) failed(err error) error {
	if s.ctx.Err() != nil {
		err = s.ctx.Err()
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the last frame did not come
	}
	return fmt.Errorf("raftnode: stream from %s: %w", s.addr, err)
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.stop()
	s.frames.done()
	return s.conn.Close()
}
