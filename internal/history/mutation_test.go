package history

import (
	"slices"
	"testing"
)

// mutation makes a legal history wrong in one way.
type mutation struct {
	name    string
	verdict Verdict
	groups  int
	readers int
	// apply returns the wrong history, nil where this one has no place for it.
	apply func([]Event) []Event
}

// TestEachVerdictFiresAloneOnAHistoryThatIsWrongInThatWay is the proof of the
// checker: a legal history with one change that breaks one promise.
func TestEachVerdictFiresAloneOnAHistoryThatIsWrongInThatWay(t *testing.T) {
	for _, m := range slices.Concat(produceMutations(), readerMutations(), groupMutations()) {
		t.Run(m.name, func(t *testing.T) {
			applied := 0
			for seed := range uint64(15) {
				w := newWorld(seed, m.groups).withReaders(m.readers).run(500, true)
				wrong := m.apply(w.events())
				if wrong == nil {
					continue
				}
				applied++
				r := Check(wrong, w.options(true))
				if r.Count[m.verdict] == 0 {
					t.Fatalf("seed %d: no verdict %q; %v", seed, m.verdict, r.Count)
				}
				for _, f := range r.Faults {
					if f.Verdict != m.verdict || len(f.Events) == 0 {
						t.Fatalf("seed %d: %s", seed, f)
					}
				}
			}
			if applied < 5 {
				t.Errorf("the mutation found a place in %d of 15 histories", applied)
			}
		})
	}
}

// index returns the place of the first event that ok says yes to, from on.
func index(h []Event, from int, ok func(Event) bool) int {
	if i := slices.IndexFunc(h[from:], ok); i >= 0 {
		return from + i
	}
	return -1
}

func sentOf(h []Event, id uint64) int {
	return index(h, 0, func(e Event) bool { return e.Kind == Invoke && e.Message == id })
}

func ackOf(h []Event, id uint64) int {
	return index(h, 0, func(e Event) bool { return e.Kind == OK && e.Message == id })
}

// logOf returns the events of the first replica's partition 0, by offset.
func logOf(h []Event) []Event {
	var log []Event
	for _, e := range h {
		if e.Kind == Stored && e.Replica == 1 && e.Partition == 0 {
			log = append(log, e)
		}
	}
	slices.SortFunc(log, func(a, b Event) int { return int(a.Offset - b.Offset) })
	return log
}

// latest is a time after all events.
func latest(h []Event) int64 {
	at := int64(0)
	for _, e := range h {
		at = max(at, e.At)
	}
	return at + 10
}

// storeEverywhere adds a message at the end of partition 0 of each replica.
func storeEverywhere(h []Event, id uint64) []Event {
	end := int64(len(logOf(h)))
	for replica := uint64(1); replica <= 3; replica++ {
		h = append(h, Event{Kind: Stored, At: latest(h), Replica: replica, Offset: end, Message: id})
	}
	return h
}

// loseAcked takes what lies at a place of partition 0 from all replicas, nil where
// it was not acked.
func loseAcked(h []Event, offset int) []Event {
	id := logOf(h)[offset].Message
	if ackOf(h, id) < 0 {
		return nil
	}
	return slices.DeleteFunc(h, func(e Event) bool { return e.Kind == Stored && e.Message == id })
}

// ackAfterHealed returns the place of an ack that came after all faults were
// over.
func ackAfterHealed(h []Event) int {
	healed := index(h, 0, func(e Event) bool { return e.Kind == Healed })
	if healed < 0 {
		return -1
	}
	return index(h, 0, func(e Event) bool { return e.Kind == OK && e.At > h[healed].At })
}

func produceMutations() []mutation {
	return []mutation{
		{"the first acked record is gone", LostPrefix, 0, 0, func(h []Event) []Event { return loseAcked(h, 0) }},
		{"an acked record is gone from within", LostMiddle, 0, 0, func(h []Event) []Event { return loseAcked(h, 5) }},
		{"the last acked record is gone", LostPostfix, 0, 0, func(h []Event) []Event { return loseAcked(h, len(logOf(h))-1) }},
		{"nothing lies at an offset", Hole, 0, 0, func(h []Event) []Event {
			for _, stored := range logOf(h)[1:] {
				if ackOf(h, stored.Message) < 0 {
					id := stored.Message
					return slices.DeleteFunc(h, func(e Event) bool { return e.Kind == Stored && e.Message == id })
				}
			}
			return nil
		}},
		{"two records lie at one offset", TwoValues, 0, 0, func(h []Event) []Event {
			h = append(h, Event{Kind: Invoke, At: 1, Message: 1 << 40, Producer: 9, Sequence: 1}, Event{Kind: Unknown, At: 2, Message: 1 << 40})
			for replica := uint64(1); replica <= 3; replica++ {
				h = append(h, Event{Kind: Stored, At: latest(h), Replica: replica, Offset: 5, Message: 1 << 40})
			}
			return h
		}},
		{"an ack comes long after all faults are over", Stuck, 0, 0, func(h []Event) []Event {
			h[ackAfterHealed(h)].At += ackMax
			return h
		}},
		{"an ack never comes", Stuck, 0, 0, func(h []Event) []Event {
			i := ackAfterHealed(h)
			return slices.Delete(h, i, i+1)
		}},
		{"the client gives up long after all faults are over", Stuck, 0, 0, func(h []Event) []Event {
			e := &h[ackAfterHealed(h)]
			e.Kind, e.At = Unknown, e.At+ackMax
			return h
		}},
		{"a record that was corrupted", Phantom, 0, 0, func(h []Event) []Event {
			for i := range h {
				if h[i].Kind == Stored && ackOf(h, h[i].Message) < 0 {
					id := h[i].Message
					for j := range h {
						if h[j].Kind == Stored && h[j].Message == id {
							h[j].Message = 0
						}
					}
					return h
				}
			}
			return nil
		}},
		{"an ack names another offset", WrongOffset, 0, 0, func(h []Event) []Event {
			h[index(h, 0, func(e Event) bool { return e.Kind == OK })].Offset += 1000
			return h
		}},
		{"two acks name one place", TwoValues, 0, 0, func(h []Event) []Event {
			i := index(h, 0, func(e Event) bool { return e.Kind == OK })
			j := index(h, i+1, func(e Event) bool { return e.Kind == OK })
			h[j].Partition, h[j].Offset = h[i].Partition, h[i].Offset
			return h
		}},
		{"a delivery of another message", TwoValues, 1, 0, func(h []Event) []Event {
			i := index(h, 0, func(e Event) bool { return e.Kind == Delivered })
			h[i].Message++
			return h
		}},
		{"a record is stored again", Duplicate, 0, 0, func(h []Event) []Event {
			log := logOf(h)
			return storeEverywhere(h, log[len(log)-1].Message)
		}},
		{"a record that nobody sent", Phantom, 0, 0, func(h []Event) []Event { return storeEverywhere(h, 1<<40) }},
		{"a delivery beyond the end", Phantom, 1, 0, func(h []Event) []Event {
			return append(h, Event{Kind: Delivered, At: latest(h), Group: "group 0", Member: "member 1", Offset: int64(len(logOf(h)))})
		}},
		{"a record that failed", FailedSeen, 0, 0, func(h []Event) []Event {
			h[index(h, 0, func(e Event) bool { return e.Kind == OK })].Kind = Fail
			return h
		}},
		{"two records of a producer change places", ProducerOrder, 0, 0, func(h []Event) []Event {
			last := map[uint64]int{}
			for _, stored := range logOf(h) {
				i := sentOf(h, stored.Message)
				if j, ok := last[h[i].Producer]; ok {
					h[i].Sequence, h[j].Sequence = h[j].Sequence, h[i].Sequence
					return h
				}
				last[h[i].Producer] = i
			}
			return nil
		}},
		{"acked before one was sent that lies before it", RealTime, 0, 0, func(h []Event) []Event {
			log := logOf(h)
			i, j, ack := sentOf(h, log[3].Message), sentOf(h, log[7].Message), ackOf(h, log[7].Message)
			if ack < 0 {
				return nil
			}
			h[j].At, h[ack].At = h[i].At-5, h[i].At-4
			return h
		}},
		{"a replica has something else", Diverged, 0, 0, func(h []Event) []Event {
			i := index(h, 0, func(e Event) bool { return e.Kind == Stored && e.Replica == 3 })
			h[i].Message++
			return h
		}},
		{"a replica ends early", Diverged, 0, 0, func(h []Event) []Event {
			end := int64(len(logOf(h)) - 1)
			return slices.DeleteFunc(h, func(e Event) bool {
				return e.Kind == Stored && e.Replica == 2 && e.Partition == 0 && e.Offset == end
			})
		}},
		{"a message is sent twice", Malformed, 0, 0, func(h []Event) []Event {
			return append(h, h[index(h, 0, func(e Event) bool { return e.Kind == Invoke })])
		}},
	}
}

// last returns the place of the latest event of a kind about partition 0.
func last(h []Event, kind Kind) int {
	found := -1
	for i, e := range h {
		if e.Kind == kind && e.Partition == 0 && (found < 0 || e.At > h[found].At) {
			found = i
		}
	}
	return found
}

func readerMutations() []mutation {
	return []mutation{
		{"an ack came before the high watermark was asked for", StaleLatest, 0, 1, func(h []Event) []Event {
			at := latest(h)
			log := logOf(h)
			// Nobody may have been told more before, so that nothing goes back.
			if ackOf(h, log[len(log)-1].Message) < 0 || h[last(h, Watermark)].High == int64(len(log)) {
				return nil
			}
			return append(h, Event{Kind: Watermark, Began: at, At: at + 1, High: int64(len(log) - 1)})
		}},
		{"the high watermark is lower than before", WatermarkBack, 0, 1, func(h []Event) []Event {
			i := last(h, Watermark)
			e := h[i]
			// The record may not have been acked yet, so that it is not stale.
			for k := range h {
				if h[k].Kind == OK && h[k].Partition == 0 && h[k].Offset >= e.High-1 {
					h[k].Kind, h[k].Partition, h[k].Offset = Unknown, 0, 0
				}
			}
			e.Began, e.At = e.At+1, e.At+2
			e.High--
			return append(h, e)
		}},
		{"the high watermark covers what the log has not", AboveCommit, 0, 1, func(h []Event) []Event {
			h[last(h, Watermark)].High = int64(len(logOf(h)) + 1)
			return h
		}},
		{"a record at the high watermark", AboveCommit, 0, 1, func(h []Event) []Event {
			e := &h[last(h, Read)]
			e.High = e.Offset
			return h
		}},
		{"a record that was read and not kept", AboveCommit, 0, 1, func(h []Event) []Event {
			h = append(h, Event{Kind: Invoke, At: latest(h), Message: 1 << 40, Producer: 9, Sequence: 1}, Event{Kind: Unknown, At: latest(h) + 1, Message: 1 << 40})
			end := int64(len(logOf(h)))
			return append(h, Event{Kind: Read, At: latest(h), Member: "another", Epoch: 1, Offset: end, High: end + 1, Message: 1 << 40})
		}},
		{"another record is read than is stored", TwoValues, 0, 1, func(h []Event) []Event {
			e := &h[last(h, Read)]
			if e.Offset == 0 {
				return nil
			}
			e.Message = logOf(h)[e.Offset-1].Message
			return h
		}},
		{"a record is read that nobody sent", Phantom, 0, 1, func(h []Event) []Event {
			h[last(h, Read)].Message = 1 << 40
			return h
		}},
		{"a record is left out", Skipped, 0, 1, func(h []Event) []Event { return withoutRead(h, false) }},
		{"a record comes again", Skipped, 0, 1, func(h []Event) []Event { return withoutRead(h, true) }},
	}
}

// withoutRead takes a Read out that lies between two others of its reader, or
// has it twice.
func withoutRead(h []Event, twice bool) []Event {
	reads := map[beginning]int{}
	for i, e := range h {
		id := beginning{e.Member, e.Epoch, e.Partition}
		if e.Kind != Read {
			continue
		}
		if reads[id]++; reads[id] < 2 || index(h, i+1, func(o Event) bool { return o.Kind == Read && beginning{o.Member, o.Epoch, o.Partition} == id }) < 0 {
			continue
		}
		if twice {
			return slices.Insert(h, i, e)
		}
		return slices.Delete(h, i, i+1)
	}
	return nil
}

// handOver is where one member's ownership follows another's, in one group and
// partition, by time.
type handOver struct{ before, after int }

// handOvers returns those of a history. The events are then in the order of time.
func handOvers(h []Event) (out []handOver) {
	slices.SortStableFunc(h, func(a, b Event) int { return int(a.At - b.At) })
	last := map[shareID]int{}
	for i, e := range h {
		if e.Kind != Assigned {
			continue
		}
		id := shareID{e.Group, e.Partition}
		if before, ok := last[id]; ok && h[before].Member != e.Member {
			out = append(out, handOver{before, i})
		}
		last[id] = i
	}
	return out
}

// of returns the places of the events of an ownership that have a kind.
func of(h []Event, assigned int, kind Kind) (out []int) {
	a := h[assigned]
	for i, e := range h {
		if e.Kind == kind && e.Group == a.Group && e.Member == a.Member && e.Epoch == a.Epoch && e.Partition == a.Partition {
			out = append(out, i)
		}
	}
	return out
}

func groupMutations() []mutation {
	return []mutation{
		{"a commit takes effect after the next owner came", TwoOwners, 1, 0, func(h []Event) []Event {
			for _, o := range handOvers(h) {
				commits := of(h, o.before, Committed)
				if n := len(commits); n > 0 && h[commits[n-1]].Offset == h[o.after].Offset {
					c := &h[commits[n-1]]
					c.Began, c.At = h[o.after].At+1, h[o.after].At+2
					return h
				}
			}
			return nil
		}},
		{"a member is asked to give up what another one has", TwoOwners, 2, 0, func(h []Event) []Event {
			for _, o := range handOvers(h) {
				if revoked := of(h, o.before, Revoked); len(revoked) > 0 && !everStopped(h, h[o.before].Process) {
					h[revoked[0]].At = h[o.after].At + 1
					return h
				}
			}
			return nil
		}},
		{"a member goes on long after the next owner came", TwoOwners, 1, 0, func(h []Event) []Event {
			for _, o := range handOvers(h) {
				given := of(h, o.before, Delivered)
				n := len(given)
				if n == 0 || everStopped(h, h[o.before].Process) {
					continue
				}
				e := h[given[n-1]]
				stored := index(h, 0, func(s Event) bool {
					return s.Kind == Stored && s.Partition == e.Partition && s.Offset == e.Offset+1
				})
				if stored < 0 {
					continue
				}
				e.Offset, e.Message, e.At = e.Offset+1, h[stored].Message, h[o.after].At+handOutMax+1
				return append(h, e)
			}
			return nil
		}},
		{"a commit comes before the delivery", Gap, 1, 0, func(h []Event) []Event {
			handOvers(h) // in the order of time
			for i := range h {
				if h[i].Kind != Committed {
					continue
				}
				given := slices.IndexFunc(h, func(e Event) bool {
					return e.Kind == Delivered && e.Partition == h[i].Partition && e.Offset == h[i].Offset-1
				})
				if again := index(h, given+1, func(e Event) bool {
					return e.Kind == Delivered && e.Partition == h[i].Partition && e.Offset == h[i].Offset-1
				}); again < 0 || h[again].At > h[i].At {
					h[given].At = h[i].At + 1
					return h
				}
			}
			return nil
		}},
		{"a commit of what nobody was given", Gap, 2, 0, func(h []Event) []Event {
			return append(h, Event{Kind: Fetched, Began: latest(h), At: latest(h) + 1, Group: "group 1", Offset: int64(len(logOf(h)) + 1)})
		}},
		{"the group offset is lower at the end", OffsetWentBack, 1, 0, func(h []Event) []Event {
			return append(h, Event{Kind: Fetched, Began: latest(h), At: latest(h) + 1, Group: "group 0", Offset: int64(len(logOf(h)) - 1)})
		}},
		{"a commit takes the offset back", OffsetWentBack, 1, 0, func(h []Event) []Event {
			i := index(h, 0, func(e Event) bool { return e.Kind == Committed })
			e := h[i]
			e.Began, e.At = e.At+1, e.At+2
			e.Offset--
			return slices.Insert(h, i+1, e)
		}},
		{"an ownership begins below a commit", Redelivered, 1, 0, func(h []Event) []Event {
			for _, o := range handOvers(h) {
				commits := of(h, o.before, Committed)
				a := &h[o.after]
				if n := len(commits); n == 0 || h[commits[n-1]].Offset != a.Offset {
					continue
				}
				a.Offset--
				stored := index(h, 0, func(s Event) bool {
					return s.Kind == Stored && s.Partition == a.Partition && s.Offset == a.Offset
				})
				again := *a
				again.Kind, again.Message = Delivered, h[stored].Message
				return slices.Insert(h, o.after+1, again)
			}
			return nil
		}},
		{"a record comes twice in a row", Skipped, 1, 0, func(h []Event) []Event {
			i := index(h, 0, func(e Event) bool { return e.Kind == Delivered })
			return slices.Insert(h, i, h[i])
		}},
		{"a record that the group never gets", Undelivered, 1, 0, func(h []Event) []Event {
			h = append(h, Event{Kind: Invoke, At: latest(h), Message: 1 << 40, Producer: 9, Sequence: 1})
			return storeEverywhere(h, 1<<40)
		}},
		{"an ownership that nobody was told of", Malformed, 1, 0, func(h []Event) []Event {
			i := index(h, 0, func(e Event) bool { return e.Kind == Delivered })
			at := index(h, 0, func(e Event) bool {
				return e.Kind == Assigned && e.Member == h[i].Member && e.Epoch == h[i].Epoch && e.Partition == h[i].Partition
			})
			return slices.Delete(h, at, at+1)
		}},
	}
}

func everStopped(h []Event, process string) bool {
	return slices.ContainsFunc(h, func(e Event) bool { return e.Kind == Stopped && e.Process == process })
}
