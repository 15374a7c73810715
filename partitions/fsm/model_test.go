package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/recordbatch"
	"logbroker/partitions/commitlog"
	"logbroker/partitions/producerstate"
)

// model is what a partition is, said as plainly as can be: all its batches in
// one slice, no files. Its producer table is the real one, which has a model of
// its own.
type model struct {
	applied  uint64
	epochs   []EpochStart
	config   Config
	table    *producerstate.Table
	lastMs   int64
	logStart int64
	next     int64
	batches  [][]byte // as stored
}

func newModel() *model {
	return &model{config: Config{}.WithDefaults(), table: producerstate.New(producerstate.Limits{})}
}

func (m *model) epoch() int32 { return current(m.epochs).Epoch }

// command is one command in decoded form, and its bytes.
type command struct {
	bytes []byte
	apply func(m *model) (Verdict, int64)
}

func produceCommand(h ProduceHeader, batch recordbatch.Batch) command {
	at := ProduceHeaderSize + len(h.MsgID)
	cmd := EncodeProduce(append(make([]byte, at), batch...), at, h)
	return command{bytes: cmd, apply: func(m *model) (Verdict, int64) { return m.produce(h, batch) }}
}

func (m *model) produce(h ProduceHeader, batch recordbatch.Batch) (Verdict, int64) {
	if h.LeaderEpoch != m.epoch() || m.epoch() == 0 {
		return Fenced, int64(m.epoch())
	}
	ms := max(h.AppendTimeMs, m.lastMs)
	if h.MsgID != "" {
		if offset, ok := m.table.Message([]byte(h.MsgID), ms); ok {
			return Duplicate, offset
		}
	}
	if batch.ProducerID() >= 0 {
		v, offset := m.table.Apply(producerstate.Batch{
			Producer: batch.ProducerID(), Epoch: batch.ProducerEpoch(),
			Sequence: batch.BaseSequence(), Count: batch.Count(),
		}, m.next)
		if v != producerstate.Append {
			return verdictOf(v), offset
		}
	}
	if h.MsgID != "" {
		m.table.RememberMessage([]byte(h.MsgID), ms, m.next)
	}
	stored := recordbatch.Batch(bytes.Clone(batch))
	stored.SetBaseOffset(m.next)
	stored.SetPartitionLeaderEpoch(h.LeaderEpoch)
	m.batches = append(m.batches, stored)
	m.lastMs = ms
	base := m.next
	m.next += int64(batch.Count())
	return Appended, base
}

func epochCommand(e Epoch) command {
	return command{bytes: EncodeEpoch(e), apply: func(m *model) (Verdict, int64) {
		if e.Epoch <= m.epoch() {
			return Stale, int64(m.epoch())
		}
		for len(m.epochs) > 0 && current(m.epochs).Start == m.next {
			m.epochs = m.epochs[:len(m.epochs)-1]
		}
		m.epochs = append(slices.Clone(m.epochs), EpochStart{e.Epoch, e.Replica, m.next})
		return Applied, m.next
	}}
}

func trimCommand(epoch int32, to int64) command {
	return command{bytes: EncodeTrim(epoch, to), apply: func(m *model) (Verdict, int64) {
		if epoch != m.epoch() || epoch == 0 {
			return Fenced, int64(m.epoch())
		}
		m.logStart = max(m.logStart, min(to, m.next))
		for len(m.epochs) > 1 && m.epochs[1].Start <= m.logStart {
			m.epochs = m.epochs[1:]
		}
		return Applied, m.logStart
	}}
}

func expireCommand(epoch int32, keys []producerstate.Key) command {
	return command{bytes: EncodeExpire(epoch, keys), apply: func(m *model) (Verdict, int64) {
		if epoch != m.epoch() || epoch == 0 {
			return Fenced, int64(m.epoch())
		}
		return Applied, int64(m.table.Expire(keys))
	}}
}

func configureCommand(epoch int32, c Config) command {
	return command{bytes: EncodeConfigure(epoch, c), apply: func(m *model) (Verdict, int64) {
		if epoch != m.epoch() || epoch == 0 {
			return Fenced, int64(m.epoch())
		}
		m.config = c.WithDefaults()
		m.table.SetLimits(m.config.Producers)
		return Applied, 0
	}}
}

func garbageCommand(b []byte) command {
	return command{bytes: b, apply: func(*model) (Verdict, int64) { return Malformed, noOffset }}
}

func emptyCommand() command {
	return command{apply: func(*model) (Verdict, int64) { return 0, 0 }}
}

// newBatch builds a batch of count small records; producer -1 leaves it
// unnumbered.
func newBatch(count int, producer int64, epoch int16, sequence int32) recordbatch.Batch {
	b := recordbatch.NewBuilder()
	for i := range count {
		b.Append(1_700_000_000_000+int64(i), []byte("key"), fmt.Appendf(nil, "value %d of producer %d", i, producer), nil)
	}
	out, err := b.Build(nil, recordbatch.None)
	if err != nil {
		panic(err)
	}
	if producer >= 0 {
		recordbatch.Batch(out).SetProducer(producer, epoch, sequence)
	}
	return out
}

// generator makes a stream of commands that a partition might see in a bad
// week. It runs the model along, to know what comes next.
type generator struct {
	r     *rand.Rand
	m     *model
	nowMs int64
	past  []command // produce commands, for retries
}

// history is a stream of entries with the results that the model gives.
type history struct {
	commands []command
	entries  []statemachine.Entry
	results  []uint64
}

func generate(r *rand.Rand, n int) history {
	g := &generator{r: r, m: newModel(), nowMs: 1_700_000_000_000}
	var h history
	for i := range n {
		c := g.next(i)
		h.commands = append(h.commands, c)
		v, offset := c.apply(g.m)
		h.entries = append(h.entries, statemachine.Entry{Index: uint64(2 + i + i/10), Cmd: c.bytes})
		h.results = append(h.results, EncodeResult(v, offset))
		if len(c.bytes) == 0 {
			h.results[i] = 0
		}
	}
	return h
}

func (g *generator) next(i int) command {
	g.nowMs += int64(g.r.IntN(20_000)) - 5_000
	epoch := g.m.epoch()
	switch i {
	case 1:
		return epochCommand(Epoch{1, 1})
	case 2:
		return configureCommand(epoch, Config{Segment: commitlog.Config{SegmentBytes: 700, SegmentAge: time.Minute}})
	}
	switch g.r.IntN(30) {
	case 0:
		return epochCommand(Epoch{epoch + int32(g.r.IntN(3)), uint64(1 + g.r.IntN(3))})
	case 1:
		return trimCommand(epoch, g.m.logStart+int64(g.r.IntN(40)))
	case 2:
		return configureCommand(epoch, Config{
			Segment:   commitlog.Config{SegmentBytes: 300 + int64(g.r.IntN(900)), SegmentAge: time.Minute},
			Producers: producerstate.Limits{Window: 2 + g.r.IntN(4), Producers: 6, MessageIDs: 4},
		})
	case 3:
		keys := g.m.table.Keys(nil)
		return expireCommand(epoch, keys[:g.r.IntN(len(keys)+1)])
	case 4:
		if epoch > 0 {
			return garbageCommand([]byte{commandVersion, kindProduce, 0, 0, 0, byte(epoch), 1, 2, 3})
		}
		return garbageCommand([]byte("no command"))
	case 5:
		return emptyCommand()
	case 6:
		return produceCommand(ProduceHeader{LeaderEpoch: epoch - 1, AppendTimeMs: g.nowMs}, newBatch(1, -1, 0, 0))
	case 7, 8, 9:
		if len(g.past) > 0 {
			return g.past[g.r.IntN(len(g.past))]
		}
	}
	return g.produce(epoch)
}

func (g *generator) produce(epoch int32) command {
	h := ProduceHeader{LeaderEpoch: epoch, AppendTimeMs: g.nowMs}
	if g.r.IntN(4) == 0 {
		h.MsgID = fmt.Sprint("message ", g.r.IntN(10))
	}
	producer, producerEpoch, sequence := int64(g.r.IntN(6))-1, int16(0), int32(0)
	for _, k := range g.m.table.Keys(nil) {
		if k.Producer == producer {
			producerEpoch, sequence = k.Epoch, k.LastSequence+1
		}
	}
	switch g.r.IntN(15) {
	case 0:
		producerEpoch, sequence = producerEpoch+1, 0
	case 1:
		sequence += 2
	}
	c := produceCommand(h, newBatch(1+g.r.IntN(5), producer, producerEpoch, sequence))
	g.past = append(g.past, c)
	return c
}

// modelAt returns the model as it is after the first n entries.
func (h history) modelAt(n int) *model {
	m := newModel()
	for i, c := range h.commands[:n] {
		c.apply(m)
		m.applied = h.entries[i].Index
	}
	return m
}

// position returns how many entries lie at or below index.
func (h history) position(index uint64) int {
	n := 0
	for n < len(h.entries) && h.entries[n].Index <= index {
		n++
	}
	return n
}

// feed gives the entries [from, to) to f in rounds of random size, with a Sync
// now and then, and checks every result. It returns how many entries lie below
// the last Sync that succeeded, and the error that ended it.
func (h history) feed(t *testing.T, f *FSM, from, to int, r *rand.Rand) (synced int, err error) {
	t.Helper()
	for from < to {
		if from, err = h.round(t, f, from, to, r); err != nil {
			return synced, err
		}
		if r.IntN(4) == 0 {
			if err := f.Sync(); err != nil {
				return synced, err
			}
			synced = from
		}
	}
	return synced, nil
}

// round gives some entries of [from, to) to f and returns the next.
func (h history) round(t *testing.T, f *FSM, from, to int, r *rand.Rand) (next int, err error) {
	t.Helper()
	n := min(1+r.IntN(8), to-from)
	round := slices.Clone(h.entries[from : from+n])
	got, err := f.Update(round)
	if err != nil {
		return from, err
	}
	for i := range got {
		if got[i].Result.Value != h.results[from+i] {
			v, offset := DecodeResult(got[i].Result.Value)
			want, wantOffset := DecodeResult(h.results[from+i])
			t.Errorf("entry %d: verdict %d offset %d, want %d %d", from+i, v, offset, want, wantOffset)
		}
	}
	return from + n, nil
}

// feedBeside is feed on d, but for the Syncs: they are begun, and before one of the
// operations on the disk that they take f gets two more rounds.
func (h history) feedBeside(t *testing.T, f *FSM, d *disk, from, to int, r *rand.Rand) (synced int, err error) {
	t.Helper()
	for from < to && err == nil {
		if from, err = h.round(t, f, from, to, r); err != nil || r.IntN(4) > 0 {
			continue
		}
		at, index := from, f.AppliedIndex()
		if err = f.StartSync(); err != nil {
			break
		}
		// Nobody but who saves works on the disk: this goroutine waits.
		d.arm(1+r.IntN(6), func() {
			for range 2 {
				if err == nil && from < to {
					from, err = h.round(t, f, from, to, r)
				}
			}
		})
		saved := f.AwaitDurable(index)
		d.disarm()
		if saved == nil && f.DurableIndex() >= index {
			synced = at
		}
		err = errors.Join(err, saved)
	}
	return synced, err
}

// check compares everything that f holds with the model.
func (m *model) check(t *testing.T, f *FSM) {
	t.Helper()
	if f.AppliedIndex() != m.applied || f.HighWatermark() != m.next || f.LogStart() != m.logStart {
		t.Fatalf("applied %d, log [%d, %d); want %d, [%d, %d)", f.AppliedIndex(), f.LogStart(), f.HighWatermark(),
			m.applied, m.logStart, m.next)
	}
	if f.LastAppendMs() != m.lastMs || f.Config() != m.config {
		t.Fatalf("last append %d, config %+v; want %d, %+v", f.LastAppendMs(), f.Config(), m.lastMs, m.config)
	}
	if !slices.Equal(f.Epochs(), m.epochs) {
		t.Fatalf("epochs %v, want %v", f.Epochs(), m.epochs)
	}
	if !bytes.Equal(f.table.Encode(nil), m.table.Encode(nil)) {
		t.Fatal("the producer tables differ")
	}
	if got, want := readAll(t, f), m.readable(); !bytes.Equal(got, want) {
		t.Fatalf("the log holds %d bytes, want %d, or they differ", len(got), len(want))
	}
}

// readable is what a reader from the log start on gets: whole batches.
func (m *model) readable() []byte {
	var out []byte
	for _, b := range m.batches {
		if recordbatch.Batch(b).NextOffset() > m.logStart {
			out = append(out, b...)
		}
	}
	return out
}

func readAll(t *testing.T, f *FSM) []byte {
	t.Helper()
	end := f.HighWatermark()
	log, ok := f.Log()
	if !ok {
		t.Fatal("no log")
	}
	var out []byte
	for offset := f.LogStart(); offset < end; {
		next, err := log.Read(out, offset, end, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(next) == len(out) {
			t.Fatalf("nothing to read at offset %d below %d", offset, end)
		}
		for rest := next[len(out):]; len(rest) > 0; {
			var b recordbatch.Batch
			if b, rest, err = recordbatch.Parse(rest); err != nil {
				t.Fatal(err)
			}
			offset = b.NextOffset()
		}
		out = next
	}
	return out
}

// segmentFiles returns what must be identical on all replicas.
func (in files) segmentFiles() files {
	out := files{}
	for p, b := range in {
		staged := strings.Contains(p, StagingFolder)
		if !staged && (strings.HasSuffix(p, ".log") || strings.HasSuffix(p, ".footer")) {
			out[path.Base(p)] = b
		}
	}
	return out
}

func (in files) checkSame(t *testing.T, other files) {
	t.Helper()
	for p, b := range in {
		if !bytes.Equal(other[p], b) {
			t.Fatalf("%s differs between replicas", p)
		}
	}
	if len(in) != len(other) {
		t.Fatalf("%d segment files on one replica, %d on the other", len(in), len(other))
	}
}
