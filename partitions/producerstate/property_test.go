package producerstate

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// model is the plainest table that can be: it keeps every batch ever stored.
type model struct {
	limits Limits
	stored map[int64]*modelProducer
	ids    []modelMessage
}

type modelProducer struct {
	epoch   int16
	offsets []int64 // of every record, by unwrapped sequence
	batches []int   // first records of all batches
}

type modelMessage struct {
	id         string
	ms, offset int64
}

func (m *model) apply(b Batch, at int64) (Verdict, int64) {
	p := m.stored[b.Producer]
	if p == nil {
		if b.Sequence != 0 {
			return UnknownProducer, -1
		}
		if len(m.stored) == m.limits.Producers {
			return TooMany, -1
		}
		p = &modelProducer{epoch: b.Epoch}
		m.stored[b.Producer] = p
	}
	if b.Epoch < p.epoch {
		return InvalidEpoch, -1
	}
	if b.Epoch > p.epoch {
		if b.Sequence != 0 {
			return OutOfOrder, -1
		}
		*p = modelProducer{epoch: b.Epoch}
	}
	first, n := int(b.Sequence), len(p.offsets)
	switch {
	case first == n:
		p.batches = append(p.batches, n)
		for i := range int64(b.Count) {
			p.offsets = append(p.offsets, at+i)
		}
		return Append, at
	case first+int(b.Count) > n:
		return OutOfOrder, -1
	case len(p.batches) > m.limits.Window && first < p.batches[len(p.batches)-m.limits.Window]:
		return Duplicate, -1
	default:
		return Duplicate, p.offsets[first]
	}
}

func (m *model) message(id string, ms int64) (int64, bool) {
	for i := len(m.ids) - 1; i >= max(0, len(m.ids)-m.limits.MessageIDs); i-- {
		if e := m.ids[i]; e.id == id && ms-e.ms <= MessageIDAgeMs {
			return e.offset, true
		}
	}
	return -1, false
}

// TestTableAgreesWithTheNaiveModel runs random producers, honest and not,
// against the model, and sends the table through its snapshot form at random.
func TestTableAgreesWithTheNaiveModel(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			runAgainstModel(t, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

func runAgainstModel(t *testing.T, r *rand.Rand) {
	limits := Limits{Window: 1 + r.IntN(8), Producers: 1 + r.IntN(5), MessageIDs: 1 + r.IntN(10)}
	table := New(limits)
	m := &model{limits: limits, stored: map[int64]*modelProducer{}}
	next, now := int64(0), int64(0)
	for step := range 2000 {
		switch r.IntN(20) {
		case 0:
			table = reloaded(t, table)
		case 1:
			expireSome(t, r, table, m)
		case 2, 3, 4:
			now += int64(r.IntN(MessageIDAgeMs / 4))
			id := fmt.Sprint("m", r.IntN(20))
			got, known := table.Message([]byte(id), now)
			want, wantKnown := m.message(id, now)
			if got != want || known != wantKnown {
				t.Fatalf("step %d: message %s at %d: got %d %t, want %d %t", step, id, now, got, known, want, wantKnown)
			}
			if !known {
				table.RememberMessage([]byte(id), now, next)
				m.ids = append(m.ids, modelMessage{id, now, next})
				next++
			}
		default:
			b := randomBatch(r, m)
			got, gotOffset := table.Apply(b, next)
			want, wantOffset := m.apply(b, next)
			if got != want || gotOffset != wantOffset {
				t.Fatalf("step %d: %+v: got %s %d, want %s %d", step, b, got, gotOffset, want, wantOffset)
			}
			if got == Append {
				next += int64(b.Count)
			}
		}
	}
}

// randomBatch is often the next one, or a retry, and sometimes anything.
func randomBatch(r *rand.Rand, m *model) Batch {
	b := Batch{Producer: int64(r.IntN(8)), Count: 1 + int32(r.IntN(4))}
	p := m.stored[b.Producer]
	if p == nil {
		b.Sequence = int32(r.IntN(2))
		return b
	}
	b.Epoch, b.Sequence = p.epoch, int32(len(p.offsets))
	switch r.IntN(6) {
	case 0:
		b.Sequence = int32(r.IntN(len(p.offsets) + 4))
	case 1:
		i := p.batches[r.IntN(len(p.batches))]
		b.Sequence = int32(i)
	case 2:
		if r.IntN(8) == 0 {
			b.Epoch = max(0, b.Epoch-1+int16(r.IntN(3)))
			b.Sequence = int32(r.IntN(2))
		}
	}
	return b
}

func expireSome(t *testing.T, r *rand.Rand, table *Table, m *model) {
	t.Helper()
	keys := table.Keys(nil)
	want := 0
	for i := range keys {
		if r.IntN(2) == 0 {
			keys[i].LastSequence++ // as if it had written since
		} else {
			delete(m.stored, keys[i].Producer)
			want++
		}
	}
	if got := table.Expire(keys); got != want {
		t.Fatalf("expired %d, want %d", got, want)
	}
}

func reloaded(t *testing.T, table *Table) *Table {
	t.Helper()
	b := table.Encode(nil)
	again, err := Decode(b, table.Limits())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Encode(nil), b) {
		t.Fatal("the snapshot form is not stable")
	}
	return again
}
