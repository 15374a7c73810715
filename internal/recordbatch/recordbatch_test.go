package recordbatch

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"logbroker/internal/errcode"
)

// build returns one batch of records, ignoring their offsets.
func build(tb testing.TB, records []Record, codec Codec) Batch {
	tb.Helper()
	b := NewBuilder()
	for _, r := range records {
		b.Append(r.TimestampMs, r.Key, r.Value, r.Headers)
	}
	out, err := b.Build(nil, codec)
	if err != nil {
		tb.Fatal(err)
	}
	return Batch(out)
}

// someRecords returns n records that compress.
func someRecords(n int) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = Record{
			Offset:      int64(i),
			TimestampMs: goldenTimestampMs + int64(i),
			Key:         fmt.Appendf(nil, "customer-%d", i%7),
			Value:       fmt.Appendf(nil, `{"order":%d,"state":"accepted","items":[1,2,3,4,5,6,7,8]}`, i),
		}
		if i%3 == 0 {
			records[i].Headers = []Header{{"trace", []byte{byte(i)}}, {"origin", nil}}
		}
	}
	return records
}

// wantCode fails unless err carries code.
func wantCode(t *testing.T, err error, code errcode.Code) {
	t.Helper()
	if errcode.Of(err) != code {
		t.Fatalf("error %v, want %v", err, code)
	}
}

func TestParseSplitsConcatenatedBatches(t *testing.T) {
	var stream []byte
	sizes := []int{1, 50, 3}
	for _, n := range sizes {
		stream = append(stream, build(t, someRecords(n), Zstd)...)
	}
	for _, n := range sizes {
		batch, rest, err := Parse(stream)
		if err != nil || int(batch.Count()) != n || cap(batch) != len(batch) {
			t.Fatalf("batch of %d records: %v", n, err)
		}
		stream = rest
	}
	if len(stream) != 0 {
		t.Fatalf("%d bytes left", len(stream))
	}
}

func TestParseRefusesEveryPrefix(t *testing.T) {
	whole := build(t, goldenRecords(), None)
	for n := range len(whole) {
		if _, _, err := Parse(whole[:n]); errcode.Of(err) != errcode.CorruptMessage {
			t.Fatalf("prefix of %d bytes: %v", n, err)
		}
	}
}

func TestPeekSizeNeedsOnlyTheFirstBytes(t *testing.T) {
	whole := build(t, goldenRecords(), None)
	size, err := PeekSize(whole[:17])
	if err != nil || size != len(whole) {
		t.Fatalf("size %d, %v; want %d", size, err, len(whole))
	}
	_, err = PeekSize(whole[:16])
	wantCode(t, err, errcode.CorruptMessage)
}

func TestValidateRefusesABatchThatIsNotExactlyOne(t *testing.T) {
	whole := build(t, goldenRecords(), None)
	wantCode(t, Batch(append(bytes.Clone(whole), 0)).Validate(0), errcode.CorruptMessage)
	wantCode(t, whole[:len(whole)-1].Validate(0), errcode.CorruptMessage)
	wantCode(t, Batch(nil).Validate(0), errcode.CorruptMessage)
}

func TestValidateBoundsTheSize(t *testing.T) {
	whole := build(t, goldenRecords(), None)
	if err := whole.Validate(len(whole)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, whole.Validate(len(whole)-1), errcode.MessageTooLarge)
}

// A batch that was damaged is called damaged, whatever field the damage hit.
func TestEveryFlippedBitUnderTheCRCIsCorruption(t *testing.T) {
	whole := build(t, goldenRecords(), Gzip)
	for i := atCRC; i < len(whole); i++ {
		for bit := range 8 {
			damaged := bytes.Clone(whole)
			damaged[i] ^= 1 << bit
			if err := Batch(damaged).Validate(0); errcode.Of(err) != errcode.CorruptMessage {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
}

func TestDamagedRecordsNeverPanicAndErrorsAreCoded(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for codec := None; codec <= Zstd; codec++ {
		whole := build(t, someRecords(40), codec)
		for range 500 {
			damaged := Batch(bytes.Clone(whole))
			for range 1 + rnd.IntN(3) {
				damaged[atAttributes+rnd.IntN(len(damaged)-atAttributes)] ^= 1 << rnd.IntN(8)
			}
			damaged.setCRC()
			if _, err := walk(damaged, nil); err != nil && errcode.Of(err) == errcode.UnknownServerError {
				t.Fatalf("%v: error without a code: %v", codec, err)
			}
		}
	}
}

func TestCodecNames(t *testing.T) {
	for codec := None; codec <= Zstd; codec++ {
		got, err := ParseCodec(codec.String())
		if err != nil || got != codec {
			t.Errorf("%v: %v, %v", codec, got, err)
		}
	}
	if got, err := ParseCodec("ZSTD"); err != nil || got != Zstd {
		t.Errorf("ZSTD: %v, %v", got, err)
	}
	if got, err := ParseCodec(""); err != nil || got != None {
		t.Errorf("no name: %v, %v", got, err)
	}
	_, err := ParseCodec("brotli")
	wantCode(t, err, errcode.UnsupportedCompression)
	if s := Codec(6).String(); s != "codec(6)" {
		t.Error(s)
	}
}

func TestViewAndValidateDoNotAllocate(t *testing.T) {
	batch := build(t, someRecords(100), Zstd)
	head := make([]byte, PatchSize)
	var sink int64
	allocs := testing.AllocsPerRun(100, func() {
		b, _, err := Parse(batch)
		if err != nil || b.Validate(1<<20) != nil {
			panic("refused")
		}
		sink += b.BaseOffset() + b.NextOffset() + b.BaseTimestamp() + b.MaxTimestamp() + b.ProducerID() +
			int64(b.Count()) + int64(b.Codec()) + int64(b.CRC()) + int64(len(b.Records())) + int64(b.ProducerEpoch()) + int64(b.BaseSequence())
		PatchHeader(head, b, 5, 6)
		b.SetBaseOffset(7)
		b.SetPartitionLeaderEpoch(8)
		b.SetProducer(1, 2, 3)
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
