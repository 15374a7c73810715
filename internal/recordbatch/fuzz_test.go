package recordbatch

import (
	"bytes"
	"testing"

	"logbroker/internal/errcode"
)

// fuzzLimit keeps the fuzzer's bombs small.
const fuzzLimit = 1 << 20

// FuzzParse feeds anything to Parse and Validate: no panic, coded errors, and
// what was accepted is consistent.
func FuzzParse(f *testing.F) {
	for _, v := range readVectors(f) {
		f.Add(v.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		batch, rest, err := Parse(b)
		if err != nil {
			requireCoded(t, err)
			return
		}
		if batch.Size()+len(rest) != len(b) || batch.Size() < HeaderSize {
			t.Fatalf("split %d bytes into %d and %d", len(b), batch.Size(), len(rest))
		}
		if err := batch.Validate(fuzzLimit); err != nil {
			requireCoded(t, err)
			return
		}
		if batch.Count() <= 0 || batch.NextOffset()-batch.BaseOffset() != int64(batch.Count()) ||
			!batch.Codec().Known() || batch.Attributes()&^codecMask != 0 || batch.Size() > fuzzLimit {
			t.Fatalf("accepted %x", []byte(batch))
		}
	})
}

// FuzzIterate puts anything behind a right header, so that the fuzzer reaches
// the codecs and the records at once.
func FuzzIterate(f *testing.F) {
	for _, v := range readVectors(f) {
		if len(v.bytes) >= HeaderSize {
			b := Batch(v.bytes)
			f.Add(byte(b.Codec()), b.Count(), b.Records())
		}
	}
	it := new(Iterator)
	f.Fuzz(func(t *testing.T, codec byte, count int32, records []byte) {
		batch := wrap(records, Codec(codec%8), count)
		if err := it.Reset(batch, IterateOptions{MaxDecompressedBytes: fuzzLimit}); err != nil {
			requireCoded(t, err)
			return
		}
		n, size, last := int32(0), 0, int64(-1)
		for it.Next() {
			r := it.Record()
			if r.Offset <= last || r.Offset >= batch.NextOffset() {
				t.Fatalf("offset %d after %d", r.Offset, last)
			}
			last = r.Offset
			n++
			size += len(r.Key) + len(r.Value)
			for _, h := range r.Headers {
				size += len(h.Key) + len(h.Value)
			}
		}
		if size > max(fuzzLimit, len(records)) || n > batch.Count() {
			t.Fatalf("%d records of %d bytes", n, size)
		}
		if err := it.Err(); err != nil {
			requireCoded(t, err)
		} else if n != batch.Count() {
			t.Fatalf("%d records of %d and no error", n, batch.Count())
		}
	})
}

// requireCoded fails on an error without a code of its own.
func requireCoded(t *testing.T, err error) {
	t.Helper()
	switch errcode.Of(err) {
	case errcode.CorruptMessage, errcode.InvalidRecord, errcode.MessageTooLarge,
		errcode.UnsupportedCompression, errcode.UnsupportedMessageFormat:
	default:
		t.Fatalf("error without a code: %v", err)
	}
}

// FuzzRoundTrip builds batches from anything and reads them back.
func FuzzRoundTrip(f *testing.F) {
	f.Add(byte(0), byte(0), byte(1), int64(0), int64(0), []byte("key"), []byte("value"), "header", []byte("x"))
	f.Add(byte(4), byte(15), byte(50), int64(goldenTimestampMs), int64(-1), []byte{}, []byte{}, "", []byte{})
	f.Add(byte(2), byte(3), byte(200), int64(-1), int64(1<<62), []byte("k"), bytes.Repeat([]byte("v"), 300), "h", []byte("y"))
	b, it := NewBuilder(), new(Iterator)
	f.Fuzz(func(t *testing.T, codec, nulls, count byte, ts, step int64, key, value []byte, name string, header []byte) {
		if nulls&1 != 0 {
			key = nil
		}
		if nulls&2 != 0 {
			value = nil
		}
		if nulls&4 != 0 {
			header = nil
		}
		headers := []Header{{name, header}, {name + "2", value}}[:min(2, nulls>>3)]
		b.Reset()
		for i := range int64(count) + 1 {
			b.Append(ts+i*step, key, value, headers)
		}
		batch, err := b.Build(nil, Codec(codec%5))
		if err != nil || Batch(batch).Validate(len(batch)) != nil || len(batch) > b.Size() {
			t.Fatalf("built %d bytes of %d: %v", len(batch), b.Size(), err)
		}
		if err := it.Reset(batch, IterateOptions{}); err != nil {
			t.Fatal(err)
		}
		for i := range int64(count) + 1 {
			if !it.Next() {
				t.Fatalf("record %d: %v", i, it.Err())
			}
			requireSame(t, it.Record(), Record{i, ts + i*step, key, value, headers})
		}
		if it.Next() || it.Err() != nil {
			t.Fatalf("more than was built: %v", it.Err())
		}
	})
}

// requireSame compares two records, telling nil from empty.
func requireSame(t *testing.T, got, want Record) {
	t.Helper()
	same := got.Offset == want.Offset && got.TimestampMs == want.TimestampMs &&
		sameBytes(got.Key, want.Key) && sameBytes(got.Value, want.Value) && len(got.Headers) == len(want.Headers)
	for i := range got.Headers {
		same = same && got.Headers[i].Key == want.Headers[i].Key && sameBytes(got.Headers[i].Value, want.Headers[i].Value)
	}
	if !same {
		t.Fatalf("read %+v, wrote %+v", got, want)
	}
}
