package partitions

// inFlight is an append whose outcome is open.
type inFlight struct {
	proposal proposal
	done     func(AppendResult)
	bytes    int64
	epoch    int32
	appendMs int64
	// over is Partition.epochOver as of epoch.
	over <-chan struct{}
}

// queue is a FIFO of appends as a ring, so that steady state allocates nothing.
// It grows by doubling; the caller bounds it. It is guarded by Partition.mu.
type queue struct {
	ring  []inFlight // len(ring) is 0 or a power of two
	first int
	// n ≤ len(ring) is the number of appends in flight, bytes = Σ bytes of them.
	n     int
	bytes int64
}

func (q *queue) at(i int) *inFlight { return &q.ring[(q.first+i)&(len(q.ring)-1)] }

func (q *queue) push(f inFlight) {
	if q.n == len(q.ring) {
		q.grow()
	}
	*q.at(q.n) = f
	q.n++
	q.bytes += f.bytes
}

func (q *queue) grow() {
	ring := make([]inFlight, max(8, 2*len(q.ring)))
	for i := range q.n {
		ring[i] = *q.at(i)
	}
	q.ring, q.first = ring, 0
}

// head returns the oldest; n > 0.
func (q *queue) head() inFlight { return *q.at(0) }

// pop removes the oldest; n > 0.
func (q *queue) pop() {
	f := q.at(0)
	q.bytes -= f.bytes
	*f = inFlight{} // the ring must not keep the caller's closure alive
	q.first = (q.first + 1) & (len(q.ring) - 1)
	q.n--
}
