package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"logbroker/bench/load"
)

// option returns a system's own option of the Spec.
func option(spec load.Spec, name, otherwise string) string {
	if value := spec.Options[name]; value != "" {
		return value
	}
	return otherwise
}

// startTimeout bounds every wait for a cluster that was just started.
const startTimeout = 60 * time.Second

// eventually calls step until it returns nil, and after startTimeout returns its
// last error.
func eventually(ctx context.Context, step func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := step()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (waited until %w)", err, ctx.Err())
		case <-ticker.C:
		}
	}
}

// freeAddresses returns n loopback addresses that nobody listens on now.
func freeAddresses(n int) ([]string, error) {
	addresses := make([]string, n)
	for i := range addresses {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("looking for a free port: %w", err)
		}
		defer func() { _ = listener.Close() }() // held until all are chosen, so that they differ
		addresses[i] = listener.Addr().String()
	}
	return addresses, nil
}
