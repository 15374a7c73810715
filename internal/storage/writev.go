package storage

import (
	"bytes"
	"io"
)

// writeJoined is one Write of all pieces.
func writeJoined(f File, pieces [][]byte) error {
	_, err := f.Write(bytes.Join(pieces, nil))
	return err
}

// unwritten returns what is left of pieces after n bytes. A write that took
// nothing of something is an error: it would be tried for ever.
func unwritten(pieces [][]byte, n int) ([][]byte, error) {
	took := n > 0
	for len(pieces) > 0 && n >= len(pieces[0]) {
		n -= len(pieces[0])
		pieces = pieces[1:]
	}
	if len(pieces) == 0 {
		return nil, nil
	}
	if !took {
		return nil, io.ErrShortWrite
	}
	pieces[0] = pieces[0][n:]
	return pieces, nil
}
