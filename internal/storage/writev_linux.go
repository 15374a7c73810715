package storage

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// piecesPerCall is what the kernel takes at once (UIO_MAXIOV).
const piecesPerCall = 1024

// WritePieces writes pieces at f's position, one behind the other, as Write would
// write them joined. Where f is a file of the operating system they are not joined
// for it. After an error any number of leading bytes may have been written. The
// elements of pieces are changed.
func WritePieces(f File, pieces [][]byte) error {
	fd, ok := f.(interface{ Fd() uintptr })
	if !ok {
		return writeJoined(f, pieces)
	}
	for len(pieces) > 0 {
		n, err := unix.Writev(int(fd.Fd()), pieces[:min(len(pieces), piecesPerCall)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if pieces, err = unwritten(pieces, n); err != nil {
			return err
		}
	}
	runtime.KeepAlive(f)
	return nil
}
