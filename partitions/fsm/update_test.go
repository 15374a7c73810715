package fsm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/errcode"
	"logbroker/internal/recordbatch"
	"logbroker/partitions/commitlog"
	"logbroker/partitions/producerstate"
)

// machine is an open state machine and the next index to give to it.
type machine struct {
	*FSM
	t    *testing.T
	next uint64
}

func newMachine(t *testing.T, d *disk, o Observer) *machine {
	t.Helper()
	f, index, err := d.open(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return &machine{FSM: f, t: t, next: index + 1}
}

// apply gives the commands to one Update and returns the results.
func (m *machine) apply(commands ...[]byte) []result {
	m.t.Helper()
	var entries []statemachine.Entry
	for _, c := range commands {
		entries = append(entries, statemachine.Entry{Index: m.next, Cmd: c})
		m.next++
	}
	got, err := m.Update(entries)
	if err != nil {
		m.t.Fatal(err)
	}
	var out []result
	for _, e := range got {
		v, offset := DecodeResult(e.Result.Value)
		out = append(out, result{v, offset})
	}
	return out
}

func (m *machine) want(want result, command []byte) {
	m.t.Helper()
	if got := m.apply(command); got[0] != want {
		m.t.Errorf("got %+v, want %+v", got[0], want)
	}
}

type result struct {
	verdict Verdict
	offset  int64
}

// batchOf returns a produce command in epoch with count records, numbered
// where producer is not -1.
func batchOf(epoch int32, count int, producer int64, sequence int32) []byte {
	return produceCommand(ProduceHeader{LeaderEpoch: epoch, AppendTimeMs: 1000}, newBatch(count, producer, 0, sequence)).bytes
}

func publish(epoch int32, id string, ms int64) []byte {
	return produceCommand(ProduceHeader{LeaderEpoch: epoch, AppendTimeMs: ms, MsgID: id}, newBatch(1, -1, 0, 0)).bytes
}

func TestADeposedLeaderIsFenced(t *testing.T) {
	m := newMachine(t, newDisk(neverCrash), nil)
	m.want(result{Fenced, 0}, batchOf(0, 1, -1, 0)) // before the first epoch nobody leads
	m.want(result{Applied, 0}, EncodeEpoch(Epoch{1, 1}))
	m.want(result{Appended, 0}, batchOf(1, 2, -1, 0))
	m.want(result{Applied, 2}, EncodeEpoch(Epoch{2, 2}))

	// Everything the old leader still had queued.
	m.want(result{Fenced, 2}, batchOf(1, 1, -1, 0))
	m.want(result{Fenced, 2}, EncodeTrim(1, 2))
	m.want(result{Fenced, 2}, EncodeExpire(1, nil))
	m.want(result{Fenced, 2}, EncodeConfigure(1, Config{}))
	m.want(result{Stale, 2}, EncodeEpoch(Epoch{1, 1}))

	// The new leader's own entry again, as it repeats it until it is applied.
	m.want(result{Stale, 2}, EncodeEpoch(Epoch{2, 2}))
	// A command of an epoch that has not begun.
	m.want(result{Fenced, 2}, batchOf(3, 1, -1, 0))
	m.want(result{Appended, 2}, batchOf(2, 1, -1, 0))

	if m.LogStart() != 0 || m.HighWatermark() != 3 {
		t.Errorf("log [%d, %d), want [0, 3)", m.LogStart(), m.HighWatermark())
	}
	if epoch, replica, start := m.Epoch(); epoch != 2 || replica != 2 || start != 2 {
		t.Errorf("epoch %d of replica %d from %d", epoch, replica, start)
	}
}

func TestFencingHoldsWithinOneUpdate(t *testing.T) {
	m := newMachine(t, newDisk(neverCrash), nil)
	got := m.apply(EncodeEpoch(Epoch{1, 1}), batchOf(1, 3, -1, 0), EncodeEpoch(Epoch{2, 2}), batchOf(1, 1, -1, 0), batchOf(2, 1, -1, 0))
	want := []result{{Applied, 0}, {Appended, 0}, {Applied, 3}, {Fenced, 2}, {Appended, 3}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestARetryIsADuplicateAfterARestart(t *testing.T) {
	for _, synced := range []bool{true, false} {
		t.Run(fmt.Sprintf("synced=%t", synced), func(t *testing.T) {
			d := newDisk(neverCrash)
			m := newMachine(t, d, nil)
			log := [][]byte{EncodeEpoch(Epoch{1, 1}), batchOf(1, 5, 9, 0), batchOf(1, 2, 9, 5), publish(1, "once", 2000)}
			m.apply(log...)
			if synced {
				if err := m.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			d = d.restart(t, cutForgets, neverCrash, nil)
			m = newMachine(t, d, nil)
			m.apply(log[m.next-1:]...) // what Raft gives again
			m.want(result{Duplicate, 5}, batchOf(1, 2, 9, 5))
			m.want(result{Duplicate, 0}, batchOf(1, 5, 9, 0))
			m.want(result{Duplicate, 7}, publish(1, "once", 3000))
			m.want(result{Appended, 8}, batchOf(1, 1, 9, 7))
			if m.HighWatermark() != 9 {
				t.Errorf("high watermark %d: something was stored twice", m.HighWatermark())
			}
		})
	}
}

func TestMessageIDComesBeforeProducer(t *testing.T) {
	m := newMachine(t, newDisk(neverCrash), nil)
	numbered := func(id string, sequence int32) []byte {
		return produceCommand(ProduceHeader{LeaderEpoch: 1, AppendTimeMs: 5, MsgID: id}, newBatch(1, 4, 0, sequence)).bytes
	}
	m.apply(EncodeEpoch(Epoch{1, 1}))
	m.want(result{Appended, 0}, numbered("a", 0))
	m.want(result{Duplicate, 0}, numbered("a", 1))
	m.want(result{OutOfOrder, -1}, numbered("b", 2))
	// The refused one is not remembered, the duplicate did not count.
	m.want(result{Appended, 1}, numbered("b", 1))
}

func TestVerdictsOfTheProducerTable(t *testing.T) {
	m := newMachine(t, newDisk(neverCrash), nil)
	m.apply(EncodeEpoch(Epoch{1, 1}))
	m.want(result{Applied, 0}, EncodeConfigure(1, Config{Producers: producerstate.Limits{Producers: 1}}))
	withEpoch := func(id int64, epoch int16, sequence int32) []byte {
		return produceCommand(ProduceHeader{LeaderEpoch: 1}, newBatch(1, id, epoch, sequence)).bytes
	}
	m.want(result{UnknownProducer, -1}, withEpoch(1, 0, 3))
	m.want(result{Appended, 0}, withEpoch(1, 1, 0))
	m.want(result{TooManyProducers, -1}, withEpoch(2, 0, 0))
	m.want(result{InvalidProducerEpoch, -1}, withEpoch(1, 0, 1))
	m.want(result{Applied, 0}, EncodeExpire(1, []producerstate.Key{{Producer: 1, Epoch: 1, LastSequence: 7}}))
	keys := m.ProducerKeys(nil)
	m.want(result{Appended, 1}, withEpoch(1, 1, 1))
	m.want(result{Applied, 0}, EncodeExpire(1, keys)) // it has written since
	m.want(result{Applied, 1}, EncodeExpire(1, m.ProducerKeys(nil)))
	m.want(result{Appended, 2}, withEpoch(2, 0, 0))
}

func TestTrimIsClampedAndNeverGoesBack(t *testing.T) {
	m := newMachine(t, newDisk(neverCrash), nil)
	m.apply(EncodeEpoch(Epoch{1, 1}))
	// In one round with what it trims.
	got := m.apply(batchOf(1, 5, -1, 0), EncodeTrim(1, 100), batchOf(1, 5, -1, 0), EncodeTrim(1, 7), EncodeTrim(1, 6))
	want := []result{{Appended, 0}, {Applied, 5}, {Appended, 5}, {Applied, 7}, {Applied, 7}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	m.want(result{Applied, 7}, EncodeTrim(1, -5))
	if m.LogStart() != 7 || m.HighWatermark() != 10 {
		t.Errorf("log [%d, %d), want [7, 10)", m.LogStart(), m.HighWatermark())
	}
}

func TestEpochsWithoutRecordsLeaveTheHistory(t *testing.T) {
	m := newMachine(t, newDisk(neverCrash), nil)
	for e := range int32(5) {
		m.apply(EncodeEpoch(Epoch{e + 1, 1}))
	}
	m.apply(batchOf(5, 2, -1, 0), EncodeEpoch(Epoch{6, 2}), batchOf(6, 2, -1, 0), EncodeEpoch(Epoch{7, 3}))
	if want := []EpochStart{{5, 1, 0}, {6, 2, 2}, {7, 3, 4}}; !slices.Equal(m.Epochs(), want) {
		t.Errorf("epochs %v, want %v", m.Epochs(), want)
	}
	m.apply(EncodeTrim(7, 2))
	if want := []EpochStart{{6, 2, 2}, {7, 3, 4}}; !slices.Equal(m.Epochs(), want) {
		t.Errorf("after the trim: %v, want %v", m.Epochs(), want)
	}
}

func TestAppendTimeNeverGoesBack(t *testing.T) {
	m := newMachine(t, newDisk(neverCrash), nil)
	m.apply(EncodeEpoch(Epoch{1, 1}), publish(1, "a", 500_000), EncodeEpoch(Epoch{2, 2}))
	// The next leader's clock is four minutes behind: by its own clock the id
	// would be remembered from the future, by the partition's it is fresh.
	m.want(result{Duplicate, 0}, publish(2, "a", 260_000))
	m.want(result{Appended, 1}, publish(2, "b", 260_000))
	if m.LastAppendMs() != 500_000 {
		t.Errorf("last append at %d", m.LastAppendMs())
	}
	m.want(result{Appended, 2}, publish(2, "a", 620_001))
}

func TestMalformedCommandsAreRefused(t *testing.T) {
	m := newMachine(t, newDisk(neverCrash), nil)
	m.apply(EncodeEpoch(Epoch{1, 1}))
	good := batchOf(1, 3, 5, 0)
	edit := func(cmd []byte, change func([]byte) []byte) []byte { return change(bytes.Clone(cmd)) }
	const batchAt = ProduceHeaderSize
	for name, cmd := range map[string][]byte{
		"one byte":              {1},
		"unknown version":       edit(good, func(b []byte) []byte { b[0] = 2; return b }),
		"unknown kind":          edit(good, func(b []byte) []byte { b[1] = 99; return b }),
		"header only":           good[:batchAt],
		"cut batch":             good[:len(good)-1],
		"bytes behind":          append(bytes.Clone(good), 0),
		"message id past end":   edit(good, func(b []byte) []byte { b[14] = 255; return b[:batchAt+20] }),
		"two batches":           append(bytes.Clone(good), good[batchAt:]...),
		"magic 1":               edit(good, func(b []byte) []byte { b[batchAt+16] = 1; return b }),
		"count 0":               edit(good, func(b []byte) []byte { clear(b[batchAt+57 : batchAt+61]); return b }),
		"count not delta + 1":   edit(good, func(b []byte) []byte { b[batchAt+60]++; return b }),
		"negative producer":     edit(good, func(b []byte) []byte { b[batchAt+43] = 0x80; return b }),
		"negative sequence":     edit(good, func(b []byte) []byte { b[batchAt+53] = 0x80; return b }),
		"negative epoch":        edit(good, func(b []byte) []byte { b[batchAt+51] = 0x80; return b }),
		"epoch 0":               EncodeEpoch(Epoch{0, 1}),
		"long epoch":            append(EncodeEpoch(Epoch{9, 1}), 0),
		"short trim":            EncodeTrim(1, 5)[:13],
		"expire claims more":    edit(EncodeExpire(1, nil), func(b []byte) []byte { b[6] = 0xff; return b }),
		"configure zeros":       append(EncodeConfigure(1, Config{})[:commandHeaderBytes], make([]byte, configBytes)...),
		"configure cut":         EncodeConfigure(1, Config{})[:20],
		"configure window huge": EncodeConfigure(1, Config{Producers: producerstate.Limits{Window: producerstate.WindowMax + 1}}),
	} {
		if got := m.apply(cmd); got[0] != (result{Malformed, -1}) {
			t.Errorf("%s: %+v", name, got[0])
		}
	}
	m.want(result{Appended, 0}, good)
}

func TestAnEmptyEntryHasNoResultAndCounts(t *testing.T) {
	d := newDisk(neverCrash)
	m := newMachine(t, d, nil)
	if got := m.apply(nil, []byte{}); got[0] != (result{}) || got[1] != (result{}) {
		t.Errorf("results %v", got)
	}
	// dragonboat will compare Open's index with the last one given to Update.
	if err := m.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, index := d.restart(t, cutForgets, neverCrash, nil).mustOpen(t); index != 2 {
		t.Errorf("opened at %d, want 2", index)
	}
}

func TestAnEntryThatWasAppliedIsRefused(t *testing.T) {
	m := newMachine(t, newDisk(neverCrash), nil)
	m.apply(EncodeEpoch(Epoch{1, 1}), batchOf(1, 1, -1, 0))
	if _, err := m.Update([]statemachine.Entry{{Index: 2, Cmd: batchOf(1, 1, -1, 0)}}); err == nil {
		t.Error("entry 2 was applied twice")
	}
}

func TestEntriesAreNotChanged(t *testing.T) {
	m := newMachine(t, newDisk(neverCrash), nil)
	m.apply(EncodeEpoch(Epoch{1, 1}), batchOf(1, 3, -1, 0))
	cmd := batchOf(1, 3, 8, 0)
	before := bytes.Clone(cmd)
	m.want(result{Appended, 3}, cmd)
	if !bytes.Equal(cmd, before) {
		t.Error("Update changed an entry, which Raft may still send to a follower")
	}
	b, rest, err := recordbatch.Parse(readAll(t, m.FSM))
	if err != nil {
		t.Fatal(err)
	}
	if b.BaseOffset() != 0 || b.PartitionLeaderEpoch() != 1 {
		t.Errorf("stored at %d in epoch %d", b.BaseOffset(), b.PartitionLeaderEpoch())
	}
	if second, _, err := recordbatch.Parse(rest); err != nil || second.BaseOffset() != 3 || second.CheckCRC() != nil {
		t.Errorf("second batch at %d: %v %v", second.BaseOffset(), err, second.CheckCRC())
	}
}

// TestRoundsDoNotShowInTheFiles applies the same entries in one Update, in one
// Update each and in random ones, with configurations that change in between.
func TestRoundsDoNotShowInTheFiles(t *testing.T) {
	h := generate(rand.New(rand.NewPCG(77, 1)), 300)
	var want files
	for name, size := range map[string]func() int{
		"all":    func() int { return len(h.entries) },
		"each":   func() int { return 1 },
		"random": func() int { return 1 + rand.IntN(40) },
	} {
		d := newDisk(neverCrash)
		f, _ := d.mustOpen(t)
		for from := 0; from < len(h.entries); {
			to := min(from+size(), len(h.entries))
			if _, err := f.Update(slices.Clone(h.entries[from:to])); err != nil {
				t.Fatal(err)
			}
			from = to
		}
		if err := settle(f); err != nil {
			t.Fatal(err)
		}
		h.modelAt(len(h.entries)).check(t, f)
		if got := d.files(t).segmentFiles(); want == nil {
			want = got
		} else {
			t.Log(name)
			got.checkSame(t, want)
		}
	}
}

// watcher notes what it is told, and reads what it is told of.
type watcher struct {
	t       *testing.T
	machine *machine
	events  []string
}

func (w *watcher) EpochApplied(epoch int32, replica uint64) {
	if got, _, start := w.machine.Epoch(); got < epoch || w.machine.HighWatermark() < start {
		w.t.Errorf("epoch %d is told before it can be seen", epoch)
	}
	w.events = append(w.events, fmt.Sprintf("epoch %d replica %d", epoch, replica))
}

func (w *watcher) Advanced(hw int64) {
	if w.machine.HighWatermark() != hw {
		w.t.Errorf("told of %d, sees %d", hw, w.machine.HighWatermark())
	}
	readAll(w.t, w.machine.FSM)
	w.events = append(w.events, fmt.Sprintf("high watermark %d", hw))
}

func TestTheObserverSeesWhatItIsToldOf(t *testing.T) {
	w := &watcher{t: t}
	w.machine = newMachine(t, newDisk(neverCrash), w)
	w.machine.apply(EncodeEpoch(Epoch{1, 4}), batchOf(1, 3, 1, 0), batchOf(1, 2, 1, 3), EncodeEpoch(Epoch{2, 5}))
	w.machine.apply(batchOf(2, 3, 1, 0), EncodeTrim(2, 1))
	w.machine.apply(batchOf(2, 1, 1, 5))
	want := []string{"epoch 1 replica 4", "epoch 2 replica 5", "high watermark 5", "high watermark 6"}
	if !slices.Equal(w.events, want) {
		t.Errorf("events %v, want %v", w.events, want)
	}
}

func TestResultsRoundTrip(t *testing.T) {
	for v := Appended; v <= Stale; v++ {
		for _, offset := range []int64{0, 1, -1, 1 << 40, 1<<55 - 1, -1 << 55} {
			if gotV, got := DecodeResult(EncodeResult(v, offset)); gotV != v || got != offset {
				t.Errorf("%d %d became %d %d", v, offset, gotV, got)
			}
		}
		if v.Code() == errcode.UnknownServerError {
			t.Errorf("verdict %d has no code", v)
		}
	}
	if v, offset := DecodeResult(0); v != 0 || offset != 0 {
		t.Error("zero is not no verdict")
	}
}

func TestConfigSurvivesTheCommand(t *testing.T) {
	m := newMachine(t, newDisk(neverCrash), nil)
	want := Config{
		Segment:   commitlog.Config{SegmentBytes: 123456, SegmentAge: 90 * time.Minute},
		Producers: producerstate.Limits{Window: 5, Producers: 6, MessageIDs: 7},
	}
	m.apply(EncodeEpoch(Epoch{1, 1}), EncodeConfigure(1, want))
	if m.Config() != want {
		t.Errorf("config %+v, want %+v", m.Config(), want)
	}
}
