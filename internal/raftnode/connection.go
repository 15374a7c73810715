package raftnode

import (
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// messageConnection sends message batches. Where the peer has closed, or is not
// heard of any more, it opens the connection anew before it gives up.
//
// dragonboat keeps several connections to a peer, and a failed send on any of
// them keeps it from sending on all of them for up to a second. After a peer's
// restart every one of the old connections would cost that second, one after
// the other. And after a cut of the network TCP sends again what was not
// acknowledged only when about as long as the cut has gone by once more: if a
// leader dies meanwhile, those that are left cannot elect another one.
type messageConnection struct {
	*outgoing // replaced by the goroutine that sends
	open      func() (*outgoing, error)
	tell      func(map[link]struct{})
	batches   batchWriter
	links     map[link]struct{} // entries went over since the leaders were told
}

// link leads from a shard's leader here to a follower there.
type link struct{ shard, from, to uint64 }

// Close implements raftio.IConnection.
func (c *messageConnection) Close() { c.close() }

// SendMessageBatch implements raftio.IConnection: one frame.
func (c *messageConnection) SendMessageBatch(batch pb.MessageBatch) error {
	if !c.lost() && c.write(batch) == nil {
		return nil
	}
	// The leaders are told at once: while the peer stays away each of them tries
	// with one message, and none has a queue of entries that arrive behind a gap.
	c.tellLeaders()
	if err := c.reopen(); err != nil {
		return err
	}
	// What of the batch has arrived before arrives twice, as messages may.
	err := c.write(batch)
	if err != nil {
		c.tellLeaders()
	}
	return err
}

func (c *messageConnection) write(batch pb.MessageBatch) error {
	c.note(batch.Requests)
	return c.batches.write(c.conn, batch)
}

func (c *messageConnection) note(messages []pb.Message) {
	for i := range messages {
		if m := &messages[i]; m.Type == pb.Replicate {
			c.links[link{m.ShardID, m.From, m.To}] = struct{}{}
		}
	}
}

func (c *messageConnection) tellLeaders() {
	c.tell(c.links)
	clear(c.links)
}

// reopen puts a new connection in the place of a broken one.
func (c *messageConnection) reopen() error {
	fresh, err := c.open()
	if err != nil {
		return err
	}
	c.close()
	c.outgoing = fresh
	return nil
}
