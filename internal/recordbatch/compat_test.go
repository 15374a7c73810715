package recordbatch

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"reflect"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// These tests hold the package against another implementation of the format,
// franz-go: what we write it reads, what it writes we read.

// compatRecords covers nulls, empties, headers, timestamps that go back, and
// sizes on both sides of a varint's next byte.
func compatRecords() []Record {
	records := append(goldenRecords(), someRecords(300)...)
	for _, n := range []int{0, 63, 64, 8191, 8192, 100_000} {
		records = append(records, Record{
			TimestampMs: goldenTimestampMs - int64(n),
			Key:         bytes.Repeat([]byte("k"), n),
			Value:       bytes.Repeat([]byte("v"), n),
			Headers:     []Header{{string(bytes.Repeat([]byte("h"), n)), bytes.Repeat([]byte("x"), n)}, {"", []byte{}}, {"null", nil}},
		})
	}
	for i := range records {
		records[i].Offset = int64(i)
	}
	return records
}

// readByFranz decodes one batch as a franz-go consumer does.
func readByFranz(t *testing.T, batch Batch) []*kgo.Record {
	t.Helper()
	response := kmsg.NewFetchResponseTopicPartition()
	response.RecordBatches = batch
	opts := kgo.ProcessFetchPartitionOpts{KeepControlRecords: true, Offset: batch.BaseOffset(), Topic: "t"}
	var metrics []kgo.FetchBatchMetrics
	fetched, next := kgo.ProcessFetchPartition(opts, &response, kgo.DefaultDecompressor(), func(m kgo.FetchBatchMetrics) {
		metrics = append(metrics, m)
	})
	if fetched.Err != nil {
		t.Fatal(fetched.Err)
	}
	if next != batch.NextOffset() || len(metrics) != 1 || Codec(metrics[0].CompressionType) != batch.Codec() {
		t.Fatalf("next offset %d, want %d; metrics %+v", next, batch.NextOffset(), metrics)
	}
	return fetched.Records
}

func TestFranzReadsWhatWeWrite(t *testing.T) {
	want := compatRecords()
	for codec := None; codec <= Zstd; codec++ {
		t.Run(codec.String(), func(t *testing.T) {
			batch := build(t, want, codec)
			batch.SetProducer(4242, 7, 1000)
			batch.SetBaseOffset(1 << 40)
			batch.SetPartitionLeaderEpoch(12)
			if batch.Codec() != codec {
				t.Fatalf("written as %v", batch.Codec())
			}
			got := readByFranz(t, batch)
			if len(got) != len(want) {
				t.Fatalf("%d records, want %d", len(got), len(want))
			}
			for i, r := range got {
				checkFranzRecord(t, r, want[i], 1<<40+int64(i))
			}
		})
	}
}

// checkFranzRecord compares what franz-go read with what we wrote.
func checkFranzRecord(t *testing.T, got *kgo.Record, want Record, offset int64) {
	t.Helper()
	headers := make([]Header, 0, len(got.Headers))
	for _, h := range got.Headers {
		headers = append(headers, Header{h.Key, h.Value})
	}
	same := got.Offset == offset &&
		got.Timestamp.Equal(time.UnixMilli(want.TimestampMs)) &&
		sameBytes(got.Key, want.Key) && sameBytes(got.Value, want.Value) &&
		len(headers) == len(want.Headers) &&
		got.ProducerID == 4242 && got.ProducerEpoch == 7 && got.LeaderEpoch == 12
	for i := range headers {
		same = same && headers[i].Key == want.Headers[i].Key && sameBytes(headers[i].Value, want.Headers[i].Value)
	}
	if !same {
		t.Fatalf("offset %d: franz-go read %+v, want %+v", offset, got, want)
	}
}

// sameBytes tells nil from empty.
func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func TestFranzReadsOurHeader(t *testing.T) {
	batch := build(t, compatRecords(), Zstd)
	batch.SetProducer(1<<40, 5, 9)
	var got kmsg.RecordBatch
	if err := got.ReadFrom(batch); err != nil {
		t.Fatal(err)
	}
	want := kmsg.RecordBatch{
		FirstOffset:          batch.BaseOffset(),
		Length:               int32(batch.Size() - 12),
		PartitionLeaderEpoch: batch.PartitionLeaderEpoch(),
		Magic:                2,
		CRC:                  int32(batch.CRC()),
		Attributes:           batch.Attributes(),
		LastOffsetDelta:      batch.LastOffsetDelta(),
		FirstTimestamp:       batch.BaseTimestamp(),
		MaxTimestamp:         batch.MaxTimestamp(),
		ProducerID:           1 << 40,
		ProducerEpoch:        5,
		FirstSequence:        9,
		NumRecords:           batch.Count(),
		Records:              batch.Records(),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("franz-go read %+v, want %+v", got, want)
	}
}

// writeByFranz assembles a batch by franz-go's types and its compressor.
func writeByFranz(t *testing.T, records []Record, codec kgo.CompressionCodec) Batch {
	t.Helper()
	var encoded []byte
	maxTimestamp := records[0].TimestampMs
	for i, r := range records {
		k := kmsg.Record{
			TimestampDelta64: r.TimestampMs - records[0].TimestampMs,
			OffsetDelta:      int32(i),
			Key:              r.Key,
			Value:            r.Value,
		}
		for _, h := range r.Headers {
			k.Headers = append(k.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		k.Length = int32(len(k.AppendTo(nil)) - 1) // its own length took one byte, as 0
		encoded = k.AppendTo(encoded)
		maxTimestamp = max(maxTimestamp, r.TimestampMs)
	}
	used := kgo.CodecNone
	if c, err := kgo.DefaultCompressor(codec); err != nil {
		t.Fatal(err)
	} else if c != nil {
		encoded, used = c.Compress(new(bytes.Buffer), encoded)
	}
	batch := kmsg.RecordBatch{
		Length: int32(HeaderSize - 12 + len(encoded)), PartitionLeaderEpoch: -1, Magic: 2,
		Attributes: int16(used), LastOffsetDelta: int32(len(records) - 1),
		FirstTimestamp: records[0].TimestampMs, MaxTimestamp: maxTimestamp,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		NumRecords: int32(len(records)), Records: encoded,
	}
	batch.CRC = int32(crc32.Checksum(batch.AppendTo(nil)[21:], crc32.MakeTable(crc32.Castagnoli)))
	return batch.AppendTo(nil)
}

func TestWeReadWhatFranzWrites(t *testing.T) {
	want := compatRecords()
	codecs := []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
		kgo.GzipCompression().WithLevel(9), kgo.Lz4Compression().WithLevel(512), kgo.ZstdCompression().WithLevel(4),
	}
	for i, codec := range codecs {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			batch := writeByFranz(t, want, codec)
			if i <= int(Zstd) && batch.Codec() != Codec(i) {
				t.Fatalf("franz-go wrote %v", batch.Codec())
			}
			var got []Record
			if step, err := walk(batch, func(r Record) { got = append(got, r) }); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Error("other records")
			}
		})
	}
}

// Not compressed, both write the same bytes.
func TestFranzAndWeWriteTheSameBytes(t *testing.T) {
	records := compatRecords()
	if ours, theirs := build(t, records, None), writeByFranz(t, records, kgo.NoCompression()); !bytes.Equal(ours, theirs) {
		t.Errorf("ours %d bytes, theirs %d", len(ours), len(theirs))
	}
}
