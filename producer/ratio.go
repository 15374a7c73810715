package producer

import "sync/atomic"

// savedUnit is the scale of ratio.saved.
const savedUnit = 1024

// ratio estimates how far the codec shrinks full batches of a topic, so that a
// batch is closed when it is expected to have the wanted size as it travels. A
// wrong guess costs nothing but a batch of another size: how much is put into
// one is bounded by what the topic takes uncompressed.
type ratio struct {
	// saved is how many bytes of savedUnit the codec takes away:
	// 0 ≤ saved < savedUnit. The zero ratio knows of none. Partitions of one
	// topic write it without a lock; a lesson that is lost thereby comes again.
	saved atomic.Int32
}

// learn takes in that a batch of before bytes has become one of after bytes. A
// batch that shrinks less than expected is believed at once, one that shrinks
// more by a quarter, so that data of both kinds is taken for the worse one.
func (r *ratio) learn(before, after int) {
	seen := int32(savedUnit - int64(min(after, before))*savedUnit/int64(before))
	seen = min(seen, savedUnit-1)
	if old := r.saved.Load(); seen > old {
		seen = old + (seen-old+3)/4
	}
	r.saved.Store(seen)
}

// uncompressed returns how many bytes are expected to become size.
func (r *ratio) uncompressed(size int) int {
	return int(int64(size) * savedUnit / int64(savedUnit-r.saved.Load()))
}

// openShare is the part of the buffer that open batches may have, where each
// has more than half of WithBatchBytes: the rest is for what is on its way.
const openShare = 4

// batchLimit is the size, uncompressed, at which a batch that is opened now is
// closed.
func (q *partition) batchLimit() int {
	o := &q.p.options
	limit := o.batchBytes
	if o.compression != None {
		limit = q.ratio.uncompressed(limit)
	}
	// Many open batches must not take the whole buffer before one is full.
	room := o.bufferBytes / (openShare * int64(q.p.open.Load()+1))
	limit = min(limit, max(int(min(room, 1<<30)), o.batchBytes/2))
	return min(limit, q.recordLimit())
}
