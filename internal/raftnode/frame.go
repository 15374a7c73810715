package raftnode

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"time"
)

// The wire of the Raft port. A connection starts with a preamble of 8 bytes:
// "lbraft", the version (1), the kind. Then come frames:
//
//	off size field
//	0   4    length of the body, little endian
//	4   4    CRC-32C of bytes 0–3 and the body, little endian
//	8   …    body
//
// kindMessages: every body is a raftpb.MessageBatch as messages.go has it, one
// direction.
// kindSnapshot: every body is a raftpb.Chunk, one direction; the receiver closes
// after the sender's half close, when everything is handled, and sends the byte
// snapshotTaken before it does.
// kindHandshake: one request frame, one reply frame.
// kindStream: one request frame; then one frame with the outcome, as a handshake's
// reply, then frames of at most streamFrameBytes, the last one empty.

const (
	preamble      = "lbraft\x01"
	preambleBytes = len(preamble) + 1

	kindMessages  byte = 'm'
	kindSnapshot  byte = 's'
	kindHandshake byte = 'h'
	kindStream    byte = 'f'

	// snapshotTaken is what the receiver of a snapshot answers.
	snapshotTaken byte = 'k'

	frameHeaderBytes = 8

	// dragonboat cuts a batch at 64 MiB, but a last message may go past it, and
	// one Replicate message carries up to 64 MiB plus one entry.
	messageFrameBytesMax = 136 << 20
	// A chunk is 2 MiB of snapshot plus names and membership.
	snapshotFrameBytesMax = 4 << 20
	// HandshakeBytesMax bounds a handshake's request and its reply.
	HandshakeBytesMax      = 64 << 10
	handshakeFrameBytesMax = HandshakeBytesMax + 16

	// A buffer up to this size goes back to the pool; batches are seldom larger.
	pooledBytesMax = 8 << 20
	// A frame's body is read in steps that double from this size, so that a
	// length alone (a lie, perhaps) allocates next to nothing.
	firstReadBytes = 256 << 10
	// What is larger is read past this buffer, so it need not hold more than the
	// parts of a frame in front of its commands.
	readBufferBytes = 4 << 10
)

// Time-outs of one step on a connection.
const (
	dialTimeout     = 5 * time.Second
	preambleTimeout = 5 * time.Second
	bodyTimeout     = 10 * time.Second // per step of a body
	writeTimeout    = 10 * time.Second // per step of a write
	writeStepBytes  = 1 << 20
)

// frameBuffers holds the buffers of frames being sent and received. They are
// shared by all connections: a busy connection's frames are megabytes, most
// connections are idle, and which is which changes.
var frameBuffers = sync.Pool{New: func() any { return new([]byte) }}

func getFrameBuffer() *[]byte { return frameBuffers.Get().(*[]byte) }

func putFrameBuffer(b *[]byte) {
	if cap(*b) <= pooledBytesMax {
		frameBuffers.Put(b)
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errFrame marks bytes that no peer of ours sends.
var errFrame = errors.New("raftnode: bad frame")

// sealFrame fills the header of frame, whose body begins at frameHeaderBytes.
func sealFrame(frame []byte) {
	body := frame[frameHeaderBytes:]
	binary.LittleEndian.PutUint32(frame, uint32(len(body)))
	binary.LittleEndian.PutUint32(frame[4:], frameCRC(frame[:4], body))
}

func frameCRC(length, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, body)
}

// writeFrame writes a sealed frame: one write, or for a frame past writeStepBytes
// one per step, so that the deadline is about progress and not about size.
func writeFrame(conn net.Conn, frame []byte) error {
	for len(frame) > 0 {
		step := frame[:min(len(frame), writeStepBytes)]
		if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		if _, err := conn.Write(step); err != nil {
			return err
		}
		frame = frame[len(step):]
	}
	return nil
}

// frameReader reads the frames of one connection. Not for concurrent use.
type frameReader struct {
	conn     net.Conn
	in       *bufio.Reader
	bytesMax int
	buf      *[]byte // of the frame being read or handled; len == cap
}

func newFrameReader(conn net.Conn, bytesMax int) *frameReader {
	return &frameReader{conn: conn, in: bufio.NewReaderSize(conn, readBufferBytes), bytesMax: bytesMax}
}

// begin waits without a limit for the next frame and returns its header and the
// length of its body. io.EOF means the peer closed between two frames.
func (r *frameReader) begin() (header [frameHeaderBytes]byte, length int, err error) {
	r.done()
	if _, err := r.in.Peek(1); err != nil {
		return header, 0, err
	}
	if err := r.readStep(header[:]); err != nil {
		return header, 0, err
	}
	if length = int(binary.LittleEndian.Uint32(header[:])); length > r.bytesMax {
		return header, 0, fmt.Errorf("%w: length %d is above %d", errFrame, length, r.bytesMax)
	}
	return header, length, nil
}

// next returns the next body, valid until the next call or until done. It waits
// for the first byte without a limit, for the rest of the frame within
// bodyTimeout a step. io.EOF means the peer closed between two frames.
func (r *frameReader) next() ([]byte, error) {
	header, length, err := r.begin()
	if err != nil {
		return nil, err
	}
	body, err := r.body(length)
	if err != nil {
		return nil, err
	}
	if frameCRC(header[:4], body) != binary.LittleEndian.Uint32(header[4:]) {
		return nil, fmt.Errorf("%w: checksum of %d bytes does not match", errFrame, length)
	}
	return body, r.conn.SetReadDeadline(time.Time{})
}

// readStep fills p within bodyTimeout.
func (r *frameReader) readStep(p []byte) error {
	if err := r.conn.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
		return err
	}
	_, err := io.ReadFull(r.in, p)
	return err
}

// done gives the last frame's buffer back.
func (r *frameReader) done() {
	if r.buf != nil {
		putFrameBuffer(r.buf)
		r.buf = nil
	}
}

// body reads length bytes. The buffer grows with what has arrived.
func (r *frameReader) body(length int) ([]byte, error) {
	r.buf = getFrameBuffer()
	for have := 0; have < length; {
		if want := min(length, max(firstReadBytes, 2*have)); want > len(*r.buf) {
			grown := make([]byte, want)
			copy(grown, (*r.buf)[:have])
			*r.buf = grown
		}
		step := (*r.buf)[have:min(length, len(*r.buf))]
		if err := r.readStep(step); err != nil {
			return nil, err
		}
		have += len(step)
	}
	return (*r.buf)[:length], nil
}
