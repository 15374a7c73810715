package producerstate

// message is one remembered message id.
type message struct {
	id     string
	ms     int64 // command time it was stored at
	offset int64
}

// messages remembers message ids first in, first out. Command time never goes
// back, so the queue is ordered by time as well and both bounds cut its front.
type messages struct {
	known map[string]seen
	// queue[head:] are the remembered messages, oldest first; what lies before
	// head is moved out when it is half of the slice.
	queue []message
	head  int
}

// seen is the time and offset of a known id: what a lookup needs.
type seen struct {
	ms     int64
	offset int64
}

func newMessages() messages { return messages{known: make(map[string]seen)} }

func (m *messages) len() int { return len(m.queue) - m.head }

func (m *messages) find(id []byte, nowMs int64) (int64, bool) {
	s, ok := m.known[string(id)]
	if !ok || expired(s.ms, nowMs) {
		return OffsetUnknown, false
	}
	return s.offset, true
}

func (m *messages) remember(id []byte, nowMs, offset int64, limit int) {
	for m.len() > 0 && (m.len() >= limit || expired(m.queue[m.head].ms, nowMs)) {
		m.drop()
	}
	s := string(id)
	m.known[s] = seen{ms: nowMs, offset: offset}
	m.queue = append(m.queue, message{id: s, ms: nowMs, offset: offset})
}

func (m *messages) drop() {
	delete(m.known, m.queue[m.head].id)
	m.queue[m.head] = message{}
	m.head++
	if m.head > 64 && m.head > len(m.queue)/2 {
		n := copy(m.queue, m.queue[m.head:])
		clear(m.queue[n:])
		m.queue, m.head = m.queue[:n], 0
	}
}

func expired(ms, nowMs int64) bool { return nowMs-ms > MessageIDAgeMs }
