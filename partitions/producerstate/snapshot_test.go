package producerstate

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
)

// sample holds every kind of entry, a full window that has turned included.
func sample() *Table {
	t := New(Limits{Window: 2})
	for i := range int32(5) {
		t.Apply(Batch{Producer: 300, Epoch: 2, Sequence: 2 * i, Count: 2}, int64(10+2*i))
	}
	t.Apply(Batch{Producer: 1, Count: 1}, 20)
	t.RememberMessage([]byte("first"), 1000, 21)
	t.RememberMessage([]byte("second"), 1000, 22)
	return t
}

func TestSnapshotFormIsTheGoldenOne(t *testing.T) {
	got := sample().Encode(nil)
	const file = "testdata/vectors/snapshot-v1.hex"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(got) != strings.Join(strings.Fields(string(want)), "") {
		t.Fatalf("the snapshot form has changed; a new form needs a new version:\n%x", got)
	}
}

func TestSnapshotIsIndependentOfTheOrderOfArrival(t *testing.T) {
	a, b := New(Limits{}), New(Limits{})
	for i := range int64(200) {
		a.Apply(Batch{Producer: i, Count: 1}, i)
		b.Apply(Batch{Producer: 199 - i, Count: 1}, 199-i)
	}
	if !bytes.Equal(a.Encode(nil), b.Encode(nil)) {
		t.Fatal("equal tables encode to different bytes")
	}
}

func TestDecodeRefusesEveryFlippedBitAndEveryCut(t *testing.T) {
	good := sample().Encode(nil)
	for i := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := Decode(bad, Limits{}); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("bit %d flipped: %v", i, err)
		}
	}
	for n := range good {
		if _, err := Decode(good[:n], Limits{}); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

// FuzzDecode looks for bytes behind a right checksum that Decode takes and
// that are not the form of a table, or that make it panic.
func FuzzDecode(f *testing.F) {
	good := sample().Encode(nil)
	f.Add(good[:len(good)-4])
	f.Add(New(Limits{}).Encode(nil)[:9])
	f.Fuzz(func(t *testing.T, body []byte) {
		b := binary.BigEndian.AppendUint32(bytes.Clone(body), checksum(body))
		table, err := Decode(b, Limits{})
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("not a named error: %v", err)
			}
			return
		}
		if !bytes.Equal(table.Encode(nil), b) {
			t.Fatal("decodes to a table with another form")
		}
		table.Apply(Batch{Producer: 1, Sequence: 1, Count: 1}, 1<<40)
		table.RememberMessage([]byte("new"), 1<<62, 1<<40)
		table.Expire(table.Keys(nil))
	})
}

func TestAFullWindowTakesLessThanTwoKiB(t *testing.T) {
	const producers = 1000
	table := New(Limits{})
	before := heap()
	for id := range int64(producers) {
		for i := range int32(2 * WindowDefault) {
			table.Apply(Batch{Producer: id, Sequence: i, Count: 1}, int64(i))
		}
	}
	if each := (heap() - before) / producers; each > 2048 {
		t.Errorf("a producer with a full window takes %d bytes", each)
	}
	runtime.KeepAlive(table)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestApplyDoesNotAllocateOnceTheWindowIsFull(t *testing.T) {
	table := New(Limits{})
	next := int32(0)
	apply := func() {
		table.Apply(Batch{Producer: 1, Sequence: next, Count: 1}, int64(next))
		next++
	}
	for range WindowDefault {
		apply()
	}
	if n := testing.AllocsPerRun(100, apply); n > 0 {
		t.Errorf("%v allocations per batch", n)
	}
}

func TestLimitsMayChangeWhileBatchesAreRemembered(t *testing.T) {
	table := New(Limits{Window: 8})
	for i := range int32(8) {
		table.Apply(Batch{Producer: 1, Sequence: i, Count: 1}, int64(i))
	}
	table.SetLimits(Limits{Window: 2})
	if v, offset := table.Apply(Batch{Producer: 1, Sequence: 0, Count: 1}, 8); v != Duplicate || offset != 0 {
		t.Fatalf("before the next batch: %s %d", v, offset)
	}
	table.Apply(Batch{Producer: 1, Sequence: 8, Count: 1}, 8)
	table = reloaded(t, table)
	for sequence, want := range map[int32]int64{6: OffsetUnknown, 7: 7, 8: 8} {
		if _, offset := table.Apply(Batch{Producer: 1, Sequence: sequence, Count: 1}, 9); offset != want {
			t.Errorf("sequence %d: offset %d, want %d", sequence, offset, want)
		}
	}
	table.SetLimits(Limits{Window: 4})
	table.Apply(Batch{Producer: 1, Sequence: 9, Count: 1}, 9)
	if _, offset := table.Apply(Batch{Producer: 1, Sequence: 7, Count: 1}, 10); offset != 7 {
		t.Errorf("a larger window forgot offset 7: %d", offset)
	}
}
