package groups

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/errcode"
)

// samples is an operation of every kind, with every field that counts for it.
func samples() []operation {
	p := []Partition{{7, 0}, {7, 1}, {300, 59}}
	offsets := []commit{{Partition: p[0], Offset: 1 << 40, Metadata: "m"}, {Partition: p[2], Offset: 0}}
	return []operation{
		{Kind: opJoin, Group: "g", Member: "a", Joining: &joining{
			InstanceID: "i", ClientID: "c", Host: "h", Topics: []string{"t", "u"}, SessionMs: 45_000, RebalanceMs: 60_000, Metadata: []byte{1, 2},
		}},
		{Kind: opJoin, Group: "g", Member: "b", Joining: &joining{}},
		{Kind: opReport, Group: "g", Member: "a", Epoch: 3, Owned: p},
		{Kind: opReport, Group: "g", Member: "a", Epoch: 3},
		{Kind: opAway, Group: "g", Member: "a"},
		{Kind: opRemove, Group: "g", Member: "a", Epoch: -1},
		{Kind: opTarget, Group: "g", Revision: 9, Topics: []topicCount{{7, "t", 60}}, Targets: []target{{Member: "a", Partitions: p, Assignment: []byte{9}}, {Member: "b"}}},
		{Kind: opCommit, Group: "g", Member: "a", Epoch: 4, Sequence: 1000, Offsets: offsets},
		{Kind: opStore, Group: "g", Offsets: offsets},
		{Kind: opForget, Group: "g", Forget: []forgotten{{7, "t", []int32{0, 2}}, {8, "u", nil}}},
		{Kind: opPurge, Group: "g", Gone: []uint64{7, 300}},
		{Kind: opDelete, Group: "g"},
		{Kind: opExpired, Group: "g", SinceMs: 1_700_000_000_000},
	}
}

func sampleEntry() entry {
	return entry{Epoch: 5, TimeMs: 1_700_000_000_000, Ops: samples()}
}

func sampleOutcomes() []outcome {
	return []outcome{{}, {Code: errcode.UnknownMemberID, Message: "who?"}, {}, {Codes: []errcode.Code{errcode.None, errcode.StaleMemberEpoch}}, {}}
}

// TestFormatsAreTheGoldenOnes holds the formats against bytes that were written
// down when they were fixed.
func TestFormatsAreTheGoldenOnes(t *testing.T) {
	for name, got := range map[string][]byte{
		"entry": encode(sampleEntry()),
		"epoch": encode(entry{Epoch: 5, Replica: 3}),
		// Not on disk, but nodes of two versions must answer alike.
		"outcomes": encodeOutcomes(sampleOutcomes()),
	} {
		file := "testdata/vectors/" + name + "-v1.hex"
		want, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%v\n%x", err, got)
			continue
		}
		if hex.EncodeToString(got) != strings.Join(strings.Fields(string(want)), "") {
			t.Errorf("%s has changed; a new form needs a new version:\n%x", file, got)
		}
	}
}

func TestEntriesAndOutcomesAreReadAsTheyWereWritten(t *testing.T) {
	want := sampleEntry()
	if got, ok := decode(encode(want)); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v\n%+v", ok, got, want)
	}
	outcomes := sampleOutcomes()
	if got, ok := decodeOutcomes(encodeOutcomes(outcomes), len(outcomes)); !ok || !reflect.DeepEqual(got, outcomes) {
		t.Errorf("%v %+v", ok, got)
	}
	if data := encodeOutcomes(make([]outcome, 500)); data != nil {
		t.Errorf("500 fine outcomes take %d bytes", len(data))
	}
	if _, ok := decodeOutcomes(encodeOutcomes(outcomes), 2); ok {
		t.Error("an outcome of an operation that was not there is read")
	}
}

func TestDamagedEntryChangesNothing(t *testing.T) {
	b := newBench(t)
	b.join("a", "t")
	before := b.snapshot()
	whole := encode(entry{Epoch: 1, Ops: samples()})
	unknown := encode(entry{Epoch: 1, Ops: []operation{{Kind: opDelete, Group: "g"}}})
	unknown[bytes.IndexByte(unknown, byte(opDelete))] = 99
	damaged := map[string][]byte{
		"empty": {}, "another version": append([]byte{commandVersion + 1}, whole[1:]...), "JSON": []byte(`{"v":1,"e":1}`),
		"more than an entry": append(bytes.Clone(whole), 0), "a kind that is not known": unknown,
		"epoch beyond int32": {commandVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0},
		"too many":           {commandVersion, 2, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f},
	}
	for n := range whole {
		damaged[fmt.Sprint("cut at ", n)] = whole[:n]
	}
	for name, data := range damaged {
		r, err := b.m.Update(statemachine.Entry{Cmd: data})
		if err != nil || r.Value != verdictUnknown {
			t.Errorf("%s: verdict %d, %v", name, r.Value, err)
		}
	}
	if !bytes.Equal(before, b.snapshot()) {
		t.Error("the state has changed")
	}
}

// What can be read is written again as bytes that mean the same.
func FuzzEntry(f *testing.F) {
	f.Add(encode(sampleEntry()))
	f.Add(encode(entry{Epoch: 1, Replica: 2}))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, ok := decode(data)
		if !ok {
			return
		}
		if again, ok := decode(encode(e)); !ok || !reflect.DeepEqual(again, e) {
			t.Errorf("%+v became %+v", e, again)
		}
	})
}

func FuzzOutcomes(f *testing.F) {
	f.Add(encodeOutcomes(sampleOutcomes()))
	f.Add([]byte("\x02\x00\x00\x040000\x00\x030\x00\x0200")) // a refusal that refuses nothing
	f.Fuzz(func(t *testing.T, data []byte) {
		const n = 5
		outcomes, ok := decodeOutcomes(data, n)
		if !ok {
			return
		}
		if again, ok := decodeOutcomes(encodeOutcomes(outcomes), n); !ok || !reflect.DeepEqual(again, outcomes) {
			t.Errorf("%+v became %+v", outcomes, again)
		}
	})
}
