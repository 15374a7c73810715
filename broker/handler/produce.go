package handler

import (
	"slices"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
	"logbroker/partitions"
)

// produceCall is one produce request from its arrival to its answer. Calls are
// pooled: applied is bound once, so a request allocates nothing here.
type produceCall struct {
	h       *Handler
	start   time.Time
	target  target
	size    int64 // bytes taken from the budget, 0 = none
	records int
	bytes   int
	reply   protocol.ProduceReply
	done    func(*protocol.ProduceReply)
	applied func(partitions.AppendResult)
}

func (h *Handler) newProduceCall(done func(*protocol.ProduceReply)) *produceCall {
	c, ok := h.produceCalls.Get().(*produceCall)
	if !ok {
		c = &produceCall{h: h}
		c.applied = c.onApplied
	}
	c.start, c.done = h.options.Clock(), done
	return c
}

// Produce appends the batch of r.Payload to its partition. It never blocks.
// Batches of one partition keep the order of the calls. done is called exactly
// once, possibly before Produce returns and possibly from the partition's
// completion goroutine; it must not block, and the reply is its only until it
// returns.
func (h *Handler) Produce(r PartitionRequest, done func(*protocol.ProduceReply)) {
	c := h.newProduceCall(done)
	if !h.gate.enter() {
		c.answer(errShuttingDown())
		return
	}
	if err := c.append(r); err != nil {
		c.finish(err)
	}
}

// append checks r and queues its batch. An error means that the batch was not
// proposed and that applied will not be called.
func (c *produceCall) append(r PartitionRequest) error {
	req, err := protocol.DecodeProduceRequest(r.Payload)
	if err != nil {
		return err
	}
	c.reply.TopicID = req.TopicID
	if c.target, err = c.h.resolve(r.Topic, req.TopicID, r.Partition); err != nil {
		return err
	}
	if c.target.replica == nil {
		return c.h.notLeader(c.target)
	}
	if err := c.check(r.Payload[req.BatchAt:]); err != nil {
		if !c.target.replica.Leader().Serving {
			return c.h.notLeader(c.target) // the leader got it too, and may think otherwise
		}
		return err
	}
	if err := c.h.checkDisk(c.target); err != nil {
		return err
	}
	size := int64(len(r.Payload))
	if !c.h.produceBudget.tryAcquire(size) {
		return throttled("node %d has %d bytes of produce requests in flight (raft.max_in_flight_bytes); retry",
			c.h.options.NodeID, c.h.produceBudget.used.Load())
	}
	c.size = size
	return c.target.replica.Append(partitions.AppendRequest{
		Buf: r.Payload, BatchAt: req.BatchAt, Epoch: req.Epoch, MsgID: req.MsgID,
	}, c.applied)
}

// diskRetryAfter is how long a producer should wait where a disk is full.
const diskRetryAfter = time.Second

// checkDisk refuses a batch that some replica of t has no room for. Every
// replica stores what the leader takes in, and one that meets a full disk ends:
// so the leader asks for all of them.
func (h *Handler) checkDisk(t target) error {
	low := h.options.DiskLow()
	if len(low) == 0 {
		return nil
	}
	for _, r := range t.replicas {
		if !slices.Contains(low, r.Node) {
			continue
		}
		err := errcode.New(errcode.DiskReserve,
			"node %d, which holds a replica of %s/%d, is below its disk reserve (storage.min_free_bytes); free space there or lower the topic's retention",
			r.Node, t.topic, t.partition)
		err.RetryAfter = diskRetryAfter
		return err
	}
	return nil
}

// check accepts exactly one whole, valid batch.
func (c *produceCall) check(b []byte) error {
	batch, rest, err := recordbatch.Parse(b)
	if err != nil {
		return err
	}
	if len(rest) != 0 {
		return errcode.New(errcode.InvalidRequest, "%d bytes follow the batch; a produce request carries exactly one", len(rest))
	}
	if err := batch.Validate(c.target.maxBatchBytes); err != nil {
		return err
	}
	c.records, c.bytes = int(batch.Count()), batch.Size()
	return nil
}

// onApplied takes the outcome of a queued batch.
func (c *produceCall) onApplied(r partitions.AppendResult) {
	c.reply.Epoch = r.Epoch
	if r.Err == nil {
		c.reply.BaseOffset, c.reply.AppendTimeMs, c.reply.Duplicate = r.BaseOffset, r.AppendTimeMs, r.Duplicate
		c.reply.Leader = c.h.options.NodeID
		c.h.metrics.Produced(c.target.topic, c.records, c.bytes, r.Duplicate)
	}
	c.finish(r.Err)
}

// finish answers and gives back what the request held, once.
func (c *produceCall) finish(err error) {
	h := c.h
	h.produceBudget.release(c.size)
	c.answer(err)
	h.gate.exit()
}

func (c *produceCall) answer(err error) {
	if e := errcode.From(err); e != nil {
		c.reply.Code, c.reply.Message, c.reply.RetryAfterMs = e.Code, e.Message, uint32(e.RetryAfter.Milliseconds())
		c.reply.BaseOffset = -1
		c.reply.Leader, c.reply.Epoch = c.h.hint(c.target)
		if aboutItself(e.Code) {
			c.reply.Leader, c.reply.Epoch = c.h.ownEpoch(c.target)
		}
	}
	h := c.h
	h.metrics.Request("produce", c.reply.Code, h.options.Clock().Sub(c.start))
	c.done(&c.reply)
	*c = produceCall{h: h, applied: c.applied}
	h.produceCalls.Put(c)
}

// aboutItself tells the refusals that a node gives before it proposes. A client
// may take one for final where the reply has the epoch it asked for: then the
// one replica that could propose in that epoch has refused. Around a leader
// change a replica that leads no more gets the request too; the epoch it has
// heard of would turn its word into the leader's, who may store the batch.
func aboutItself(c errcode.Code) bool {
	switch c {
	case errcode.Throttled, errcode.DiskReserve, errcode.NotEnoughReplicas, errcode.LeaderNotAvailable, errcode.ShuttingDown:
		return true
	}
	return false
}

// ownEpoch returns the current epoch of t, and who leads, where the replica here
// has opened that epoch itself; zeros otherwise.
func (h *Handler) ownEpoch(t target) (node uint64, epoch int32) {
	if t.replica == nil {
		return 0, 0
	}
	if l := t.replica.Leader(); l.Own {
		return l.Node, l.Epoch
	}
	return 0, 0
}
