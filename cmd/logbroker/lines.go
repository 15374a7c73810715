package main

import (
	"bytes"
	"context"
	"errors"
	"io"
)

// Bounds of reading input. A record longer than recordBytesMax is skipped: no
// topic takes one, and memory stays bounded.
const (
	chunkBytes     = 256 << 10
	chunks         = 3
	recordBytesMax = 4 << 20
)

// errRecordTooLong: the record was skipped, the next one can be read.
var errRecordTooLong = errors.New("the record is longer than any topic takes")

// lineReader cuts input into records that end in a terminator.
type lineReader struct {
	terminator []byte
	per        int // terminators in one record, its last included
	filled     <-chan chunk
	empty      chan<- []byte

	// pending is what was read and not returned; it begins at start.
	pending []byte
	start   int
	end     error // what the input ended with
	// line is the number of the record returned last, counted in terminators
	// from 1; after is that of the next one.
	line, after int64
}

// chunk is a piece of input, or how it ended.
type chunk struct {
	data []byte
	err  error
}

// newLineReader starts the goroutine that reads in. It ends when the input does;
// it cannot be stopped inside a read, so at the end of the process it may
// still be there.
func newLineReader(in io.Reader, terminator []byte, per int) *lineReader {
	filled, empty := make(chan chunk, chunks), make(chan []byte, chunks)
	for range chunks {
		empty <- make([]byte, chunkBytes)
	}
	go readChunks(in, filled, empty)
	return &lineReader{terminator: terminator, per: per, filled: filled, empty: empty, after: 1}
}

// readChunks hands on whatever a read returns, at once: input may come slowly.
func readChunks(in io.Reader, filled chan<- chunk, empty <-chan []byte) {
	for buf := range empty {
		n, err := in.Read(buf[:cap(buf)])
		filled <- chunk{buf[:n], err}
		if err != nil {
			return
		}
	}
}

// next returns the next record without its terminator. The slice is valid until
// the following call. Errors: errRecordTooLong, io.EOF, the input's own, ctx's;
// the last only where nothing more has been read already.
func (l *lineReader) next(ctx context.Context) ([]byte, error) {
	scanned, found, skipping := 0, 0, false
	for {
		rest := l.pending[l.start+scanned:]
		for found < l.per {
			i := bytes.Index(rest, l.terminator)
			if i < 0 {
				break
			}
			found++
			rest, scanned = rest[i+len(l.terminator):], scanned+i+len(l.terminator)
		}
		if found == l.per {
			return l.take(scanned, skipping)
		}
		// A terminator may lie across the border of what is there.
		scanned = max(scanned, len(l.pending)-l.start-len(l.terminator)+1)
		if l.end != nil {
			return l.last(found, skipping)
		}
		if scanned > recordBytesMax {
			skipping = true
			l.start += scanned
			scanned = 0
		}
		if err := l.fill(ctx); err != nil {
			return nil, err
		}
	}
}

// take returns the record of n bytes, terminator included.
func (l *lineReader) take(n int, skipping bool) ([]byte, error) {
	record := l.pending[l.start : l.start+n-len(l.terminator)]
	l.start += n
	l.line, l.after = l.after, l.after+int64(l.per)
	if skipping || len(record) > recordBytesMax {
		return nil, errRecordTooLong
	}
	return record, nil
}

// last returns what is left at the end of the input: a record whose last
// terminator is missing. Where records do not end in a newline, the one that
// an editor or echo adds is not a record.
func (l *lineReader) last(found int, skipping bool) ([]byte, error) {
	record := l.pending[l.start:]
	l.start = len(l.pending)
	newlines := l.terminator[len(l.terminator)-1] != '\n' && len(bytes.Trim(record, "\r\n")) == 0
	if len(record) == 0 && !skipping || newlines {
		return nil, l.end
	}
	l.line, l.after = l.after, l.after+int64(found)+1
	if skipping || len(record) > recordBytesMax {
		return nil, errRecordTooLong
	}
	return record, nil
}

// fill waits for a chunk and appends it to what is pending.
func (l *lineReader) fill(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var c chunk
	select {
	case c = <-l.filled:
	case <-ctx.Done():
		return ctx.Err()
	}
	l.pending = append(l.pending[:copy(l.pending, l.pending[l.start:])], c.data...)
	l.start = 0
	if l.end = c.err; l.end == nil {
		l.empty <- c.data
	}
	return nil
}
