package fsm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/partitions/commitlog"
	"logbroker/partitions/producerstate"
)

// FuzzUpdate gives any bytes as a command to two replicas, to one alone and to
// the other among commands it knows. They must neither panic nor fail nor
// differ, and go on working.
func FuzzUpdate(f *testing.F) {
	f.Add(batchOf(1, 3, 5, 0))
	f.Add(publish(1, "id", 1000))
	f.Add(EncodeEpoch(Epoch{2, 7}))
	f.Add(EncodeTrim(1, 1))
	f.Add(EncodeExpire(1, []producerstate.Key{{Producer: 5, LastSequence: 2}}))
	f.Add(EncodeConfigure(1, Config{Segment: commitlog.Config{SegmentBytes: 200}}))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, cmd []byte) {
		before := [][]byte{EncodeEpoch(Epoch{1, 1}), batchOf(1, 2, 5, 0), publish(1, "id", 900)}
		diskA, diskB := newDisk(neverCrash), newDisk(neverCrash)
		a, b := newMachine(t, diskA, nil), newMachine(t, diskB, nil)
		a.apply(before...)
		results := a.apply(cmd)
		if got := b.apply(append(slices.Clone(before), cmd)...); got[3] != results[0] {
			t.Fatalf("%v on one replica, %v on the other", results[0], got[3])
		}
		epoch, _, _ := a.Epoch()
		after := batchOf(epoch, 1, -1, 0)
		for _, m := range []*machine{a, b} {
			m.want(result{Appended, m.HighWatermark()}, after)
			if err := settle(m.FSM); err != nil {
				t.Fatal(err)
			}
		}
		// Not by reads: a batch with a wrong CRC is stored (see decodeProduce).
		diskA.files(t).segmentFiles().checkSame(t, diskB.files(t).segmentFiles())
		if !bytes.Equal(a.encodeState(), b.encodeState()) {
			t.Fatal("the replicas differ")
		}
	})
}

// FuzzRecoverFromSnapshot gives any bytes as a snapshot: an error and the old
// state, or a whole new one.
func FuzzRecoverFromSnapshot(f *testing.F) {
	source := New(Options{FS: newDisk(neverCrash).fs, Dir: testDir, ShardID: 7, ReplicaID: 1})
	if _, err := source.Open(nil); err != nil {
		f.Fatal(err)
	}
	defer source.Close()
	entries := []statemachine.Entry{{Index: 1, Cmd: EncodeEpoch(Epoch{1, 1})}, {Index: 2, Cmd: batchOf(1, 2, 5, 0)}}
	if _, err := source.Update(entries); err != nil {
		f.Fatal(err)
	}
	ctx, err := source.PrepareSnapshot()
	if err != nil {
		f.Fatal(err)
	}
	var stream bytes.Buffer
	if err := source.SaveSnapshot(ctx, &stream, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(stream.Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		// A head with a right checksum, so that what is behind it is reached.
		if n := len(stream); n > 13 {
			if size := binary.BigEndian.Uint64(stream[5:]); size+17 < uint64(n) && size < 1<<20 {
				stream = bytes.Clone(stream)
				binary.BigEndian.PutUint32(stream[13+size:], checksum(stream[13:13+size]))
			}
		}
		m := newMachine(t, newDisk(neverCrash), nil)
		if err := m.RecoverFromSnapshot(bytes.NewReader(stream), nil); err == nil {
			readAll(t, m.FSM)
		} else if m.HighWatermark() != 0 || m.AppliedIndex() != 0 {
			t.Fatal("a refused snapshot left a trace")
		}
	})
}

func FuzzDecodeMarker(f *testing.F) {
	f.Add(sampleMarker().encode(slotBytesMin))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < recordBytes || len(b) > slotBytesMin {
			return
		}
		b = bytes.Clone(b)
		binary.BigEndian.PutUint32(b[5:], slotBytesMin)
		if int(binary.BigEndian.Uint32(b[9:])) == len(b) {
			binary.BigEndian.PutUint32(b[len(b)-4:], checksum(b[:len(b)-4]))
		}
		record, version, ok := frame(append(b, make([]byte, slotBytesMin-len(b))...))
		if !ok || version != markerVersion {
			return
		}
		if v, ok := decodeRecord(record); ok && !bytes.HasPrefix(v.encode(slotBytesMin), record) {
			t.Fatal("decodes to a marker with another form")
		}
	})
}

func FuzzDecodeEpochs(f *testing.F) {
	f.Add(appendEpochs(nil, []EpochStart{{1, 2, 0}, {4, 3, 17}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, ok := decodeEpochs(b); ok && !bytes.Equal(appendEpochs(nil, h), b) {
			t.Fatal("decodes to a history with another form")
		}
	})
}

func sampleMarker() *saved {
	return &saved{Marker: Marker{
		Revision: 77, ShardID: 1001, ReplicaID: 2, Generation: 3, Applied: 4000, LastAppendMs: 1_700_000_000_000,
		Log: commitlog.State{
			LogStart: 10, End: 500, ActiveBase: 400, ActivePosition: 65536, ActiveCRC: 0xdeadbeef,
			ActiveFirstAppendMs: 1_600_000_000_000, LastAppendMs: 1_700_000_000_000,
		},
		Config: Config{
			Segment:   commitlog.Config{SegmentBytes: 256 << 20, SegmentAge: 168 * time.Hour},
			Producers: producerstate.Limits{Window: 64, Producers: 10_000, MessageIDs: 100_000},
		},
	}, epochs: []EpochStart{{1, 2, 0}, {4, 3, 17}}, producers: []byte("what producerstate encodes"), slotBytes: slotBytesMin}
}

func sampleHead(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../commitlog/testdata/vectors/manifest.v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := commitlog.DecodeManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	f := New(Options{ShardID: 1001, ReplicaID: 2})
	f.epochs = []EpochStart{{1, 2, 0}}
	return f.encodeHead(&snapshot{state: f.encodeState(), applied: 4000, appendMs: 1_700_000_000_000, manifest: manifest}, 99)
}

// TestFormatsAreTheGoldenOnes holds every format of this package against bytes
// that were written down when it was fixed.
func TestFormatsAreTheGoldenOnes(t *testing.T) {
	produce := EncodeProduce(append(make([]byte, 20), "batch"...), 20, ProduceHeader{LeaderEpoch: 7, AppendTimeMs: 1_700_000_000_000, MsgID: "m-1"})
	for name, got := range map[string][]byte{
		"marker":    sampleMarker().encode(slotBytesMin),
		"epochs":    appendEpochs(nil, []EpochStart{{1, 2, 0}, {4, 3, 17}}),
		"produce":   produce,
		"epoch":     EncodeEpoch(Epoch{5, 3}),
		"trim":      EncodeTrim(5, 1000),
		"expire":    EncodeExpire(5, []producerstate.Key{{Producer: 258, Epoch: 3, LastSequence: 65535}}),
		"configure": EncodeConfigure(5, sampleMarker().Config),
		"head":      sampleHead(t),
	} {
		version := 1
		switch name {
		case "head":
			version = snapshotVersion
		case "marker":
			version = markerVersion
		}
		file := fmt.Sprintf("testdata/vectors/%s-v%d.hex", name, version)
		want, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%v\n%x", err, got)
			continue
		}
		if hex.EncodeToString(got) != strings.Join(strings.Fields(string(want)), "") {
			t.Errorf("%s has changed; a new form needs a new version:\n%x", file, got)
		}
	}
	slot := append(sampleMarker().encode(slotBytesMin), make([]byte, slotBytesMin)...)[:slotBytesMin]
	record, version, ok := frame(slot)
	if !ok || version != markerVersion {
		t.Fatalf("a record of version %d has no frame", version)
	}
	if v, ok := decodeRecord(record); !ok || !reflect.DeepEqual(&v, sampleMarker()) {
		t.Errorf("marker became %+v", v)
	}
}
