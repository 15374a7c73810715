package producerstate

// sequences is the size of the sequence space: after sequence 2^31-1 comes 0.
const sequences = 1 << 31

// stored is one remembered batch: 16 bytes, so a full window of 64 takes 1 KiB.
type stored struct {
	sequence int32 // of the first record
	count    int32 // records
	offset   int64 // of the first record
}

// producer is what is known of one producer id.
type producer struct {
	// window holds the last batches of this epoch, oldest at head, as a ring
	// that grows by doubling up to the window of the limits: most producers
	// have few batches in flight.
	window []stored
	head   int
	n      int
	// total is the number of records stored in this epoch. Sequences start at
	// 0 and have no gaps, so the next sequence is total mod 2^31, and sequence
	// s has been stored iff some u < total has u mod 2^31 = s. That is what
	// tells a retry after a wrap-around from a gap before one.
	total int64
	epoch int16
}

func (p *producer) next() int32 { return int32(p.total % sequences) }

func (p *producer) key(id int64) Key {
	return Key{Producer: id, Epoch: p.epoch, LastSequence: int32((p.total - 1) % sequences)}
}

func (p *producer) restart(epoch int16) {
	*p = producer{window: p.window, epoch: epoch}
}

// judge decides on a batch of the producer's current epoch.
func (p *producer) judge(b Batch) (Verdict, int64) {
	next := p.next()
	if b.Sequence == next {
		return Append, OffsetUnknown
	}
	// back is how many records before next the batch begins, were it an old one.
	back := int64(next) - int64(b.Sequence)
	if back < 0 {
		back += sequences
	}
	// Not stored in this epoch, or nearer by going forward: a gap.
	if back > p.total || back > sequences/2 {
		return OutOfOrder, OffsetUnknown
	}
	// It begins with records that are stored. If it ends above the last of
	// them it was split anew, which a client must not do: neither "stored" nor
	// "append it" would be true.
	if int64(b.Count) > back {
		return OutOfOrder, OffsetUnknown
	}
	if !remembers {
		return Append, OffsetUnknown
	}
	return Duplicate, p.find(p.total - back)
}

// find returns the offset of the record with this unwrapped sequence, or
// OffsetUnknown where its batch has left the window. A record that is stored
// but forgotten is still a duplicate: answering anything else would store it
// twice, or would call what was stored out of order.
func (p *producer) find(record int64) int64 {
	end := p.total
	for i := p.n - 1; i >= 0; i-- {
		s := p.at(i)
		first := end - int64(s.count)
		if record >= first {
			return s.offset + (record - first)
		}
		end = first
	}
	return OffsetUnknown
}

func (p *producer) at(i int) *stored { return &p.window[(p.head+i)%len(p.window)] }

// push remembers s as the newest batch; limit is the window.
func (p *producer) push(s stored, limit int) {
	for p.n >= limit {
		p.head = (p.head + 1) % len(p.window)
		p.n--
	}
	if p.n == len(p.window) {
		p.grow(limit)
	}
	p.n++
	*p.at(p.n - 1) = s
	p.total += int64(s.count)
}

func (p *producer) grow(limit int) {
	w := make([]stored, min(max(1, 2*len(p.window)), limit))
	for i := range p.n {
		w[i] = *p.at(i)
	}
	p.window, p.head = w, 0
}
