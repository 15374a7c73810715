package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A snapshot's stream carries little where a state machine's snapshots do (that of
// a partition is a list of segments). So the receiver reads all of it, has
// OnSnapshot do what takes long, and only then hands it to dragonboat; the sender
// waits for the answer before it tells dragonboat that the snapshot was sent.

// spooledBytesMax bounds what the receiver holds while OnSnapshot runs. What is
// larger waits in the connection, until its sender's write times out.
const spooledBytesMax = 64 << 20

// receiveSnapshot serves one snapshot's stream of chunks.
func (t *tcpTransport) receiveSnapshot(conn net.Conn) error {
	frames := newFrameReader(conn, snapshotFrameBytesMax)
	defer frames.done()
	first, err := nextChunk(frames)
	if err != nil {
		return err
	}
	spool := []pb.Chunk{first}
	if t.onSnapshot != nil {
		if spool, err = t.hold(frames, first); err != nil {
			return err
		}
	}
	for {
		for _, chunk := range spool {
			if !t.chunks(chunk) {
				return errors.New("raftnode: snapshot chunk not accepted")
			}
			if chunk.IsLastChunk() {
				_, err := conn.Write([]byte{snapshotTaken})
				return err
			}
		}
		next, err := nextChunk(frames)
		if err != nil {
			return err
		}
		spool = append(spool[:0], next)
	}
}

// hold reads on while OnSnapshot runs, and returns what it read.
func (t *tcpTransport) hold(frames *frameReader, first pb.Chunk) ([]pb.Chunk, error) {
	ctx, cancel := context.WithCancel(t.closing)
	defer cancel()
	held := make(chan error, 1)
	offer := SnapshotOffer{Shard: first.ShardID, Replica: first.ReplicaID, From: first.From, Index: first.Index}
	t.wg.Go(func() { held <- t.onSnapshot(ctx, offer) }) // ends with ctx at the latest
	spool, bytes := []pb.Chunk{first}, len(first.Data)
	for !spool[len(spool)-1].IsLastChunk() && bytes < spooledBytesMax {
		next, err := nextChunk(frames)
		if err != nil {
			cancel()
			return nil, errors.Join(err, <-held)
		}
		spool, bytes = append(spool, next), bytes+len(next.Data)
	}
	if err := <-held; err != nil {
		return nil, fmt.Errorf("raftnode: snapshot of shard %d for replica %d refused: %w", first.ShardID, first.ReplicaID, err)
	}
	return spool, nil
}

func nextChunk(frames *frameReader) (pb.Chunk, error) {
	body, err := frames.next()
	if err != nil {
		return pb.Chunk{}, err
	}
	var chunk pb.Chunk // Unmarshal copies the data out of body, which is reused
	if err := unmarshal(&chunk, body); err != nil {
		return pb.Chunk{}, err
	}
	if chunk.ShardID == 0 || chunk.ReplicaID == 0 || chunk.From == 0 {
		return pb.Chunk{}, fmt.Errorf("%w: chunk without addressee or sender", errFrame)
	}
	return chunk, nil
}

// snapshotConnection sends the chunks of one snapshot.
type snapshotConnection struct{ *outgoing }

// SendChunk implements raftio.ISnapshotConnection. It returns from the last chunk
// when the receiver has handed all of them to its dragonboat, which may take as
// long as its OnSnapshot does; a receiver that is dead is noticed by the
// connection's keep-alive. Until then dragonboat has the receiver's replica as one
// that needs a snapshot.
func (c *snapshotConnection) SendChunk(chunk pb.Chunk) error {
	if err := c.send(&chunk, chunk.Size()); err != nil || !chunk.IsLastChunk() {
		return err
	}
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return err
		}
	}
	<-c.gone // also when the transport closes
	if !c.taken {
		return errors.New("raftnode: the snapshot was not taken")
	}
	return nil
}

// Close implements raftio.ISnapshotConnection.
func (c *snapshotConnection) Close() { c.close() }
