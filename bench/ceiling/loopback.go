package ceiling

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const loopbackBytes = 256 << 10 // of a write

// loopback sends to itself for the time given.
func loopback(long time.Duration) (mbPerS float64, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("listening on loopback: %w", err)
	}
	defer func() { err = errors.Join(err, listener.Close()) }()
	out, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return 0, fmt.Errorf("connecting to loopback: %w", err)
	}
	in, err := listener.Accept()
	if err != nil {
		return 0, errors.Join(fmt.Errorf("accepting on loopback: %w", err), out.Close())
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	start, sent := time.Now(), make(chan error, 1)
	go func() { // ends after long, or when the receiver is gone
		chunk := noise(loopbackBytes)
		for time.Since(start) < long {
			if _, err := out.Write(chunk); err != nil {
				sent <- errors.Join(err, out.Close())
				return
			}
		}
		sent <- out.Close()
	}()
	// A buffer of its own: io.Discard would read by 8 KiB, and TCPConn splices.
	received, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{in}, make([]byte, loopbackBytes))
	took := time.Since(start)
	return megabytes(int(received), took), errors.Join(err, <-sent)
}
