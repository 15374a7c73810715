package raftnode

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A body of kindMessages is a raftpb.MessageBatch whose long commands stand behind
// it instead of in it: they go from the entries to the socket and from the socket
// into memory of their own, and nobody copies them in between.
//
//	off  size field
//	0    4    number c of commands cut out, little endian, as all here
//	4    4    length s of the batch
//	8    8c   for each of them: the place of its entry among all entries of the
//	          batch, 4 bytes; its length, 4 bytes. Places rise
//	8+8c s    raftpb.MessageBatch; the entries above have no command
//	…         the commands, in the same order
const (
	batchHeadBytes = 8
	cutBytes       = 8

	// A command of this size is cut out. Below it a copy costs less than a piece.
	cutCommandBytesMin = 4 << 10
	// A command's memory grows from this size with what has arrived. Batches of
	// records are smaller as a rule, and are read at once.
	firstCommandBytes = 1<<20 + 4<<10
)

// batchWriter writes message batches to one connection. One goroutine uses it.
// Between two calls it keeps its memory and nothing of a batch.
type batchWriter struct {
	requests []pb.Message
	entries  []pb.Entry // of requests, without the commands that are cut out
	table    []byte
	pieces   net.Buffers // the head, then the commands
}

// write writes batch as one frame. The batch's entries belong to dragonboat, are
// never changed there either, and are not read any more on return.
func (w *batchWriter) write(conn net.Conn, batch pb.MessageBatch) error {
	defer w.forget()
	w.pieces = append(w.pieces[:0], nil)
	w.cut(&batch)
	buf := getFrameBuffer()
	defer putFrameBuffer(buf)
	const at = frameHeaderBytes + batchHeadBytes
	if need := at + len(w.table) + batch.SizeUpperLimit(); len(*buf) < need {
		*buf = make([]byte, max(need, 64<<10))
	}
	head := *buf
	n, err := batch.MarshalTo(head[at+copy(head[at:], w.table):])
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(head[frameHeaderBytes:], uint32(len(w.pieces)-1))
	binary.LittleEndian.PutUint32(head[frameHeaderBytes+4:], uint32(n))
	w.pieces[0] = head[:at+len(w.table)+n]
	w.seal()
	return writePieces(conn, w.pieces)
}

// cut moves the long commands of batch to pieces. What it changes it copies
// first: requests and entries are shared with other connections.
func (w *batchWriter) cut(batch *pb.MessageBatch) {
	place := 0
	w.requests = append(w.requests[:0], batch.Requests...)
	for i := range w.requests {
		entries := w.requests[i].Entries
		w.requests[i].Entries = w.cutEntries(entries, place)
		place += len(entries)
	}
	batch.Requests = w.requests
}

// cutEntries returns entries without their long commands; the first is the
// batch's entry number place.
func (w *batchWriter) cutEntries(entries []pb.Entry, place int) []pb.Entry {
	from := len(w.entries)
	for i := range entries {
		e := entries[i]
		if len(e.Cmd) >= cutCommandBytesMin {
			w.table = binary.LittleEndian.AppendUint32(w.table, uint32(place+i))
			w.table = binary.LittleEndian.AppendUint32(w.table, uint32(len(e.Cmd)))
			w.pieces = append(w.pieces, e.Cmd)
			e.Cmd = nil
		}
		// Where this grows into new memory, earlier requests keep the old.
		w.entries = append(w.entries, e)
	}
	return w.entries[from:len(w.entries):len(w.entries)]
}

// seal fills the header of the frame that pieces make up.
func (w *batchWriter) seal() {
	header, length := w.pieces[0][:frameHeaderBytes], -frameHeaderBytes
	for _, p := range w.pieces {
		length += len(p)
	}
	binary.LittleEndian.PutUint32(header, uint32(length))
	crc := frameCRC(header[:4], w.pieces[0][frameHeaderBytes:])
	for _, p := range w.pieces[1:] {
		crc = crc32.Update(crc, castagnoli, p)
	}
	binary.LittleEndian.PutUint32(header[4:], crc)
}

// forget lets go of the batch, so that it does not live until the next one.
func (w *batchWriter) forget() {
	clear(w.requests)
	clear(w.entries)
	clear(w.pieces[:cap(w.pieces)])
	w.entries, w.table = w.entries[:0], w.table[:0]
}

// writePieces writes pieces in few system calls (writev, where conn is a plain
// TCP connection), at most writeStepBytes of several in each, so that the deadline
// is about progress. It clears what it has written.
func writePieces(conn net.Conn, pieces net.Buffers) error {
	for len(pieces) > 0 {
		size, n := len(pieces[0]), 1
		for ; n < len(pieces) && size+len(pieces[n]) <= writeStepBytes; n++ {
			size += len(pieces[n])
		}
		if n == 1 {
			if err := writeFrame(conn, pieces[0]); err != nil {
				return err
			}
			pieces = pieces[1:]
			continue
		}
		if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		step := pieces[:n:n]
		if _, err := step.WriteTo(conn); err != nil {
			return err
		}
		pieces = pieces[n:]
	}
	return nil
}

// readBatch reads the next frame as a message batch. Every long command has
// memory of its own, so that no entry keeps another's alive.
func (r *frameReader) readBatch(batch *pb.MessageBatch) error {
	header, length, err := r.begin()
	if err != nil {
		return err
	}
	var head [batchHeadBytes]byte
	if length < len(head) {
		return fmt.Errorf("%w: a message batch of %d bytes", errFrame, length)
	}
	if _, err := io.ReadFull(r.in, head[:]); err != nil {
		return err
	}
	length -= len(head)
	commands, size := int(binary.LittleEndian.Uint32(head[:])), int(binary.LittleEndian.Uint32(head[4:]))
	if commands > length/cutBytes || size > length-commands*cutBytes {
		return fmt.Errorf("%w: %d commands and a batch of %d bytes in %d bytes", errFrame, commands, size, length)
	}
	body, err := r.body(commands*cutBytes + size)
	if err != nil {
		return err
	}
	crc := crc32.Update(frameCRC(header[:4], head[:]), castagnoli, body)
	table := body[:commands*cutBytes]
	cut, crc, err := r.commands(table, length-len(body), crc)
	if err != nil {
		return err
	}
	if crc != binary.LittleEndian.Uint32(header[4:]) {
		return fmt.Errorf("%w: checksum of a message batch does not match", errFrame)
	}
	// Unmarshal copies what it keeps: body is reused.
	if err := unmarshal(batch, body[len(table):]); err != nil {
		return err
	}
	if err := joinCommands(batch, table, cut); err != nil {
		return err
	}
	r.done()
	return r.conn.SetReadDeadline(time.Time{})
}

// commands reads the commands that table speaks of, which fill length bytes, and
// carries crc on over them.
func (r *frameReader) commands(table []byte, length int, crc uint32) ([][]byte, uint32, error) {
	cut := make([][]byte, 0, len(table)/cutBytes)
	for ; len(table) > 0; table = table[cutBytes:] {
		size := int(binary.LittleEndian.Uint32(table[4:]))
		if size > length {
			return nil, 0, fmt.Errorf("%w: a command of %d bytes where %d are left", errFrame, size, length)
		}
		command, err := r.command(size)
		if err != nil {
			return nil, 0, err
		}
		crc = crc32.Update(crc, castagnoli, command)
		cut, length = append(cut, command), length-size
	}
	if length != 0 {
		return nil, 0, fmt.Errorf("%w: %d bytes behind the commands", errFrame, length)
	}
	return cut, crc, nil
}

// command reads one command into memory of its own, which grows with what has
// arrived.
func (r *frameReader) command(size int) ([]byte, error) {
	command := make([]byte, min(size, firstCommandBytes))
	for have := 0; ; {
		if err := r.readStep(command[have:]); err != nil {
			return nil, err
		}
		if have = len(command); have == size {
			return command, nil
		}
		command = append(make([]byte, 0, min(size, 2*have)), command...)
		command = command[:cap(command)]
	}
}

// joinCommands gives the entries that table speaks of their commands.
func joinCommands(batch *pb.MessageBatch, table []byte, cut [][]byte) error {
	place, first := -1, 0 // of the last command's entry; of the request's first
	request := 0
	for i, command := range cut {
		next := int(binary.LittleEndian.Uint32(table[i*cutBytes:]))
		if next <= place {
			return fmt.Errorf("%w: command of entry %d after that of entry %d", errFrame, next, place)
		}
		for place = next; request < len(batch.Requests) && place-first >= len(batch.Requests[request].Entries); request++ {
			first += len(batch.Requests[request].Entries)
		}
		if request == len(batch.Requests) {
			return fmt.Errorf("%w: command of entry %d where there are %d", errFrame, next, first)
		}
		e := &batch.Requests[request].Entries[place-first]
		if len(e.Cmd) > 0 {
			return fmt.Errorf("%w: two commands of one entry", errFrame)
		}
		e.Cmd = command
	}
	return nil
}
