package raftnode

import "context"

// Endpoint is the Raft port of a node.
type Endpoint struct{}

// Listen opens the port.
func Listen(o EndpointOptions) (*Endpoint, error) { panic("skeleton") }

// Addr returns the address peers are told, with the real port.
func (e *Endpoint) Addr() string { panic("skeleton") }

// HandleHandshake sets the function that answers handshakes, at most 64 KiB
// each way. It may be called before and while a Node runs; without one a
// handshake is refused.
func (e *Endpoint) HandleHandshake(h func(ctx context.Context, request []byte) ([]byte, error)) {
	panic("skeleton")
}

// Handshake sends request to the endpoint at addr and returns its reply.
func (e *Endpoint) Handshake(ctx context.Context, addr string, request []byte) ([]byte, error) {
	panic("skeleton")
}

// Close closes the port and every connection, and waits for their goroutines.
func (e *Endpoint) Close() error { panic("skeleton") }
