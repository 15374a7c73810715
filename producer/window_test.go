package producer

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
	"logbroker/partitions/producerstate"
)

// encoded returns a batch of n records that is ready for a number.
func encoded(t testing.TB, n int) *batch {
	t.Helper()
	b := &batch{builder: recordbatch.NewBuilderBehind(batchAt)}
	for range n {
		b.append(&Record{Value: []byte("v")}, 1, 1, nil)
	}
	if err := b.encode(None, new(pools)); err != nil {
		t.Fatal(err)
	}
	return b
}

// fly marks an attempt of entry i as under way.
func (w *window) fly(i int) (uid, serial uint64) {
	e := &w.entries[i]
	e.serial++
	e.flying, e.alone = true, i == 0
	return e.uid, e.serial
}

func newWindow(t testing.TB, n int) *window {
	t.Helper()
	w := &window{id: 7, limit: 64}
	for range n {
		w.number(encoded(t, 2))
	}
	return w
}

func TestNumbersAreConsecutiveAndWrap(t *testing.T) {
	w := &window{id: 7, epoch: 3, next: math.MaxInt32 - 1, limit: 5}
	for _, want := range []int32{math.MaxInt32 - 1, 0, 2} {
		b := encoded(t, 2)
		w.number(b)
		got := recordbatch.Batch(b.request[batchAt:])
		if got.BaseSequence() != want || got.ProducerEpoch() != 3 || got.ProducerID() != 7 || got.CheckCRC() != nil {
			t.Fatalf("sequence %d, want %d", got.BaseSequence(), want)
		}
	}
}

func TestSettleVerdicts(t *testing.T) {
	ambiguous := outcome{kind: kindRetry, ambiguous: true, err: client.ErrTimeout}
	definite := outcome{kind: kindRetry, err: client.ErrNoResponders}
	cases := []struct {
		name     string
		before   []outcome // earlier attempts of the first batch
		last     outcome
		draining bool
		gone     bool
		want     verdict
	}{
		{"lost", nil, ambiguous, false, false, verdictResend},
		{"nobody got it", nil, definite, false, false, verdictResend},
		{"nobody got it, topic gone", nil, definite, false, true, verdictFail},
		{"lost, then topic gone", []outcome{ambiguous}, definite, false, true, verdictFail},
		{"gap", nil, outcome{kind: kindGap}, false, false, verdictRequeue},
		{"lost, then gap", []outcome{ambiguous}, outcome{kind: kindGap}, false, false, verdictResend},
		{"producer unknown", nil, outcome{kind: kindIdentity}, false, false, verdictRequeue},
		{"lost, then producer unknown", []outcome{ambiguous}, outcome{kind: kindIdentity}, false, false, verdictResend},
		{"refused for good", nil, outcome{kind: kindFatal}, false, false, verdictFail},
		{"lost, then refused for good", []outcome{ambiguous}, outcome{kind: kindFatal}, false, false, verdictResend},
		{"definite behind an unknown one", nil, definite, true, false, verdictRequeue},
		{"lost behind an unknown one", nil, ambiguous, true, false, verdictResend},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWindow(t, 3)
			w.draining = c.draining
			for _, o := range append(c.before, c.last) {
				uid, serial := w.fly(0)
				if !w.report(uid, serial, o) {
					t.Fatal("no news?")
				}
			}
			if !w.round || w.canNumber() {
				t.Fatal("a failed attempt must stop the numbering")
			}
			if got := w.settle(c.gone); got != c.want {
				t.Fatalf("verdict %d, want %d", got, c.want)
			}
		})
	}
}

func TestARefusalBehindAnUnresolvedBatchIsNoVerdict(t *testing.T) {
	for _, kind := range []kind{kindGap, kindIdentity} {
		w := newWindow(t, 2)
		uid0, serial0 := w.fly(0)
		uid1, serial1 := w.fly(1)
		w.report(uid0, serial0, outcome{kind: kindRetry, ambiguous: true, err: client.ErrTimeout})
		w.report(uid1, serial1, outcome{kind: kind})
		// The first attempt's success comes late: the second batch is now the
		// first, but its refusal was about the one before it.
		w.report(uid0, serial0, outcome{kind: kindStored, offset: 5})
		if e, ok := w.pop(); !ok || e.last.offset != 5 {
			t.Fatal("not stored")
		}
		if got := w.settle(false); got != verdictResend {
			t.Fatalf("kind %d: verdict %d", kind, got)
		}
	}
}

func TestExpireOfADefiniteBatchFreesEverythingBehindIt(t *testing.T) {
	w := newWindow(t, 4)
	for i := range 4 {
		uid, serial := w.fly(i)
		w.report(uid, serial, outcome{kind: kindRetry, ambiguous: i > 0, err: errors.New("x")})
	}
	e, unknown, rest := w.expire()
	if unknown || e.uid != 1 || len(rest) != 3 || !w.mustRenew() {
		t.Fatal(e.uid, unknown, len(rest))
	}
	w.rise()
	if w.epoch != 1 || w.next != 0 || !w.canNumber() {
		t.Fatal("no new epoch")
	}
}

func TestExpireOfAnAmbiguousBatchDrainsBeforeTheNextEpoch(t *testing.T) {
	w := newWindow(t, 4)
	for i := range 4 {
		uid, serial := w.fly(i)
		w.report(uid, serial, outcome{kind: kindRetry, ambiguous: i < 2, err: errors.New("x")})
	}
	_, unknown, rest := w.expire()
	if !unknown || len(rest) != 0 || !w.draining || w.mustRenew() || w.canNumber() {
		t.Fatal(unknown, len(rest), w.draining)
	}
	if n := w.firstDefinite(); n != 1 {
		t.Fatalf("first definite %d", n)
	}
	if got := w.cut(1); len(got) != 2 {
		t.Fatal(len(got))
	}
	if _, unknown, _ = w.expire(); !unknown || !w.mustRenew() {
		t.Fatal("the window is empty, the epoch must rise")
	}
}

func TestLateAndForeignReportsAreNoNews(t *testing.T) {
	w := newWindow(t, 1)
	uid, first := w.fly(0)
	w.report(uid, first, outcome{kind: kindRetry, ambiguous: true})
	_, second := w.fly(0)
	if w.report(uid, first, outcome{kind: kindFatal}) || w.report(99, second, outcome{kind: kindStored}) {
		t.Fatal("an old refusal or a foreign reply was taken")
	}
	if !w.report(uid, first, outcome{kind: kindStored}) || w.report(uid, second, outcome{kind: kindStored}) {
		t.Fatal("a late success was not taken exactly once")
	}
}

func TestClassify(t *testing.T) {
	cases := []struct {
		code        errcode.Code
		sent, reply int32
		kind        kind
		ambiguous   bool
	}{
		{errcode.None, 3, 3, kindStored, false},
		{errcode.OutOfOrderSequence, 3, 3, kindGap, false},
		{errcode.UnknownProducerID, 3, 3, kindIdentity, false},
		{errcode.InvalidProducerEpoch, 3, 3, kindIdentity, false},
		{errcode.MessageTooLarge, 3, 3, kindFatal, false},
		{errcode.InvalidRecord, 3, 3, kindFatal, false},
		{errcode.Throttled, 3, 3, kindRetry, false},
		{errcode.Throttled, 3, 4, kindRetry, true},
		{errcode.NotEnoughReplicas, -1, -1, kindRetry, true},
		{errcode.NotEnoughReplicas, 3, 3, kindRetry, false},
		{errcode.NotLeaderOrFollower, 3, 3, kindRetry, true},
		{errcode.FencedLeaderEpoch, 3, 4, kindRetry, true},
		{errcode.RequestTimedOut, 3, 3, kindRetry, true},
		{errcode.UnknownServerError, 3, 3, kindRetry, true},
		{errcode.Code(4711), 3, 3, kindRetry, true},
		{errcode.CorruptMessage, 3, 3, kindRetry, false},
		{errcode.TooManyProducers, 3, 3, kindRetry, false},
	}
	for _, c := range cases {
		o := classify(protocol.ProduceReply{Code: c.code, Epoch: c.reply, BaseOffset: 9}, c.sent)
		if o.kind != c.kind || o.ambiguous != c.ambiguous {
			t.Errorf("%s sent %d replied %d: %+v", c.code, c.sent, c.reply, o)
		}
	}
	for _, err := range []error{client.ErrNoResponders, client.ErrNotSent} {
		if failed(err).ambiguous {
			t.Errorf("%v is definite", err)
		}
	}
	for _, err := range []error{client.ErrTimeout, client.ErrDisconnected, errors.New("?")} {
		if !failed(err).ambiguous {
			t.Errorf("%v is ambiguous", err)
		}
	}
}

// model is a partition with the broker's producer table, and a network that
// keeps requests back.
type model struct {
	t      *testing.T
	rng    *rand.Rand
	table  *producerstate.Table
	stored map[string]int64 // by value of the batch's name
	end    int64
	late   []floating // attempts that the client gave up on and the broker may still get
}

type floating struct {
	name  string
	batch producerstate.Batch
}

func (m *model) apply(f floating) (producerstate.Verdict, int64) {
	v, offset := m.table.Apply(f.batch, m.end)
	if v == producerstate.Append {
		if _, twice := m.stored[f.name]; twice {
			m.t.Fatalf("%s is stored twice", f.name)
		}
		m.stored[f.name] = m.end
		m.end += int64(f.batch.Count)
	}
	return v, offset
}

// attempt plays one attempt and returns what the client learns of it.
func (m *model) attempt(f floating) outcome {
	lost := outcome{kind: kindRetry, ambiguous: true, err: client.ErrTimeout}
	switch m.rng.IntN(8) {
	case 0:
		return outcome{kind: kindRetry, err: client.ErrNoResponders}
	case 1:
		m.late = append(m.late, f)
		return lost
	case 2:
		m.apply(f)
		return lost
	}
	v, offset := m.apply(f)
	switch v {
	case producerstate.Append:
		return outcome{kind: kindStored, offset: m.stored[f.name]}
	case producerstate.Duplicate:
		return outcome{kind: kindStored, offset: offset, duplicate: true}
	case producerstate.OutOfOrder:
		return outcome{kind: kindGap, err: errors.New("gap")}
	default:
		return outcome{kind: kindIdentity, err: errors.New("identity")}
	}
}

// deliverLate applies some of the floating attempts, in any order.
func (m *model) deliverLate() {
	for len(m.late) > 0 && m.rng.IntN(3) == 0 {
		i := m.rng.IntN(len(m.late))
		m.apply(m.late[i])
		m.late = append(m.late[:i], m.late[i+1:]...)
	}
}

// TestWindowAgainstTheProducerTable plays random histories of the window
// against the broker's table: what is acked is stored at that offset, what
// failed definitely is not stored, nothing is stored twice, order is kept.
func TestWindowAgainstTheProducerTable(t *testing.T) {
	for seed := range uint64(400) {
		m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 2)), table: producerstate.New(producerstate.Limits{}), stored: map[string]int64{}}
		playWindow(t, m, 60)
	}
}

func playWindow(t *testing.T, m *model, batches int) {
	t.Helper()
	w := &window{id: 7, limit: 1 + m.rng.IntN(6)}
	names := make(map[*batch]string)
	var queue []*batch
	for i := range batches {
		b := encoded(t, 1+m.rng.IntN(3))
		names[b] = fmt.Sprintf("batch %d", i)
		queue = append(queue, b)
	}
	var unknown, plain []string
	var acked []int64
	for steps := 0; len(queue) > 0 || len(w.entries) > 0; steps++ {
		if steps > 100_000 {
			t.Fatal("no progress")
		}
		m.deliverLate()
		if w.mustRenew() {
			if w.needsID() {
				w.identify(w.id+1, 0)
			} else {
				w.rise()
			}
		}
		for w.canNumber() && len(queue) > 0 {
			w.number(queue[0])
			queue = queue[1:]
			m.play(w, names, len(w.entries)-1)
		}
		for e, ok := w.pop(); ok; e, ok = w.pop() {
			if at, stored := m.stored[names[e.b]]; !stored || at != e.last.offset {
				t.Fatalf("%s is acked at %d but stored at %d (%t)", names[e.b], e.last.offset, at, stored)
			}
			acked = append(acked, e.last.offset)
		}
		if len(w.entries) > 0 && m.rng.IntN(12) == 0 {
			e, isUnknown, rest := w.expire()
			queue = append(rest, queue...)
			if isUnknown {
				unknown = append(unknown, names[e.b])
			} else {
				plain = append(plain, names[e.b])
			}
			continue
		}
		if w.round && w.settled() && len(w.entries) > 0 {
			queue = m.round(w, names, queue)
		}
	}
	for len(m.late) > 0 {
		m.deliverLate()
	}
	for _, name := range plain {
		if _, stored := m.stored[name]; stored {
			t.Fatalf("%s failed for certain, and is stored", name)
		}
	}
	for i := 1; i < len(acked); i++ {
		if acked[i] <= acked[i-1] {
			t.Fatalf("acks out of order: %v", acked)
		}
	}
	if len(acked)+len(unknown)+len(plain) != batches {
		t.Fatalf("%d acked, %d unknown, %d failed of %d", len(acked), len(unknown), len(plain), batches)
	}
}

// play sends entry i once.
func (m *model) play(w *window, names map[*batch]string, i int) {
	uid, serial := w.fly(i)
	b := w.entries[i].b
	raw := recordbatch.Batch(b.request[batchAt:])
	w.report(uid, serial, m.attempt(floating{names[b], producerstate.Batch{
		Producer: raw.ProducerID(), Epoch: raw.ProducerEpoch(), Sequence: raw.BaseSequence(), Count: raw.Count(),
	}}))
}

// round does what the sender does when a round has settled.
func (m *model) round(w *window, names map[*batch]string, queue []*batch) []*batch {
	if w.draining {
		queue = append(w.cut(w.firstDefinite()), queue...)
	}
	if len(w.entries) == 0 {
		return queue
	}
	switch w.settle(false) {
	case verdictRequeue:
		return append(w.cut(0), queue...)
	case verdictFail:
		m.t.Fatal("nothing here is fatal")
	}
	w.round = false
	for i := range w.entries {
		if !w.entries[i].done {
			m.play(w, names, i)
		}
	}
	return queue
}

func TestOnlySilenceMakesTheNextAttemptWaitLonger(t *testing.T) {
	w := newWindow(t, 1)
	w.fly(0)
	e := &w.entries[0]
	for i, o := range []outcome{
		{kind: kindRetry, ambiguous: true, err: client.ErrDisconnected},
		failed(client.ErrNoResponders),
		failed(client.ErrTimeout),
	} {
		e.serial, e.flying = uint64(i+1), true
		w.report(e.uid, e.serial, o)
	}
	if e.silences != 1 {
		t.Errorf("%d silences counted, want 1: the time-out", e.silences)
	}
}
