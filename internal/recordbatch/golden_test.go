package recordbatch

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"logbroker/internal/errcode"
)

const goldenTimestampMs = 1_700_000_000_000

// goldenRecords are the records of every vector that is not refused.
func goldenRecords() []Record {
	return []Record{
		{Offset: 0, TimestampMs: goldenTimestampMs, Key: []byte("k1"), Value: []byte("v1")},
		{Offset: 1, TimestampMs: goldenTimestampMs + 5, Key: nil, Value: []byte{}},
		{Offset: 2, TimestampMs: goldenTimestampMs - 1, Key: []byte{}, Value: nil, Headers: []Header{{"h", []byte("x")}, {"n", nil}}},
		{Offset: 3, TimestampMs: goldenTimestampMs + 300, Key: []byte("run"), Value: bytes.Repeat([]byte("a"), 100)},
	}
}

// vector is one file of testdata/vectors.
type vector struct {
	name  string
	bytes []byte
	// step and code say who refuses the vector, both empty when it is good.
	step, code string
}

var (
	vectorComment = regexp.MustCompile(`#.*`)
	vectorRefused = regexp.MustCompile(`# refused by (\w+): (\w+)`)
)

// readVectors returns every vector.
func readVectors(tb testing.TB) []vector {
	tb.Helper()
	files, err := filepath.Glob("testdata/vectors/*.hex")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no vectors: %v", err)
	}
	var out []vector
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		v := vector{name: strings.TrimSuffix(filepath.Base(file), ".hex")}
		if m := vectorRefused.FindSubmatch(text); m != nil {
			v.step, v.code = string(m[1]), string(m[2])
		}
		digits := strings.Join(strings.Fields(string(vectorComment.ReplaceAll(text, nil))), "")
		if v.bytes, err = hex.DecodeString(digits); err != nil {
			tb.Fatalf("%s: %v", file, err)
		}
		out = append(out, v)
	}
	return out
}

// readVector returns the bytes of one vector.
func readVector(tb testing.TB, name string) []byte {
	tb.Helper()
	for _, v := range readVectors(tb) {
		if v.name == name {
			return v.bytes
		}
	}
	tb.Fatalf("no vector %s", name)
	return nil
}

func TestVectorsAreReadOrRefusedAsTheySay(t *testing.T) {
	for _, v := range readVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			step, err := walk(v.bytes, nil)
			if v.step == "" {
				checkGolden(t, v.bytes)
				return
			}
			if step != v.step || errcode.Of(err).String() != v.code {
				t.Fatalf("refused by %s: %v; want %s: %s", step, err, v.step, v.code)
			}
		})
	}
}

// walk takes b through everything a batch goes through and returns the step
// that refused it.
func walk(b []byte, visit func(Record)) (step string, err error) {
	batch, _, err := Parse(b)
	if err != nil {
		return "Parse", err
	}
	if err := batch.Validate(0); err != nil {
		return "Validate", err
	}
	it, err := batch.Iterate(IterateOptions{})
	if err != nil {
		return "Iterate", err
	}
	for it.Next() {
		if visit != nil {
			visit(it.Record())
		}
	}
	return "Iterate", it.Err()
}

// checkGolden demands that b holds the golden records.
func checkGolden(t *testing.T, b []byte) {
	t.Helper()
	var got []Record
	if step, err := walk(b, func(r Record) { got = append(got, r) }); err != nil {
		t.Fatalf("%s: %v", step, err)
	}
	want := goldenRecords()
	for i := range want {
		want[i].Offset += Batch(b).BaseOffset()
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("records\n got %+v\nwant %+v", got, want)
	}
}

func TestBuilderWritesTheGoldenBytes(t *testing.T) {
	got := build(t, goldenRecords(), None)
	if want := readVector(t, "none"); !bytes.Equal(got, want) {
		t.Fatalf("built\n%x\nwant\n%x", got, want)
	}
}

func TestSettersWriteTheGoldenBytes(t *testing.T) {
	want := readVector(t, "none-appended")
	batch := Batch(bytes.Clone(readVector(t, "none")))
	batch.SetProducer(4242, 3, 77)
	patched := append(make([]byte, PatchSize), batch[PatchSize:]...)
	PatchHeader(patched, batch, 1<<40+7, 9)
	if !bytes.Equal(patched, want) {
		t.Errorf("patched\n%x\nwant\n%x", patched, want)
	}
	if batch.BaseOffset() != 0 || batch.PartitionLeaderEpoch() != -1 {
		t.Error("PatchHeader wrote to the batch it reads")
	}
	batch.SetBaseOffset(1<<40 + 7)
	batch.SetPartitionLeaderEpoch(9)
	if !bytes.Equal(batch, want) {
		t.Errorf("set\n%x\nwant\n%x", []byte(batch), want)
	}
}

func TestViewReadsEveryField(t *testing.T) {
	b := Batch(readVector(t, "none-appended"))
	for _, f := range []struct {
		name      string
		got, want int64
	}{
		{"size", int64(b.Size()), int64(len(b))},
		{"base offset", b.BaseOffset(), 1<<40 + 7},
		{"last offset", b.LastOffset(), 1<<40 + 10},
		{"next offset", b.NextOffset(), 1<<40 + 11},
		{"epoch", int64(b.PartitionLeaderEpoch()), 9},
		{"attributes", int64(b.Attributes()), 0},
		{"codec", int64(b.Codec()), int64(None)},
		{"last offset delta", int64(b.LastOffsetDelta()), 3},
		{"base timestamp", b.BaseTimestamp(), goldenTimestampMs},
		{"max timestamp", b.MaxTimestamp(), goldenTimestampMs + 300},
		{"producer id", b.ProducerID(), 4242},
		{"producer epoch", int64(b.ProducerEpoch()), 3},
		{"base sequence", int64(b.BaseSequence()), 77},
		{"count", int64(b.Count()), 4},
		{"records", int64(len(b.Records())), int64(len(b) - HeaderSize)},
	} {
		if f.got != f.want {
			t.Errorf("%s: %d, want %d", f.name, f.got, f.want)
		}
	}
}
