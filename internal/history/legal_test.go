package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// handOutMax is how long the simulated members may go on without knowing.
const handOutMax = 1000

// ackMax is longer than a message in the simulation waits once all is healed.
const ackMax = 1000

// world makes legal histories: a log of three replicas, producers, and groups
// with a coordinator that keeps the rules, step by step at random.
type world struct {
	rng   *rand.Rand
	now   int64
	files map[string][]Event // by process
	names []string           // of files, in the order of their making

	partitions, producers int
	logs                  [][]uint64 // partition → messages
	sequence              []int64    // by producer
	flying                []flight   // invoked, not stored
	acks                  []Event    // stored, not answered
	sent                  uint64

	groups []*simGroup
	born   int

	readers []*simReader
	// open are messages whose answer was lost.
	open []Event
}

// simReader reads partition after partition, without a group.
type simReader struct {
	name  string
	epoch []int32
	at    []int64
}

type flight struct {
	message  uint64
	producer int
}

type simGroup struct {
	name      string
	owner     []*simMember // by partition; nil: nobody
	committed []int64
	members   []*simMember
}

type simMember struct {
	name    string
	dead    bool
	stopped bool
	fenced  bool // removed, and does not know it
	epochs  []int32
	holds   []bool // as it believes
	at      []int64
}

func newWorld(seed uint64, groups int) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), now: 1000, files: map[string][]Event{}, partitions: 3, producers: 2}
	w.logs, w.sequence = make([][]uint64, w.partitions), make([]int64, w.producers)
	for i := range groups {
		w.groups = append(w.groups, &simGroup{name: fmt.Sprint("group ", i), owner: make([]*simMember, w.partitions), committed: make([]int64, w.partitions)})
	}
	return w
}

// withReaders adds readers.
func (w *world) withReaders(n int) *world {
	for i := range n {
		w.readers = append(w.readers, &simReader{name: fmt.Sprint("reader ", i), epoch: make([]int32, w.partitions), at: make([]int64, w.partitions)})
	}
	return w
}

// record writes e to a file and lets time go on.
func (w *world) record(file string, e Event) {
	w.now += 10 + w.rng.Int64N(20)
	e.At = w.now
	if _, known := w.files[file]; !known {
		w.names = append(w.names, file)
	}
	if e.Process == "" {
		e.Process = file
	}
	w.files[file] = append(w.files[file], e)
}

// run takes n steps, and brings everything to an end where drain is set.
func (w *world) run(n int, drain bool) *world {
	for range n {
		w.produce()
		if len(w.groups) > 0 {
			w.consume(w.groups[w.rng.IntN(len(w.groups))])
		}
		if len(w.readers) > 0 {
			w.read(w.readers[w.rng.IntN(len(w.readers))], int32(w.rng.IntN(w.partitions)))
		}
	}
	if drain {
		w.heal()
	}
	for p, log := range w.logs {
		for offset, message := range log {
			for replica := uint64(1); replica <= 3; replica++ {
				w.record(fmt.Sprint("replica ", replica), Event{Kind: Stored, Replica: replica, Partition: int32(p), Offset: int64(offset), Message: message})
			}
		}
	}
	for _, g := range w.groups {
		w.end(g, drain)
	}
	return w
}

// produce sends, stores or answers something.
func (w *world) produce() {
	switch w.rng.IntN(3) {
	case 0:
		w.send(w.rng.IntN(w.producers))
	case 1:
		if len(w.flying) > 0 {
			w.store()
		}
	case 2:
		if len(w.acks) > 0 {
			i := w.rng.IntN(len(w.acks))
			if w.rng.IntN(10) > 0 {
				w.record(w.acks[i].Process, w.acks[i])
			} else {
				w.open = append(w.open, w.acks[i]) // it is never answered
			}
			w.acks = slices.Delete(w.acks, i, i+1)
		}
	}
}

// heal ends all faults: what is open ends as unknown, and what is sent from then
// on is acked.
func (w *world) heal() {
	for _, e := range append(w.open, w.acks...) {
		w.record(e.Process, Event{Kind: Unknown, Message: e.Message})
	}
	for _, f := range w.flying {
		w.record(fmt.Sprint("producer ", f.producer), Event{Kind: Unknown, Message: f.message})
	}
	w.open, w.acks, w.flying = nil, nil, nil
	w.record("nemesis", Event{Kind: Healed})
	for range 5 {
		w.send(0)
		w.store()
		for _, e := range w.acks {
			w.record(e.Process, e)
		}
		w.acks = nil
	}
}

func (w *world) send(producer int) {
	w.sent++
	w.sequence[producer]++
	w.record(fmt.Sprint("producer ", producer), Event{Kind: Invoke, Message: w.sent, Producer: uint64(producer), Sequence: w.sequence[producer]})
	w.flying = append(w.flying, flight{w.sent, producer})
}

// read is one step of a reader: it begins somewhere, reads on, or asks how far
// the log goes.
func (w *world) read(r *simReader, p int32) {
	end := int64(len(w.logs[p]))
	switch {
	case r.epoch[p] == 0 || w.rng.IntN(20) == 0:
		r.epoch[p]++
		r.at[p] = w.rng.Int64N(end + 1)
	case w.rng.IntN(4) == 0:
		w.record(r.name, Event{Kind: Watermark, Began: w.now + 1, Partition: p, High: end})
	case r.at[p] < end:
		w.record(r.name, Event{Kind: Read, Member: r.name, Epoch: r.epoch[p], Partition: p, Offset: r.at[p], High: end, Message: w.logs[p][r.at[p]]})
		r.at[p]++
	}
}

// store takes the oldest of a producer's messages in flight.
func (w *world) store() {
	f := w.flying[w.rng.IntN(len(w.flying))]
	i := slices.IndexFunc(w.flying, func(o flight) bool { return o.producer == f.producer })
	f = w.flying[i]
	w.flying = slices.Delete(w.flying, i, i+1)
	file := fmt.Sprint("producer ", f.producer)
	switch w.rng.IntN(20) {
	case 0:
		w.record(file, Event{Kind: Fail, Message: f.message})
		return
	case 1:
		w.record(file, Event{Kind: Unknown, Message: f.message})
		return
	}
	p := w.rng.IntN(w.partitions)
	w.logs[p] = append(w.logs[p], f.message)
	kind := OK
	if w.rng.IntN(20) == 0 {
		kind = Unknown
	}
	e := Event{Kind: kind, Message: f.message, Process: file}
	if kind == OK {
		e.Partition, e.Offset = int32(p), int64(len(w.logs[p])-1)
	}
	w.acks = append(w.acks, e)
}

func (w *world) join(g *simGroup) *simMember {
	w.born++
	m := &simMember{name: fmt.Sprint("member ", w.born), epochs: make([]int32, w.partitions), holds: make([]bool, w.partitions), at: make([]int64, w.partitions)}
	g.members = append(g.members, m)
	w.record(m.name, Event{Kind: Begin, Group: g.name, Member: m.name, Flushed: true})
	return m
}

func (m *simMember) event(g *simGroup, kind Kind, p int) Event {
	return Event{Kind: kind, Group: g.name, Member: m.name, Epoch: m.epochs[p], Partition: int32(p)}
}

// consume lets something happen in a group.
func (w *world) consume(g *simGroup) {
	alive := slices.DeleteFunc(slices.Clone(g.members), func(m *simMember) bool { return m.dead })
	if len(alive) < 2 {
		w.join(g)
		return
	}
	m, p := alive[w.rng.IntN(len(alive))], w.rng.IntN(w.partitions)
	switch {
	case m.stopped:
		if w.rng.IntN(4) == 0 {
			w.resume(g, m)
		}
	case m.fenced:
		w.lose(g, m)
	default:
		w.act(g, m, p)
	}
}

// act is one step of a member that is awake and in the group.
func (w *world) act(g *simGroup, m *simMember, p int) {
	switch n := w.rng.IntN(100); {
	case n < 2:
		w.join(g)
	case n < 4:
		w.kill(g, m)
	case n < 6:
		w.leave(g, m)
	case n < 8:
		w.stop(g, m)
	case n < 20 && g.owner[p] == nil && !m.holds[p]:
		w.assign(g, m, p)
	case n < 23 && g.owner[p] == m:
		w.record(m.name, m.event(g, Revoked, p))
		w.release(g, m, p)
	case n < 40 && g.owner[p] == m && m.at[p] > g.committed[p]:
		w.commit(g, m, p)
	case n < 45:
		w.fetch(g, p)
	case m.holds[p]:
		w.deliver(g, m, p)
	}
}

func (w *world) assign(g *simGroup, m *simMember, p int) {
	g.owner[p], m.holds[p], m.at[p] = m, true, g.committed[p]
	m.epochs[p]++
	e := m.event(g, Assigned, p)
	e.Offset = m.at[p]
	w.record(m.name, e)
}

func (w *world) deliver(g *simGroup, m *simMember, p int) {
	if m.at[p] < int64(len(w.logs[p])) {
		e := m.event(g, Delivered, p)
		e.Offset, e.Message = m.at[p], w.logs[p][m.at[p]]
		m.at[p]++
		w.record(m.name, e)
	}
}

func (w *world) commit(g *simGroup, m *simMember, p int) {
	e := m.event(g, Committed, p)
	e.Began, e.Offset = w.now+1, m.at[p]
	g.committed[p] = m.at[p]
	w.record(m.name, e)
}

func (w *world) fetch(g *simGroup, p int) {
	w.record("observer", Event{Kind: Fetched, Began: w.now + 1, Group: g.name, Partition: int32(p), Offset: g.committed[p]})
}

// release ends an ownership in good order: what was delivered may be committed
// without anybody writing that down.
func (w *world) release(g *simGroup, m *simMember, p int) {
	if w.rng.IntN(2) == 0 {
		g.committed[p] = m.at[p]
	}
	m.holds[p], g.owner[p] = false, nil
}

// remove takes from m all it owns.
func (g *simGroup) remove(m *simMember) {
	for p, owner := range g.owner {
		if owner == m {
			g.owner[p] = nil
		}
	}
}

func (w *world) kill(g *simGroup, m *simMember) {
	w.record("nemesis", Event{Kind: Killed, Process: m.name})
	m.dead = true
	g.remove(m)
}

func (w *world) leave(g *simGroup, m *simMember) {
	for p := range m.holds {
		if g.owner[p] == m {
			w.record(m.name, m.event(g, Leaving, p))
			w.release(g, m, p)
		}
	}
	w.record(m.name, Event{Kind: End})
	m.dead = true
	g.remove(m)
}

func (w *world) stop(g *simGroup, m *simMember) {
	w.record("nemesis", Event{Kind: Stopped, Process: m.name})
	m.stopped = true
	if w.rng.IntN(3) > 0 {
		m.fenced = true
		g.remove(m)
	}
}

// resume wakes a member, which may have records at hand.
func (w *world) resume(g *simGroup, m *simMember) {
	w.record("nemesis", Event{Kind: Resumed, Process: m.name})
	m.stopped = false
	for p := range m.holds {
		if m.holds[p] {
			w.deliver(g, m, p)
		}
	}
}

func (w *world) lose(g *simGroup, m *simMember) {
	w.record(m.name, Event{Kind: Refused, Group: g.name, Member: m.name})
	for p := range m.holds {
		if m.holds[p] {
			w.record(m.name, m.event(g, Lost, p))
			m.holds[p] = false
		}
	}
	m.fenced = false
}

// end brings a group to its end; where drain is set one member reads all there is.
func (w *world) end(g *simGroup, drain bool) {
	for _, m := range g.members {
		if m.dead {
			continue
		}
		if m.stopped {
			w.resume(g, m)
		}
		if m.fenced {
			w.lose(g, m)
		}
		w.leave(g, m)
	}
	if drain {
		m := w.join(g)
		for p := range w.logs {
			w.assign(g, m, p)
			for m.at[p] < int64(len(w.logs[p])) {
				w.deliver(g, m, p)
			}
			w.commit(g, m, p)
		}
		w.leave(g, m)
	}
	for p := range w.logs {
		w.fetch(g, p)
	}
}

// events returns all files, one after the other in random order.
func (w *world) events() []Event {
	var all []Event
	for _, i := range w.rng.Perm(len(w.names)) {
		all = append(all, w.files[w.names[i]]...)
	}
	return all
}

func (w *world) options(drained bool) Options {
	o := Options{HandOutMax: handOutMax}
	if drained {
		o.AckMax = ackMax
	}
	for _, g := range w.groups {
		if drained {
			o.Drained = append(o.Drained, g.name)
		}
	}
	return o
}
