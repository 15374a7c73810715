package natsapi

import (
	"context"

	"github.com/nats-io/nats.go"
)

// Drain stops serving, after the node's leaderships were handed over: new
// requests are answered with SHUTTING_DOWN, those in work are finished, then
// the broker's own connections are drained, so that every answer is out before
// the server is told to go. It ends early with ctx's error. Close comes next.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	s.partitions.stop()
	for _, sub := range s.shared {
		// Another node of the queue group takes the next request. What has
		// arrived already is still answered.
		if err := sub.Drain(); err != nil {
			s.logger.Debug("drain of a subscription failed", "subject", sub.Subject, "err", err)
		}
	}
	err := s.core.Drain(ctx)
	s.leaders.stop()
	closed := make([]chan struct{}, 0, len(s.conns()))
	for _, c := range s.conns() {
		done := make(chan struct{})
		c.SetClosedHandler(func(*nats.Conn) { close(done) })
		if c.Drain() == nil {
			closed = append(closed, done)
		}
	}
	for _, done := range closed {
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// Close shuts the NATS server down and returns when it is down. Clients that
// are still connected get Options.LameDuck to find another node: the server
// closes their connections one by one over that time, this broker's own among
// them, which is why Drain comes first. Close may follow a Start that failed.
func (s *Server) Close() {
	s.draining.Store(true)
	s.partitions.stop()
	s.leaders.stop()
	for _, c := range s.conns() {
		c.Close()
	}
	if s.nats == nil {
		return
	}
	if s.options.LameDuck > 0 && s.nats.NumClients() > 0 {
		s.nats.LameDuckShutdown()
	}
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
}
