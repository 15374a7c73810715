//go:build !linux

package raftnode

import (
	"net"
	"time"
)

// limitUnacknowledged does nothing where the option does not exist.
func limitUnacknowledged(net.Conn, time.Duration) {}
