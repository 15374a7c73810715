package recordbatch

import (
	"bytes"
	"encoding/binary"
	"testing"

	"logbroker/internal/errcode"
)

// wrap returns a batch around records as they are, with a right header.
func wrap(records []byte, codec Codec, count int32) Batch {
	b := Batch(make([]byte, HeaderSize, HeaderSize+len(records)))
	b = append(b, records...)
	binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)-lengthEnd))
	b[atMagic] = Magic
	binary.BigEndian.PutUint16(b[atAttributes:], uint16(codec))
	binary.BigEndian.PutUint32(b[atLastOffsetDelta:], uint32(count-1))
	binary.BigEndian.PutUint32(b[atCount:], uint32(count))
	b.SetProducer(-1, -1, -1)
	return b
}

// varints encodes every value as a zigzag varint; a value of type []byte goes
// in as it is.
func varints(values ...any) []byte {
	var out []byte
	for _, v := range values {
		switch v := v.(type) {
		case int:
			out = binary.AppendVarint(out, int64(v))
		case []byte:
			out = append(out, v...)
		}
	}
	return out
}

// framed puts a record's length and attributes before its body.
func framed(body []byte) []byte {
	return append(varints(len(body)+1, []byte{0}), body...)
}

func TestMalformedRecordsAreInvalid(t *testing.T) {
	pad := make([]byte, 20) // so that the count has room
	overlong := bytes.Repeat([]byte{0x80}, 10)
	for name, records := range map[string][]byte{
		"record length negative":   varints(-3, pad),
		"record length zero":       varints(0, pad),
		"record length past end":   varints(1000, pad),
		"record length overlong":   append(bytes.Clone(overlong), pad...),
		"record cut short":         framed(varints(0, 0, -1, 1, []byte("v"))),
		"timestamp overlong":       framed(append(bytes.Clone(overlong), pad...)),
		"offset delta negative":    framed(varints(0, -1, -1, -1, 0)),
		"offset delta past last":   framed(varints(0, 1, -1, -1, 0)),
		"key length below null":    framed(varints(0, 0, -2, -1, 0)),
		"key past end":             framed(varints(0, 0, 9, -1, 0)),
		"value past end":           framed(varints(0, 0, -1, 9, 0)),
		"value length huge":        framed(varints(0, 0, -1, 1<<62, 0)),
		"header count negative":    framed(varints(0, 0, -1, -1, -1)),
		"header count huge":        framed(varints(0, 0, -1, -1, 1<<40)),
		"header count past end":    framed(varints(0, 0, -1, -1, 2, 0, -1)),
		"header key null":          framed(varints(0, 0, -1, -1, 1, -1, -1)),
		"header key past end":      framed(varints(0, 0, -1, -1, 1, 5, -1)),
		"header value past end":    framed(varints(0, 0, -1, -1, 1, 0, 7)),
		"bytes after the headers":  framed(varints(0, 0, -1, -1, 0, 0)),
		"bytes after the records":  append(framed(varints(0, 0, -1, -1, 0)), 0),
		"nothing but padding":      pad,
		"one continuation byte":    bytes.Repeat([]byte{0xff}, 7),
		"second record is missing": nil,
	} {
		t.Run(name, func(t *testing.T) {
			batch := wrap(records, None, 1)
			if records == nil {
				batch = wrap(framed(varints(0, 0, -1, 20, pad, 0)), None, 2)
			}
			it, err := batch.Iterate(IterateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for it.Next() {
			}
			wantCode(t, it.Err(), errcode.InvalidRecord)
			if it.Next() {
				t.Error("Next after an error")
			}
		})
	}
}

func TestOffsetsMayNotRepeat(t *testing.T) {
	one := framed(varints(0, 0, -1, -1, 0))
	it, err := wrap(append(bytes.Clone(one), one...), None, 2).Iterate(IterateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for it.Next() {
	}
	wantCode(t, it.Err(), errcode.InvalidRecord)
}

func TestIterateRefusesWhatIsNoBatch(t *testing.T) {
	whole := build(t, goldenRecords(), None)
	_, err := whole[:30].Iterate(IterateOptions{})
	wantCode(t, err, errcode.CorruptMessage)
	_, err = Batch(nil).Iterate(IterateOptions{})
	wantCode(t, err, errcode.CorruptMessage)
}

func TestNullAndEmptyAreToldApart(t *testing.T) {
	batch := build(t, []Record{{Key: nil, Value: []byte{}}, {Key: []byte{}, Value: nil}}, None)
	it, err := batch.Iterate(IterateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	it.Next()
	if r := it.Record(); r.Key != nil || r.Value == nil {
		t.Errorf("first record %#v", r)
	}
	it.Next()
	if r := it.Record(); r.Key == nil || r.Value != nil {
		t.Errorf("second record %#v", r)
	}
}

func TestRecordsStayValidUntilReset(t *testing.T) {
	want := someRecords(200)
	it := new(Iterator)
	for range 3 { // the second and third round reuse the memory
		if err := it.Reset(build(t, want, Zstd), IterateOptions{}); err != nil {
			t.Fatal(err)
		}
		var got []Record
		for it.Next() {
			got = append(got, it.Record())
		}
		if it.Err() != nil || len(got) != len(want) {
			t.Fatalf("%d records, %v", len(got), it.Err())
		}
		for i, r := range got {
			if !bytes.Equal(r.Value, want[i].Value) || len(r.Headers) != len(want[i].Headers) {
				t.Fatalf("record %d changed under way", i)
			}
			if len(r.Headers) > 0 && (r.Headers[0].Key != "trace" || r.Headers[0].Value[0] != byte(i)) {
				t.Fatalf("record %d has headers %v", i, r.Headers)
			}
		}
	}
}

func TestAFailedResetLeavesAnIteratorThatYieldsNothing(t *testing.T) {
	it, err := build(t, goldenRecords(), None).Iterate(IterateOptions{})
	if err != nil || !it.Next() {
		t.Fatal(err)
	}
	wantCode(t, it.Reset(nil, IterateOptions{}), errcode.CorruptMessage)
	if it.Next() || it.Err() == nil || it.Record().Key != nil {
		t.Error("records of the batch before")
	}
	if err := it.Reset(build(t, goldenRecords(), Gzip), IterateOptions{}); err != nil || !it.Next() {
		t.Errorf("not usable after a failure: %v", err)
	}
}

func TestHeaderListsAreBounded(t *testing.T) {
	const headers = 100_000 // two bytes each, forty when read
	body := varints(0, 0, -1, -1, headers)
	for range headers {
		body = append(body, varints(0, -1)...)
	}
	batch := wrap(framed(body), None, 1)
	it, err := batch.Iterate(IterateOptions{MaxDecompressedBytes: headers*headerMemorySize - 1})
	if err != nil {
		t.Fatal(err)
	}
	if it.Next() {
		t.Fatal("read a header list over the limit")
	}
	wantCode(t, it.Err(), errcode.MessageTooLarge)
	if it, _ = batch.Iterate(IterateOptions{}); !it.Next() || len(it.Record().Headers) != headers {
		t.Fatalf("refused a header list within the limit: %v", it.Err())
	}
}

func TestManyHeaderKeysDoNotFillTheCache(t *testing.T) {
	it := new(Iterator)
	for i := range 10 * headerKeysMax {
		it.headerKey([]byte{byte(i), byte(i >> 8)})
		it.headerKey(make([]byte, headerKeySizeMax+1))
		if len(it.headerKeys) > headerKeysMax {
			t.Fatalf("%d keys held", len(it.headerKeys))
		}
	}
}

func TestAHugeBatchDoesNotCostMemoryForGood(t *testing.T) {
	huge := build(t, []Record{{Value: make([]byte, retainedBytesMax+1)}}, Zstd)
	it, err := huge.Iterate(IterateOptions{})
	if err != nil || cap(it.decompressed) <= retainedBytesMax {
		t.Fatalf("%d bytes held: %v", cap(it.decompressed), err)
	}
	it.headers = make([]Header, 1, retainedBytesMax)
	if err := it.Reset(build(t, goldenRecords(), Gzip), IterateOptions{}); err != nil {
		t.Fatal(err)
	}
	if cap(it.decompressed) > retainedBytesMax || cap(it.headers) > retainedBytesMax/headerMemorySize {
		t.Errorf("%d bytes and %d headers kept", cap(it.decompressed), cap(it.headers))
	}
}

func TestIteratorInSteadyStateDoesNotAllocate(t *testing.T) {
	batch, it := build(t, someRecords(100), None), new(Iterator)
	one := func() {
		if err := it.Reset(batch, IterateOptions{}); err != nil {
			panic(err)
		}
		for it.Next() {
			_ = it.Record()
		}
		if it.Err() != nil {
			panic(it.Err())
		}
	}
	one()
	if allocs := testing.AllocsPerRun(50, one); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
