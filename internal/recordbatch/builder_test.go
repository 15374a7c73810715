package recordbatch

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"logbroker/internal/errcode"
)

func TestRecordsSurviveEveryCodec(t *testing.T) {
	want := someRecords(500)
	for codec := None; codec <= Zstd; codec++ {
		batch := build(t, want, codec)
		if batch.Codec() != codec {
			t.Errorf("%v: written as %v", codec, batch.Codec())
		}
		var got []Record
		if step, err := walk(batch, func(r Record) { got = append(got, r) }); err != nil {
			t.Fatalf("%v: %s: %v", codec, step, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v: other records", codec)
		}
	}
}

func TestBuildAppendsToTheCallersBuffer(t *testing.T) {
	b := NewBuilder()
	for _, r := range someRecords(100) {
		b.Append(r.TimestampMs, r.Key, r.Value, r.Headers)
	}
	for codec := None; codec <= Zstd; codec++ {
		alone, err := b.Build(nil, codec)
		if err != nil {
			t.Fatal(err)
		}
		// Room for the batch; room for nothing; room for the header only.
		for _, room := range []int{b.Size() + 100, 0, HeaderSize} {
			prefix := append(make([]byte, 0, 8+room), "in front"...)
			out, err := b.Build(prefix, codec)
			if err != nil {
				t.Fatal(err)
			}
			if string(out[:8]) != "in front" || !bytes.Equal(out[8:], alone) {
				t.Errorf("%v with room for %d: another batch", codec, room)
			}
		}
	}
}

func TestBuildFallsBackToNoneWhenCompressionDoesNotShrink(t *testing.T) {
	noise := make([]byte, 4096)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(noise)
	for codec := None; codec <= Zstd; codec++ {
		b := NewBuilder()
		b.Append(1, nil, noise, nil)
		out, err := b.Build(nil, codec)
		if err != nil {
			t.Fatal(err)
		}
		if Batch(out).Codec() != None || len(out) != b.Size() {
			t.Errorf("%v: written as %v in %d bytes of %d", codec, Batch(out).Codec(), len(out), b.Size())
		}
		if step, err := walk(out, nil); err != nil {
			t.Errorf("%v: %s: %v", codec, step, err)
		}
	}
}

func TestBuildRefusesAnEmptyBatchAndUnknownCodecs(t *testing.T) {
	b := NewBuilder()
	out, err := b.Build([]byte("kept"), None)
	wantCode(t, err, errcode.InvalidRecord)
	if string(out) != "kept" {
		t.Errorf("buffer is %q", out)
	}
	b.Append(1, nil, nil, nil)
	_, err = b.Build(nil, Codec(5))
	wantCode(t, err, errcode.UnsupportedCompression)
}

func TestSizeIsTheUncompressedSizeAndRecordSizeAnUpperBound(t *testing.T) {
	b := NewBuilder()
	for _, r := range append(someRecords(200), Record{TimestampMs: math.MinInt64, Value: make([]byte, 1<<20)}) {
		before := b.Size()
		b.Append(r.TimestampMs, r.Key, r.Value, r.Headers)
		if grown, bound := b.Size()-before, RecordSize(r.Key, r.Value, r.Headers); grown > bound {
			t.Fatalf("record took %d bytes, RecordSize says %d", grown, bound)
		}
	}
	out, err := b.Build(nil, None)
	if err != nil || len(out) != b.Size() {
		t.Fatalf("%d bytes, Size says %d: %v", len(out), b.Size(), err)
	}
	if b.Count() != 201 {
		t.Errorf("count %d", b.Count())
	}
}

func TestResetBeginsANewBatch(t *testing.T) {
	b := NewBuilder()
	b.Append(goldenTimestampMs*2, []byte("other"), nil, nil)
	b.Reset()
	if b.Count() != 0 || b.Size() != HeaderSize {
		t.Fatalf("%d records, %d bytes after Reset", b.Count(), b.Size())
	}
	for _, r := range goldenRecords() {
		b.Append(r.TimestampMs, r.Key, r.Value, r.Headers)
	}
	out, err := b.Build(nil, None)
	if err != nil || !bytes.Equal(out, readVector(t, "none")) {
		t.Fatalf("another batch after Reset: %v", err)
	}
}

func TestExtremeTimestampsSurvive(t *testing.T) {
	stamps := []int64{math.MaxInt64, math.MinInt64, 0, -1, math.MaxInt64}
	b := NewBuilder()
	for _, ts := range stamps {
		b.Append(ts, nil, nil, nil)
	}
	out, err := b.Build(nil, None)
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	if _, err := walk(out, func(r Record) { got = append(got, r.TimestampMs) }); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, stamps) {
		t.Errorf("%v, want %v", got, stamps)
	}
	if m := Batch(out).MaxTimestamp(); m != math.MaxInt64 {
		t.Errorf("max timestamp %d", m)
	}
}

func TestVarintSizeMatchesTheEncoder(t *testing.T) {
	for shift := range 64 {
		for _, v := range []int64{1<<shift - 1, 1 << shift, -1 << shift, -1<<shift + 1} {
			b := NewBuilder()
			b.Append(0, nil, nil, nil)
			b.Append(v, nil, nil, nil)
			if _, err := walk(mustBuild(t, b), nil); err != nil {
				t.Fatalf("timestamp delta %d: %v", v, err)
			}
		}
	}
}

// mustBuild builds without compression.
func mustBuild(t *testing.T, b *Builder) []byte {
	t.Helper()
	out, err := b.Build(nil, None)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBuilderInSteadyStateDoesNotAllocate(t *testing.T) {
	b, records := NewBuilder(), someRecords(100)
	var dst []byte
	one := func() {
		b.Reset()
		for i := range records {
			b.Append(records[i].TimestampMs, records[i].Key, records[i].Value, records[i].Headers)
		}
		var err error
		if dst, err = b.Build(dst[:0], None); err != nil {
			panic(err)
		}
	}
	one()
	if allocs := testing.AllocsPerRun(50, one); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// noise returns n bytes that no codec shrinks.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestTakeGivesWhatBuildGives(t *testing.T) {
	const room = 11
	b, other := NewBuilderBehind(room), NewBuilder()
	shrinking := someRecords(300)
	var spare []byte
	for codec := None; codec <= Zstd; codec++ {
		for _, records := range [][]Record{shrinking, {{TimestampMs: 5, Value: noise(4096)}}, shrinking[:1]} {
			other.Reset()
			for _, r := range records {
				b.Append(r.TimestampMs, r.Key, r.Value, r.Headers)
				other.Append(r.TimestampMs, r.Key, r.Value, r.Headers)
			}
			want, err := other.Build(nil, codec)
			if err != nil {
				t.Fatal(err)
			}
			size := b.Size()
			if size != other.Size() {
				t.Fatalf("size %d behind room, %d without", size, other.Size())
			}
			got, err := b.Take(spare, codec)
			if err != nil {
				t.Fatal(err)
			}
			Batch(want).SetProducer(7, 8, 9)
			Batch(got[room:]).SetProducer(7, 8, 9)
			if !bytes.Equal(got[room:], want) {
				t.Errorf("%v, %d records: another batch", codec, len(records))
			}
			if b.Count() != 0 || b.Size() != HeaderSize {
				t.Errorf("%v: %d records are left", codec, b.Count())
			}
			// What the builder goes on with is not what it gave away.
			b.Append(1, nil, noise(8192), nil)
			if !bytes.Equal(got[room:], want) {
				t.Errorf("%v, %d records: the builder writes into what it gave away", codec, len(records))
			}
			b.Reset()
			spare = got
		}
	}
}

func TestTakeCopiesNothingThatIsNotCompressed(t *testing.T) {
	for _, codec := range []Codec{None, Zstd} {
		b := NewBuilderBehind(4)
		spare := make([]byte, 64<<10)
		b.Append(1, nil, noise(32<<10), nil)
		first := &b.buf[0]
		out, err := b.Take(spare, codec)
		if err != nil {
			t.Fatal(err)
		}
		if &out[0] != first {
			t.Errorf("%v: the batch lies elsewhere", codec)
		}
		b.Append(1, nil, noise(32<<10), nil)
		if &b.buf[0] != &spare[0] {
			t.Errorf("%v: the builder does not use the spare memory", codec)
		}
	}
}

func TestTakeThatFailsKeepsTheRecords(t *testing.T) {
	b := NewBuilder()
	_, err := b.Take(nil, None)
	wantCode(t, err, errcode.InvalidRecord)
	b.Append(1, nil, []byte("v"), nil)
	_, err = b.Take(nil, Codec(5))
	wantCode(t, err, errcode.UnsupportedCompression)
	if b.Count() != 1 {
		t.Fatalf("%d records are left", b.Count())
	}
}
