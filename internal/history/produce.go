package history

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// message is what is known of one message: places in the events, -1 for none.
type message struct {
	invoke, ok, fail, unknown int32
	stored                    int32 // in the witness
}

// spot is a message in the final log.
type spot struct {
	offset  int64
	event   int32
	message int32 // place in writes.messages, -1: it was never sent
}

// writes is what was sent, and the final log.
type writes struct {
	report   *Report
	events   []Event
	byID     map[uint64]int32 // place in messages
	messages []message
	// logs are the partitions as the first replica holds them, by offset; copies
	// the others.
	logs   map[int32][]spot
	copies map[copyID][]spot
}

// place is where a record lies.
type place struct {
	partition int32
	offset    int64
}

type copyID struct {
	partition int32
	replica   uint64
}

// readWrites goes through the events once.
func readWrites(r *Report, events []Event) *writes {
	w := &writes{report: r, events: events, byID: map[uint64]int32{}, logs: map[int32][]spot{}, copies: map[copyID][]spot{}}
	w.readOutcomes()
	all := map[copyID][]spot{}
	for i := range events {
		if e := &events[i]; e.Kind == Stored {
			id := copyID{e.Partition, e.Replica}
			all[id] = append(all[id], spot{e.Offset, int32(i), w.find(e.Message)})
		}
	}
	first := map[int32]uint64{}
	for id, log := range all {
		if before, ok := first[id.partition]; !ok || id.replica < before {
			first[id.partition] = id.replica
		}
		if !slices.IsSortedFunc(log, compareSpots) {
			slices.SortStableFunc(log, compareSpots)
		}
	}
	for id, log := range all {
		if id.replica == first[id.partition] {
			w.logs[id.partition] = log
		} else {
			w.copies[id] = log
		}
	}
	return w
}

func compareSpots(a, b spot) int { return cmp.Compare(a.offset, b.offset) }

// readOutcomes gathers what became of each message.
func (w *writes) readOutcomes() {
	for i := range w.events {
		e := &w.events[i]
		if e.Kind != Invoke {
			continue
		}
		if _, twice := w.byID[e.Message]; twice || e.Message == 0 {
			w.report.fault(Malformed, []Event{*e}, "message %d is sent twice; ids must be unique and not 0", e.Message)
			continue
		}
		w.byID[e.Message] = int32(len(w.messages))
		w.messages = append(w.messages, message{int32(i), -1, -1, -1, -1})
	}
	settled := 0
	for i := range w.events {
		e := &w.events[i]
		if e.Kind != OK && e.Kind != Fail && e.Kind != Unknown {
			continue
		}
		at := w.find(e.Message)
		if at < 0 {
			w.report.fault(Malformed, []Event{*e}, "an outcome of message %d, which was never sent", e.Message)
			continue
		}
		switch m := &w.messages[at]; {
		case m.ok >= 0 || m.fail >= 0:
			w.report.fault(Malformed, []Event{*e}, "message %d has two outcomes", e.Message)
		case e.Kind == OK:
			m.ok = int32(i)
			settled++
			w.report.Acked++
		case e.Kind == Fail:
			m.fail = int32(i)
			settled++
		default:
			m.unknown = int32(i)
		}
	}
	w.report.Unknown = len(w.messages) - settled
}

// find returns a message's place, -1 for one that was never sent.
func (w *writes) find(id uint64) int32 {
	if at, ok := w.byID[id]; ok {
		return at
	}
	return -1
}

func (w *writes) event(i int32) Event { return w.events[i] }

func (w *writes) judge() {
	for _, partition := range sortedKeys(w.logs) {
		w.judgeStored(w.logs[partition])
		w.judgeOrder(w.logs[partition])
	}
	w.judgeHoles()
	w.judgeReplicas()
	w.judgeAcked()
}

// judgeStored looks at each message of one log by itself.
func (w *writes) judgeStored(log []spot) {
	for _, s := range log {
		e := w.event(s.event)
		if s.message < 0 {
			w.report.fault(Phantom, []Event{e}, "partition %d, offset %d holds what was never sent", e.Partition, e.Offset)
			continue
		}
		m := &w.messages[s.message]
		switch {
		case m.stored >= 0:
			w.report.fault(Duplicate, []Event{w.event(m.stored), e}, "message %d is stored twice", e.Message)
		case m.fail >= 0:
			w.report.fault(FailedSeen, []Event{w.event(m.fail), e}, "message %d failed and is stored", e.Message)
		}
		if m.stored < 0 || m.ok >= 0 && samePlace(&e, &w.events[m.ok]) {
			m.stored = s.event
		}
	}
}

// keeps reports whether the log has a message where it was acked. Where it has
// not, another verdict says so. Without a witness every ack is believed.
func (w *writes) keeps(m *message) bool {
	return m.ok >= 0 && (len(w.logs) == 0 || m.stored >= 0 && samePlace(&w.events[m.ok], &w.events[m.stored]))
}

func samePlace(a, b *Event) bool { return a.Partition == b.Partition && a.Offset == b.Offset }

// judgeOrder looks for messages of one log that are in the wrong order.
func (w *writes) judgeOrder(log []spot) {
	last := map[uint64]int32{} // producer → its message stored last
	for _, s := range log {
		if s.message < 0 {
			continue
		}
		sent := &w.events[w.messages[s.message].invoke]
		if before, ok := last[sent.Producer]; ok && w.events[w.messages[before].invoke].Sequence > sent.Sequence {
			m := &w.messages[before]
			w.report.fault(ProducerOrder, []Event{w.event(m.invoke), *sent, w.event(s.event)},
				"producer %d sent %d before %d, and partition %d has them the other way round", sent.Producer, sent.Sequence, w.events[m.invoke].Sequence, w.events[s.event].Partition)
		}
		last[sent.Producer] = s.message
	}
	// From the end: the earliest ack of what lies behind must not be before the
	// message was sent.
	acked, at := int32(-1), int64(math.MaxInt64)
	for _, s := range slices.Backward(log) {
		if s.message < 0 {
			continue
		}
		m := &w.messages[s.message]
		if sent := &w.events[m.invoke]; at < sent.At {
			w.report.fault(RealTime, []Event{w.event(acked), *sent, w.event(s.event)}, "message %d was acked before message %d was sent, and lies behind it", w.events[acked].Message, sent.Message)
		}
		if m.ok >= 0 && w.events[m.ok].At < at {
			acked, at = m.ok, w.events[m.ok].At
		}
	}
}

// judgeReplicas compares every replica with the first one.
func (w *writes) judgeReplicas() {
	ids := make([]copyID, 0, len(w.copies))
	for id := range w.copies {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b copyID) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.replica, b.replica))
	})
	for _, id := range ids {
		log, other := w.logs[id.partition], w.copies[id]
		for i := range max(len(log), len(other)) {
			switch {
			case i >= len(other):
				w.report.fault(Diverged, []Event{w.event(log[i].event)}, "partition %d: replica %d ends before offset %d", id.partition, id.replica, log[i].offset)
			case i >= len(log):
				w.report.fault(Diverged, []Event{w.event(other[i].event)}, "partition %d: only replica %d has offset %d", id.partition, id.replica, other[i].offset)
			case log[i].offset != other[i].offset || w.events[log[i].event].Message != w.events[other[i].event].Message:
				w.report.fault(Diverged, []Event{w.event(log[i].event), w.event(other[i].event)}, "partition %d: replica %d differs at offset %d", id.partition, id.replica, log[i].offset)
			default:
				continue
			}
			break // what follows differs too
		}
	}
}

// judgeAcked looks at each acked message. One whose place was acked for another
// one too is judged no further.
func (w *writes) judgeAcked() {
	clash := w.judgePlaces()
	for i := range w.messages {
		m := &w.messages[i]
		if m.ok < 0 || clash[int32(i)] {
			continue
		}
		e := w.events[m.ok]
		switch {
		case m.stored < 0:
			verdict, why := w.where(e)
			w.report.fault(verdict, []Event{w.event(m.invoke), e}, "message %d, acked at partition %d, offset %d, %s", e.Message, e.Partition, e.Offset, why)
		case !samePlace(&e, &w.events[m.stored]):
			w.report.fault(WrongOffset, []Event{e, w.event(m.stored)}, "message %d is not stored where it was acked", e.Message)
		}
	}
}

// judgePlaces looks for places that were acked twice, and returns the messages
// that share one.
func (w *writes) judgePlaces() (clash map[int32]bool) {
	at := make(map[place]int32, len(w.messages))
	clash = map[int32]bool{}
	for i := range w.messages {
		m := &w.messages[i]
		if m.ok < 0 {
			continue
		}
		e := w.events[m.ok]
		p := place{e.Partition, e.Offset}
		other, taken := at[p]
		if !taken {
			at[p] = int32(i)
			continue
		}
		clash[int32(i)], clash[other] = true, true
		w.report.fault(TwoValues, []Event{w.event(w.messages[other].ok), e}, "partition %d, offset %d was acked for two messages", e.Partition, e.Offset)
	}
	return clash
}

// where says how a place that an ack names lies to what is stored.
func (w *writes) where(e Event) (Verdict, string) {
	log := w.logs[e.Partition]
	switch {
	case len(log) == 0 || e.Offset > log[len(log)-1].offset:
		return LostPostfix, "lies beyond the end of the log"
	case e.Offset < log[0].offset:
		return LostPrefix, "lies before the start of the log"
	}
	return LostMiddle, "is missing within the log"
}

// judgeHoles looks for offsets that hold nothing. One that an ack names is a
// lost record, and said to be that.
func (w *writes) judgeHoles() {
	acked := map[place]bool{} // filled once it is needed
	for _, partition := range sortedKeys(w.logs) {
		log := w.logs[partition]
		for i := 1; i < len(log); i++ {
			due := log[i-1].offset + 1
			if log[i].offset == due-1 {
				w.report.fault(TwoValues, []Event{w.event(log[i-1].event), w.event(log[i].event)}, "partition %d, offset %d holds two messages", partition, log[i].offset)
			}
			if log[i].offset <= due {
				continue
			}
			if len(acked) == 0 {
				w.markAcked(acked)
			}
			for ; due < log[i].offset && acked[place{partition, due}]; due++ {
			}
			if due < log[i].offset {
				w.report.fault(Hole, []Event{w.event(log[i-1].event), w.event(log[i].event)}, "partition %d: nothing at offset %d, though the log goes on behind it", partition, due)
			}
		}
	}
}

func (w *writes) markAcked(places map[place]bool) {
	for i := range w.messages {
		if ok := w.messages[i].ok; ok >= 0 {
			places[place{w.events[ok].Partition, w.events[ok].Offset}] = true
		}
	}
}

// judgeWaits looks for messages that waited for their ack though all was well.
// What was sent by a process that was killed or stopped is left out, and so is
// what had no time to be answered before the last event.
func (w *writes) judgeWaits(ackMax int64) {
	healed, last := int64(math.MaxInt64), int64(0)
	disturbed := map[string]bool{}
	for i := range w.events {
		e := &w.events[i]
		last = max(last, e.At)
		switch e.Kind {
		case Healed:
			healed = e.At
		case Killed, Stopped:
			disturbed[e.Process] = true
		}
	}
	if ackMax == 0 || healed == math.MaxInt64 {
		return
	}
	for i := range w.messages {
		m := &w.messages[i]
		sent, answered := &w.events[m.invoke], last
		if disturbed[sent.Process] || m.fail >= 0 {
			continue
		}
		proof := []Event{*sent}
		if outcome := max(m.ok, m.unknown); outcome >= 0 {
			answered = w.events[outcome].At
			proof = append(proof, w.events[outcome])
		}
		if waited := answered - max(sent.At, healed); waited > ackMax {
			w.report.fault(Stuck, proof, "message %d was not acked within %v, all faults being over", sent.Message, time.Duration(ackMax))
		}
	}
}

// storedAt returns the place in the events of what the log has at an offset, -1
// for nothing.
func (w *writes) storedAt(partition int32, offset int64) int32 {
	log := w.logs[partition]
	if len(log) == 0 {
		return -1
	}
	// Offsets are dense, so it is where it should be.
	if i := offset - log[0].offset; i >= 0 && i < int64(len(log)) && log[i].offset == offset {
		return log[i].event
	}
	if i, ok := slices.BinarySearchFunc(log, offset, func(s spot, at int64) int { return cmp.Compare(s.offset, at) }); ok {
		return log[i].event
	}
	return -1
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
