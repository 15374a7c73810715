package metadata

import (
	"context"
	"log/slog"
	"time"
)

// BalancerOptions configures a Balancer. Image, Leaders, IsLeader, Alive and
// Transfer have no default.
type BalancerOptions struct {
	// Interval is the time between two rounds. Default 5 s.
	Interval time.Duration
	// MaxMoves bounds the moves that are under way at once. Default 4.
	MaxMoves int
	// MoveRounds is after how many intervals a move that was not seen in Leaders
	// counts as failed. Default 3. A failed partition is left alone for twice
	// that.
	MoveRounds int
	// Image returns the newest metadata image.
	Image func() *Image
	// Leaders is who leads what.
	Leaders *Leaders
	// IsLeader says whether this node's metadata replica leads; only there does
	// the balancer do anything.
	IsLeader func() bool
	// Alive says whether a node answers now.
	Alive func(node uint64) bool
	// CaughtUp says whether a node's replica of a shard may take over. nil means
	// that all may.
	CaughtUp func(shard, node uint64) bool
	// Transfer asks node from, which leads shard, to hand over to node to. It
	// may return before that has happened. It is called from goroutines of the
	// balancer, at most MaxMoves at once, with a context that ends with the move.
	Transfer func(ctx context.Context, shard, from, to uint64) error
	// Logger takes the log lines. Default: discard.
	Logger *slog.Logger
}

// Balancer keeps the leaders of each topic spread over the nodes that are alive.
type Balancer struct{}

// NewBalancer returns a Balancer that does nothing until Start.
func NewBalancer(o BalancerOptions) *Balancer { return &Balancer{} }

// Start runs the balancer until ctx ends or Stop is called.
func (b *Balancer) Start(ctx context.Context) { panic("skeleton") }

// Stop ends the balancer and waits for it.
func (b *Balancer) Stop() { panic("skeleton") }

// Nudge asks for a round now. It never blocks.
func (b *Balancer) Nudge() { panic("skeleton") }

// Pending returns how many moves are wanted now or under way: 0 means balanced.
func (b *Balancer) Pending() int { panic("skeleton") }
