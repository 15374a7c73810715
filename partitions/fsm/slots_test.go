package fsm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
	"logbroker/partitions/commitlog"
)

// slotsAt returns the marker file of the sample, and the sample's record in it.
func slotsAt(t *testing.T, fs storage.FS) (*slots, *saved) {
	t.Helper()
	mkdir(t, fs, testDir)
	v := sampleMarker()
	if err := writeSlots(fs, testDir+"/marker", v); err != nil {
		t.Fatal(err)
	}
	s, err := openSlots(fs, testDir+"/marker", *v)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func read(t *testing.T, fs storage.FS) saved {
	t.Helper()
	v, err := readSlots(fs, testDir+"/marker")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Writes of all sizes, each torn in many ways: what counts then is the record before
// or the one that was written.
func TestATornWriteOfTheMarkerLeavesTheOneBefore(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	mem := storage.NewStrictMem()
	s, v := slotsAt(t, mem)
	grown := 0
	for round := range 40 {
		before, _ := storage.ReadFile(mem, testDir+"/marker")
		v.Applied++
		v.producers = bytes.Repeat([]byte{byte(round)}, r.IntN(1+2000*round))
		if err := s.write(v); err != nil {
			t.Fatal(err)
		}
		after, _ := storage.ReadFile(mem, testDir+"/marker")
		if got := read(t, mem); got.Applied != v.Applied || !bytes.Equal(got.producers, v.producers) {
			t.Fatalf("round %d: read index %d, %d was written", round, got.Applied, v.Applied)
		}
		if len(before) != len(after) {
			grown++ // by a rename: one or the other
			continue
		}
		for range 50 {
			d := files{testDir + "/marker": torn(before, after, r)}.disk(t, neverCrash)
			got := read(t, d.mem)
			if got.Applied != v.Applied && got.Applied != v.Applied-1 {
				t.Fatalf("round %d: a torn write leaves index %d, %d was written", round, got.Applied, v.Applied)
			}
		}
	}
	if grown < 2 {
		t.Errorf("the file grew %d times", grown)
	}
}

// The marker is written where it lies: no file is made, renamed or removed, and no
// directory is synced.
func TestAWriteOfTheMarkerIsOneWriteAndOneSync(t *testing.T) {
	var kinds []storagetest.Kind
	s, v := slotsAt(t, storagetest.Wrap(storage.NewStrictMem(), func(op storagetest.Op) (int, error) {
		kinds = append(kinds, op.Kind)
		return 0, nil
	}))
	kinds = nil
	for range 2 {
		if err := s.write(v); err != nil {
			t.Fatal(err)
		}
	}
	if len(kinds) != 4 || kinds[0] != storagetest.Write || kinds[1] != storagetest.Sync || kinds[2] != storagetest.Write || kinds[3] != storagetest.Sync {
		t.Errorf("two writes were %v", kinds)
	}
}

// What a killed process wrote and did not sync can be read after a restart, and be
// lost with the power after that. So it is made durable before anything is removed.
func TestAMarkerThatIsReadIsDurable(t *testing.T) {
	mem := storage.NewStrictMem()
	s, v := slotsAt(t, mem)
	v.Revision, v.Applied = s.revision+1, v.Applied+1
	if _, err := s.file.WriteAt(v.encode(s.slotBytes), int64(s.slotBytes)); err != nil {
		t.Fatal(err)
	}
	if _, err := openSlots(mem, s.path, read(t, mem)); err != nil {
		t.Fatal(err)
	}
	mem.ResetToSyncedState()
	if got := read(t, mem); got.Applied != v.Applied {
		t.Errorf("index %d was read and is lost; %d came back", v.Applied, got.Applied)
	}
}

func TestAMarkerOfAnotherFormatIsRefusedByNameAndIsNoDamage(t *testing.T) {
	mem := storage.NewStrictMem()
	_, v := slotsAt(t, mem)
	later := v.encode(slotBytesMin)
	later[4] = markerVersion + 1
	later = binary.BigEndian.AppendUint32(later[:len(later)-4], checksum(later[:len(later)-4]))
	text, err := os.ReadFile("testdata/vectors/marker-v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	first, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil || len(first) != markerBytesV1 {
		t.Fatalf("the old marker has %d bytes: %v", len(first), err)
	}
	for name, b := range map[string][]byte{
		"first": first, "later": append(later, make([]byte, 2*slotBytesMin-len(later))...),
	} {
		d := files{testDir + "/marker": b}.disk(t, neverCrash)
		if _, _, err := d.open(t, nil); !errors.Is(err, ErrMarkerVersion) || errors.Is(err, commitlog.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABitInOneSlotOfTheMarkerIsNoLoss(t *testing.T) {
	for slot := range 2 {
		h := generate(rand.New(rand.NewPCG(12, 1)), 60)
		f, d := h.sender(t, 30)
		for _, to := range []int{30, 60} {
			if _, err := h.feed(t, f, h.position(f.AppliedIndex()), to, rand.New(rand.NewPCG(1, 1))); err != nil {
				t.Fatal(err)
			}
			if err := settle(f); err != nil {
				t.Fatal(err)
			}
		}
		in := d.files(t)
		in[testDir+"/marker"][slot*slotBytesMin+40] ^= 1
		again, index := in.disk(t, neverCrash).mustOpen(t)
		h.modelAt(h.position(index)).check(t, again)
		if whole := slot != f.slots.used; whole && index != f.DurableIndex() || !whole && index >= f.DurableIndex() {
			t.Errorf("slot %d: opened at %d, the marker was at %d", slot, index, f.DurableIndex())
		}
	}
}
