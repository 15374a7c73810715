package recordbatch

import (
	"testing"
)

// benchRecords fill a batch of about 64 KiB, the lower end of what producers
// aim for.
const benchRecords = 600

// benchCodecs runs f for every codec.
func benchCodecs(b *testing.B, f func(*testing.B, Codec)) {
	for codec := None; codec <= Zstd; codec++ {
		b.Run(codec.String(), func(b *testing.B) { f(b, codec) })
	}
}

func BenchmarkBuild(b *testing.B) {
	benchCodecs(b, func(b *testing.B, codec Codec) {
		records, builder := someRecords(benchRecords), NewBuilder()
		var dst []byte
		b.ReportAllocs()
		for b.Loop() {
			builder.Reset()
			for i := range records {
				builder.Append(records[i].TimestampMs, records[i].Key, records[i].Value, records[i].Headers)
			}
			var err error
			if dst, err = builder.Build(dst[:0], codec); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(int64(builder.Size()))
		b.ReportMetric(float64(builder.Size())/float64(len(dst)), "ratio")
	})
}

func BenchmarkIterate(b *testing.B) {
	benchCodecs(b, func(b *testing.B, codec Codec) {
		batch := build(b, someRecords(benchRecords), codec)
		it, size := new(Iterator), 0
		b.SetBytes(int64(build(b, someRecords(benchRecords), None).Size()))
		b.ReportAllocs()
		for b.Loop() {
			if err := it.Reset(batch, IterateOptions{}); err != nil {
				b.Fatal(err)
			}
			for it.Next() {
				r := it.Record()
				size += len(r.Value)
			}
			if it.Err() != nil {
				b.Fatal(it.Err())
			}
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	batch := build(b, someRecords(benchRecords), None)
	b.SetBytes(int64(batch.Size()))
	b.ReportAllocs()
	for b.Loop() {
		if err := batch.Validate(1 << 20); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkView(b *testing.B) {
	batch := build(b, someRecords(benchRecords), None)
	head := make([]byte, PatchSize)
	b.ReportAllocs()
	for b.Loop() {
		v, _, err := Parse(batch)
		if err != nil {
			b.Fatal(err)
		}
		PatchHeader(head, v, v.NextOffset(), v.PartitionLeaderEpoch())
	}
}
